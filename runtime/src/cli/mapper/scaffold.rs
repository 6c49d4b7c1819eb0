//! `runtime mapper new`: a project that builds.
//!
//! The files lie in `templates/mapper/` as a person would write them; the interface comes from this host's own `wit/`, so that the project
//! and the host agree.

use std::io::Write as _;
use std::path::Path;

use crate::host::connector::is_component_name;

use super::super::args::{Language, MapperNewArguments};
use super::super::{USAGE, complain, say};

/// Path within the project, and content.
type File = (&'static str, &'static str);

macro_rules! template {
    ($language:literal, $($path:literal),+) => {
        &[$(($path, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/mapper/", $language, "/", $path)))),+]
    };
}

const WIT: [File; 3] = [
    ("wit/log.wit", include_str!("../../../../wit/log.wit")),
    (
        "wit/transform.wit",
        include_str!("../../../../wit/transform.wit"),
    ),
    ("wit/types.wit", include_str!("../../../../wit/types.wit")),
];

/// The host's own file names the connector's world, too, whose interfaces are not needed here.
const WORLD: &str = "package cortexdb:connector@0.1.0;

/// A component that turns one experience into none, one or several. It is pure: `log` is all that it can reach.
world mapper {
    import types;
    import log;
    export transform;
}
";

fn files(language: Language) -> &'static [File] {
    match language {
        Language::Rust => TEMPLATES.0,
        Language::Javascript => TEMPLATES.1,
        Language::Python => TEMPLATES.2,
    }
}

include!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/templates/mapper/files.rs"
));

pub(super) fn new(arguments: &MapperNewArguments) -> u8 {
    let name = &arguments.name;
    let is_name = is_component_name(name) && !name.ends_with('-');
    if !is_name {
        complain(&format!(
            "`{}` is no name for a mapper; write [a-z][a-z0-9-]*, up to 32 bytes, such as drop-bots",
            name.escape_debug()
        ));
        return USAGE;
    }
    let folder = Path::new(name);
    if folder.exists() {
        complain(&format!("{name} exists; nothing was written"));
        return USAGE;
    }
    let filled = |text: &str| {
        text.replace("{{name}}", name)
            .replace("{{name_snake}}", &name.replace('-', "_"))
    };
    let all = files(arguments.lang).iter().chain(&WIT);
    let written = all
        .map(|(path, text)| (*path, filled(text)))
        .chain([("wit/worlds.wit", WORLD.to_owned())])
        .try_for_each(|(path, text)| write(&folder.join(path), &text));
    if let Err(error) = written {
        complain(&format!("cannot write {name}: {error}"));
        return 1;
    }
    say(&format!(
        "{name}/ is there. Next: read {name}/README.md, build it, and `runtime mapper test` what it makes."
    ));
    0
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    // A script says so in its first line.
    #[cfg(unix)]
    if text.starts_with("#!") {
        use std::os::unix::fs::PermissionsExt as _;
        file.set_permissions(std::fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

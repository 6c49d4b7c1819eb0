//! What people do to GitLab while nobody looks, and while the program reads: everything that a poll or a reconcile pass must follow.

use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};
use simulators::gitlab::{Feature, TOKEN, Target, World};

/// Changes that leave every record in place.
const CHANGES: [&str; 27] = [
    "new_merge_request",
    "edit_merge_request",
    "set_merge_request_state",
    "new_issue",
    "edit_issue",
    "set_issue_open",
    "set_confidential",
    "move_issue",
    "add_note",
    "add_internal_note",
    "add_system_note",
    "start_thread",
    "reply",
    "edit_note",
    "resolve_thread",
    "add_label",
    "bulk_edit",
    "bump",
    "push_commits",
    "push_merge",
    "new_pipeline",
    "set_pipeline_status",
    "new_release",
    "edit_release",
    "set_feature",
    "set_archived",
    "add_project",
];
/// Changes after which something is gone.
const DELETIONS: [&str; 7] = [
    "delete_note",
    "delete_merge_request",
    "delete_issue",
    "delete_pipeline",
    "delete_release",
    "force_push",
    "collect_garbage",
];
/// Changes of a name. Without the ledger a renamed project is another one (gap 3), so that a seed draws these or loses ledgers.
const RENAMES: [&str; 3] = ["rename_project", "rename_group", "transfer_project"];
const FEATURES: [Feature; 5] = [
    Feature::Issues,
    Feature::MergeRequests,
    Feature::Builds,
    Feature::Repository,
    Feature::Releases,
];

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Nothing,
    Changed,
    Deleted,
}

/// Whether everything that happens is printed, to follow one seed: `SOAK_TRACE=1 SOAK_ONLY=178`.
pub fn trace() -> bool {
    std::env::var_os("SOAK_TRACE").is_some()
}

/// The people of one GitLab.
pub struct People {
    /// Whether projects and groups get other names.
    pub rename: bool,
    /// Features that were on at the beginning and are off now: what is off is kept, so it has to be on for a comparison.
    switched_off: Vec<(u64, Feature)>,
}

impl People {
    pub fn new(rename: bool) -> Self {
        Self {
            rename,
            switched_off: Vec::new(),
        }
    }

    /// Does one thing. Nothing, where what was drawn is not there.
    pub fn act(&mut self, world: &mut World, random: &mut SmallRng) -> Done {
        let projects = members(world);
        let Some(&project) = projects.choose(random) else {
            return Done::Nothing;
        };
        let die = random.random_range(0..100);
        let (names, kind) = match die {
            0..20 => (&DELETIONS[..], Done::Deleted),
            20..26 if self.rename => (&RENAMES[..], Done::Changed),
            _ => (&CHANGES[..], Done::Changed),
        };
        let name = names[random.random_range(0..names.len())];
        if name == "set_feature" {
            return self.switch(world, random, project);
        }
        let arguments = arguments(world, random, project, &projects, name);
        let done = world.command(name, &arguments);
        if trace() {
            let words = [
                "project",
                "iid",
                "note",
                "id",
                "tag",
                "to",
                "confidential",
                "open",
            ];
            let told = words
                .map(|word| format!("{word} {}", arguments[word]))
                .join(", ");
            println!(
                "  {name}: {told}: {}",
                if done.is_ok() { "done" } else { "nothing" }
            );
        }
        match done {
            Ok(_) => kind,
            Err(_) => Done::Nothing,
        }
    }

    fn switch(&mut self, world: &mut World, random: &mut SmallRng, project: u64) -> Done {
        let feature = FEATURES[random.random_range(0..FEATURES.len())];
        let off = world.projects[&project].disabled.contains(&feature);
        let ours = self
            .switched_off
            .iter()
            .position(|it| *it == (project, feature));
        match (off, ours) {
            (true, Some(index)) => {
                self.switched_off.swap_remove(index);
            }
            (false, _) => self.switched_off.push((project, feature)),
            (true, None) => return Done::Nothing,
        }
        if trace() {
            println!(
                "  project {project}: {feature:?} is {}",
                if off { "on" } else { "off" }
            );
        }
        match world.set_feature(project, feature, off) {
            Ok(_) => Done::Changed,
            Err(_) => Done::Nothing,
        }
    }

    /// Switches every feature on again that was switched off.
    pub fn come_to_rest(&mut self, world: &mut World) {
        for (project, feature) in self.switched_off.drain(..) {
            let _ = world.set_feature(project, feature, true);
        }
    }
}

/// The projects that the token is a member of. Others are nobody's business.
fn members(world: &World) -> Vec<u64> {
    let viewer = world.viewer(TOKEN);
    let projects = world.projects.values();
    let seen = projects.filter(|project| world.role(viewer, project).is_some());
    seen.map(|project| project.id).collect()
}

fn arguments(
    world: &World,
    random: &mut SmallRng,
    project: u64,
    projects: &[u64],
    name: &str,
) -> Value {
    let found = &world.projects[&project];
    let on_issue = name.contains("issue")
        || name == "set_confidential"
        || (!name.contains("merge_request") && random.random_bool(0.5));
    let iids: Vec<u64> = if on_issue {
        found.issues.keys().copied().collect()
    } else {
        found.merge_requests.keys().copied().collect()
    };
    let iid = iids.choose(random).copied().unwrap_or(0);
    let target = if on_issue {
        Target::issue(project, iid)
    } else {
        Target::merge_request(project, iid)
    };
    let notes: Vec<u64> = world.threads(target).map_or_else(Vec::new, |threads| {
        let spoken = threads.notes().filter(|note| !note.system);
        spoken.map(|note| note.id).collect()
    });
    let pipelines: Vec<u64> = found.pipelines.keys().copied().collect();
    let tag = match name {
        // Few names, so that a deleted release comes back under its tag.
        "new_release" => format!("soak-{}", random.random_range(0..4)),
        _ => {
            let tags: Vec<&String> = found.releases.keys().collect();
            tags.choose(random)
                .map_or_else(String::new, |tag| (*tag).clone())
        }
    };
    let groups: Vec<u64> = projects.iter().map(|id| world.projects[id].group).collect();
    let branch = match name {
        "push_commits" if random.random_bool(0.3) => "side",
        _ => &found.repository.default_branch,
    };
    let pick = |random: &mut SmallRng, words: &[&str]| {
        words[random.random_range(0..words.len())].to_owned()
    };
    json!({
        "project": project,
        "iid": iid,
        "on": if on_issue { "issue" } else { "merge_request" },
        "note": notes.choose(random).copied().unwrap_or(0),
        "id": pipelines.choose(random).copied().unwrap_or(0),
        "tag": tag,
        "branch": branch,
        "text": format!("Text {}", random.random::<u32>()),
        "title": format!("Title {}", random.random::<u32>()),
        "label": format!("label {}", random.random_range(0..5)),
        "state": pick(random, &["merged", "closed", "opened"]),
        "status": pick(random, &["running", "success", "failed", "canceled"]),
        "open": random.random_bool(0.5),
        "confidential": random.random_bool(0.5),
        "resolved": random.random_bool(0.7),
        "archived": random.random_bool(0.5),
        "touches": random.random_bool(0.5),
        "to": projects.choose(random),
        "group": groups.choose(random),
        "path": format!("renamed-{}", random.random::<u16>()),
        "count": random.random_range(1..5),
        "drop": random.random_range(0..4),
        "add": random.random_range(1..3),
        // Pushed now, written up to 400 days ago.
        "age_seconds": if random.random_bool(0.5) { 0 } else { random.random_range(0..400 * 86_400) },
        "released_in_seconds": 86_400 * random.random_range(-30..30),
    })
}

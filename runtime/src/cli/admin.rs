//! `runtime admin`: what the operator does at the database itself, without a running server and without a key of the API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::serve::PlatformArguments;
use super::{USAGE, complain, say};
use crate::config::Surroundings;
use crate::ledger::SqliteStore;
use crate::patience::parse_duration;
use crate::platform::keys::{self, Scope};
use crate::platform::private_file;
use crate::platform::secrets::Secrets;
use crate::platform::server;
use crate::platform::settings::ServeConfig;
use crate::redact::Secret;
use connector_store::platform::{Caps, Page, Platform, PlatformError, Tenant};

/// Rows of one page of a list.
const PAGE: u32 = 200;

#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    #[command(flatten)]
    platform: PlatformArguments,
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// API keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Tenants
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Put a new key in front of those that seal secrets, and seal everything again with it
    RotateKey {
        /// Only seal again: the new key is there already
        #[arg(long)]
        reseal: bool,
        /// Then remove the keys that nothing is sealed with any more
        #[arg(long)]
        drop_old: bool,
    },
    /// Copy the database and the key of secrets into a new folder, while the platform runs
    Backup {
        /// The folder; it must not exist
        folder: PathBuf,
    },
    /// Put a backup into an empty data folder
    Restore {
        /// The folder of the backup
        folder: PathBuf,
        /// Trust its ledger, where CortexDB may not be asked what it holds: what was written after the backup may be written once more
        #[arg(long)]
        keep_ledger: bool,
    },
    /// Let the ledger be put together again from what CortexDB holds: after a restore of PostgreSQL, while no process runs
    ForgetLedger,
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make a key and print it, once
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// Name or id of its tenant; without it the key is an operator's
        #[arg(long)]
        tenant: Option<String>,
        /// What it may do: read, write, deliveries, components, admin, separated by commas
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// For so long; without it the key does not expire
        #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
        expires_in: Option<Duration>,
    },
    /// List keys
    List {
        /// Name or id of the tenant; without it the operators' own
        #[arg(long)]
        tenant: Option<String>,
    },
    /// End a key
    Revoke {
        /// Its id
        id: String,
        /// Name or id of its tenant; without it an operator's
        #[arg(long)]
        tenant: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Create a tenant
    Create {
        /// Unique
        name: String,
        /// Runs at the same time
        #[arg(long)]
        concurrent_runs: Option<u32>,
        /// Connections
        #[arg(long)]
        connections: Option<u32>,
    },
    /// List tenants
    List,
}

/// Why it did not work: the words and the exit code.
struct Failure(String, u8);

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure(error.to_string(), 1)
}

fn misused(words: impl Into<String>) -> Failure {
    Failure(words.into(), USAGE)
}

pub(super) async fn admin(arguments: AdminArguments) -> u8 {
    match act(arguments).await {
        Ok(()) => 0,
        Err(Failure(words, code)) => {
            complain(&words);
            code
        }
    }
}

async fn act(arguments: AdminArguments) -> Result<(), Failure> {
    let flags = arguments.platform.flags();
    let config = ServeConfig::new(&flags, &Surroundings::of_this_process())
        .map_err(|error| misused(error.to_string()))?;
    if let AdminCommand::Restore {
        folder,
        keep_ledger,
    } = &arguments.command
    {
        return restore(&config, folder, *keep_ledger).await;
    }
    private_file::folder(&config.data).map_err(failed)?;
    if let AdminCommand::Backup { folder } = &arguments.command {
        return backup(&config, folder).await;
    }
    let (platform, _ledger) = server::open(&config).await.map_err(failed)?;
    let platform = platform.as_ref();
    match arguments.command {
        AdminCommand::Key(command) => key(platform, command).await,
        AdminCommand::Tenant(command) => tenant(platform, command).await,
        AdminCommand::RotateKey { reseal, drop_old } => {
            rotate(platform, &config, reseal, drop_old).await
        }
        AdminCommand::ForgetLedger => forget_ledger(platform).await,
        AdminCommand::Backup { .. } | AdminCommand::Restore { .. } => Ok(()),
    }
}

/// By name or by id.
async fn find(platform: &dyn Platform, wanted: &str) -> Result<Tenant, Failure> {
    let mut page = Page {
        after: None,
        most: PAGE,
    };
    loop {
        let rows = platform.tenants(&page).await.map_err(failed)?;
        let Some(last) = rows.last().map(|row| row.id.clone()) else {
            return Err(misused(format!(
                "there is no tenant `{}`; `runtime admin tenant list` shows them",
                wanted.escape_debug()
            )));
        };
        if let Some(found) = rows
            .into_iter()
            .find(|row| row.name == wanted || row.id == wanted)
        {
            return Ok(found);
        }
        page.after = Some(last);
    }
}

async fn owner(platform: &dyn Platform, named: Option<&str>) -> Result<Option<String>, Failure> {
    match named {
        None => Ok(None),
        Some(named) => Ok(Some(find(platform, named).await?.id)),
    }
}

async fn key(platform: &dyn Platform, command: KeyCommand) -> Result<(), Failure> {
    match command {
        KeyCommand::Create {
            name,
            tenant,
            scopes,
            expires_in,
        } => {
            let tenant = owner(platform, tenant.as_deref()).await?;
            let tenant = tenant.as_deref();
            let (key, secret) = keys::create(platform, tenant, &name, &scopes, expires_in)
                .await
                .map_err(failed)?;
            let detail = json!({"name": key.name, "scopes": key.scopes});
            platform
                .audit(tenant, "cli", "key.create", &key.id, &detail)
                .await
                .map_err(failed)?;
            say(secret.reveal());
        }
        KeyCommand::List { tenant } => {
            let tenant = owner(platform, tenant.as_deref()).await?;
            let mut page = Page {
                after: None,
                most: PAGE,
            };
            loop {
                let rows = platform
                    .keys(tenant.as_deref(), &page)
                    .await
                    .map_err(failed)?;
                let Some(last) = rows.last().map(|row| row.id.clone()) else {
                    return Ok(());
                };
                for row in rows {
                    let state = match (&row.revoked_at, &row.expires_at) {
                        (Some(at), _) => format!("revoked {at}"),
                        (None, Some(at)) => format!("until {at}"),
                        (None, None) => "valid".to_owned(),
                    };
                    let name = row.name.escape_debug();
                    say(&format!(
                        "{}  {name}  {}  {state}",
                        row.id,
                        row.scopes.join(",")
                    ));
                }
                page.after = Some(last);
            }
        }
        KeyCommand::Revoke { id, tenant } => {
            let tenant = owner(platform, tenant.as_deref()).await?;
            let tenant = tenant.as_deref();
            platform.revoke_key(tenant, &id).await.map_err(failed)?;
            platform
                .audit(tenant, "cli", "key.revoke", &id, &json!({}))
                .await
                .map_err(failed)?;
            say(&format!("{id} is revoked"));
        }
    }
    Ok(())
}

async fn tenant(platform: &dyn Platform, command: TenantCommand) -> Result<(), Failure> {
    match command {
        TenantCommand::Create {
            name,
            concurrent_runs,
            connections,
        } => {
            let caps = Caps {
                concurrent_runs,
                connections,
                ..Caps::default()
            };
            let created: Result<Tenant, PlatformError> = platform.create_tenant(&name, &caps).await;
            let tenant = created.map_err(failed)?;
            let detail = json!({"name": name, "caps": caps});
            platform
                .audit(
                    Some(&tenant.id),
                    "cli",
                    "tenant.create",
                    &tenant.id,
                    &detail,
                )
                .await
                .map_err(failed)?;
            say(&tenant.id);
        }
        TenantCommand::List => {
            let mut page = Page {
                after: None,
                most: PAGE,
            };
            loop {
                let rows = platform.tenants(&page).await.map_err(failed)?;
                let Some(last) = rows.last().map(|row| row.id.clone()) else {
                    return Ok(());
                };
                for row in rows {
                    say(&format!("{}  {}", row.id, row.name.escape_debug()));
                }
                page.after = Some(last);
            }
        }
    }
    Ok(())
}

async fn rotate(
    platform: &dyn Platform,
    config: &ServeConfig,
    only_reseal: bool,
    drop_old: bool,
) -> Result<(), Failure> {
    let secrets = Secrets::open(
        config.kek.as_ref().map(Secret::reveal),
        &config.data.join("kek"),
    )
    .map_err(failed)?;
    // Before anything changes: these are the keys of this database.
    secrets.prove(platform).await.map_err(failed)?;
    if !only_reseal {
        secrets.add_key().map_err(failed)?;
    }
    let sealed = secrets.reseal(platform).await.map_err(failed)?;
    say(&format!("{sealed} secrets were sealed again"));
    let detail = json!({"sealed": sealed, "new_key": !only_reseal, "drop_old": drop_old});
    platform
        .audit(None, "cli", "secrets.rotate", "kek", &detail)
        .await
        .map_err(failed)?;
    if drop_old {
        let dropped = secrets.drop_old_keys(platform).await.map_err(failed)?;
        say(&format!("{dropped} old keys were removed"));
    }
    Ok(())
}

/// The files of a backup.
const DATABASE: &str = "platform.db";
/// The keys of secrets.
const KEK: &str = "kek";

async fn backup(config: &ServeConfig, folder: &Path) -> Result<(), Failure> {
    if config.database.is_some() {
        return Err(misused(format!(
            "the data is in PostgreSQL: back it up with `pg_dump --format=custom --file=platform.dump DATABASE`, and keep {} with it (or RUNTIME_KEK): without the key no secret opens",
            config.data.join(KEK).display()
        )));
    }
    if folder.exists() {
        return Err(misused(format!(
            "{} exists; name a new folder",
            folder.display()
        )));
    }
    if !config.sqlite_file().exists() {
        return Err(misused(format!(
            "there is no platform in {}; name its folder with --data",
            config.data.display()
        )));
    }
    private_file::folder(folder).map_err(failed)?;
    let store = SqliteStore::open(&config.sqlite_file())
        .await
        .map_err(failed)?;
    let copied = store.backup(&folder.join(DATABASE)).await;
    store.close().await;
    copied.map_err(failed)?;
    copy_kek(&config.data, folder)?;
    say(&format!(
        "{} holds the platform as it was now, secrets sealed, and the key that opens them: keep it as you keep the platform",
        folder.display()
    ));
    Ok(())
}

/// Where the key comes from the environment there is no file.
fn copy_kek(from: &Path, to: &Path) -> Result<(), Failure> {
    let source = from.join(KEK);
    if source.exists() {
        let text = private_file::read(&source).map_err(failed)?;
        let target = to.join(KEK);
        // That of an attempt that broke off.
        if target.exists() && private_file::read(&target).map_err(failed)? == text {
            return Ok(());
        }
        private_file::create(&target, &text).map_err(|error| {
            failed(format!(
                "{}: {error}; move what is there away first",
                target.display()
            ))
        })?;
    }
    Ok(())
}

/// The file itself, and what SQLite keeps beside one that is open or was not closed.
fn with_what_is_beside(file: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| {
        let mut name = file.as_os_str().to_owned();
        name.push(end);
        name.into()
    })
}

async fn restore(config: &ServeConfig, folder: &Path, keep_ledger: bool) -> Result<(), Failure> {
    if config.database.is_some() {
        return Err(misused(
            "the data is in PostgreSQL: restore it with `pg_restore --clean --dbname=DATABASE platform.dump`, and then run `runtime admin forget-ledger`",
        ));
    }
    let file = config.sqlite_file();
    // A log of another database would be taken for a part of the restored one.
    if let Some(there) = with_what_is_beside(&file)
        .into_iter()
        .find(|path| path.exists())
    {
        return Err(misused(format!(
            "{} exists; stop the platform and move its data away first",
            there.display()
        )));
    }
    let database = folder.join(DATABASE);
    if !database.is_file() {
        return Err(misused(format!(
            "{} holds no backup: there is no {DATABASE} in it",
            folder.display()
        )));
    }
    private_file::folder(&config.data).map_err(failed)?;
    copy_kek(folder, &config.data)?;
    // It takes its place when it is ready: with its old ledger nobody may start it.
    let copy = config.data.join("platform.restoring");
    for left in with_what_is_beside(&copy) {
        if left.exists() {
            std::fs::remove_file(left).map_err(failed)?;
        }
    }
    let bytes = std::fs::read(&database).map_err(failed)?;
    private_file::replace_bytes(&copy, &bytes).map_err(failed)?;
    drop(bytes);
    if !keep_ledger {
        let store = SqliteStore::open(&copy).await.map_err(failed)?;
        let forgotten = store.forget_ledgers().await;
        store.close().await;
        forgotten.map_err(failed)?;
        if let Some(left) = with_what_is_beside(&copy)
            .into_iter()
            .skip(1)
            .find(|path| path.exists())
        {
            return Err(failed(format!("{} was not closed", left.display())));
        }
    }
    private_file::put(&copy, &file).map_err(failed)?;
    say(&format!("{} is restored", config.data.display()));
    Ok(())
}

async fn forget_ledger(platform: &dyn Platform) -> Result<(), Failure> {
    platform.forget_ledgers().await.map_err(failed)?;
    platform
        .audit(None, "cli", "ledger.forget", "ledger", &json!({}))
        .await
        .map_err(failed)?;
    say("the ledger is put together again from what CortexDB holds, scope by scope");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Store as _;
    use crate::platform::settings::ServeFlags;

    fn config(data: PathBuf) -> ServeConfig {
        let flags = ServeFlags {
            data: Some(data),
            ..ServeFlags::default()
        };
        ServeConfig::new(&flags, &Surroundings::default()).unwrap()
    }

    async fn opened(config: &ServeConfig) -> SqliteStore {
        SqliteStore::open(&config.sqlite_file()).await.unwrap()
    }

    #[tokio::test]
    async fn a_restored_platform_trusts_no_ledger_of_then_and_no_log_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let before = config(folder.path().join("before"));
        private_file::folder(&before.data).unwrap();
        let store = opened(&before).await;
        let ttl = Duration::from_secs(60);
        let lease = store.claim("c", "w", ttl).await.unwrap();
        store.rebuild(lease, "org:acme", &[]).await.unwrap();
        store.close().await;
        private_file::create(&before.data.join(KEK), "key").unwrap();
        let copy = folder.path().join("copy");
        backup(&before, &copy).await.map_err(|f| f.0).unwrap();
        for (name, keep) in [("kept", true), ("forgotten", false)] {
            let after = config(folder.path().join(name));
            private_file::folder(&after.data).unwrap();
            for left in ["platform.db-wal", "platform.db-shm"] {
                let left = after.data.join(left);
                std::fs::write(&left, "x").unwrap();
                let refused = restore(&after, &copy, keep).await;
                assert!(refused.is_err_and(|failure| failure.0.contains("platform.db-")));
                std::fs::remove_file(left).unwrap();
            }
            // What an attempt that broke off has left does no harm.
            std::fs::write(after.data.join("platform.restoring-wal"), "x").unwrap();
            restore(&after, &copy, keep).await.map_err(|f| f.0).unwrap();
            assert_eq!(private_file::read(&after.data.join(KEK)).unwrap(), "key");
            let store = opened(&after).await;
            let scopes = store.known_scopes(lease.connection).await.unwrap();
            assert_eq!(scopes.contains("org:acme"), keep);
            store.close().await;
            let again = restore(&after, &copy, keep).await;
            assert!(again.is_err_and(|failure| failure.0.contains("platform.db exists")));
        }
    }
}

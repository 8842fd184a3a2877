//! `liuta user`, `liuta token`, `liuta audit`: the box's people from its own command line, while the daemon runs.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use jiff::Timestamp;

use super::{DEFAULT_CONFIG, block_on};
use crate::access::people::{self, NewPerson};
use crate::access::{Access, Action, By, NewToken, Role};
use crate::config::{self, Secret};
use crate::health::Health;
use crate::store::Store;

#[derive(clap::Args)]
pub struct Common {
    /// The box's configuration, which names its data folder
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Subcommand)]
pub enum User {
    /// Add somebody, and print their stream key: once, it is not kept
    Add {
        /// What they sign in with: letters a to z, Chinese characters, digits and . - _ @
        name: String,
        /// What they may do
        #[arg(long)]
        role: Role,
        /// Only this camera, or group:NAME (may be given again); without it every camera
        #[arg(long, value_name = "ID")]
        camera: Vec<String>,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        #[command(flatten)]
        common: Common,
    },
    /// Who there is
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Change somebody's role, cameras, state or password: their sessions end
    Change(Change),
    /// Remove somebody: their sessions and streams end. Tokens that they have made stay: `liuta token list` shows them
    Remove {
        /// Whom, as `liuta user list` shows them
        name: String,
        #[command(flatten)]
        common: Common,
    },
    /// Give somebody a new stream key, for RTSP, and print it: once, it is not kept. The old one ends
    Key {
        /// Whom, as `liuta user list` shows them
        name: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true))]
pub struct Change {
    /// Whom, as `liuta user list` shows them
    name: String,
    /// What they may do from now on
    #[arg(long, group = "what")]
    role: Option<Role>,
    /// Only this camera, or group:NAME, in place of those before (may be given again)
    #[arg(long, value_name = "ID", group = "what")]
    camera: Vec<String>,
    /// Every camera
    #[arg(long, group = "what", conflicts_with = "camera")]
    every_camera: bool,
    /// Keep them out, and keep their account
    #[arg(long, group = "what")]
    disable: bool,
    /// Let them in again
    #[arg(long, group = "what", conflicts_with = "disable")]
    enable: bool,
    /// Ask for a new password. The stream key stays: `liuta user key` makes a new one
    #[arg(long, group = "what")]
    password: bool,
    /// Read the new password from standard input instead of asking for it
    #[arg(long, group = "what")]
    password_stdin: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
pub enum Token {
    /// Make a token and print it: once, it is not kept
    Create {
        /// What it may do
        #[arg(long)]
        role: Role,
        /// Only for this camera, or group:NAME (may be given again); without it for every camera
        #[arg(long, value_name = "ID")]
        camera: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        name: String,
        /// Only this of what the role may do (may be given again); without it all of it
        #[arg(long, value_name = "ACTION")]
        scope: Vec<Action>,
        /// Ends after so long, 12h or 30d; without it never
        #[arg(long, value_name = "TIME", value_parser = config::reader::duration)]
        expires: Option<std::time::Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Which tokens there are
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Take a token back, by the id that `list` shows: its sessions and streams end
    Revoke {
        /// Which, as `liuta token list` shows it
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Subcommand)]
pub enum Audit {
    /// Walk the chain of the audit trail; exit status 1 and the first row that does not fit where it is broken
    Verify {
        #[command(flatten)]
        common: Common,
    },
}

pub fn user(what: User) -> anyhow::Result<()> {
    match what {
        User::Add { name, role, camera, password_stdin, common } => {
            let access = open(&common.config)?;
            let password = password(&name, password_stdin)?;
            let new = NewPerson { name, role, cameras: limited(camera), password };
            let (account, key) = block_on(async { Ok(access.add_person(new, By::command_line()).await?) })?;
            print(
                &common,
                &serde_json::json!({ "name": account.name, "role": account.role, "stream_key": key }),
                || {
                    say!("{} is {} now", account.name, account.role.name());
                    say!("stream key, for RTSP, shown this once: {key}");
                },
            );
        }
        User::List { common } => {
            let people = open(&common.config)?.people()?;
            print(&common, &serde_json::json!(people), || {
                let mut table = comfy_table::Table::new();
                table.load_style(comfy_table::presets::NOTHING);
                table.set_header(["name", "role", "cameras", "state"]);
                for person in &people {
                    let state = if person.disabled { "disabled" } else { "" };
                    table.add_row([
                        &person.name,
                        person.role.name(),
                        &every(person.cameras.as_deref()),
                        state,
                    ]);
                }
                say!("{table}");
            });
        }
        User::Remove { name, common } => {
            let access = open(&common.config)?;
            block_on(async { Ok(access.remove_person(&name, None, By::command_line()).await?) })?;
            print(&common, &serde_json::json!({ "removed": name }), || say!("{name} is removed"));
        }
        User::Change(what) => {
            let access = open(&what.common.config)?;
            let password =
                (what.password || what.password_stdin).then(|| password(&what.name, what.password_stdin));
            let change = people::Change {
                role: what.role,
                cameras: (what.every_camera || !what.camera.is_empty()).then(|| limited(what.camera)),
                disabled: (what.disable || what.enable).then_some(what.disable),
                password: password.transpose()?,
            };
            let changing = access.change_person(&what.name, change, None, By::command_line());
            let account = block_on(async { Ok(changing.await?) })?;
            print(&what.common, &serde_json::json!(account), || {
                let cameras = every(account.cameras.as_deref());
                let state = if account.disabled { ", disabled" } else { "" };
                say!("{}: {}, cameras: {cameras}{state}", account.name, account.role.name());
            });
        }
        User::Key { name, common } => {
            let access = open(&common.config)?;
            let key = block_on(async { Ok(access.new_stream_key(&name, By::command_line()).await?) })?;
            print(&common, &serde_json::json!({ "name": name, "stream_key": key }), || say!("{key}"));
        }
    }
    Ok(())
}

pub fn token(what: Token) -> anyhow::Result<()> {
    match what {
        Token::Create { role, camera, name, scope, expires, common } => {
            let access = open(&common.config)?;
            let new = NewToken {
                name,
                role,
                cameras: limited(camera),
                scopes: (!scope.is_empty()).then_some(scope),
                expires: expires.map(|after| Timestamp::now() + after),
            };
            let (about, token) = access.create_token(new, &By::command_line())?;
            print(&common, &serde_json::json!({ "token": token, "id": about.id }), || say!("{token}"));
        }
        Token::List { common } => {
            let tokens = open(&common.config)?.tokens()?;
            print(&common, &serde_json::json!(tokens), || {
                let mut table = comfy_table::Table::new();
                table.load_style(comfy_table::presets::NOTHING);
                table.set_header(["id", "name", "role", "scopes", "cameras", "made by", "ends"]);
                for token in &tokens {
                    let ends = match (token.revoked, token.expires) {
                        (Some(at), _) => format!("revoked {at:.0}"),
                        (None, Some(at)) => format!("{at:.0}"),
                        (None, None) => "never".to_owned(),
                    };
                    let scopes = token.scopes.as_ref().map_or_else(
                        || "all".to_owned(),
                        |scopes| scopes.iter().map(|action| action.name()).collect::<Vec<_>>().join(" "),
                    );
                    let cameras = every(token.cameras.as_deref());
                    let (role, made_by) = (token.role.name(), &token.created_by);
                    table.add_row([&token.id, &token.name, role, &scopes, &cameras, made_by, &ends]);
                }
                say!("{table}");
            });
        }
        Token::Revoke { id, common } => {
            let revoked = open(&common.config)?.revoke_token(&id, &By::command_line())?;
            anyhow::ensure!(
                revoked,
                "{id}: there is no such token, or it was revoked before; `liuta token list` shows them"
            );
            print(&common, &serde_json::json!({ "revoked": id }), || say!("{id} is revoked"));
        }
    }
    Ok(())
}

pub fn audit(what: Audit) -> anyhow::Result<()> {
    let Audit::Verify { common } = what;
    let config = config::file::load(&common.config)?.config;
    let state = Store::open_existing(&config.data)?.verify_audit()?;
    print(&common, &serde_json::json!(state), || {
        if state.broken.is_none() {
            let oldest =
                state.oldest.as_ref().map(|row| format!("; the oldest is {} of {:.0}", row.seq, row.at));
            let oldest = oldest.unwrap_or_default();
            say!(
                "{} rows, whole{oldest}; the newest is {} with the hash {}",
                state.rows,
                state.newest,
                state.hash
            );
        }
    });
    if let Some(pruned) = &state.pruned {
        let age = pruned.taken.duration_since(pruned.written).unsigned_abs();
        if age < config.audit.retention {
            let days = |time: std::time::Duration| time.as_secs_f64() / 86_400.0;
            eprintln!(
                "row {} and all before it were forgotten on {:.0}, when they were {:.1} days old, and [audit] retention \
                 is {:.1} days: it was shorter then, or somebody has cut the trail",
                pruned.seq,
                pruned.taken,
                days(age),
                days(config.audit.retention)
            );
        }
    }
    match state.broken {
        None => Ok(()),
        Some(broken) => anyhow::bail!("the audit trail is broken at row {}: {}", broken.seq, broken.why),
    }
}

fn open(file: &Path) -> anyhow::Result<Access> {
    let config = config::file::load(file)?.config;
    Ok(Access::new(Store::open(&config.data)?, &config, Health::default()))
}

fn print(common: &Common, for_programs: &serde_json::Value, for_people: impl FnOnce()) {
    if common.json { say!("{for_programs}") } else { for_people() }
}

fn limited(cameras: Vec<String>) -> Option<Vec<String>> {
    (!cameras.is_empty()).then_some(cameras)
}

fn every(cameras: Option<&[String]>) -> String {
    cameras.map_or_else(|| "all".to_owned(), |cameras| cameras.join(" "))
}

fn password(name: &str, from_stdin: bool) -> anyhow::Result<Secret> {
    let mut line = String::new();
    if from_stdin {
        std::io::stdin().lock().read_line(&mut line).context("--password-stdin")?;
        return Ok(Secret::new(line.trim_end_matches(['\r', '\n'])));
    }
    let ask = |what: &str| ask_unseen(what).context("there is no terminal to ask at: use --password-stdin");
    let password = ask(&format!("Password for {name}: "))?;
    anyhow::ensure!(password == ask("Once more: ")?, "the two are not the same");
    Ok(password)
}

/// Asks at the terminal without showing what is typed.
fn ask_unseen(what: &str) -> std::io::Result<Secret> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let mut terminal = std::fs::File::options().read(true).write(true).open("/dev/tty")?;
    write!(terminal, "{what}")?;
    let seen = tcgetattr(&terminal)?;
    let mut unseen = seen.clone();
    unseen.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &unseen)?;
    let mut line = String::new();
    let read = std::io::BufReader::new(&terminal).read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &seen)?;
    writeln!(terminal)?;
    read?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}

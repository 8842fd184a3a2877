//! The command line: arguments as parsed, and what prints for people. The work itself lies in the other modules.

/// `println!` for commands: whoever reads the output may have gone (`liuta check --show | head`), which is no failure.
macro_rules! say {
    ($($said:tt)*) => { $crate::cli::put(format_args!($($said)*)) };
}

mod export;
mod models;
mod people;
mod progress;
mod ring;

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::loaded::Loaded;
use crate::config::reader::Setting;
use crate::config::{self, Config};
use crate::simulate;
use crate::store::Store;
use crate::vision::model::{self, FileState};
use crate::{app, demo, hw, log, record};

/// The configuration that a service is started with.
const DEFAULT_CONFIG: &str = "/etc/liuta/liuta.toml";

/// Exit status of a configuration that is refused: nobody needs to try again before it is changed.
const REFUSED: u8 = 2;

#[derive(Parser)]
#[command(
    name = "liuta",
    version,
    about = "Liuta (柳塔): watches, records and relays RTSP cameras, and tells dispatch what it sees",
    after_help = "First steps:\n  \
        liuta demo                       four simulated cameras, to look around\n  \
        liuta probe                      what decodes and infers on this box\n  \
        liuta check liuta.toml           what is wrong with a configuration, and what disk it needs\n  \
        liuta run --config liuta.toml    the daemon\n\n\
        Logs go to stderr; LIUTA_LOG=debug (or liuta::camera=trace, …) tells more."
)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM; SIGHUP reads the configuration again
    ///
    /// SIGTERM (or Ctrl-C) ends it within 10 s with every recording whole; a second one, at least a second later, at
    /// once. SIGHUP reads the configuration again: what is wrong with it is said, and what runs stays. Exit status: 0
    /// when told to stop, 2 for a configuration that is refused, 1 for everything else that ends it.
    Run {
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Read a configuration and tell everything that is wrong with it (exit status 2), and the disk it needs
    Check {
        #[arg(value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// Print every value that counts and where it came from: the file, conf.d, or the default; secrets are not shown
        #[arg(long)]
        show: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try every decoder and execution provider of the hardware profiles with a real clip and a real model
    Probe {
        /// Whose [vision] settings to use; without it the defaults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Serve mp4 clips as RTSP cameras, in a loop
    Simulate(Simulate),
    /// Four simulated cameras, watched by a daemon of their own, and a dispatch desk that prints alerts
    Demo,
    /// List, verify or fetch the models that cameras are watched with
    Models {
        #[command(subcommand)]
        what: Models,
    },
    /// Add, change and remove people
    User {
        #[command(subcommand)]
        what: people::User,
    },
    /// Make, list and revoke tokens, which let programs in
    Token {
        #[command(subcommand)]
        what: people::Token,
    },
    /// Write a clip that can be proved unchanged: an mp4 with a signed manifest, while the daemon runs or not
    ///
    /// The manifest holds the SHA-256 of every mp4, and the box's signature of the manifest is checked by `liuta verify`, or
    /// by OpenSSL alone. Ctrl-C leaves nothing behind.
    Export(export::Export),
    /// Check that exported clips are as the box signed them; needs no box and no configuration. Exit status 1 where not
    Verify(export::Verify),
    /// Look after the recordings
    Ring {
        #[command(subcommand)]
        what: ring::Ring,
    },
    /// Print the public key that exported clips are signed with
    SigningKey(export::ShowKey),
    /// Copy state.db (people, tokens, alerts, the audit trail) into a new file, while the daemon runs
    Backup {
        /// Must not be there yet; readable by its user alone
        #[arg(value_name = "NEW-FILE")]
        to: PathBuf,
        #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
        config: PathBuf,
    },
    /// Who did what
    Audit {
        #[command(subcommand)]
        what: people::Audit,
    },
}

#[derive(Parser)]
struct Simulate {
    /// Address to serve at
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9554")]
    listen: SocketAddr,
    /// Transcode to this size, 1920x1080 (needs ffmpeg)
    #[arg(long, value_name = "WxH", value_parser = picture_size)]
    size: Option<(u32, u32)>,
    /// Transcode to so many pictures a second (needs ffmpeg)
    #[arg(long, value_name = "N")]
    fps: Option<u32>,
    /// Transcode to this bit rate, such as 4M or 800k (needs ffmpeg)
    #[arg(long, value_name = "B")]
    bitrate: Option<String>,
    /// Ask for this user name; the password comes from LIUTA_SIMULATE_PASSWORD
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Each is served at rtsp://ADDR/NAME
    #[arg(required = true, value_name = "NAME=CLIP", value_parser = clip)]
    clips: Vec<simulate::Clip>,
}

#[derive(Subcommand)]
enum Models {
    /// Which models are there
    List {
        #[command(flatten)]
        at: ModelFolders,
    },
    /// Compare every model file that is there with its manifest's hash; exit status 1 where one differs
    Verify {
        #[command(flatten)]
        at: ModelFolders,
    },
    /// Fetch the files of models that only have a manifest here
    Pull {
        #[command(flatten)]
        at: ModelFolders,
        /// Take files from this folder instead of their origin
        #[arg(long, value_name = "DIR")]
        mirror: Option<PathBuf>,
    },
}

#[derive(clap::Args)]
struct ModelFolders {
    /// Whose [vision] models and data folder to use; without it the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a command to its end.
pub fn main(arguments: Arguments) -> ExitCode {
    let result = match arguments.command {
        Command::Run { config } => run(config),
        Command::Check { config, show, json } => check(config, show, json),
        Command::Probe { config, json } => probe(config, json),
        Command::Simulate(arguments) => simulate(arguments),
        Command::Demo => log_to_stderr("warn").and_then(|()| block_on(demo::run())),
        Command::Models { what } => models::run(what),
        Command::User { what } => people::user(what),
        Command::Token { what } => people::token(what),
        Command::Export(arguments) => export::export(arguments),
        Command::Verify(arguments) => export::verify(arguments),
        Command::Ring { what } => ring::run(what),
        Command::SigningKey(arguments) => export::show_key(arguments),
        Command::Backup { to, config } => backup(&to, &config),
        Command::Audit { what } => people::audit(what),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line a problem, so that `FILE:LINE:COL: what` opens in an editor.
            eprintln!("{error:#}");
            let refused = error.is::<config::reader::Problems>();
            ExitCode::from(if refused { REFUSED } else { 1 })
        }
    }
}

fn run(file: PathBuf) -> anyhow::Result<()> {
    log_to_stderr("info")?;
    app::keep_private();
    let loaded = config::file::load(&file)?;
    block_on(app::run(&file, loaded))
}

fn check(file: PathBuf, show: bool, json: bool) -> anyhow::Result<()> {
    let loaded = config::file::load(&file)?;
    for file in loaded.exposed() {
        eprintln!("{}: holds passwords, and everybody on this box can read it: chmod o-r", file.display());
    }
    let Loaded { config, settings, .. } = loaded;
    if show && !json {
        // What is wrong is told on stderr, so that both can be looked at.
        say!("{}", table(&settings));
    }
    if !config.warnings.is_empty() {
        return Err(config::reader::Problems(config.warnings.clone()).into());
    }
    let estimate = record::estimate(&config);
    if json {
        let mut told = serde_json::json!({"cameras": config.cameras.len(), "record": estimate});
        if show {
            told["settings"] = serde_json::json!(settings);
        }
        say!("{told}");
    } else {
        say!("{}: {} cameras, nothing wrong", file.display(), config.cameras.len());
        say!("{estimate}");
    }
    Ok(())
}

fn backup(to: &Path, file: &Path) -> anyhow::Result<()> {
    let config = config::file::load(file)?.config;
    Store::open_existing(&config.data)?.back_up(to)?;
    say!(
        "{} is written; with {} it is what the box knows",
        to.display(),
        config.data.join("conf.d").display()
    );
    Ok(())
}

/// Settings as TOML would have them, each with where it came from.
fn table(settings: &[Setting]) -> String {
    let lines: Vec<_> = settings
        .iter()
        .map(|setting| (format!("{} = {}", setting.key, setting.value), &setting.from))
        .collect();
    // Long ones do not push all others aside.
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|width| *width <= 72).max();
    let width = width.unwrap_or_default();
    lines.iter().map(|(line, from)| format!("{line:width$}  # {from}")).collect::<Vec<_>>().join("\n")
}

fn probe(file: Option<PathBuf>, json: bool) -> anyhow::Result<()> {
    let vision = config_or_default(file)?.vision.clone();
    let (models, problems) = model::list(&vision.models);
    for problem in problems {
        eprintln!("{problem}");
    }
    let present = models.into_iter().filter(|model| model.state != FileState::Missing);
    let request = hw::ProbeRequest {
        profiles: hw::profiles(&vision.hw_profile, vision.hw_profiles.as_deref())?,
        onnxruntime: vision.onnxruntime,
        models: present.map(|model| model.manifest).collect(),
    };
    let found = hw::probe(&request)?;
    if json {
        say!("{}", serde_json::to_string(&found)?);
    } else {
        say!("{}", found.table());
    }
    let works = found.decoders.iter().any(|row| row.chosen);
    anyhow::ensure!(works, "no decoder works here, so no camera can be watched; the table says why");
    Ok(())
}

fn simulate(arguments: Simulate) -> anyhow::Result<()> {
    log_to_stderr("info")?;
    let credentials = match arguments.username {
        None => None,
        Some(username) => {
            let password = std::env::var("LIUTA_SIMULATE_PASSWORD")
                .context("--username: put the password into LIUTA_SIMULATE_PASSWORD")?;
            Some((username, password))
        }
    };
    let Simulate { listen, size, fps, bitrate, clips, .. } = arguments;
    let options = simulate::Options { size, fps, bitrate };
    block_on(simulate::run(listen, clips, credentials, options))
}

fn put(said: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{said}") {
        let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        if !gone {
            eprintln!("the output cannot be written: {error}");
        }
        std::process::exit(i32::from(!gone));
    }
}

fn config_or_default(file: Option<PathBuf>) -> anyhow::Result<Arc<Config>> {
    match file {
        Some(file) => Ok(config::file::load(&file)?.config),
        None => Ok(Arc::new(config::file::parse(DEFAULT_CONFIG.as_ref(), String::new())?)),
    }
}

fn log_to_stderr(default: &str) -> anyhow::Result<()> {
    log::start(default, std::io::stderr().is_terminal())
}

/// What the commands share: a runtime whose stragglers do not keep the process.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
}

fn clip(text: &str) -> Result<simulate::Clip, String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok(simulate::Clip { name: name.to_owned(), file: file.into() })
        }
        _ => Err("NAME=CLIP was expected, such as gate-1=gate.mp4".to_owned()),
    }
}

fn picture_size(text: &str) -> Result<(u32, u32), String> {
    let expected = || format!("{text:?} is no size; write it like 1920x1080");
    let (width, height) = text.split_once('x').ok_or_else(expected)?;
    let side = |text: &str| text.parse().ok().filter(|side| (16..=16_384).contains(side));
    Ok((side(width).ok_or_else(expected)?, side(height).ok_or_else(expected)?))
}

//! `liuta demo`: simulated cameras, a daemon that watches them, and a dispatch desk, on one machine.
//!
//! The cameras and the daemon are processes of their own, started as a person would start them; only the desk lives
//! here.

pub mod receiver;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use crate::access::{Access, By, NewToken, Role};
use crate::config::{self, Config, DestinationKind};
use crate::health::Health;
use crate::store::Store;

/// What each camera shows, by its clip's name.
const SHOWS: [(&str, &str); 4] = [
    ("forest-1", "a wooded slope; after some seconds smoke rises and flames follow"),
    ("gate-1", "a school gate, people come and go"),
    ("mine-1", "a closed mine with an excavator and a lorry at work"),
    ("road-1", "a trunk road with traffic"),
];

/// Runs the demo until Ctrl-C, or until one of its parts fails.
pub async fn run() -> anyhow::Result<()> {
    let clips = data_folder("demo", "clips")?;
    let file = data_folder("config", "demo.toml")?;
    let config = config::file::load(&file)?.config;
    std::fs::create_dir_all(&config.data).with_context(|| format!("{}", config.data.display()))?;
    let access = Access::new(Store::open(&config.data)?, &config, Health::default());
    let expires = Some(jiff::Timestamp::now() + Duration::from_secs(12 * 3600));
    let new = NewToken { name: "demo".to_owned(), expires, ..NewToken::of(Role::Operator) };
    let (_, token) = access.create_token(new, &By::command_line())?;

    let desk = desk(&config).await?;
    let mut cameras = start("simulate", |command| {
        command.args(["--listen", "127.0.0.1:9554"]);
        for (name, _) in SHOWS {
            command.arg(format!("{name}={}", clips.join(format!("{name}.mp4")).display()));
        }
    })?;
    let mut daemon = start("run", |command| {
        command.arg("--config").arg(&file);
    })?;
    println!("{}", banner(&config, &token));

    let ended = tokio::select! {
        _ = tokio::signal::ctrl_c() => Ok(()),
        ended = cameras.wait() => Err(anyhow::anyhow!("the simulated cameras ended: {}", ended?)),
        ended = daemon.wait() => Err(anyhow::anyhow!("the daemon ended: {}", ended?)),
        ended = desk => Err(anyhow::anyhow!("the dispatch desk ended: {ended:?}")),
    };
    for child in [&mut daemon, &mut cameras] {
        end(child).await;
    }
    ended
}

/// The receiver of the alerts, at the address that the demo's configuration names.
async fn desk(config: &Config) -> anyhow::Result<tokio::task::JoinHandle<std::io::Result<()>>> {
    let desk = config.dispatch.get("desk").context("demo.toml: [dispatch.desk] is missing")?;
    let DestinationKind::Webhook { url, secret } = &desk.kind;
    let at = url.socket_addrs(|| None).ok().and_then(|all| all.first().copied());
    let at = at.with_context(|| format!("demo.toml: {url} names no address"))?;
    let listener = tokio::net::TcpListener::bind(at)
        .await
        .with_context(|| format!("the dispatch desk cannot listen at {at} (is another demo running?)"))?;
    let secret = secret.clone();
    Ok(tokio::spawn(receiver::receive(listener, secret, |line| println!("{line}"))))
}

/// Starts this very program with another command.
fn start(command: &str, arguments: impl FnOnce(&mut Command)) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(&program);
    child.arg(command).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    // Quiet, so that the alerts are seen; LIUTA_LOG=info shows more.
    if std::env::var_os("LIUTA_LOG").is_none() {
        child.env("LIUTA_LOG", "error");
    }
    arguments(&mut child);
    child.spawn().with_context(|| format!("{} {command}", program.display()))
}

async fn end(child: &mut Child) {
    if let Some(id) = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        // Fails only where it has already ended.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(Duration::from_secs(12), child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

fn data_folder(folder: &str, entry: &str) -> anyhow::Result<PathBuf> {
    let folders = config::file::shared_folders(folder);
    let found = folders.iter().map(|folder| folder.join(entry)).find(|path| path.exists());
    found.with_context(|| {
        let tried: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("{folder}/{entry} is not found in {}; run it from a source tree", tried.join(" or "))
    })
}

fn banner(config: &Config, token: &str) -> String {
    let page = &config.site.public_url;
    let mut text = format!(
        "\n  Liuta 柳塔 — demo\n\n  Page      {page}\n  Token     {token}\n            (paste it there to see alerts and recordings)\n\n"
    );
    for (name, shows) in SHOWS {
        text += &format!("  ffplay rtsp://{}/{name:<10} {shows}\n", config.rtsp.listen);
    }
    let header = "Authorization: Bearer $TOKEN";
    text += &format!(
        "\n  TOKEN={token}\n  curl -H \"{header}\" {page}api/v1/alerts\n  curl -H \"{header}\" {page}metrics\n\n  \
         Recordings {}\n  Ctrl-C ends it. Alerts, as dispatch gets them:\n",
        display(&config.data)
    );
    text
}

fn display(path: &Path) -> String {
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).display().to_string()
}

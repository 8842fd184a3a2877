//! People with passwords, and the command line that makes them.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use reqwest::{StatusCode, header};
use serde_json::Value;

use super::{Daemon, config_head, free_address};

pub const PASSWORD: &str = "correct horse";

pub const MINUTE: Duration = Duration::from_secs(60);

/// Cameras that answer nothing: for what needs no picture.
pub const DEAD_CAMERAS: &str = "[vision]\nenabled = false\n[channels.wall-1]\ncamera = \"road-1\"\n\
    [cameras.gate-1]\nurl = \"rtsp://127.0.0.1:1/a\"\ngroups = [\"school\"]\n\
    [cameras.road-1]\nurl = \"rtsp://127.0.0.1:1/b\"\n";

/// A daemon where nobody is let in unasked.
pub async fn closed(sections: &str, environment: &[(&str, &str)]) -> Daemon {
    let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
    let (http, rtsp) = (free_address(), free_address());
    let head = config_head(folder.path(), http, rtsp).replace("\"viewer\"", "\"none\"");
    std::fs::write(folder.path().join("liuta.toml"), head + sections).unwrap();
    Daemon::start_in(folder, http, rtsp, environment).await
}

/// `liuta WHAT… --config FILE --json`, with a line for its standard input.
pub fn liuta(daemon: &Daemon, what: &[&str], line: &str) -> Value {
    let output = liuta_raw(daemon, what, line);
    assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn liuta_raw(daemon: &Daemon, what: &[&str], line: &str) -> std::process::Output {
    use std::io::Write;
    let mut child = Command::new(env!("CARGO_BIN_EXE_liuta"))
        .args(what)
        .arg("--config")
        .arg(daemon.config_file())
        .arg("--json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have gone already.
    let _ = writeln!(child.stdin.take().unwrap(), "{line}");
    child.wait_with_output().unwrap()
}

/// Adds a person and gives back their stream key.
pub fn person(daemon: &Daemon, name: &str, role: &str, cameras: &[&str]) -> String {
    let mut what = vec!["user", "add", name, "--role", role, "--password-stdin"];
    for camera in cameras {
        what.extend(["--camera", camera]);
    }
    let added = liuta(daemon, &what, PASSWORD);
    added["stream_key"].as_str().unwrap().to_owned()
}

pub fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let policy = reqwest::redirect::Policy::none();
    reqwest::Client::builder().redirect(policy).timeout(MINUTE).build().unwrap()
}

/// The session's cookie, `name=value`.
pub async fn sign_in(daemon: &Daemon, body: Value) -> Result<String, reqwest::Response> {
    let answer = client().post(daemon.url("/api/v1/session")).json(&body).send().await.unwrap();
    if answer.status() != StatusCode::OK {
        return Err(answer);
    }
    let set = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    assert!(set.contains("HttpOnly") && set.contains("SameSite=Strict"), "{set}");
    Ok(set.split(';').next().unwrap().to_owned())
}

pub async fn get_with(daemon: &Daemon, path: &str, name: header::HeaderName, value: &str) -> StatusCode {
    client().get(daemon.url(path)).header(name, value).send().await.unwrap().status()
}

//! What the daemon and its worker may not do, tried from the inside: the worker's sandbox, the daemon's limits, the unit.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::{Daemon, rendered};

const WORKER: &str = env!("CARGO_BIN_EXE_liuta-vision");

/// Exposure that `systemd-analyze security` may find: 0 is best, 10 worst.
const EXPOSURE: f32 = 1.5;

#[test]
fn the_worker_cannot_leave_its_sandbox() {
    let folder = tempfile::tempdir().unwrap();
    let canary = folder.path().join("gate-1.password");
    std::fs::write(&canary, "canary").unwrap();
    let output = Command::new(WORKER).arg("--sandbox-check").arg(&canary).output().unwrap();
    let check: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert!(output.status.success(), "{check:#}");
    let attempts = check["attempts"].as_array().unwrap();
    let found = |what: &str| attempts.iter().find(|attempt| attempt["what"] == what);
    assert_eq!(check["sandbox"]["seccomp"], true, "{check:#}");
    for what in [
        "socket AF_INET",
        "socket AF_UNIX",
        "signal the parent",
        "ptrace the parent",
        "unshare a user namespace",
        "start /bin/true",
        "become /bin/true",
    ] {
        assert_eq!(found(what).unwrap_or_else(|| panic!("no {what}"))["refused"], true, "{check:#}");
    }
    if check["sandbox"]["landlock"] == 0 {
        eprintln!("the files are not tried: this kernel has no Landlock");
        return;
    }
    for what in [format!("read {}", canary.display()), "read /etc/shadow".to_owned()] {
        assert_eq!(found(&what).unwrap_or_else(|| panic!("no {what}"))["refused"], true, "{check:#}");
    }
    let left = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("liuta-sandbox-")).count();
    assert_eq!(left, 0, "files that the worker wrote");
}

/// A line of `/proc/PID/status`.
fn status(pid: i32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    line.unwrap_or_else(|| panic!("no {field}")).trim().to_owned()
}

/// The soft and the hard limit of a process.
fn limit(pid: i32, name: &str) -> (String, String) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

/// Files below a folder that others than their owner may read or write.
fn open_to_others(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        // Segments get their name when they are sealed.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            found.extend(open_to_others(&entry.path()));
        } else if metadata.permissions().mode() & 0o077 != 0 {
            found.push(entry.path());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_running_worker_is_inside_and_the_daemon_keeps_its_memory_to_itself() {
    let camera =
        common::camera::Camera::start(&[common::camera::Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let section = format!("[cameras.gate]\nurl = \"{}\"\nscene = \"school-gate\"\n", camera.url("gate"));
    let mut daemon = Daemon::start(&section).await;
    let zero = ("0".to_owned(), "0".to_owned());
    assert_eq!(limit(daemon.pid(), "Max core file size"), zero);

    // Filter mode, and a look that was done within it.
    daemon.until_metric(Duration::from_secs(60), "liuta_looks_total", &[], 1.0).await;
    let worker = daemon.worker().expect("a worker");
    assert_eq!((status(worker, "Seccomp").as_str(), status(worker, "NoNewPrivs").as_str()), ("2", "1"));
    assert_eq!(limit(worker, "Max core file size"), zero);
    for thread in std::fs::read_dir(format!("/proc/{worker}/task")).unwrap().flatten() {
        let thread = thread.file_name().to_string_lossy().parse().unwrap();
        assert_eq!(status(thread, "Seccomp"), "2", "every thread");
    }
    assert_eq!(daemon.metric("liuta_vision_sandbox_info", &["seccomp=\"yes\""]).await, 1.0);
    assert_eq!(open_to_others(&daemon.folder.path().join("data")), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_unit_leaves_little_exposed() {
    let unit = common::root().join("packaging/systemd/liuta.service");
    let output = Command::new("systemd-analyze").args(["security", "--offline=true"]).arg(&unit).output();
    let output = output.expect("systemd-analyze: packaging/setup.sh test installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    let overall = text.lines().find_map(|line| line.split_once("exposure level for liuta.service: "));
    let level = overall.and_then(|(_, level)| level.split(' ').next()?.parse::<f32>().ok());
    let level = level.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    assert!(level <= EXPOSURE, "{level}:\n{text}");
}

#[test]
fn every_line_of_the_unit_is_explained() {
    let unit = std::fs::read_to_string(common::root().join("packaging/systemd/liuta.service")).unwrap();
    let guide = std::fs::read_to_string(common::root().join("docs/security.md")).unwrap();
    let service = unit.split("# Privileges").nth(1).unwrap().split("[Install]").next().unwrap();
    let mut names: Vec<&str> = service.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !name.starts_with('#'));
    names.dedup();
    for name in names {
        assert!(guide.contains(&format!("`{name}=")), "docs/security.md says nothing of {name}=");
    }
}

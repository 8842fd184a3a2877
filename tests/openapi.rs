//! The API keeps what its OpenAPI document says: schemathesis makes thousands of requests out of the document, sensible
//! and not, against the real binary with a camera, alerts and an administrator's token.

mod common;

use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use common::camera::{Camera, Mount};
use common::{Daemon, rendered, root};
use jiff::{SignedDuration, Timestamp};
use liuta::alert::Alert;
use liuta::store::Store;

/// What schemathesis may take for all of it.
const SECONDS: u32 = 75;

/// No answer of ours is a failure inside, and each has a status, a type and a form that the document names.
const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

/// Single pictures need the worker, which is off here.
const SETTINGS: &str =
    "[checks.not_a_server_error]\nexpected-statuses = [\"2xx\", \"3xx\", \"4xx\", \"501\"]\n";

fn put_alerts(daemon: &Daemon) {
    let store = Store::open(&daemon.data()).unwrap();
    for n in 0..3 {
        let at = Timestamp::now() - SignedDuration::from_secs(60 + n);
        let alert = Alert {
            zone: Some("yard".to_owned()),
            position: Some([110.2345, 39.1234]),
            ..common::alert::alert(&format!("01J{n}"), "gate-1", at)
        };
        store.put_alert(&alert, Some(&Bytes::from_static(b"jpeg")), &[]).unwrap();
        store.put_detections("gate-1", at, "m@1", &alert.boxes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_one_that_the_document_names() {
    let camera = Camera::start(&[Mount::clip("cam", &rendered("gate-1.mp4"))]);
    let mut daemon = Daemon::start(&format!(
        "[vision]\nenabled = false\n[channels.wall-1]\ncamera = \"gate-1\"\n[cameras.gate-1]\nurl = \"{}\"\n",
        camera.url("cam")
    ))
    .await;
    put_alerts(&daemon);
    daemon
        .until_metric(
            Duration::from_secs(30),
            "liuta_recorded_access_units_total",
            &["camera=\"gate-1\""],
            1.0,
        )
        .await;
    let token = daemon.token_of("admin", &[]);
    let installed = root().join("target/schemathesis");
    assert!(installed.exists(), "{} is missing: run packaging/setup.sh test", installed.display());
    std::fs::write(daemon.folder.path().join("schemathesis.toml"), SETTINGS).unwrap();
    let mut schemathesis = Command::new(installed.join("bin/schemathesis"));
    schemathesis
        .args(["run", "--checks", CHECKS, "--seed", "1", "--no-color", "--continue-on-failure"])
        .args(["--max-time", &SECONDS.to_string(), "--max-examples", "20", "--generation-database", "none"])
        .args(["--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "20"])
        // An answer that never ends.
        .args(["--exclude-path", "/api/v1/events"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .arg(daemon.url("/api/openapi.json"))
        .env("PYTHONPATH", &installed)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(daemon.folder.path());
    let output = tokio::task::spawn_blocking(move || schemathesis.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    // Had it revoked its own token, it would have met little but 401.
    let users =
        reqwest::Client::new().get(daemon.url("/api/v1/users")).bearer_auth(&token).send().await.unwrap();
    assert_eq!(users.status(), 200, "{told}");
}

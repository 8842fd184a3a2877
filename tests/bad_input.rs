//! Bad input at start and while running: each a clear cause and what to do, a status or a health state, and nothing
//! recorded is lost.

mod common;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use common::camera::{Camera, Mount};
use common::disk::SmallDisk;
use common::{Daemon, config_head, free_address, rendered, until};

const MINUTE: Duration = Duration::from_secs(60);

fn liuta(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_liuta")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn check_tells_every_problem_with_its_place_and_exits_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.toml");
    let text = "[record]\nretension = \"24h\"\n\n[cameras.gate]\nurl = \"rtsp://u:hush@192.0.2.1/s\"\nscene = \"school-gait\"\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["check", file][..], &["run", "--config", file]] {
        let output = liuta(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&format!("{file}:2:1: unknown key \"retension\"; did you mean \"retention\"?")),
            "{said}"
        );
        assert!(said.contains(&format!("{file}:6:9: ")) && said.contains("school-gate"), "{said}");
        assert!(!said.contains("hush"), "{said}");
    }
    let missing = liuta(&["check", "/nowhere/liuta.toml"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(stderr(&missing).starts_with("/nowhere/liuta.toml: "), "{}", stderr(&missing));
}

#[test]
fn check_accepts_the_shipped_files_and_tells_the_disk_they_need() {
    for file in ["config/liuta.toml", "config/demo.toml"] {
        let output = liuta(&["check", common::root().join(file).to_str().unwrap()]);
        assert!(output.status.success(), "{file}: {}", stderr(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("GB"), "{file}");
        // Whoever reads the output may have gone.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut cut = Command::new(env!("CARGO_BIN_EXE_liuta"));
        cut.args(["check", "--show"]).arg(common::root().join(file)).stdout(writer);
        let output = cut.output().unwrap();
        assert!(output.status.success() && stderr(&output).is_empty(), "{file}: {}", stderr(&output));
    }
}

/// The last words of a daemon that does not start.
fn refused(config: &str, folder: &Path) -> String {
    let file = folder.join("liuta.toml");
    std::fs::write(&file, config).unwrap();
    let output = liuta(&["run", "--config", file.to_str().unwrap()]);
    assert!(!output.status.success(), "it started");
    let said = stderr(&output);
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_and_a_second_instance_are_named() {
    let mut first = Daemon::start("[vision]\nenabled = false\n").await;
    let folder = tempfile::tempdir().unwrap();
    let taken = refused(&config_head(folder.path(), first.http, free_address()), folder.path());
    assert!(taken.contains(&first.http.to_string()) && taken.contains("[api]"), "{taken}");
    let taken = refused(&config_head(folder.path(), free_address(), first.rtsp), folder.path());
    assert!(taken.contains(&first.rtsp.to_string()) && taken.contains("[rtsp]"), "{taken}");

    let elsewhere = tempfile::tempdir().unwrap();
    let config = config_head(first.folder.path(), free_address(), free_address());
    let second = refused(&config, elsewhere.path());
    assert!(second.contains(first.data().to_str().unwrap()), "{second}");
    assert_eq!(first.get("/healthz").await.status(), 200, "the first goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_camera_and_a_missing_worker_are_health_states() {
    let camera = Camera::start(&[Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let nobody = free_address();
    let sections = format!(
        "[cameras.gate]\nurl = \"{}\"\nscene = \"school-gate\"\n\
         [cameras.lost]\nurl = \"rtsp://operator:topsecret@{nobody}/x\"\n",
        camera.url("gate")
    );
    let mut daemon = Daemon::start_with(&sections, &[("LIUTA_VISION", "/nonexistent/liuta-vision")]).await;
    let health = until(MINUTE, "both states", async || {
        let health = daemon.health().await;
        let text = health.to_string();
        (text.contains("camera/lost") && text.contains("/nonexistent/liuta-vision")).then_some(health)
    })
    .await;
    assert!(health.to_string().contains(&nobody.to_string()), "{health}");
    // It still records and relays.
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 50.0).await;
    assert!(!daemon.log().contains("topsecret"));
    assert!(!health.to_string().contains("topsecret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_misshapen_model_is_told_and_recording_goes_on() {
    let camera = Camera::start(&[Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let models = tempfile::tempdir().unwrap();
    let scenes =
        |model: &str| format!("model = \"{model}\"\n[rules.crowd]\nclass = \"person\"\nmin_count = 3\n");
    let manifest = std::fs::read_to_string(common::root().join("models/liuta-watch-n.toml")).unwrap();
    // The network itself is whole; the manifest says another size.
    std::fs::copy(common::root().join("models/liuta-watch-n.onnx"), models.path().join("liuta-watch-n.onnx"))
        .unwrap();
    std::fs::write(
        models.path().join("wrong.toml"),
        manifest.replace("[416, 416]", "[320, 320]").replace("name = \"liuta-watch-n\"", "name = \"wrong\""),
    )
    .unwrap();
    for (model, hint) in [("not-there", "not-there"), ("wrong", "416")] {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("scenes")).unwrap();
        std::fs::write(folder.path().join("scenes/odd.toml"), scenes(model)).unwrap();
        let (http, rtsp) = (free_address(), free_address());
        let config = config_head(folder.path(), http, rtsp)
            + &format!("[vision]\nmodels = [{:?}]\n", models.path())
            + &format!("[cameras.gate]\nurl = \"{}\"\nscene = \"odd\"\n", camera.url("gate"));
        std::fs::write(folder.path().join("liuta.toml"), config).unwrap();
        let mut daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
        until(MINUTE, hint, async || daemon.health().await.to_string().contains(hint).then_some(())).await;
        daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 25.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_recording_comes_back_by_itself() {
    let Some(disk) = SmallDisk::mount(96) else { return };
    let camera = Camera::start(&[Mount::clip("gate", &rendered("gate-1.mp4"))]);
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (http, rtsp) = (free_address(), free_address());
    let config = config_head(folder.path(), http, rtsp)
        .replace(&format!("{:?}", folder.path().join("data")), &format!("{:?}", disk.path()))
        + &format!(
            "[record]\nmin_free = \"16MB\"\n[vision]\nenabled = false\n[cameras.gate]\nurl = \"{}\"\n",
            camera.url("gate")
        );
    std::fs::write(folder.path().join("liuta.toml"), config).unwrap();
    let mut daemon = Daemon::start_in(folder, http, rtsp, &[]).await;
    let label = ["camera=\"gate\""];
    daemon.until_metric(MINUTE, "liuta_recorded_access_units_total", &label, 50.0).await;

    let hog = disk.fill();
    until(MINUTE, "a health alarm of the ring", async || {
        let health = daemon.health().await;
        health["states"]
            .as_object()?
            .iter()
            .any(|(subject, state)| subject.starts_with("record") && state["severity"] != "ok")
            .then_some(())
    })
    .await;
    assert_eq!(daemon.metric("liuta_camera_up", &label).await, 1.0, "the camera is still there");

    std::fs::remove_file(&hog).unwrap();
    let before = daemon.metric("liuta_recorded_access_units_total", &label).await;
    daemon.until_metric(2 * MINUTE, "liuta_recorded_access_units_total", &label, before + 50.0).await;
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn reload_applies_what_is_right_and_refuses_what_is_wrong() {
    let camera = Camera::start(&[
        Mount::clip("gate", &rendered("gate-1.mp4")),
        Mount::clip("road", &rendered("road-1.mp4")),
    ]);
    let gate = format!("[vision]\nenabled = false\n[cameras.gate]\nurl = \"{}\"\n", camera.url("gate"));
    let mut daemon = Daemon::start(&gate).await;
    daemon.until_metric(MINUTE, "liuta_camera_up", &["camera=\"gate\""], 1.0).await;
    let head = config_head(daemon.folder.path(), daemon.http, daemon.rtsp);

    std::fs::write(daemon.config_file(), format!("{head}{gate}[cameras.road]\nurll = 3\n")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    until(MINUTE, "the refusal", async || daemon.health().await.to_string().contains("urll").then_some(()))
        .await;
    let road = format!("[cameras.road]\nurl = \"{}\"\n", camera.url("road"));
    std::fs::write(daemon.config_file(), format!("{head}{gate}{road}")).unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.until_metric(MINUTE, "liuta_camera_up", &["camera=\"road\""], 1.0).await;
    assert!(!daemon.health().await.to_string().contains("urll"));
    // The other camera noticed nothing.
    assert_eq!(daemon.metric("liuta_camera_sessions_total", &["camera=\"gate\""]).await, 1.0);
    assert_eq!(daemon.metric("liuta_gap_seconds_total", &["camera=\"gate\""]).await, 0.0);
}

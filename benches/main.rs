//! `make bench`: what a camera, a look and a reader cost, each beside a limit that is measured in the same run.
//!
//! Figures are processor time of the process that does the work, so that a busy machine disturbs them little; the limits
//! (`floors`) do the least that any program would have to do for the same result. Prints a table and writes
//! `target/bench.json`. What does not belong here: tests; nothing fails for being slow.

mod floors;
mod rig;

use std::path::PathBuf;
use std::time::Duration;

use rig::{Daemon, Rig, Simulator};

/// One line of the table.
#[derive(serde::Serialize)]
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    /// What the least program costs; `null` where there is none to compare with.
    limit: Option<f64>,
    runs: Vec<f64>,
}

const RUNS: usize = 3;
const CAMERAS: usize = 8;
const READERS: usize = 50;
const WINDOW: Duration = Duration::from_secs(5);

fn main() {
    // `cargo bench` and the floors start this very program again.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if floors::run_as_child(&arguments) {
        return;
    }
    let rig = Rig::new();
    let mut figures = Vec::new();
    ingest(&rig, &mut figures);
    relay(&rig, &mut figures);
    vision(&rig, &mut figures);
    alert(&rig, &mut figures);
    report(&figures);
}

fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn figure(name: &'static str, unit: &'static str, runs: Vec<f64>, limits: Vec<f64>) -> Figure {
    let limit = (!limits.is_empty()).then(|| median(&limits));
    Figure { name, value: median(&runs), unit, limit, runs }
}

/// Receiving and recording 1080p cameras at 4 Mbit/s, against reading the same sockets and writing the bytes down.
fn ingest(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("ingest and record: {CAMERAS} cameras, {RUNS} times {WINDOW:?}");
    let cameras = Simulator::start(rig, &vec![rig.full_hd(); CAMERAS]);
    let daemon = Daemon::start(rig, &cameras, "", "[vision]\nenabled = false\n");
    daemon.until_metric("liuta_camera_up", CAMERAS as f64);
    std::thread::sleep(Duration::from_secs(5));
    let cost = |pid: u32| rig::cpu_over(pid, WINDOW) / WINDOW.as_secs_f64() / CAMERAS as f64 * 100.0;
    let runs = (0..RUNS).map(|_| cost(daemon.pid())).collect();
    let memory = daemon.memory() as f64 / 1e6;
    drop(daemon);
    let bare = floors::recorder(rig, &cameras);
    std::thread::sleep(Duration::from_secs(3));
    let limits = (0..RUNS).map(|_| cost(bare.pid())).collect();
    figures.push(figure("ingest_record_cpu", "% of a core a camera", runs, limits));
    figures.push(figure("memory", "MB with 8 cameras", vec![memory], vec![]));
}

/// What a reader of a 4 Mbit/s stream costs, against sending as many bytes to as many sockets.
fn relay(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("relay: {READERS} readers of one camera, {RUNS} times {WINDOW:?}");
    let cameras = Simulator::start(rig, &[rig.full_hd()]);
    let daemon = Daemon::start(rig, &cameras, "", "[vision]\nenabled = false\n");
    daemon.until_metric("liuta_camera_up", 1.0);
    std::thread::sleep(Duration::from_secs(3));
    let idle = rig::cpu_over(daemon.pid(), WINDOW);
    let readers = floors::Readers::start(daemon.rtsp(), "camera-0", READERS);
    std::thread::sleep(Duration::from_secs(3));
    let per_reader = |seconds: f64| seconds / WINDOW.as_secs_f64() / READERS as f64 * 100.0;
    let mut runs = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let before = readers.bytes();
        let busy = rig::cpu_over(daemon.pid(), WINDOW);
        rates.push((readers.bytes() - before) as f64 / WINDOW.as_secs_f64() / READERS as f64);
        runs.push(per_reader((busy - idle).max(0.0)));
    }
    drop(readers);
    let rate = median(&rates);
    let bare = floors::sender(READERS, rate);
    std::thread::sleep(Duration::from_secs(1));
    let limits = (0..RUNS).map(|_| per_reader(rig::cpu_over(bare.pid(), WINDOW))).collect();
    eprintln!("  each reader gets {:.2} Mbit/s", rate * 8.0 / 1e6);
    figures.push(figure("relay_1x50_cpu", "% of a core a reader", runs, limits));
}

/// A look at a 1080p key picture, against decoding it and one inference, each alone.
fn vision(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("vision: {CAMERAS} cameras, a look each 2 s, {RUNS} times {WINDOW:?}");
    let cameras = Simulator::start(rig, &vec![rig.full_hd(); CAMERAS]);
    let daemon = Daemon::start(rig, &cameras, "forest-fire", "");
    daemon.until_metric("liuta_looks_total", 3.0 * CAMERAS as f64);
    let worker = daemon.worker();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let before = daemon.metric("liuta_looks_total");
        let seconds = rig::cpu_over(worker, WINDOW);
        runs.push(seconds * 1000.0 / (daemon.metric("liuta_looks_total") - before).max(1.0));
    }
    let memory = rig::memory(worker) as f64 / 1e6;
    drop(daemon);
    let decode: Vec<f64> = (0..RUNS).map(|_| floors::decode_ms(rig)).collect();
    let infer = floors::infer_ms(RUNS);
    let limits = decode.iter().zip(&infer).map(|(decode, infer)| decode + infer).collect();
    eprintln!(
        "  a key picture decodes in {:.1} ms, an inference takes {:.1} ms",
        median(&decode),
        median(&infer)
    );
    figures.push(figure("look_cpu", "ms of a core a look", runs, limits));
    figures.push(figure("worker_memory", "MB with 8 cameras", vec![memory], vec![]));
}

/// From the arrival of the picture that confirms a fire to its alert at the receiver.
fn alert(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("arrival to alert");
    let forest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("demo/clips/forest-1.mp4");
    let runs = (0..RUNS)
        .filter_map(|_| {
            let cameras = Simulator::start(rig, std::slice::from_ref(&forest));
            let desk = rig::Desk::start();
            let daemon = Daemon::start(rig, &cameras, "forest-fire", &desk.section());
            let received = desk.wait(Duration::from_secs(90))?;
            Some((received.as_millisecond() - daemon.newest_detection()?.as_millisecond()) as f64)
        })
        .collect();
    figures.push(figure("arrival_to_alert", "ms", runs, vec![]));
}

fn report(figures: &[Figure]) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "",
        "MEASURED",
        "LEAST PROGRAM",
        "RATIO",
        "UNIT",
    ]);
    for one in figures {
        let limit = one.limit.map_or("–".to_owned(), |limit| format!("{limit:.2}"));
        let ratio = one.limit.map_or("–".to_owned(), |limit| format!("{:.2}", one.value / limit));
        table.add_row([one.name, &format!("{:.2}", one.value), &limit, &ratio, one.unit]);
    }
    println!("{table}");
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/bench.json");
    let written = serde_json::to_vec_pretty(figures).map(|json| std::fs::write(&file, json));
    println!(
        "{} {}",
        file.display(),
        if matches!(written, Ok(Ok(()))) { "written" } else { "could not be written" }
    );
}

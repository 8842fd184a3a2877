//! `make bench`: what a camera, a look and a reader cost, each beside a limit that is measured in the same run.
//!
//! Figures are processor time of the process that does the work, so that a busy machine disturbs them little; the limits
//! (`floors`) do the least that any program would have to do for the same result. Prints a table and writes
//! `target/bench.json`. What does not belong here: tests; nothing fails for being slow.

mod floors;
mod past;
mod rig;

use std::path::PathBuf;
use std::time::Duration;

use jiff::SignedDuration;
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
    /// What the value must not pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    required: Option<f64>,
}

impl Figure {
    fn required(self, most: f64) -> Figure {
        Figure { required: Some(most), ..self }
    }
}

const RUNS: usize = 3;
const CAMERAS: usize = 8;
/// Cameras of a box that has many, and of one that has some.
const MANY: usize = 64;
const SOME: usize = 16;
const RECORD_RUNS: usize = 2;
const RECORD_WINDOW: Duration = Duration::from_secs(20);
/// Of a day's recordings, after as many that warm up.
const SEEKS: usize = 500;
/// Bytes that the daemon takes for itself, however many cameras there are.
const ONCE: f64 = 10e6;
const READERS: usize = 50;
const WINDOW: Duration = Duration::from_secs(5);

/// What is measured, in this order: all of it, or what the arguments name (`cargo bench … -- record past`).
type Part = (&'static str, fn(&Rig, &mut Vec<Figure>));

const PARTS: [Part; 5] = [
    ("record", |rig, figures| [SOME, MANY].into_iter().for_each(|cameras| record(rig, figures, cameras))),
    ("past", past),
    ("relay", relay),
    ("vision", vision),
    ("alert", alert),
];

fn main() {
    // `cargo bench` and the floors start this very program again.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if floors::run_as_child(&arguments) {
        return;
    }
    let rig = Rig::new();
    let mut figures = Vec::new();
    for (name, measure) in PARTS {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            measure(&rig, &mut figures);
        }
    }
    report(&figures);
}

fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn figure(name: &'static str, unit: &'static str, runs: Vec<f64>, limits: Vec<f64>) -> Figure {
    let limit = (!limits.is_empty()).then(|| median(&limits));
    Figure { name, value: median(&runs), unit, limit, runs, required: None }
}

/// Receiving and recording 1080p cameras at 4 Mbit/s, against reading the same sockets and writing the bytes down. Both
/// run all the time and are looked at in the same windows, so that the machine is the same for both.
fn record(rig: &Rig, figures: &mut Vec<Figure>, cameras: usize) {
    eprintln!("record: {cameras} cameras, {RECORD_RUNS} times {RECORD_WINDOW:?}");
    let simulator = Simulator::start(rig, &vec![rig.full_hd(); cameras]);
    let daemon = Daemon::start(rig, &simulator, "", "[vision]\nenabled = false\n");
    daemon.until_metric("liuta_camera_up", cameras as f64);
    let bare = floors::recorder(rig, &simulator);
    // The live rings hold half a minute; until then memory is new to the process, which costs time.
    std::thread::sleep(Duration::from_secs(35));
    let (mut runs, mut limits, mut amplification) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RECORD_RUNS {
        let before = rig::transferred(daemon.pid());
        let spent = rig::cpu_over([daemon.pid(), bare.pid()], RECORD_WINDOW);
        let [run, limit] =
            spent.map(|seconds| seconds / RECORD_WINDOW.as_secs_f64() / cameras as f64 * 100.0);
        let after = rig::transferred(daemon.pid());
        runs.push(run);
        limits.push(limit);
        amplification.push((after.written - before.written) / (after.read - before.read));
    }
    eprintln!("  {:.3} % of a core a camera, the least program {:.3} %", median(&runs), median(&limits));
    let ratios = runs.iter().zip(&limits).map(|(run, limit)| run / limit).collect();
    if cameras < MANY {
        figures.push(figure("record_16_cpu_ratio", "ratio", ratios, vec![]).required(1.6));
        return;
    }
    figures.push(figure("record_64_cpu_ratio", "ratio", ratios, vec![]).required(1.6));
    let held = daemon.metric("liuta_live_ring_bytes");
    let memory = (daemon.memory() as f64 - held - ONCE) / 1e6 / cameras as f64;
    figures.push(figure("record_rss_mb_per_camera", "MB", vec![memory], vec![]).required(1.5));
    figures.push(figure("record_write_amplification", "ratio", amplification, vec![]).required(1.0));
}

/// A day of many cameras: how soon a recording begins to come from wherever in it, how long a camera's list takes, and
/// the start of the daemon.
fn past(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("past: writing {} cameras x 24 h of minutes", past::CAMERAS);
    let begins = past::write(&rig.data(), &rig.full_hd());
    let daemon =
        Daemon::run(rig, "[record]\nretention = \"48h\"\nmin_free = \"0B\"\n[vision]\nenabled = false\n");
    let seek = || {
        let camera = past::camera(rand::random_range(0..past::CAMERAS));
        let start = begins + SignedDuration::from_millis(rand::random_range(0..86_000_000));
        daemon.first_byte_ms(&format!("/get?path={camera}&start={start}&duration=60"))
    };
    for _ in 0..SEEKS {
        seek();
    }
    let mut seeks: Vec<f64> = (0..SEEKS).map(|_| seek()).collect();
    seeks.sort_by(f64::total_cmp);
    eprintln!("  a seek takes {:.1} ms at the median", median(&seeks));
    let p99 = seeks[SEEKS * 99 / 100];
    figures.push(figure("seek_p99_ms", "ms", vec![p99], vec![]).required(20.0));
    let end = begins + SignedDuration::from_hours(24);
    let lists = (0..past::CAMERAS).map(|camera| {
        daemon.answer_ms(&format!("/list?path={}&start={begins}&end={end}", past::camera(camera)))
    });
    figures.push(figure("list_day_ms", "ms", lists.collect(), vec![]).required(50.0));
    let started = daemon.started().as_secs_f64();
    figures.push(figure("start_64x24h_s", "s", vec![started], vec![]).required(5.0));
}

/// What a reader of a 4 Mbit/s stream costs, against sending as many bytes to as many sockets.
fn relay(rig: &Rig, figures: &mut Vec<Figure>) {
    eprintln!("relay: {READERS} readers of one camera, {RUNS} times {WINDOW:?}");
    let cameras = Simulator::start(rig, &[rig.full_hd()]);
    let daemon = Daemon::start(rig, &cameras, "", "[vision]\nenabled = false\n");
    daemon.until_metric("liuta_camera_up", 1.0);
    std::thread::sleep(Duration::from_secs(3));
    let [idle] = rig::cpu_over([daemon.pid()], WINDOW);
    let readers = floors::Readers::start(daemon.rtsp(), "camera-0", READERS);
    std::thread::sleep(Duration::from_secs(3));
    let per_reader = |seconds: f64| seconds / WINDOW.as_secs_f64() / READERS as f64 * 100.0;
    let mut runs = Vec::new();
    let mut rates = Vec::new();
    for _ in 0..RUNS {
        let before = readers.bytes();
        let [busy] = rig::cpu_over([daemon.pid()], WINDOW);
        rates.push((readers.bytes() - before) as f64 / WINDOW.as_secs_f64() / READERS as f64);
        runs.push(per_reader((busy - idle).max(0.0)));
    }
    drop(readers);
    let rate = median(&rates);
    let bare = floors::sender(READERS, rate);
    std::thread::sleep(Duration::from_secs(1));
    let limits =
        (0..RUNS).map(|_| rig::cpu_over([bare.pid()], WINDOW)).map(|[spent]| per_reader(spent)).collect();
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
        let [seconds] = rig::cpu_over([worker], WINDOW);
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
        "REQUIRED",
        "UNIT",
    ]);
    for one in figures {
        let limit = one.limit.map_or("–".to_owned(), |limit| format!("{limit:.2}"));
        let ratio = one.limit.map_or("–".to_owned(), |limit| format!("{:.2}", one.value / limit));
        let required = one.required.map_or("–".to_owned(), |most| format!("≤ {most:.2}"));
        table.add_row([one.name, &format!("{:.2}", one.value), &limit, &ratio, &required, one.unit]);
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

//! A crowd at the RTSP server: readers that never read, and connections that never ask, beside one viewer and the
//! recorder, who must not notice.

mod common;
#[path = "common/rtsp.rs"]
mod rtsp;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{Daemon, free_address, test_clip};
use liuta::media::VIDEO_CLOCK;
use rtsp::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const READERS: usize = 200;
const IDLE: usize = 10_000;
const WATCHED: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

/// Milliseconds by which the crowd may make pictures later than they come straight from the camera at the same time: where
/// the machine is busy with something else they are late there too.
const HELD_UP: f64 = 50.0;

/// `liuta simulate` with one clip: a camera that is a process of its own.
struct Simulator(Child);

impl Simulator {
    fn start(listen: SocketAddr, clip: &Path) -> Simulator {
        let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
        command.args(["simulate", "--listen", &listen.to_string(), &format!("gate={}", clip.display())]);
        Simulator(command.env("LIUTA_LOG", "error").stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How late each picture came until `is_over`, in ms: measured against the one that came soonest.
async fn watch(client: &mut Client, mut is_over: impl FnMut() -> bool) -> Vec<f64> {
    let (mut late, mut expected, mut first) = (Vec::new(), None, None);
    while !is_over() {
        let (channel, packet) = client.frame().await;
        if channel != 0 {
            continue;
        }
        let sequence = u16::from_be_bytes([packet[2], packet[3]]);
        assert_eq!(sequence, *expected.get_or_insert(sequence), "the viewer lost packets");
        expected = Some(sequence.wrapping_add(1));
        if packet[1] & 0x80 != 0 {
            let time = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            let (origin, at) = *first.get_or_insert((time, Instant::now()));
            let due = f64::from(time.wrapping_sub(origin)) / VIDEO_CLOCK as f64;
            late.push((at.elapsed().as_secs_f64() - due) * 1000.0);
        }
    }
    let soonest = late.iter().copied().fold(f64::INFINITY, f64::min);
    late.iter().map(|late| late - soonest).collect()
}

fn after(time: Duration) -> impl FnMut() -> bool {
    let began = Instant::now();
    move || began.elapsed() >= time
}

fn p99(mut late: Vec<f64>) -> f64 {
    late.sort_by(f64::total_cmp);
    late[late.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn one_viewer_and_the_recorder_notice_nothing_of_a_crowd() {
    // The daemon inherits it.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = "testsrc2=size=640x360:rate=25:duration=4,noise=alls=12:allf=t";
    let x264 = "-c:v libx264 -preset ultrafast -g 25 -bf 0 -sc_threshold 0 -pix_fmt yuv420p";
    let arguments: Vec<&str> = std::iter::once(source).chain(x264.split(' ')).collect();
    let clip = test_clip(folder.path(), "gate.mp4", &arguments);
    let camera = free_address();
    let _simulator = Simulator::start(camera, &clip);
    let sections = format!("[vision]\nenabled = false\n[cameras.gate]\nurl = \"rtsp://{camera}/gate\"\n");
    let mut daemon = Daemon::start(&sections).await;
    daemon.until_metric(PATIENCE, "liuta_recorded_access_units_total", &["camera=\"gate\""], 50.0).await;

    let url = format!("rtsp://{}/gate", daemon.rtsp);
    let mut viewer = Client::connect(daemon.rtsp).await;
    viewer.play(&url, "0-1").await;
    let mut beside = Client::connect(camera).await;
    beside.play(&format!("rtsp://{camera}/gate"), "0-1").await;
    // What the ring had comes at once.
    watch_both(&mut viewer, &mut beside, after(Duration::from_secs(2))).await;
    let (alone, _) = watch_both(&mut viewer, &mut beside, after(WATCHED)).await;

    let crowd = tokio::spawn(timeout(PATIENCE, crowd(daemon.rtsp, url)));
    let while_they_come = watch_both(&mut viewer, &mut beside, || crowd.is_finished()).await;
    let crowd = crowd.await.unwrap().expect("the crowd cannot connect");
    let while_they_stay = watch_both(&mut viewer, &mut beside, after(WATCHED)).await;
    for (crowded, beside) in [while_they_come, while_they_stay] {
        println!(
            "p99 of lateness: {alone:.1} ms alone, {crowded:.1} ms in the crowd, {beside:.1} ms beside it"
        );
        assert!(crowded - beside < HELD_UP, "{crowded:.1} ms in the crowd, {beside:.1} ms beside it");
    }
    // Who reads nothing is gone by now or soon, the viewer, who reads on, is not.
    let (began, metric) = (Instant::now(), ["path=\"gate\"", "protocol=\"rtsp\""]);
    while daemon.metric("liuta_relay_readers", &metric).await > 1.0 {
        assert!(began.elapsed() < PATIENCE, "readers that do not read are not closed");
        watch(&mut viewer, after(Duration::from_secs(1))).await;
    }
    drop(crowd);
    watch(&mut viewer, after(Duration::from_secs(1))).await;
    assert_eq!(daemon.metric("liuta_gap_seconds_total", &["camera=\"gate\""]).await, 0.0);
    assert_eq!(daemon.metric("liuta_camera_sessions_total", &["camera=\"gate\""]).await, 1.0);
    let now = jiff::Timestamp::now();
    let ago = now - jiff::SignedDuration::from_mins(10);
    let listed = daemon.json(&format!("/list?path=gate&start={ago}&end={now}")).await;
    let listed = listed.as_array().unwrap();
    assert_eq!((listed.len(), listed[0].get("gap")), (1, None), "{listed:?}");
}

/// How late pictures are for the viewer and for one who is not in the crowd. Both read on all the while: who does not is
/// closed as the crowd is.
async fn watch_both(viewer: &mut Client, beside: &mut Client, is_over: impl FnMut() -> bool) -> (f64, f64) {
    let over = AtomicBool::new(false);
    let viewer = async {
        let late = watch(viewer, is_over).await;
        over.store(true, Ordering::Relaxed);
        late
    };
    let (viewer, beside) = tokio::join!(viewer, watch(beside, || over.load(Ordering::Relaxed)));
    (p99(viewer), p99(beside))
}

/// Readers that never read, then connections that never ask.
async fn crowd(rtsp: SocketAddr, url: String) -> [Vec<TcpStream>; 2] {
    [readers(rtsp, &url).await, idle(rtsp).await]
}

async fn readers(rtsp: SocketAddr, url: &str) -> Vec<TcpStream> {
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let small = TcpSocket::new_v4().unwrap();
        small.set_recv_buffer_size(4_096).unwrap();
        let mut reader = Client::of(small.connect(rtsp).await.unwrap());
        reader.play(url, "0-1").await;
        readers.push(reader.socket);
    }
    readers
}

async fn idle(rtsp: SocketAddr) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let socket = TcpSocket::new_v4().unwrap();
        // From twenty addresses, so that no limit of one address keeps them out.
        socket.bind((Ipv4Addr::new(127, 0, 1, (n % 20) as u8 + 1), 0).into()).unwrap();
        idle.push(socket.connect(rtsp).await.expect("connections are refused by the kernel"));
    }
    idle
}

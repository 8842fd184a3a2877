//! The limits: the least program for each job, written as plainly as it goes. Each runs as a process of its own, so that
//! its processor time is its alone.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll;

use super::rig::{Process, Rig, Simulator};

/// Starts this program again as one of the floors.
fn child(arguments: &[String]) -> Process {
    let program = std::env::current_exe().expect("this program");
    Process(Command::new(program).args(arguments).stdin(Stdio::null()).spawn().expect("a floor"))
}

/// Runs as a floor where the arguments say so.
pub fn run_as_child(arguments: &[String]) -> bool {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["floor-recorder", address, cameras, folder] => {
            let address = address.parse().expect("an address");
            record(address, cameras.parse().expect("a number"), Path::new(folder)).expect("a recorder");
        }
        ["floor-sender", readers, rate] => {
            send(readers.parse().expect("a number"), rate.parse().expect("a number"));
        }
        _ => return false,
    }
    true
}

/// A recorder that reads the cameras' sockets and writes the bytes to files as they are: one thread, which waits for all
/// of them at once.
pub fn recorder(rig: &Rig, cameras: &Simulator) -> Process {
    let folder = rig.path("floor");
    std::fs::create_dir_all(&folder).expect("a folder");
    let (address, count) = (cameras.address.to_string(), cameras.cameras.to_string());
    child(&["floor-recorder".into(), address, count, folder.display().to_string()])
}

/// One write is so long.
const WRITE: usize = 64 << 10;

fn record(address: SocketAddr, cameras: usize, folder: &Path) -> std::io::Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open = Vec::new();
    for camera in 0..cameras {
        let stream = play(address, &format!("camera-{camera}"))?;
        stream.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(camera as u64);
        epoll::add(&poll, &stream, data, epoll::EventFlags::IN)?;
        let file = std::fs::File::create(folder.join(camera.to_string()))?;
        open.push((stream, file, vec![0; 2 * WRITE], 0));
    }
    let mut events = Vec::with_capacity(cameras);
    loop {
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in events.drain(..) {
            let (stream, file, buffer, filled) = &mut open[event.data.u64() as usize];
            let read = stream.read(&mut buffer[*filled..])?;
            if read == 0 {
                return Ok(());
            }
            *filled += read;
            if *filled >= WRITE {
                file.write_all(&buffer[..*filled])?;
                *filled = 0;
            }
        }
    }
}

/// A sender that writes as many bytes a second to each of its readers, one write a picture.
pub fn sender(readers: usize, bytes_a_second: f64) -> Process {
    child(&["floor-sender".into(), readers.to_string(), bytes_a_second.to_string()])
}

fn send(readers: usize, bytes_a_second: f64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // The reading end is a child, as it is not the sender's to pay for.
    let drain = Command::new("python3")
        .args(["-c", DRAIN, &address.port().to_string(), &readers.to_string()])
        .stdin(Stdio::null())
        .spawn();
    let _drain = Process(drain.expect("python3"));
    let mut streams: Vec<TcpStream> = (0..readers).filter_map(|_| Some(listener.accept().ok()?.0)).collect();
    for stream in &streams {
        let _ = stream.set_nodelay(true);
    }
    let picture = vec![7; (bytes_a_second / 25.0) as usize];
    let mut due = Instant::now();
    loop {
        for stream in &mut streams {
            if stream.write_all(&picture).is_err() {
                return;
            }
        }
        due += Duration::from_millis(40);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

const DRAIN: &str = "
import socket, sys, select
port, readers = int(sys.argv[1]), int(sys.argv[2])
sockets = [socket.create_connection(('127.0.0.1', port)) for _ in range(readers)]
while True:
    for one in select.select(sockets, [], [])[0]:
        if not one.recv(1 << 20):
            sys.exit()
";

/// Opens an RTSP session over TCP far enough that packets flow.
fn play(address: SocketAddr, path: &str) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    let url = format!("rtsp://{address}/{path}");
    ask(&mut stream, &format!("DESCRIBE {url} RTSP/1.0\r\nCSeq: 1\r\nAccept: application/sdp\r\n"))?;
    let setup = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    let answer = ask(&mut stream, &format!("SETUP {url}/trackID=0 RTSP/1.0\r\nCSeq: 2\r\n{setup}"))?;
    let session = answer
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().starts_with("session:").then(|| line[8..].trim().to_owned())
        })
        .ok_or_else(|| std::io::Error::other(format!("no session in {answer}")))?;
    let session = session.split(';').next().unwrap_or_default().to_owned();
    write!(stream, "PLAY {url} RTSP/1.0\r\nCSeq: 3\r\nSession: {session}\r\n\r\n")?;
    Ok(stream)
}

/// Sends a request and reads its answer with its body.
fn ask(stream: &mut TcpStream, request: &str) -> std::io::Result<String> {
    write!(stream, "{request}\r\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&answer).into_owned();
    if !head.starts_with("RTSP/1.0 200") {
        return Err(std::io::Error::other(head));
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    Ok(head)
}

/// Readers that play a stream and throw it away.
pub struct Readers {
    bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Readers {
    pub fn start(address: SocketAddr, path: &str, count: usize) -> Readers {
        let readers = Readers { bytes: Arc::default(), stop: Arc::default() };
        for _ in 0..count {
            let (bytes, stop) = (readers.bytes.clone(), readers.stop.clone());
            let mut stream = play(address, path).unwrap_or_else(|error| panic!("{path}: {error}"));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while !stop.load(Ordering::Relaxed) {
                    match stream.read(&mut buffer) {
                        Ok(read) if read > 0 => bytes.fetch_add(read as u64, Ordering::Relaxed),
                        _ => return,
                    };
                }
            });
        }
        readers
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Milliseconds of a core that GStreamer takes to decode a 1080p key picture of the clip, scaled and nothing else.
pub fn decode_ms(rig: &Rig) -> f64 {
    let keys = rig.path("keys.h264");
    if !keys.exists() {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(rig.full_hd());
        ffmpeg
            .args(["-c", "copy", "-bsf:v", "h264_mp4toannexb,noise=drop=not(key)", "-f", "h264"])
            .arg(&keys);
        assert!(ffmpeg.status().is_ok_and(|status| status.success()), "ffmpeg");
        // Byte streams may follow each other: ten times the ten key pictures of 20 s.
        let once = std::fs::read(&keys).expect("key pictures");
        std::fs::write(&keys, once.repeat(10)).expect("key pictures");
    }
    let decode = |elements: &str| {
        let line =
            format!("filesrc location={} ! h264parse ! {elements} fakesink sync=false", keys.display());
        let before = children_cpu();
        let status =
            Command::new("gst-launch-1.0").arg("-q").args(line.split(' ')).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "gst-launch-1.0 {line}");
        children_cpu() - before
    };
    // What is left after starting up and parsing is the decoder's.
    let pictures = 100.0;
    (decode("avdec_h264 max-threads=1 !") - decode("")) * 1000.0 / pictures
}

/// Processor seconds of children that have ended.
fn children_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(13) + ticks(14)) / 100.0
}

/// Milliseconds of one inference of the embedded model, on one thread, ONNX Runtime alone, `runs` times.
pub fn infer_ms(runs: usize) -> Vec<f64> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = || -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let library = ort::init_from(root.join("target/onnxruntime/libonnxruntime.so"))?;
        let environment = library.with_telemetry(false).build()?;
        let mut session = ort::session::Session::builder(&environment)?
            .with_intra_threads(1)?
            .with_intra_op_spinning(false)?
            .commit_from_file(root.join("models/liuta-watch-n.onnx"))?;
        let mut medians = Vec::new();
        for _ in 0..runs {
            let mut times = Vec::new();
            for _ in 0..30 {
                let input = ort::value::Tensor::from_array(([1, 3, 416, 416], vec![0f32; 3 * 416 * 416]))?;
                let began = Instant::now();
                session.run(ort::inputs![input])?;
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            times.sort_by(f64::total_cmp);
            medians.push(times[times.len() / 2]);
        }
        Ok(medians)
    };
    run().unwrap_or_else(|error| panic!("ONNX Runtime: {error}"))
}

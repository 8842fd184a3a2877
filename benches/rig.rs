//! What is measured: simulated cameras and a daemon as processes, and their processor time and memory.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;

const PATIENCE: Duration = Duration::from_secs(90);

/// The clips, and a folder for everything.
pub struct Rig {
    folder: tempfile::TempDir,
}

impl Rig {
    pub fn new() -> Rig {
        let folder = tempfile::Builder::new().prefix("liuta-bench-").tempdir().expect("a temporary folder");
        let rig = Rig { folder };
        // Detail that moves, so that the encoder has to spend its bits: the road of the demo under film grain.
        let road = Path::new(env!("CARGO_MANIFEST_DIR")).join("demo/clips/road-1.mp4");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y", "-stream_loop", "2", "-t", "20", "-i"]).arg(road);
        ffmpeg.args(["-vf", "scale=1920:1080,noise=alls=12:allf=t,fps=25", "-c:v", "libx264"]);
        ffmpeg.args(["-preset", "ultrafast", "-b:v", "4M", "-maxrate", "4M", "-bufsize", "4M"]);
        ffmpeg.args(["-bf", "0", "-g", "50", "-pix_fmt", "yuv420p"]).arg(rig.full_hd());
        eprintln!("rendering 20 s of 1080p25 at 4 Mbit/s");
        assert!(ffmpeg.status().is_ok_and(|status| status.success()), "ffmpeg is needed");
        rig
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The daemon's data folder; gone with the daemon.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub fn full_hd(&self) -> PathBuf {
        self.path("full-hd.mp4")
    }
}

/// A child that ends with its owner.
pub struct Process(pub Child);

impl Process {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// `liuta simulate` with the clips as `camera-0`, `camera-1`, …
pub struct Simulator {
    pub address: SocketAddr,
    pub cameras: usize,
    _process: Process,
}

impl Simulator {
    pub fn start(_rig: &Rig, clips: &[PathBuf]) -> Simulator {
        let address = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
        command.args(["simulate", "--listen", &address.to_string()]);
        command.args(clips.iter().enumerate().map(|(n, clip)| format!("camera-{n}={}", clip.display())));
        command.env("LIUTA_LOG", "error").stdout(Stdio::null()).stdin(Stdio::null());
        let process = Process(command.spawn().expect("liuta simulate"));
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < PATIENCE, "the simulator does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Simulator { address, cameras: clips.len(), _process: process }
    }
}

/// `liuta run` on the simulator's cameras.
pub struct Daemon {
    process: Process,
    http: SocketAddr,
    rtsp: SocketAddr,
    token: String,
    data: PathBuf,
    started: Duration,
}

impl Daemon {
    pub fn start(rig: &Rig, cameras: &Simulator, scene: &str, sections: &str) -> Daemon {
        let mut text = format!("{sections}\n");
        for camera in 0..cameras.cameras {
            text +=
                &format!("[cameras.camera-{camera}]\nurl = \"rtsp://{}/camera-{camera}\"\n", cameras.address);
            if !scene.is_empty() {
                text += &format!("scene = \"{scene}\"\n");
            }
        }
        Daemon::run(rig, &text)
    }

    /// With these sections beside those that every configuration here has.
    pub fn run(rig: &Rig, sections: &str) -> Daemon {
        let (http, rtsp) = (free_address(), free_address());
        let data = rig.data();
        let text = format!(
            "data = {data:?}\n[box]\npublic_url = \"http://{http}\"\n[api]\nlisten = \"{http}\"\n\
             [rtsp]\nlisten = \"{rtsp}\"\n[auth]\nanonymous = \"viewer\"\n{sections}\n"
        );
        let file = rig.path("liuta.toml");
        std::fs::write(&file, text).expect("a configuration");
        let liuta = env!("CARGO_BIN_EXE_liuta");
        let mut command = Command::new(liuta);
        command.args(["run", "--config"]).arg(&file).env("LIUTA_LOG", "error").stdin(Stdio::null());
        let began = Instant::now();
        let process = Process(command.spawn().expect("liuta run"));
        while TcpStream::connect(http).is_err() {
            assert!(began.elapsed() < PATIENCE, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let started = began.elapsed();
        let token =
            Command::new(liuta).args(["token", "create", "--role", "admin", "--config"]).arg(&file).output();
        let token = String::from_utf8(token.expect("liuta token").stdout).expect("a token");
        Daemon { process, http, rtsp, token: token.trim().to_owned(), data, started }
    }

    /// From its start until it listened.
    pub fn started(&self) -> Duration {
        self.started
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn rtsp(&self) -> SocketAddr {
        self.rtsp
    }

    pub fn memory(&self) -> u64 {
        memory(self.pid())
    }

    /// The vision worker, the daemon's only child.
    pub fn worker(&self) -> u32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("/proc");
        let children =
            tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        children
            .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
            .next()
            .expect("a worker")
    }

    fn get(&self, path: &str) -> String {
        let mut answer = String::new();
        let read = self.ask(path).and_then(|mut stream| stream.read_to_string(&mut answer));
        read.unwrap_or_else(|error| panic!("{path}: {error}"));
        answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
    }

    /// Asks, and leaves the answer to be read.
    fn ask(&self, path: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.http)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            self.http, self.token
        )?;
        Ok(stream)
    }

    /// Milliseconds until the first byte of the answer's body is here; nobody reads the rest.
    pub fn first_byte_ms(&self, path: &str) -> f64 {
        let began = Instant::now();
        let first = || -> std::io::Result<f64> {
            let mut stream = self.ask(path)?;
            let (mut head, mut block) = (Vec::new(), [0; 4096]);
            loop {
                let read = stream.read(&mut block)?;
                head.extend_from_slice(&block[..read]);
                let body = head.windows(4).position(|end| end == b"\r\n\r\n").map(|at| at + 4);
                if read == 0 || body.is_some_and(|body| head.len() > body) {
                    let ms = began.elapsed().as_secs_f64() * 1000.0;
                    let whole = head.starts_with(b"HTTP/1.0 200") && read > 0;
                    return if whole {
                        Ok(ms)
                    } else {
                        Err(std::io::Error::other(String::from_utf8_lossy(&head)))
                    };
                }
            }
        };
        first().unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Milliseconds until the whole answer is here.
    pub fn answer_ms(&self, path: &str) -> f64 {
        let began = Instant::now();
        let answer = self.get(path);
        assert!(!answer.is_empty(), "{path}: nothing");
        began.elapsed().as_secs_f64() * 1000.0
    }

    /// Sum of a metric over all labels.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics");
        let samples =
            text.lines().filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn until_metric(&self, name: &str, least: f64) {
        let began = Instant::now();
        while self.metric(name) < least {
            assert!(began.elapsed() < PATIENCE, "{name} does not reach {least}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Capture time of the newest picture with a detection.
    pub fn newest_detection(&self) -> Option<Timestamp> {
        let page: serde_json::Value = serde_json::from_str(&self.get("/api/v1/detections")).ok()?;
        page["items"].get(0)?["at"].as_str()?.parse().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.0.kill();
        let _ = self.process.0.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// A receiver of one webhook.
pub struct Desk {
    listener: TcpListener,
}

impl Desk {
    pub fn start() -> Desk {
        Desk { listener: TcpListener::bind("127.0.0.1:0").expect("a port") }
    }

    pub fn section(&self) -> String {
        let at = self.listener.local_addr().expect("an address");
        format!("[dispatch.desk]\ntype = \"webhook\"\nurl = \"http://{at}/alerts\"\n")
    }

    /// When the first alert came, or `None` after `limit`.
    pub fn wait(&self, limit: Duration) -> Option<Timestamp> {
        self.listener.set_nonblocking(true).ok()?;
        let began = Instant::now();
        while began.elapsed() < limit {
            if let Ok((mut stream, _)) = self.listener.accept() {
                let received = Timestamp::now();
                stream.set_nonblocking(false).ok()?;
                let mut request = [0; 65536];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
                return Some(received);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        None
    }
}

/// Processor time of a process up to a moment, by its threads.
struct Used(HashMap<u64, u64>);

impl Used {
    /// In nanoseconds: the ticks of `/proc/PID/stat` are too coarse for what a camera takes (proc_pid_schedstat(5)).
    fn by(pid: u32) -> Used {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let of = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
            Some((path.file_name()?.to_str()?.parse().ok()?, text.split(' ').next()?.parse().ok()?))
        };
        Used(threads.filter_map(|thread| of(thread.path())).collect())
    }

    /// Seconds since `before`. What a thread took that has ended in between is lost: here none of weight does.
    fn since(&self, before: &Used) -> f64 {
        let spent = |(thread, now): (&u64, &u64)| now - before.0.get(thread).unwrap_or(&0);
        self.0.iter().map(spent).sum::<u64>() as f64 / 1e9
    }
}

/// Processor seconds that processes use within the same stretch of time.
pub fn cpu_over<const N: usize>(pids: [u32; N], window: Duration) -> [f64; N] {
    let before = pids.map(Used::by);
    std::thread::sleep(window);
    let after = pids.map(Used::by);
    std::array::from_fn(|at| after[at].since(&before[at]))
}

/// Bytes that a process has read and written, sockets and files together (proc_pid_io(5)).
pub struct Transferred {
    pub read: f64,
    pub written: f64,
}

pub fn transferred(pid: u32) -> Transferred {
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let count = |name: &str| {
        let line =
            io.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")?.parse::<f64>().ok());
        line.unwrap_or(f64::NAN)
    };
    Transferred { read: count("rchar"), written: count("wchar") }
}

/// Resident bytes.
pub fn memory(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

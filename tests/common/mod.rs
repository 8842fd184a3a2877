//! What the whole-binary tests share: a daemon in a fresh folder, real cameras, a dispatch desk, clips, ffmpeg.

#![allow(dead_code)] // Each test binary uses its part of it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod alert;
pub mod camera;
pub mod certificate;
pub mod client;
pub mod desk;
pub mod disk;
pub mod parts;
pub mod past;
pub mod people;
pub mod recordings;

pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Where the real footage lies, where it is there.
pub fn footage(name: &str) -> Option<PathBuf> {
    let folder =
        std::env::var_os("LIUTA_FOOTAGE").map_or_else(|| root().join("../shared/footage"), PathBuf::from);
    Some(folder.join(name)).filter(|path| path.exists())
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A clip of the demo's own.
pub fn rendered(name: &str) -> PathBuf {
    root().join("demo/clips").join(name)
}

/// An address on loopback that nobody listens at now.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Waits until `ready` gives something, or panics after `limit` with what was waited for.
pub async fn until<T>(limit: Duration, what: &str, mut ready: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ready().await {
            return found;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Output of a command that has to succeed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// ffmpeg or ffprobe, whose warnings are the test's: gives back (stdout, stderr).
pub fn strict(command: &mut Command) -> (String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{stderr}", output.status);
    (String::from_utf8_lossy(&output.stdout).into_owned(), stderr)
}

/// Pictures that ffprobe decodes in a file.
pub fn decoded_pictures(file: &Path) -> u64 {
    let (out, warnings) = strict(
        Command::new("ffprobe")
            .args(["-v", "warning", "-count_frames", "-select_streams", "v:0"])
            .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
            .arg(file),
    );
    assert_eq!(warnings, "", "{}", file.display());
    out.trim().trim_end_matches(',').parse().unwrap_or_else(|_| panic!("{}: {out:?}", file.display()))
}

/// A clip of moving bars with so many pictures, made on the spot.
pub fn test_clip(folder: &Path, name: &str, arguments: &[&str]) -> PathBuf {
    let file = folder.join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i"]).args(arguments).arg(&file);
    run(&mut ffmpeg);
    file
}

/// The daemon as a process, with its own data folder and ports. Killed when dropped.
pub struct Daemon {
    child: Child,
    pub folder: Arc<tempfile::TempDir>,
    pub http: SocketAddr,
    pub rtsp: SocketAddr,
    client: reqwest::Client,
    /// As it answers.
    scheme: &'static str,
    token: Option<String>,
}

/// What stands above the cameras in a test's configuration.
pub fn config_head(folder: &Path, http: SocketAddr, rtsp: SocketAddr) -> String {
    format!(
        "data = {data:?}\n[box]\nid = \"edge-1\"\npublic_url = \"http://{http}\"\n\
         [api]\nlisten = \"{http}\"\n[rtsp]\nlisten = \"{rtsp}\"\n[auth]\nanonymous = \"viewer\"\n",
        data = folder.join("data")
    )
}

impl Daemon {
    /// Starts with `sections` behind the common head and waits until it answers.
    pub async fn start(sections: &str) -> Daemon {
        Daemon::start_with(sections, &[]).await
    }

    pub async fn start_with(sections: &str, environment: &[(&str, &str)]) -> Daemon {
        let folder = Arc::new(tempfile::Builder::new().prefix("liuta-test-").tempdir().unwrap());
        let (http, rtsp) = (free_address(), free_address());
        let config = config_head(folder.path(), http, rtsp) + sections;
        std::fs::write(folder.path().join("liuta.toml"), config).unwrap();
        Daemon::start_in(folder, http, rtsp, environment).await
    }

    /// Starts (again) in a folder that holds `liuta.toml`.
    pub async fn start_in(
        folder: Arc<tempfile::TempDir>,
        http: SocketAddr,
        rtsp: SocketAddr,
        environment: &[(&str, &str)],
    ) -> Daemon {
        // Only the first call installs it; reqwest needs one even for plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let log = std::fs::File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_liuta"))
            .args(["run", "--config"])
            .arg(folder.path().join("liuta.toml"))
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("liuta");
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            // Of a certificate of its own nobody knows; tests of certificates have clients that look.
            .tls_danger_accept_invalid_certs(true)
            .build()
            .unwrap();
        let mut daemon = Daemon { child, folder, http, rtsp, client, scheme: "http", token: None };
        let began = Instant::now();
        while !daemon.answers().await {
            daemon.scheme = if daemon.scheme == "http" { "https" } else { "http" };
            if let Some(status) = daemon.child.try_wait().unwrap() {
                panic!("liuta ended at start: {status}\n{}", daemon.log());
            }
            assert!(began.elapsed() < Duration::from_secs(60), "liuta does not answer\n{}", daemon.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        daemon
    }

    async fn answers(&self) -> bool {
        let answer = self.client.get(self.url("/healthz")).send().await;
        // HTTPS answers HTTP with 400.
        answer.is_ok_and(|answer| answer.status() != reqwest::StatusCode::BAD_REQUEST)
    }

    /// A fresh start on the same folder and ports, after [`terminate`](Self::terminate) or
    /// [`kill`](Self::kill).
    pub async fn restart(self) -> Daemon {
        let (folder, http, rtsp) = (self.folder.clone(), self.http, self.rtsp);
        drop(self);
        Daemon::start_in(folder, http, rtsp, &[]).await
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The worker's process id, while there is one.
    pub fn worker(&self) -> Option<i32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let all_threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        let mut children: Vec<String> = children.split_whitespace().map(str::to_owned).collect();
        for thread in all_threads.flatten() {
            let more = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            children.extend(more.split_whitespace().map(str::to_owned));
        }
        children.iter().filter_map(|child| child.parse().ok()).find(|child: &i32| {
            std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|comm| comm.starts_with("liuta-vision"))
        })
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid())).unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// SIGTERM, then waits for the end: how long it took.
    pub async fn terminate(&mut self) -> (Duration, std::process::ExitStatus) {
        let began = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (began.elapsed(), status);
            }
            assert!(began.elapsed() < Duration::from_secs(30), "SIGTERM was not followed\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.http)
    }

    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("liuta.toml")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// A token of that role, as a person makes one.
    pub fn token_of(&self, role: &str, cameras: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_liuta"));
        command.args(["token", "create", "--json", "--role", role, "--config"]).arg(self.config_file());
        for camera in cameras {
            command.args(["--camera", camera]);
        }
        let printed: Value = serde_json::from_str(&run(&mut command)).unwrap();
        printed["token"].as_str().unwrap().to_owned()
    }

    pub async fn get(&mut self, path: &str) -> reqwest::Response {
        let token = match &self.token {
            Some(token) => token.clone(),
            None => self.token.insert(self.token_of("admin", &[])).clone(),
        };
        self.client
            .get(self.url(path))
            .bearer_auth(token)
            .send()
            .await
            .unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn json(&mut self, path: &str) -> Value {
        let response = self.get(path).await;
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Every subject's health state; the status code tells of the worst one only.
    pub async fn health(&mut self) -> Value {
        serde_json::from_str(&self.get("/healthz").await.text().await.unwrap()).unwrap()
    }

    /// Saves what `path` answers to a file.
    pub async fn save(&mut self, path: &str, name: &str) -> PathBuf {
        let response = self.get(path).await;
        let status = response.status();
        let body = response.bytes().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&body));
        let file = self.folder.path().join(name);
        std::fs::write(&file, body).unwrap();
        file
    }

    /// The sum of a metric's samples whose labels hold all of `labels` (`camera="a"`).
    pub async fn metric(&mut self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").await.text().await.unwrap();
        let matching = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            (rest.starts_with('{') || rest.starts_with(' '))
                && labels.iter().all(|label| rest.contains(label))
        });
        matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until a metric reaches a value.
    pub async fn until_metric(&mut self, limit: Duration, name: &str, labels: &[&str], least: f64) -> f64 {
        let began = Instant::now();
        loop {
            let value = self.metric(name, labels).await;
            if value >= least {
                return value;
            }
            let late = began.elapsed() > limit;
            assert!(!late, "{name}{labels:?} is {value}, not {least}, after {limit:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Cameras for tests: a real RTSP server (`gst_camera.py`) and hostile ones ([`hostile`]). Used by several test
//! binaries, each of which needs a part of it.

pub mod hostile;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long a camera may take to start on a busy machine, which includes transcoding.
const START: Duration = Duration::from_secs(90);

/// A running `gst_camera.py`; ends when dropped.
pub struct GstCamera {
    pub port: u16,
    child: Child,
    lines: Receiver<String>,
}

impl GstCamera {
    /// Starts it with the arguments that stand at the top of `gst_camera.py`, and waits until it listens.
    pub fn start(arguments: &[&str]) -> GstCamera {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cameras/gst_camera.py");
        // Its stdin stays open as long as we live, and it ends with it.
        let mut child = Command::new("/usr/bin/python3")
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut camera = GstCamera { port: 0, child, lines };
        camera.port = camera.wait("port ").parse().expect("a port number");
        camera
    }

    /// Waits for a line that begins so; gives back the rest.
    pub fn wait(&self, begins: &str) -> String {
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("the test camera starts and says what it does");
            if let Some(rest) = line.strip_prefix(begins) {
                return rest.to_owned();
            }
        }
    }

    pub fn url(&self, name: &str) -> url::Url {
        format!("rtsp://127.0.0.1:{}/{name}", self.port).parse().expect("a url")
    }
}

impl Drop for GstCamera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A clip of the shared footage, or a drawn test picture where there is none: `NAME=SOURCE` for [`GstCamera`].
pub fn mount(name: &str, clip: &str) -> String {
    let folder = match std::env::var_os("LIUTA_FOOTAGE") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/footage"),
    };
    let path = folder.join(clip);
    match path.is_file() {
        true => format!("{name}={}", path.display()),
        false => format!("{name}=testsrc2"),
    }
}

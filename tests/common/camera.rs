//! Real cameras: clips over RTSP by gst-rtsp-server (`tests/cameras/gst_camera.py`).

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A clip and the name that it is served under.
pub struct Mount {
    name: String,
    file: PathBuf,
}

impl Mount {
    pub fn clip(name: &str, file: &Path) -> Mount {
        Mount { name: name.to_owned(), file: file.to_owned() }
    }
}

/// What is asked of a camera beside its clips.
#[derive(Default)]
pub struct Options<'o> {
    /// 0: any.
    pub port: u16,
    /// So many pictures to each client, then silence; without it the clip is looped.
    pub pictures: Option<u32>,
    /// User name and password, asked for by Digest.
    pub credentials: Option<(&'o str, &'o str)>,
}

/// A process that serves clips; killed when dropped.
pub struct Camera {
    child: Child,
    port: u16,
    said: Arc<Mutex<Vec<String>>>,
}

impl Camera {
    pub fn start(mounts: &[Mount]) -> Camera {
        Camera::start_with(Options::default(), mounts)
    }

    pub fn start_with(options: Options<'_>, mounts: &[Mount]) -> Camera {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(super::root().join("tests/cameras/gst_camera.py"));
        command.args(["--port", &options.port.to_string()]);
        if let Some(pictures) = options.pictures {
            command.args(["--pictures", &pictures.to_string()]);
        }
        if let Some((user, password)) = options.credentials {
            command.args(["--user", user, "--password", password]);
        }
        command.args(mounts.iter().map(|mount| format!("{}={}", mount.name, mount.file.display())));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gst_camera.py");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.strip_prefix("port ")?.trim().parse().ok());
        let port = port.expect("the camera's port");
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = said.clone();
        // Read to the end, or the camera blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(|line| kept.lock().unwrap().push(line)));
        Camera { child, port, said }
    }

    /// The last of `Options::pictures` of that clip has been sent.
    pub fn has_sent(&self, name: &str) -> bool {
        let wanted = format!("sent {name} ");
        self.said.lock().unwrap().iter().any(|line| line.starts_with(&wanted))
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, name: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{name}", self.port)
    }
}

impl Drop for Camera {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

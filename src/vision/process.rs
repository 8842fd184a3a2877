//! One worker process: start it, carry messages, pass on what it says on stderr, end it.
//!
//! What does not belong here: when it is started again and what it is asked (`supervisor`).

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::wire::{self, Job, Report};

/// What of one stderr line is passed on, and how many lines a second.
const LINE: usize = 500;
const LINES_A_SECOND: u32 = 20;

/// How long a worker whose socket was closed may take to end by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// Environment variables that the worker gets, `GST_*` with all that begin alike: what drivers, GStreamer and ONNX
/// Runtime are set up by. It parses hostile video, so it gets none of those that may hold a secret of `liuta`'s.
const ENVIRONMENT: [&str; 13] = [
    "PATH",
    "HOME",
    "LANG",
    "LC_*",
    "TZ",
    "LD_LIBRARY_PATH",
    "GST_*",
    "XDG_*",
    "LIUTA_LOG",
    "CUDA_*",
    "NVIDIA_*",
    "LIBVA_*",
    "RUST_BACKTRACE",
];

pub fn is_passed_on(variable: &OsStr) -> bool {
    ENVIRONMENT.iter().any(|allowed| match allowed.strip_suffix('*') {
        Some(beginning) => variable.as_encoded_bytes().starts_with(beginning.as_bytes()),
        None => variable == *allowed,
    })
}

pub struct Process {
    child: Child,
    /// Jobs and their blobs, written one after the other.
    pub jobs: mpsc::Sender<(Job, Vec<Bytes>)>,
    /// What it reports; `Err`: it speaks nonsense. Ends when it closed.
    pub reports: mpsc::Receiver<Result<(Report, Bytes), String>>,
    carriers: JoinSet<()>,
    last_line: Arc<Mutex<String>>,
}

impl Process {
    pub fn spawn(program: &Path) -> io::Result<Process> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let (mut from, mut to) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let mut child = Command::new(program)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (jobs, mut queue) = mpsc::channel::<(Job, Vec<Bytes>)>(4);
        let (answers, reports) = mpsc::channel(4);
        let last_line = Arc::new(Mutex::new(String::new()));
        let mut carriers = JoinSet::new();
        carriers.spawn(async move {
            while let Some((job, blobs)) = queue.recv().await {
                // A worker that does not read is one that hangs: the supervisor's patience ends that.
                if let Err(error) = wire::write_job(&mut to, &job, &blobs).await {
                    tracing::debug!("vision worker: a job was not taken: {error}");
                    break;
                }
            }
        });
        carriers.spawn(async move {
            loop {
                let report = match wire::read_report(&mut from).await {
                    Ok(Some(report)) => Ok(report),
                    // Closed, or died between two bytes: either way it is its end that tells.
                    Ok(None) | Err(wire::WireError::Io(_)) => break,
                    Err(wire::WireError::Nonsense(what)) => Err(what),
                };
                let last = report.is_err();
                if answers.send(report).await.is_err() || last {
                    break;
                }
            }
        });
        if let Some(stderr) = child.stderr.take() {
            carriers.spawn(pass_on(stderr, last_line.clone()));
        }
        Ok(Process { child, jobs, reports, carriers, last_line })
    }

    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Memory that it holds, in bytes.
    pub fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
    }

    /// Ends it and tells how it ended and what it said last. `gently`: it may finish by itself first.
    pub async fn end(mut self, gently: bool) -> (String, String) {
        drop(self.jobs);
        self.reports.close();
        if !gently && let Err(error) = self.child.start_kill() {
            tracing::debug!("vision worker: {error}");
        }
        let status = match tokio::time::timeout(FAREWELL, async {
            if gently {
                // Both ends of the socket go with their carriers; what it still says is of no use.
                self.carriers.shutdown().await;
            }
            self.child.wait().await
        })
        .await
        {
            Ok(status) => status,
            Err(_) => {
                // Already gone is fine; the wait below tells.
                let _ = self.child.start_kill();
                match tokio::time::timeout(FAREWELL, self.child.wait()).await {
                    Ok(status) => status,
                    Err(_) => Err(io::Error::other("it does not end even when killed")),
                }
            }
        };
        if !gently {
            // The last words are in the pipe still.
            let _ = tokio::time::timeout(Duration::from_millis(200), self.carriers.join_all()).await;
        }
        let last = self.last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        (status.map_or_else(|error| error.to_string(), |status| status.to_string()), last)
    }

    /// Has it ended by itself? Waits for it.
    pub async fn ended(&mut self) {
        // An error means that there is nothing to wait for.
        let _ = self.child.wait().await;
    }
}

/// Passes stderr on to the log, line by line, bounded in length and rate.
async fn pass_on(mut stderr: ChildStderr, last_line: Arc<Mutex<String>>) {
    let (mut buffer, mut line) = ([0; 4096], Vec::new());
    let (mut second, mut lines, mut left_out) = (Instant::now(), 0, 0u64);
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        for &byte in buffer.iter().take(read) {
            if byte != b'\n' {
                if line.len() < LINE {
                    line.push(byte);
                }
                continue;
            }
            let text = printable(&line);
            line.clear();
            if text.is_empty() {
                continue;
            }
            if second.elapsed() >= Duration::from_secs(1) {
                if left_out > 0 {
                    tracing::warn!("vision worker: {left_out} more lines");
                }
                (second, lines, left_out) = (Instant::now(), 0, 0);
            }
            lines += 1;
            if lines > LINES_A_SECOND {
                left_out += 1;
            } else if let Some(warning) = text.strip_prefix("WARN ").or_else(|| text.strip_prefix("ERROR ")) {
                tracing::warn!("vision worker: {}", warning.trim_start());
            } else {
                tracing::info!("vision worker: {}", text.strip_prefix("INFO ").unwrap_or(&text));
            }
            *last_line.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = text;
        }
        // A flood never yields by itself: the pipe is always full.
        tokio::task::yield_now().await;
    }
}

fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

//! `liuta-vision`: the process that decodes pictures and runs models, so that no driver or model can harm the daemon.
//!
//! `liuta` starts it with a Unix socket as its stdin and speaks [`liuta::vision::wire`]; it looks at one picture after
//! the other and ends with the socket. What does not belong here: which camera is looked at when, and what a detection
//! means.

mod annexb;
mod decode;
mod look;
mod postprocess;
mod preprocess;
mod probe;
mod sandbox;
mod session;
mod tiles;

use std::io::{self, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use liuta::hw::Profile;
use liuta::vision::wire::{self, Job, Report, WireError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;

use crate::decode::Input;
use crate::look::{Look, Looks};

const HELP: &str = "\
liuta-vision decodes pictures and runs detection models for liuta, which starts it: there is nothing to call by hand.

  liuta-vision --probe     tries what `liuta probe` sends as JSON on stdin, answers in JSON on stdout
  liuta-vision --sandbox-check [FILE…]
                           tries to leave its sandbox and to read the files, tells in JSON; exit status 1 where it can
  liuta-vision --version

`liuta run` starts it where a camera has a scene; LIUTA_LOG sets how much it logs (error, warn, info, debug).";

/// Looks give way to recording and relaying when the processor is short.
const NICE: i32 = 5;

/// ONNX Runtime's own switch. Its builds for PyPI else keep a device's number on disk and report use to their maker;
/// the sandbox would refuse both, with a warning at each start.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn main() -> ExitCode {
    // SAFETY: there is no other thread yet.
    unsafe { std::env::set_var(NO_TELEMETRY, "1") };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    log_to_stderr();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<&str>>().as_slice() {
        [] => serve(),
        ["--probe"] => probe(),
        ["--sandbox-check", files @ ..] => sandbox_check(files),
        ["--help" | "-h"] => {
            println!("{HELP}");
            Ok(())
        }
        ["--version" | "-V"] => {
            println!("liuta-vision {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
        _ => Err("unknown arguments; see liuta-vision --help".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("liuta-vision: {why}");
            ExitCode::FAILURE
        }
    }
}

/// One line an event, `WARN what`: the main process adds the rest.
fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("LIUTA_LOG").unwrap_or_else(|_| EnvFilter::new("info,ort=warn"));
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .init();
}

fn probe() -> Result<(), String> {
    let request = serde_json::from_reader(io::stdin().lock()).map_err(|error| format!("stdin: {error}"))?;
    let found = probe::run(&request)?;
    serde_json::to_writer(io::stdout().lock(), &found).map_err(|error| format!("stdout: {error}"))
}

fn sandbox_check(files: &[&str]) -> Result<(), String> {
    let check = sandbox::check(&files.iter().map(PathBuf::from).collect::<Vec<PathBuf>>());
    serde_json::to_writer_pretty(io::stdout().lock(), &check).map_err(|error| format!("stdout: {error}"))?;
    println!();
    if check.holds() { Ok(()) } else { Err("the sandbox lets through what it must refuse".to_owned()) }
}

/// Answers jobs until the main process closes.
fn serve() -> Result<(), String> {
    let by_hand = "is started by liuta, not by hand (stdin is no socket); see liuta-vision --help";
    let stdin = rustix::io::dup(rustix::stdio::stdin()).map_err(|_| by_hand)?;
    rustix::net::sockopt::socket_type(&stdin).map_err(|_| by_hand)?;
    let socket = UnixStream::from(stdin);
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::debug!("nice: {error}");
    }
    let io = |error: io::Error| format!("the socket to liuta: {error}");
    let mut from = BufReader::with_capacity(64 << 10, socket.try_clone().map_err(io)?);
    match answer(&mut from, &socket) {
        Ok(()) => Ok(()),
        // Killed or stopped before it read our answer: nobody is left to tell.
        Err(WireError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(format!("the socket to liuta: {error}")),
    }
}

fn answer(from: &mut impl io::Read, socket: &UnixStream) -> Result<(), WireError> {
    let to = &mut &*socket;
    let mut looks: Option<Looks> = None;
    while let Some((job, blob)) = wire::read_job(from)? {
        match (job, &mut looks) {
            (Job::Start { profiles, named, onnxruntime, models }, None) => {
                // First of all, and before there is a second thread, which Landlock would leave out.
                let sandbox = sandbox::enter(&session::library_folders(onnxruntime.as_deref()), &models);
                die_with(socket.try_clone()?)?;
                let started = read_profiles(profiles)
                    .and_then(|profiles| Looks::start(&profiles, named, onnxruntime.as_deref(), &models));
                match started {
                    Ok((started, problems)) => {
                        let models = started.models();
                        wire::write_report(to, &Report::Ready { models, problems, sandbox }, &[])?;
                        looks = Some(started);
                    }
                    Err(why) => return wire::write_report(to, &Report::Unfit { why }, &[]),
                }
            }
            (
                Job::Look { id, stream, codec, width, height, units, model, tiles, min_score, picture },
                Some(looks),
            ) => {
                let look = Look { id, stream: &stream, model: model.as_deref(), tiles, min_score, picture };
                let input = Input::new(codec, [width, height], &units, blob);
                let (report, jpeg) = looks.look(&look, input);
                wire::write_report(to, &report, &jpeg)?;
            }
            (Job::Forget { stream }, Some(looks)) => looks.forget(&stream),
            (Job::Start { .. }, Some(_)) => return Err(WireError::Nonsense("a second start".to_owned())),
            (_, None) => return Err(WireError::Nonsense("a job before the start".to_owned())),
        }
    }
    Ok(())
}

fn read_profiles(profiles: Vec<serde_json::Value>) -> Result<Vec<Profile>, String> {
    let read = |value| serde_json::from_value(value).map_err(|error| format!("hardware profile: {error}"));
    profiles.into_iter().map(read).collect()
}

/// Ends this process when the main process is gone, even while a decoder or a model hangs. The kernel's parent-death
/// signal would not do: it comes when the thread that started us ends, and runtimes end threads at will.
fn die_with(socket: UnixStream) -> io::Result<()> {
    let watch = move || {
        loop {
            // No events asked for: only the hang-up, which is always told, wakes us.
            match poll(&mut [PollFd::new(&socket, PollFlags::RDHUP)], None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
        std::thread::sleep(Duration::from_secs(1));
        // No exit handlers: they would wait for what hangs.
        let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
    };
    std::thread::Builder::new().name("parent".to_owned()).spawn(watch).map(drop)
}

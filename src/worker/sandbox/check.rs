//! Trying, from the inside, what the sandbox must refuse: `liuta-vision --sandbox-check`.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use liuta::vision::wire::Sandbox;
use rustix::net::{AddressFamily, SocketType};

/// What was tried, as JSON on stdout.
#[derive(serde::Serialize)]
pub struct Check {
    pub sandbox: Sandbox,
    pub attempts: Vec<Attempt>,
}

#[derive(serde::Serialize)]
pub struct Attempt {
    pub what: String,
    /// Which part of the sandbox stands against it, `landlock` or `seccomp`.
    pub against: &'static str,
    pub refused: bool,
    /// The error; empty where it was let through.
    pub error: String,
}

/// Enters the sandbox and tries to get out of it: reading `files`, among others.
pub fn check(files: &[PathBuf]) -> Check {
    let mut check = Check { sandbox: super::enter(&[], &[]), attempts: Vec::new() };
    for (family, name) in [
        (AddressFamily::INET, "AF_INET"),
        (AddressFamily::INET6, "AF_INET6"),
        (AddressFamily::NETLINK, "AF_NETLINK"),
        (AddressFamily::UNIX, "AF_UNIX"),
    ] {
        let socket = rustix::net::socket(family, SocketType::DGRAM, None);
        check.note(format!("socket {name}"), "seccomp", socket.map_err(io::Error::from));
    }
    let nowhere = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    check.note("connect 127.0.0.1:9".to_owned(), "seccomp", TcpStream::connect(nowhere));
    let daemon = rustix::process::getppid();
    let signal = daemon.map_or(Ok(()), rustix::process::test_kill_process);
    check.note("signal the parent".to_owned(), "seccomp", signal.map_err(io::Error::from));
    // SAFETY: no pointer is passed; it attaches to nothing but the parent, or fails.
    let traced = unsafe { libc::ptrace(libc::PTRACE_SEIZE, libc::getppid(), 0, 0) };
    check.note("ptrace the parent".to_owned(), "seccomp", result(traced as i32));
    // SAFETY: takes flags only.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    check.note("unshare a user namespace".to_owned(), "seccomp", result(unshared));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    check.note("chmod /tmp".to_owned(), "seccomp", std::fs::set_permissions("/tmp", mode));
    check.note("start /bin/true".to_owned(), "seccomp", Command::new("/bin/true").status());
    let secrets = ["/etc/passwd", "/etc/shadow"].map(PathBuf::from);
    for file in secrets.iter().chain(files) {
        check.note(format!("read {}", file.display()), "landlock", std::fs::File::open(file));
    }
    let folder = std::env::temp_dir();
    let written = std::fs::File::create_new(folder.join(format!("liuta-sandbox-{}", std::process::id())));
    check.note(format!("write into {}", folder.display()), "landlock", written);
    check.note("list /home".to_owned(), "landlock", std::fs::read_dir("/home"));
    // What must work still, or the sandbox is too small.
    let usable = std::fs::read_dir("/usr/lib")
        .map(|_| ())
        .and_then(|()| std::thread::Builder::new().spawn(|| ()).map(drop));
    if let Err(error) = usable {
        let what = "read /usr/lib and start a thread, which must work".to_owned();
        check.attempts.push(Attempt { what, against: "", refused: false, error: error.to_string() });
    }
    // Last: it would replace this program.
    let error = Command::new("/bin/true").exec();
    check.note("become /bin/true".to_owned(), "seccomp", Err::<(), _>(error));
    check
}

fn result(returned: i32) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl Check {
    fn note<T>(&mut self, what: String, against: &'static str, outcome: io::Result<T>) {
        let error = outcome.err();
        // An absent file or a refused connection was looked for: only a permission that is missing is a refusal.
        let refused = error.as_ref().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        self.attempts.push(Attempt { what, against, refused, error });
    }

    /// Whether everything was refused that this kernel's part of the sandbox stands against.
    pub fn holds(&self) -> bool {
        let in_force = |attempt: &&Attempt| match attempt.against {
            "landlock" => self.sandbox.landlock > 0,
            _ => self.sandbox.seccomp,
        };
        self.attempts.iter().filter(in_force).all(|attempt| attempt.refused)
    }
}

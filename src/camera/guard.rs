//! The guard against hostile cameras: what one session may cost in memory and time.
//!
//! Our RTSP library reads a message, or the packets of a picture, into one growing buffer without a limit, and owns
//! its socket. The guard bounds it from outside, on the same task and without touching the data:
//!
//! * It polls the library with a small ration of tokio's cooperative budget, so that one poll makes at most
//!   [`READS`] reads from the socket, each of at most its receive buffer, which the guard makes [`RECEIVE_BUFFER`].
//! * After every poll that gave nothing it compares the bytes that the kernel has received on the socket (TCP_INFO)
//!   with those received when the last picture came. What lies between is what the library may be hoarding.
//! * Every step has a deadline, which the ration also makes sure to be looked at.
//!
//! Past a limit the step ends with a [`Breach`], and dropping the guard shuts the socket down, whoever else holds it.
//!
//! The library's socket is found among this process's own: it is the one that came into being during the first poll
//! of the connect and is connected to the camera's address. From then on the guard holds a duplicate descriptor.
//!
//! What does not belong here: what the bytes mean.

use std::collections::BTreeSet;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::{Shutdown, getpeername, sockopt};
use tokio::task::coop;

/// Bytes that may come before the first picture's packets: responses and the SDP, a few KB from real cameras.
pub const HANDSHAKE_LIMIT: u64 = 512 << 10;

/// Bytes that may come from one picture to the next; a key picture of a 4K camera has one or two million.
pub const PICTURE_LIMIT: u64 = 6 << 20;

/// Polls without a picture that a session over UDP is allowed, whose bytes the kernel does not count. Each takes at
/// most two datagrams: 12 MB at the usual 1500 bytes.
const UDP_POLLS: u32 = 4096;

const RECEIVE_BUFFER: usize = 256 << 10;

/// Socket reads within one poll over TCP, and over UDP.
const READS: u8 = 8;
const READS_UDP: u8 = 2;

/// What a task may do before tokio makes it yield (tokio's `coop`).
const TASK_BUDGET: u8 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("it sent {0} bytes without completing a picture or an answer")]
    Flood(u64),
    #[error("it sent nothing useful for {} s", .0.as_secs())]
    Silent(Duration),
}

/// Watches one session.
#[derive(Debug)]
pub struct Guard {
    peer: SocketAddr,
    socket: Search,
    limit: u64,
    /// Bytes received when the last picture came.
    received: u64,
    udp: bool,
    /// Polls since the last picture.
    polls: u32,
}

#[derive(Debug)]
enum Search {
    /// Nothing was polled yet.
    Before,
    /// Sockets that appeared during the first poll, as `/proc/self/fd` shows them.
    Among(BTreeSet<String>),
    Found(OwnedFd),
    /// `/proc` cannot be read: deadlines alone guard.
    Blind,
}

/// Held while a first poll creates a socket, so that two sessions to the same address cannot take each other's.
static CONNECTING: Mutex<()> = Mutex::new(());

impl Guard {
    /// `peer`: the one address that the session will connect to.
    pub fn new(peer: SocketAddr) -> Guard {
        Guard { peer, socket: Search::Before, limit: HANDSHAKE_LIMIT, received: 0, udp: false, polls: 0 }
    }

    /// Pictures come from now on.
    pub fn expect_pictures(&mut self, udp: bool) {
        self.limit = PICTURE_LIMIT;
        self.udp = udp;
        self.picture();
    }

    /// A picture came: what was received for it has been paid for.
    pub fn picture(&mut self) {
        self.polls = 0;
        if let Some(received) = self.bytes_received() {
            self.received = received;
        }
    }

    /// Runs one step of the session to its end, or to the breach of a limit.
    pub async fn watch<F: Future>(&mut self, within: Duration, step: F) -> Result<F::Output, Breach> {
        let mut step = pin!(step);
        let mut deadline = pin!(tokio::time::sleep(within));
        poll_fn(|cx| {
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Breach::Silent(within)));
            }
            ready!(ration(cx, if self.udp { READS_UDP } else { READS }));
            let polled = match self.socket {
                Search::Before => self.first_poll(|| step.as_mut().poll(cx)),
                _ => step.as_mut().poll(cx),
            };
            if let Poll::Ready(output) = polled {
                return Poll::Ready(Ok(output));
            }
            match self.check() {
                Ok(()) => Poll::Pending,
                Err(breach) => Poll::Ready(Err(breach)),
            }
        })
        .await
    }

    /// The poll within which the library creates its socket and begins to connect.
    fn first_poll<T>(&mut self, poll: impl FnOnce() -> T) -> T {
        let _connecting = CONNECTING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sockets();
        let polled = poll();
        self.socket = match (before, sockets()) {
            (Ok(before), Ok(after)) => {
                let names =
                    |all: Vec<(i32, String)>| all.into_iter().map(|(_, name)| name).collect::<BTreeSet<_>>();
                Search::Among(names(after).difference(&names(before)).cloned().collect())
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(
                    "hostile cameras are guarded against by deadlines alone: /proc/self/fd: {error}"
                );
                Search::Blind
            }
        };
        polled
    }

    fn check(&mut self) -> Result<(), Breach> {
        if let Search::Among(candidates) = &self.socket
            && let Some(socket) = connected(candidates, self.peer)
        {
            // Without effect on how fast a real camera's stream is read; the limit counts what waits here, too.
            let _ = sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER);
            self.socket = Search::Found(socket);
        }
        self.polls += 1;
        if self.udp && self.polls > UDP_POLLS {
            return Err(Breach::Flood(u64::from(self.polls) * 1500));
        }
        match self.bytes_received() {
            Some(received) if received.saturating_sub(self.received) > self.limit => {
                Err(Breach::Flood(received - self.received))
            }
            _ => Ok(()),
        }
    }

    fn bytes_received(&self) -> Option<u64> {
        match &self.socket {
            Search::Found(socket) => tcp_bytes_received(socket),
            _ => None,
        }
    }
}

/// Whoever still holds the connection reads its end at once and lets go of what it hoarded.
impl Drop for Guard {
    fn drop(&mut self) {
        if let Search::Found(socket) = &self.socket {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}

/// Leaves the task so much of its budget that `reads` socket reads succeed before it must yield.
fn ration(cx: &mut Context<'_>, reads: u8) -> Poll<()> {
    for _ in reads..TASK_BUDGET {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
}

/// This process's sockets: descriptor, and the name that the kernel gives none other while it lives.
fn sockets() -> std::io::Result<Vec<(i32, String)>> {
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        // A descriptor may be closed while we look.
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if let (Some(fd), Some(name)) =
            (entry.file_name().to_str().and_then(|fd| fd.parse().ok()), target.to_str())
            && name.starts_with("socket:")
        {
            sockets.push((fd, name.to_owned()));
        }
    }
    Ok(sockets)
}

/// A duplicate of the candidate that is connected to `peer`.
fn connected(candidates: &BTreeSet<String>, peer: SocketAddr) -> Option<OwnedFd> {
    sockets().ok()?.into_iter().filter(|(_, name)| candidates.contains(name)).find_map(|(fd, name)| {
        // SAFETY: `fd` is borrowed for the duplication alone. Were it closed meanwhile, the call fails, or duplicates
        // another of our own files, whose name is then another.
        let socket = rustix::io::fcntl_dupfd_cloexec(unsafe { BorrowedFd::borrow_raw(fd) }, 0).ok()?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
        let connected_to = SocketAddr::try_from(getpeername(&socket).ok()??).ok()?;
        (link.to_str() == Some(&name) && connected_to == peer).then_some(socket)
    })
}

/// `tcpi_bytes_received` (RFC 4898 tcpEStatsAppHCThruOctetsReceived) of Linux' `struct tcp_info`, since 4.1.
fn tcp_bytes_received(socket: &OwnedFd) -> Option<u64> {
    /// Eight bytes, 24 words of 32 bits, and three of 64 come before it (linux/tcp.h; only ever appended to).
    const OFFSET: usize = 8 + 24 * 4 + 3 * 8;
    let mut info = [0u8; OFFSET + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, and how many into `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 || (length as usize) < info.len() {
        return None;
    }
    let bytes = info.get(OFFSET..)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_hoarding_reader_is_stopped_near_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let flood = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let block = vec![b'x'; 1 << 16];
            while socket.write_all(&block).await.is_ok() {}
        });
        let mut guard = Guard::new(peer);
        let mut hoard = Vec::new();
        let outcome = guard
            .watch(Duration::from_secs(20), async {
                let mut socket = TcpStream::connect(peer).await.unwrap();
                loop {
                    if socket.read_buf(&mut hoard).await.unwrap() == 0 {
                        break;
                    }
                }
            })
            .await;
        assert!(matches!(outcome, Err(Breach::Flood(_))), "{outcome:?}");
        let most = HANDSHAKE_LIMIT as usize + usize::from(READS) * 2 * RECEIVE_BUFFER;
        assert!(hoard.len() < most, "{} bytes hoarded", hoard.len());
        drop(guard);
        tokio::time::timeout(Duration::from_secs(20), flood).await.expect("the socket is shut down").unwrap();
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline() {
        let mut guard = Guard::new("127.0.0.1:9".parse().unwrap());
        let outcome = guard.watch(Duration::from_millis(50), std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(Breach::Silent(Duration::from_millis(50))));
    }
}

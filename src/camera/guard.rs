//! The guard against hostile cameras: what one session may cost in memory and time.
//!
//! Our RTSP library reads a message, or the packets of a picture, into one growing buffer without a limit, and keeps
//! notes of every NAL unit in it. The guard bounds all of that from outside, on the same task and without touching
//! the data:
//!
//! * It polls the library with a small ration of tokio's cooperative budget, so that a turn of the task makes at most
//!   [`READS`] reads from a socket, and one where a session keeps unusually much. Between two turns deadlines and limits
//!   are looked at, and other tasks run.
//! * It measures what the library has allocated within its polls and not freed ([`super::alloc`]): what it hoards.
//!
//! Past a limit the step ends with a [`Breach`]; dropping the session frees everything.
//!
//! What does not belong here: what the bytes mean.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::task::coop;
use tokio::time::{Instant, Sleep};

use super::alloc::net_of_thread;

/// Bytes that a session may keep before it plays: responses and the SDP, a few KB from real cameras.
const HANDSHAKE_LIMIT: i64 = 1 << 20;

/// Bytes that a session may keep while it plays. The library's buffer doubles, so that pictures of up to 4 MB pass;
/// a key picture of a 4K camera has one or two. What is handed out in one piece, and what a buffer needs while it
/// moves, come on top: three times this, less what was never written to, bounds the whole.
const PLAYING_LIMIT: i64 = 6 << 20;

/// From one picture to the next, less than this is not growth but bookkeeping, such as memory freed elsewhere.
const NOISE: i64 = 32 << 10;

/// What a turn may ask of a socket: a picture that came takes one read, one that finds nothing more, and the wait for
/// the next. With less, each picture would take the task several turns.
const READS: u8 = 3;

/// What a session keeps beyond this since its last picture makes it read once a turn: a read may fill a buffer that has
/// just doubled, and three of them would pass the limit three times over before anybody looks.
const UNUSUAL: i64 = 1 << 20;

/// What a task may do before tokio makes it yield (tokio's `coop`).
const TASK_BUDGET: u8 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("it made us keep {0} bytes without completing a picture or an answer")]
    Flood(i64),
    #[error("it sent nothing useful for {} s", .0.as_secs())]
    Silent(Duration),
}

/// Watches one session.
#[derive(Debug)]
pub struct Guard {
    limit: i64,
    /// What the session kept for good when the last picture came: its buffers have grown so far.
    grown: i64,
    /// What it has kept since.
    pending: i64,
    /// When the running step must have ended. One for all steps: most end long before, and a timer that is only moved
    /// costs next to nothing.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { limit: HANDSHAKE_LIMIT, grown: 0, pending: 0, deadline: None }
    }
}

impl Guard {
    /// Pictures come from now on.
    pub fn expect_pictures(&mut self) {
        self.limit = PLAYING_LIMIT;
    }

    /// A picture of so many bytes was handed out: no longer the session's.
    pub fn picture(&mut self, bytes: usize) {
        let kept = self.pending - bytes as i64;
        if kept.abs() >= NOISE {
            self.grown += kept;
        }
        self.pending = 0;
    }

    /// Runs one step of the session to its end, or to the breach of a limit: of memory, or of the time `within` which
    /// it must end, counted from `since`.
    pub async fn watch<F: Future>(
        &mut self,
        since: Instant,
        within: Duration,
        step: F,
    ) -> Result<F::Output, Breach> {
        let mut step = pin!(step);
        let until = since + within;
        let Guard { limit, grown, pending, deadline } = self;
        let deadline = deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if deadline.deadline() != until {
            deadline.as_mut().reset(until);
        }
        poll_fn(|cx| {
            if deadline.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Breach::Silent(within)));
            }
            ready!(ration(cx, if *pending > UNUSUAL { 1 } else { READS }));
            let before = net_of_thread();
            let polled = step.as_mut().poll(cx);
            *pending += net_of_thread() - before;
            match polled {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending if *grown + *pending > *limit => {
                    Poll::Ready(Err(Breach::Flood(*grown + *pending)))
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }
}

/// Leaves the task at most `reads` of its budget before it must yield.
fn ration(cx: &mut Context<'_>, reads: u8) -> Poll<()> {
    let first = ready!(coop::poll_proceed(cx));
    let mut taken = 1;
    while taken <= reads && coop::has_budget_remaining() {
        ready!(coop::poll_proceed(cx)).made_progress();
        taken += 1;
    }
    if taken <= reads {
        // No more was left: an earlier step has had this turn rationed. What was taken to find out is given back.
        drop(first);
        return Poll::Ready(());
    }
    first.made_progress();
    for _ in taken..TASK_BUDGET - reads {
        ready!(coop::poll_proceed(cx)).made_progress();
    }
    Poll::Ready(())
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
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let block = vec![b'x'; 1 << 16];
            while socket.write_all(&block).await.is_ok() {}
        });
        let mut hoard = Vec::new();
        let outcome = Guard::default()
            .watch(Instant::now(), Duration::from_secs(20), async {
                let mut socket = TcpStream::connect(peer).await.unwrap();
                while socket.read_buf(&mut hoard).await.unwrap() > 0 {}
            })
            .await;
        assert!(matches!(outcome, Err(Breach::Flood(_))), "{outcome:?}");
        assert!(hoard.len() < 3 * HANDSHAKE_LIMIT as usize, "{} bytes hoarded", hoard.len());
    }

    /// A stream of items that are freed elsewhere leaves traces, which must not add up over months.
    #[test]
    fn bookkeeping_never_adds_up_and_growth_does() {
        let mut guard = Guard::default();
        for _ in 0..10_000_000 {
            guard.pending += 50_100;
            guard.picture(50_000);
        }
        assert_eq!((guard.grown, guard.pending), (0, 0));
        guard.pending += (1 << 20) + 70_000;
        guard.picture(70_000);
        assert_eq!(guard.grown, 1 << 20);
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline() {
        const WITHIN: Duration = Duration::from_millis(50);
        let mut guard = Guard::default();
        let began = Instant::now();
        for _ in 0..2 {
            let outcome = guard.watch(began, WITHIN, std::future::pending::<()>()).await;
            assert_eq!(outcome, Err(Breach::Silent(WITHIN)));
        }
        // The next step has its own.
        assert_eq!(guard.watch(Instant::now(), WITHIN, async { 1 }).await, Ok(1));
    }
}

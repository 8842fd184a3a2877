//! The thread that receives: the sessions of all cameras share one.
//!
//! A picture is little work, some ten microseconds, and comes often. On a runtime of several threads every other picture
//! would wake a sleeping thread, which costs as much again. One thread receives some hundred cameras, and
//! [`super::guard`] keeps each camera's turn short.
//!
//! While nobody waits for the next picture the thread wakes every [`PAUSE`], and receives what came from all cameras
//! at once: two pictures of a camera with one read and one acknowledgement. Times of arrival are that much coarser.
//! That costs no accuracy where it counts: a session begins without pauses ([`Hurry::settle`]), so that its first
//! pictures are laid on the box's clock as they arrive, and from there on the earliest arrival of ten seconds counts
//! ([`crate::media::time::ClockAnchor`]), which is one shortly before a wake.
//!
//! What does not belong here: readers and requests, which have the daemon's own runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::live::Budget;

/// Near two pictures' time at 25 a second, and no multiple of any usual one: of pictures that come at equal distances
/// some come shortly before a wake. What the kernel holds of a camera meanwhile is little: 73 KB at 8 Mbit/s, or a key
/// picture, for which it widens its window (`tcp_rmem`).
const PAUSE: Duration = Duration::from_millis(73);

/// How long a session's first pictures are received as they come: a burst that a sender had kept, and some after it.
const SETTLING: Duration = Duration::from_secs(1);

/// Ends with its owner; what still runs on it then is dropped.
pub struct Ingest {
    pub(super) handle: Handle,
    pub(super) hurry: Hurry,
    _stop: DropGuard,
}

impl Ingest {
    /// For streams made within `budget`.
    pub fn start(budget: Arc<Budget>) -> std::io::Result<Ingest> {
        let hurry = Hurry::default();
        let hurried = hurry.0.clone();
        let pause = move || {
            if !budget.has_readers() && hurried.load(Ordering::Relaxed) == 0 {
                std::thread::sleep(PAUSE);
            }
        };
        let runtime = Builder::new_current_thread().on_thread_park(pause).enable_all().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone();
        std::thread::Builder::new().name("liuta-ingest".into()).spawn(move || {
            runtime.block_on(stopped.cancelled());
            // Whoever still resolves a name is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Ingest { handle, hurry, _stop: stop.drop_guard() })
    }
}

/// Counts who cannot bear pauses.
#[derive(Clone, Default)]
pub(super) struct Hurry(Arc<AtomicUsize>);

impl Hurry {
    /// There are no pauses as long as it lives.
    pub(super) fn hold(&self) -> Hurried {
        self.0.fetch_add(1, Ordering::Relaxed);
        Hurried(self.0.clone())
    }

    /// For a session that begins to play now; on the thread that receives.
    pub(super) fn settle(&self) {
        let held = self.hold();
        tokio::spawn(async move {
            tokio::time::sleep(SETTLING).await;
            drop(held);
        });
    }
}

pub(super) struct Hurried(Arc<AtomicUsize>);

impl Drop for Hurried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

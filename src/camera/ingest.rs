//! The thread that receives: the sessions of all cameras share one.
//!
//! A picture is little work, some ten microseconds, and comes often. On a runtime of several threads every other picture
//! would wake a sleeping thread, which costs as much again. One thread receives some hundred cameras, and
//! [`super::guard`] keeps each camera's turn short. While nobody waits for the next picture the thread wakes every
//! [`PAUSE`], and receives what came from all cameras at once.
//!
//! What does not belong here: readers and requests, which have the daemon's own runtime.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::live::Budget;

/// A part of a picture's time: what the kernel holds of a camera meanwhile is little, and times of arrival stay true.
const PAUSE: Duration = Duration::from_millis(10);

/// Ends with its owner; what still runs on it then is dropped.
pub struct Ingest {
    pub(super) handle: Handle,
    /// While somebody else holds it there are no pauses.
    pub(super) at_once: Arc<()>,
    _stop: DropGuard,
}

impl Ingest {
    /// For streams made within `budget`.
    pub fn start(budget: Arc<Budget>) -> std::io::Result<Ingest> {
        let at_once = Arc::new(());
        let held = Arc::downgrade(&at_once);
        let pause = move || {
            if !budget.has_readers() && held.strong_count() <= 1 {
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
        Ok(Ingest { handle, at_once, _stop: stop.drop_guard() })
    }
}

//! The ring's own clock, by which footage ages.
//!
//! The box's clock may be wrong for years and be put right in one step: one without a battery begins in 1970. Footage
//! that went by it would be removed at once, or never. So a segment is stamped with the ring's clock as well, which goes
//! on as the box's steady clock does, whatever is set, and on a start by what the box's clock says it was away.

use std::sync::Arc;
use std::time::Duration;

use crate::media::VIDEO_CLOCK;
use crate::media::time::{Clock, ticks_90k, to_90k};

/// A box that says that it was away for longer has a clock that is not believed: its footage stays until room is needed,
/// or for its age anew.
const BELIEVED_AWAY_90K: i64 = 30 * 86_400 * VIDEO_CLOCK;

/// Nobody recorded before 2020 with a clock that was right.
pub(super) const BELIEVED_90K: i64 = 1_577_836_800 * VIDEO_CLOCK;

pub(super) struct RingClock {
    clock: Arc<dyn Clock>,
    /// The two clocks at the start.
    steady: Duration,
    ring_90k: i64,
}

impl RingClock {
    /// `noted`: the ring's and the box's clock when they were last written down; `newest`: no footage is younger than now.
    pub(super) fn resume(clock: Arc<dyn Clock>, noted: Option<(i64, i64)>, newest: Option<i64>) -> RingClock {
        let wall = to_90k(clock.wall());
        let now = match noted {
            None => wall,
            Some((ring, then)) => match wall - then {
                away @ 0..=BELIEVED_AWAY_90K => ring + away,
                _ => ring,
            },
        };
        let ring_90k = now.max(newest.unwrap_or(now));
        RingClock { steady: clock.steady(), clock, ring_90k }
    }

    /// Now, on the ring's clock.
    pub(super) fn now_90k(&self) -> i64 {
        self.ring_90k + ticks_90k(self.clock.steady().saturating_sub(self.steady))
    }

    /// Now, on the box's clock.
    pub(super) fn wall_90k(&self) -> i64 {
        to_90k(self.clock.wall())
    }

    /// What is to be added to a time of the box's clock, while nobody sets that.
    pub(super) fn offset_90k(&self) -> i64 {
        self.now_90k() - self.wall_90k()
    }

    pub(super) fn steady(&self) -> Duration {
        self.clock.steady()
    }
}

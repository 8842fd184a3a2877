//! Timelines: ticks, the box's clock, and how a camera's RTP ticks are laid on it.

use jiff::Timestamp;

/// The instant of a tick count since the Unix epoch.
pub fn from_90k(ticks: i64) -> Timestamp {
    let ns = i128::from(ticks) * 100_000 / 9;
    Timestamp::from_nanosecond(ns).unwrap_or(if ticks < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Ticks since the Unix epoch of an instant, rounded down.
pub fn to_90k(at: Timestamp) -> i64 {
    (at.as_nanosecond() * 9).div_euclid(100_000) as i64
}

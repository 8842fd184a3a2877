//! What of a recording a PLAY asks for: its `Range` (RFC 2326 sections 3.6, 3.7 and 12.29) and `Scale` (12.34).

use std::ops::Range;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::media::{VIDEO_CLOCK, time};

/// How positions are told. A client is answered in the unit that it asks in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Seconds from the start of what was described.
    #[default]
    Npt,
    /// UTC.
    Clock,
}

/// A `Range` header. What it leaves open stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub unit: Unit,
    /// 90 kHz ticks, as the unit counts. `None`: from where it is now.
    from: Option<i64>,
    to: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    /// A unit that we do not know (12.29: 501).
    #[error("npt= and clock= are known")]
    Unit,
    #[error("cannot be read; like npt=10.5-, or clock=20260101T080000Z-20260101T090000Z")]
    Syntax,
    /// 457.
    #[error("lies outside of what was described, or ends before it starts")]
    Outside,
}

/// Speeds at which a recording is played.
const SCALES: [u8; 5] = [1, 2, 4, 8, 16];

/// Times of more digits are nobody's.
const MAX_SECONDS: u64 = 1 << 36;

impl Asked {
    pub fn parse(header: &str) -> Result<Asked, Bad> {
        // `;time=` says when to begin, which is now.
        let range = header.split(';').next().unwrap_or_default();
        let (unit, range) = range.split_once('=').ok_or(Bad::Syntax)?;
        let unit = match unit.trim().to_ascii_lowercase().as_str() {
            "npt" => Unit::Npt,
            "clock" => Unit::Clock,
            _ => return Err(Bad::Unit),
        };
        let (from, to) = range.split_once('-').ok_or(Bad::Syntax)?;
        let read = |text: &str| -> Result<Option<i64>, Bad> {
            let text = text.trim();
            match unit {
                _ if text.is_empty() => Ok(None),
                Unit::Npt if text == "now" => Ok(None),
                Unit::Npt => npt(text).map(Some).ok_or(Bad::Syntax),
                Unit::Clock => clock(text).map(Some).ok_or(Bad::Syntax),
            }
        };
        Ok(Asked { unit, from: read(from)?, to: read(to)? })
    }

    /// What it means of a recording described as `whole`, of which `at` would come next: instants in 90 kHz ticks.
    pub fn of(self, whole: &Range<i64>, at: i64) -> Result<Range<i64>, Bad> {
        let instant = |ticks: i64| match self.unit {
            Unit::Npt => whole.start.saturating_add(ticks),
            Unit::Clock => ticks,
        };
        let from = self.from.map_or(at, instant);
        let to = self.to.map_or(whole.end, instant).min(whole.end);
        let inside = from >= whole.start && from < to;
        inside.then_some(from..to).ok_or(Bad::Outside)
    }
}

/// A range as an answer or a description tells it.
pub fn told(unit: Unit, whole: &Range<i64>, range: &Range<i64>) -> String {
    match unit {
        Unit::Npt => {
            let seconds = |at: i64| (at - whole.start) as f64 / VIDEO_CLOCK as f64;
            format!("npt={:.3}-{:.3}", seconds(range.start), seconds(range.end))
        }
        Unit::Clock => {
            let at = |at: i64| time::from_90k(at).strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
            format!("clock={}-{}", at(range.start), at(range.end))
        }
    }
}

/// Seconds, or hours, minutes and seconds (3.6).
fn npt(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (first, second, third) = (parts.next()?, parts.next(), parts.next());
    if parts.next().is_some() {
        return None;
    }
    match (second, third) {
        (None, None) => seconds(first),
        (Some(minutes), Some(rest)) => {
            let digits = |text: &str| text.parse::<u32>().ok().filter(|_| digits_only(text)).map(i64::from);
            let whole = (digits(first)? * 60 + digits(minutes).filter(|&minutes| minutes < 60)?) * 60;
            seconds(rest)?.checked_add(whole.checked_mul(VIDEO_CLOCK)?)
        }
        _ => None,
    }
}

/// With a fraction, or without.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let whole: u64 = whole.parse().ok().filter(|&seconds| seconds < MAX_SECONDS && digits_only(text))?;
    // A tick is eleven microseconds.
    let micros = format!("{fraction:0<6}").get(..6)?.parse::<i64>().ok()?;
    Some(whole as i64 * VIDEO_CLOCK + micros * VIDEO_CLOCK / 1_000_000)
}

fn digits_only(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// `YYYYMMDDThhmmss[.fraction]Z` (3.7).
fn clock(text: &str) -> Option<i64> {
    let text = text.strip_suffix(['Z', 'z'])?;
    let (second, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = if fraction.is_empty() { 0 } else { seconds(&format!("0.{fraction}"))? };
    let at = DateTime::strptime("%Y%m%dT%H%M%S", second).ok()?;
    let at = TimeZone::UTC.to_timestamp(at).ok()?;
    Some(time::to_90k(at) + fraction)
}

/// The speed that a `Scale` gets: the nearest of ours that is not faster, as the server is free to choose. None where
/// it asks to play backwards, or cannot be read.
pub fn scale(header: &str) -> Option<u8> {
    let asked: f64 = header.trim().parse().ok()?;
    if !asked.is_finite() || asked <= 0.0 {
        return None;
    }
    SCALES.into_iter().rev().find(|&scale| f64::from(scale) <= asked).or(Some(SCALES[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = VIDEO_CLOCK;

    fn whole() -> Range<i64> {
        let start = time::to_90k("2026-01-01T08:00:00Z".parse().unwrap());
        start..start + 600 * S
    }

    #[test]
    fn ranges_are_read_as_clients_write_them() {
        let whole = whole();
        let at = whole.start + 42 * S;
        let of = |header: &str| Asked::parse(header).and_then(|asked| asked.of(&whole, at));
        let rel = |from: f64, to: f64| {
            let ticks = |seconds: f64| whole.start + (seconds * S as f64) as i64;
            Ok(ticks(from)..ticks(to))
        };
        for (header, expected) in [
            ("npt=0.000-", rel(0.0, 600.0)),
            ("npt=10.5-20", rel(10.5, 20.0)),
            ("NPT = 10-20;time=20260101T080000Z", rel(10.0, 20.0)),
            ("npt=0:01:30.5-", rel(90.5, 600.0)),
            ("npt=now-", rel(42.0, 600.0)),
            ("npt=-60", rel(42.0, 60.0)),
            ("npt=-", rel(42.0, 600.0)),
            ("npt=0-9999", rel(0.0, 600.0)),
            ("clock=20260101T080010Z-20260101T080020.5Z", rel(10.0, 20.5)),
            ("clock=20260101T080010.250Z-", rel(10.25, 600.0)),
            ("npt=600-", Err(Bad::Outside)),
            ("npt=20-10", Err(Bad::Outside)),
            ("clock=20260101T075959Z-", Err(Bad::Outside)),
            ("clock=20260102T080000Z-", Err(Bad::Outside)),
            ("smpte=0:10:00-", Err(Bad::Unit)),
            ("bytes=0-5", Err(Bad::Unit)),
            ("npt=a-b", Err(Bad::Syntax)),
            ("npt=+1-", Err(Bad::Syntax)),
            ("npt=1e3-", Err(Bad::Syntax)),
            ("npt=1:2-", Err(Bad::Syntax)),
            ("npt=0:99:00-", Err(Bad::Syntax)),
            ("npt=1.2.3-", Err(Bad::Syntax)),
            ("npt=99999999999999999999-", Err(Bad::Syntax)),
            ("npt=10", Err(Bad::Syntax)),
            ("clock=2026-", Err(Bad::Syntax)),
            ("clock=20260101T080010-", Err(Bad::Syntax)),
            ("", Err(Bad::Syntax)),
        ] {
            assert_eq!(of(header), expected, "{header}");
        }
    }

    #[test]
    fn what_is_told_can_be_asked_for() {
        let whole = whole();
        let range = whole.start + 90 * S + S / 2..whole.end;
        assert_eq!(told(Unit::Npt, &whole, &range), "npt=90.500-600.000");
        let clock = told(Unit::Clock, &whole, &range);
        assert_eq!(clock, "clock=20260101T080130.500Z-20260101T081000.000Z");
        for unit in [Unit::Npt, Unit::Clock] {
            let again = Asked::parse(&told(unit, &whole, &range)).unwrap();
            assert_eq!((again.unit, again.of(&whole, 0)), (unit, Ok(range.clone())));
        }
    }

    #[test]
    fn a_scale_is_the_nearest_that_is_not_faster() {
        for (asked, given) in [
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("0.5", Some(1)),
            (" 2.000 ", Some(2)),
            ("3", Some(2)),
            ("4", Some(4)),
            ("100", Some(16)),
            ("-1", None),
            ("0", None),
            ("NaN", None),
            ("inf", None),
            ("fast", None),
        ] {
            assert_eq!(scale(asked), given, "{asked}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_ranges_never_panic(text in ".{0,60}", at: i64) {
            for text in [text.clone(), format!("npt={text}"), format!("clock={text}")] {
                if let Ok(asked) = Asked::parse(&text) {
                    let _ = asked.of(&whole(), at);
                }
                let _ = scale(&text);
            }
        }
    }
}

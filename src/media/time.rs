//! Timelines: ticks, the box's clock, and how a camera's RTP ticks are laid on it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::VIDEO_CLOCK;

/// The instant of a tick count since the Unix epoch.
pub fn from_90k(ticks: i64) -> Timestamp {
    let ns = i128::from(ticks) * 100_000 / 9;
    Timestamp::from_nanosecond(ns).unwrap_or(if ticks < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Ticks since the Unix epoch of an instant, rounded down.
pub fn to_90k(at: Timestamp) -> i64 {
    (at.as_nanosecond() * 9).div_euclid(100_000) as i64
}

/// The box's two clocks.
pub trait Clock: Send + Sync {
    /// What people see, which may be set at any moment.
    fn wall(&self) -> Timestamp;
    /// Never steps; from any origin.
    fn steady(&self) -> Duration;
}

/// The operating system's.
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn steady(&self) -> Duration {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        ORIGIN.elapsed()
    }
}

/// When something arrived, on both of the box's clocks, read together.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// On a clock that never steps, from any origin.
    pub monotonic: Duration,
    /// On the clock that people see, which may be set at any moment.
    pub wall: Timestamp,
}

impl Arrival {
    /// The same moment, earlier.
    pub fn earlier(self, by: Duration) -> Arrival {
        Arrival {
            monotonic: self.monotonic.saturating_sub(by),
            wall: self.wall.saturating_sub(by).unwrap_or(self.wall),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ClockError {
    #[error("the camera's timestamps are {0:.1} s off from when its pictures arrive")]
    RunsAway(f64),
    #[error("the box's clock was set by {0:+.1} s")]
    Stepped(f64),
}

/// Lays the RTP ticks of one session on the box's clock.
///
/// The first picture's arrival is the anchor. From there on time goes as the box's monotonic clock does, and the RTP
/// ticks are held to it: a camera whose clock drifts is slewed by at most 500 ppm, so that no picture's duration is
/// visibly changed. Delay on the way only ever makes pictures late, hence the earliest arrival of a stretch counts.
/// A step of the wall clock moves nothing; past [`ClockAnchor::STEP`] the session should end and be anchored anew.
#[derive(Debug)]
pub struct ClockAnchor {
    rate: i64,
    first: Arrival,
    first_rtp: i64,
    /// Added to the ticks since the first picture, in 1/1_000_000 of a tick of 90 kHz.
    offset: i64,
    /// How much of `offset` is still to be changed.
    correction: i64,
    /// The highest RTP time placed: slewing goes on with it, not with reordered pictures.
    newest: i64,
    stretch_start: i64,
    /// The smallest (arrival − placed) of the stretch, in 90 kHz ticks.
    stretch_least: i64,
}

const MICRO: i64 = 1_000_000;

impl ClockAnchor {
    /// Slewing speed, millionths.
    pub const SLEW_PPM: i64 = 500;
    /// Arrivals within one such stretch are judged by the earliest.
    const STRETCH_90K: i64 = 10 * VIDEO_CLOCK;
    /// Below this the difference is jitter of the network and the camera's own sending.
    const JITTER_90K: i64 = VIDEO_CLOCK / 50;
    /// How far a picture's time may be from its arrival: the media deadline, twice.
    pub const RUN_AWAY: Duration = Duration::from_secs(10);
    /// A step of the wall clock that is worth a new session.
    pub const STEP: Duration = Duration::from_secs(2);

    /// `rate`: RTP ticks a second; `rtp`: the first picture's unwrapped RTP time.
    pub fn new(rate: u32, rtp: i64, arrival: Arrival) -> ClockAnchor {
        ClockAnchor {
            rate: i64::from(rate.max(1)),
            first: arrival,
            first_rtp: rtp,
            offset: 0,
            correction: 0,
            newest: 0,
            stretch_start: 0,
            stretch_least: i64::MAX,
        }
    }

    /// The place of an RTP time that just arrived, 90 kHz ticks since the Unix epoch.
    pub fn place(&mut self, rtp: i64, arrival: Arrival) -> Result<i64, ClockError> {
        let ticks = self.ticks(rtp);
        let advanced = (ticks - self.newest).max(0);
        self.newest = self.newest.max(ticks);
        // One tick in a second of advance is 1/90_000; `advanced` ticks may bend by `advanced` × 500 millionths.
        let bend = self.correction.clamp(-advanced * Self::SLEW_PPM, advanced * Self::SLEW_PPM);
        self.offset += bend;
        self.correction -= bend;
        let placed = ticks + self.offset.div_euclid(MICRO);
        let late = self.since_first(arrival) - placed;
        if late.abs() > ticks_90k(Self::RUN_AWAY) {
            return Err(ClockError::RunsAway(-late as f64 / VIDEO_CLOCK as f64));
        }
        self.stretch_least = self.stretch_least.min(late);
        if self.newest - self.stretch_start >= Self::STRETCH_90K {
            let least = self.stretch_least;
            self.correction = if least.abs() > Self::JITTER_90K { least * MICRO } else { 0 };
            self.stretch_start = self.newest;
            self.stretch_least = i64::MAX;
        }
        Ok(self.origin_90k() + placed)
    }

    /// Where an RTP time of the same session lies by what is known now, without learning from it; for audio and
    /// sender reports with ticks converted to the video's rate.
    pub fn at(&self, rtp: i64) -> i64 {
        self.origin_90k() + self.ticks(rtp) + self.offset.div_euclid(MICRO)
    }

    /// How far the wall clock has been stepped since the first picture; an error where that is worth a new session.
    pub fn check_step(&self, now: Arrival) -> Result<(), ClockError> {
        let expected = ticks_90k(now.monotonic.saturating_sub(self.first.monotonic));
        let stepped = to_90k(now.wall) - self.origin_90k() - expected;
        if stepped.abs() > ticks_90k(Self::STEP) {
            return Err(ClockError::Stepped(stepped as f64 / VIDEO_CLOCK as f64));
        }
        Ok(())
    }

    /// Seconds that the camera's clock is ahead of the box's, from an RTCP sender report (RFC 3550 6.4.1): `ntp` is
    /// its 64-bit NTP time, `rtp` its RTP time, unwrapped.
    pub fn clock_error(&self, ntp: u64, rtp: i64) -> f64 {
        /// Seconds from 1900 to 1970.
        const NTP_TO_UNIX: i64 = 2_208_988_800;
        let seconds = (ntp >> 32) as i64 - NTP_TO_UNIX;
        let fraction = (ntp & 0xffff_ffff) as f64 / 4_294_967_296.0;
        let placed = self.at(rtp);
        (seconds - placed.div_euclid(VIDEO_CLOCK)) as f64 + fraction
            - placed.rem_euclid(VIDEO_CLOCK) as f64 / VIDEO_CLOCK as f64
    }

    fn origin_90k(&self) -> i64 {
        to_90k(self.first.wall)
    }

    fn ticks(&self, rtp: i64) -> i64 {
        let ticks = i128::from(rtp) - i128::from(self.first_rtp);
        // A century either way: what is beyond is refused by `place`, and sums stay far from overflow.
        const CENTURY: i128 = 100 * 366 * 86_400 * VIDEO_CLOCK as i128;
        (ticks * i128::from(VIDEO_CLOCK) / i128::from(self.rate)).clamp(-CENTURY, CENTURY) as i64
    }

    fn since_first(&self, arrival: Arrival) -> i64 {
        ticks_90k(arrival.monotonic.saturating_sub(self.first.monotonic))
    }
}

/// Ticks of a length of time.
pub fn ticks_90k(duration: Duration) -> i64 {
    (duration.as_micros() as i64).saturating_mul(9) / 100
}

/// The beginning of a session, in which a sender may give at once what it has kept: the pictures since the last key
/// picture, which were taken before they arrive. Until pictures come as they are taken none can be placed.
#[derive(Debug)]
pub struct RunIn {
    first: (i64, Arrival),
    newest: (i64, Arrival),
    /// How far pictures have come too early, in ticks: so much earlier was the first one taken.
    ahead_90k: i64,
}

impl RunIn {
    /// A sender that is faster than time for so long has a clock of its own.
    pub const LONGEST: Duration = Duration::from_secs(2);
    /// As far as a picture may be from its arrival, with some room.
    const FARTHEST: Duration = Duration::from_secs(9);

    /// `rtp`: the first picture's unwrapped RTP time, at 90 kHz.
    pub fn new(rtp: i64, arrival: Arrival) -> RunIn {
        RunIn { first: (rtp, arrival), newest: (rtp, arrival), ahead_90k: 0 }
    }

    /// Looks at the next picture; true when the run-in is over.
    pub fn look(&mut self, rtp: i64, arrival: Arrival) -> bool {
        let passed = |since: Arrival| ticks_90k(arrival.monotonic.saturating_sub(since.monotonic));
        if passed(self.first.1) > ticks_90k(Self::LONGEST) {
            return true;
        }
        let taken = rtp.saturating_sub(self.newest.0);
        // One that is shown earlier says nothing.
        if taken <= 0 {
            return false;
        }
        let in_time = passed(self.newest.1).saturating_mul(2) >= taken;
        self.newest = (rtp, arrival);
        let ahead = rtp.saturating_sub(self.first.0).saturating_sub(passed(self.first.1));
        // More than any sender keeps is no run-in, and `place` judges it.
        if ahead <= 3 * ticks_90k(ClockAnchor::RUN_AWAY) {
            self.ahead_90k = self.ahead_90k.max(ahead.min(ticks_90k(Self::FARTHEST)));
        }
        in_time
    }

    /// Where the session is anchored, and how far before its first arrival.
    pub fn anchor(&self) -> (ClockAnchor, Duration) {
        let (rtp, arrival) = self.first;
        let ahead = Duration::from_micros((self.ahead_90k * 100 / 9).max(0) as u64);
        (ClockAnchor::new(VIDEO_CLOCK as u32, rtp, arrival.earlier(ahead)), ahead)
    }
}

/// Decode times for pictures that arrive in decode order with presentation times alone, as RTP carries them.
///
/// Where a stream reorders by up to `depth` pictures, the decode time of a picture is the presentation time that lies
/// `depth` pictures back in output order: known on arrival, so nothing is held up. A stream that reorders more than
/// it said is followed: the depth grows, and the picture that showed it is presented when it is decoded.
#[derive(Debug)]
pub struct DecodeTimes {
    depth: usize,
    /// The latest presentation times not yet used, ascending; `depth` of them once the stream has run in.
    waiting: Vec<i64>,
    last: Option<i64>,
}

impl DecodeTimes {
    /// H.264 and H.265 reorder by no more.
    const MAX_DEPTH: usize = 16;

    /// `reorder` as in [`super::VideoParams::reorder`].
    pub fn new(reorder: u8) -> DecodeTimes {
        DecodeTimes { depth: usize::from(reorder).min(Self::MAX_DEPTH), waiting: Vec::new(), last: None }
    }

    /// The presentation time (the given one, but for a stream that lied) and decode time of the next picture: decode
    /// times rise strictly and are never above presentation times.
    pub fn next(&mut self, pts: i64) -> (i64, i64) {
        let at = self.waiting.partition_point(|&waiting| waiting <= pts);
        self.waiting.insert(at, pts);
        // Until `depth` pictures have come, there is no earlier time to take: one tick apart is enough for order.
        let missing = (self.depth + 1).saturating_sub(self.waiting.len());
        let earliest = self.waiting[0];
        if missing == 0 {
            self.waiting.remove(0);
        }
        let mut dts = (earliest - missing as i64).min(pts);
        if let Some(last) = self.last
            && dts <= last
        {
            dts = last + 1;
            if dts > pts && self.depth < Self::MAX_DEPTH {
                self.depth += 1;
            }
        }
        self.last = Some(dts);
        (pts.max(dts), dts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_790_000_000;

    /// `seconds` after the start on a steady clock, with the wall clock `step` seconds off.
    fn arrival(seconds: f64, step: i64) -> Arrival {
        let monotonic = Duration::from_secs_f64(1000.0 + seconds);
        let wall = from_90k((START + step) * VIDEO_CLOCK + (seconds * VIDEO_CLOCK as f64).round() as i64);
        Arrival { monotonic, wall }
    }

    #[test]
    fn ticks_convert_both_ways() {
        for ticks in [0, 1, 89_999, -1, START * VIDEO_CLOCK + 17] {
            assert!((to_90k(from_90k(ticks)) - ticks).abs() <= 1);
        }
    }

    #[test]
    fn pictures_keep_their_distances_under_jitter() {
        let mut anchor = ClockAnchor::new(90_000, 777, arrival(0.0, 0));
        for n in 0..10_000i64 {
            let jitter = (n * 7919 % 13) as f64 / 1000.0;
            let placed = anchor.place(777 + n * 3600, arrival(n as f64 / 25.0 + jitter, 0)).unwrap();
            assert_eq!(placed, START * VIDEO_CLOCK + n * 3600);
        }
    }

    /// As the thread that receives does while nobody watches: it wakes every 73 ms (and what it does takes a little).
    #[test]
    fn pictures_that_are_received_together_keep_their_time() {
        for rate in [5.0, 10.0, 12.5, 15.0, 20.0, 24.0, 25.0, 29.97, 30.0, 50.0] {
            let mut anchor = ClockAnchor::new(90_000, 0, arrival(0.0, 0));
            for n in 0..(600.0 * rate) as i64 {
                let taken = n as f64 / rate;
                let received = if taken < 1.0 { taken } else { (taken / 0.073_06).ceil() * 0.073_06 };
                let rtp = (taken * VIDEO_CLOCK as f64) as i64;
                let placed = anchor.place(rtp, arrival(received, 0)).unwrap();
                let off = (placed - START * VIDEO_CLOCK - rtp).abs() as f64 / VIDEO_CLOCK as f64;
                assert!(off < 0.02, "{off} s off after {taken} s at {rate} pictures a second");
            }
        }
    }

    #[test]
    fn a_drifting_camera_is_slewed_by_at_most_500_ppm() {
        let mut anchor = ClockAnchor::new(90_000, 0, arrival(0.0, 0));
        let mut last = None;
        for n in 0..50_000i64 {
            // The camera counts 200 ppm too slowly.
            let at = n as f64 / 25.0 * 1.0002;
            let placed = anchor.place(n * 3600, arrival(at, 0)).unwrap();
            if let Some(last) = last {
                assert!((3598..=3602).contains(&(placed - last)), "{n}: {}", placed - last);
            }
            last = Some(placed);
            let error = placed as f64 / 90_000.0 - START as f64 - at;
            assert!(error.abs() < 0.05, "{n}: {error}");
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_breaks_no_order_and_is_noticed() {
        for step in [3600, -3600] {
            let mut anchor = ClockAnchor::new(90_000, 0, arrival(0.0, 0));
            let mut last = i64::MIN;
            for n in 0..3000i64 {
                let now = arrival(n as f64 / 25.0, if n < 1000 { 0 } else { step });
                let placed = anchor.place(n * 3600, now).unwrap();
                assert!(placed > last);
                assert_eq!(placed, START * VIDEO_CLOCK + n * 3600);
                last = placed;
                assert_eq!(anchor.check_step(now).is_err(), n >= 1000);
            }
        }
    }

    #[test]
    fn timestamps_that_run_away_are_refused() {
        let mut anchor = ClockAnchor::new(90_000, 0, arrival(0.0, 0));
        assert!(anchor.place(9 * 90_000, arrival(0.1, 0)).is_ok());
        assert!(
            matches!(anchor.place(11 * 90_000, arrival(0.2, 0)), Err(ClockError::RunsAway(ahead)) if ahead > 10.0)
        );
        for rtp in [i64::MIN, i64::MAX] {
            assert!(anchor.place(rtp, arrival(0.3, 0)).is_err());
        }
    }

    #[test]
    fn what_a_sender_has_kept_was_taken_before_it_arrives() {
        // Three seconds at once, over 60 ms, then as they are taken; every other picture is shown earlier.
        let (mut run_in, mut over) = (RunIn::new(777, arrival(0.0, 0)), None);
        let at = |n: i64| if n < 75 { n as f64 * 0.0008 } else { (n - 74) as f64 / 25.0 + 0.06 };
        for n in 1..80 {
            if run_in.look(777 + n * 3600, arrival(at(n), 0)) {
                over = Some(n);
                break;
            }
        }
        assert_eq!(over, Some(75));
        let (mut anchor, ahead) = run_in.anchor();
        assert!((ahead.as_secs_f64() - 2.9).abs() < 0.05, "{ahead:?}");
        for n in 0..2000 {
            let placed = anchor.place(777 + n * 3600, arrival(at(n), 0)).unwrap();
            let early = placed as f64 / 90_000.0 - START as f64 - at(n);
            assert!(early < 0.001, "picture {n} is placed {early} s before it came");
        }
    }

    #[test]
    fn a_camera_that_sends_what_it_takes_is_placed_where_it_arrives() {
        let mut run_in = RunIn::new(5, arrival(0.0, 0));
        assert!(run_in.look(3605, arrival(0.04, 0)));
        let (mut anchor, ahead) = run_in.anchor();
        assert_eq!(ahead, Duration::ZERO);
        assert_eq!(anchor.place(5, arrival(0.0, 0)), Ok(START * VIDEO_CLOCK));
        // Whatever is said of times, it ends.
        let mut run_in = RunIn::new(i64::MIN, arrival(0.0, 0));
        assert!(!run_in.look(i64::MAX, arrival(0.0, 0)) && !run_in.look(0, arrival(1.0, 0)));
        assert!(run_in.look(0, arrival(2.1, 0)));
        run_in.anchor();
    }

    #[test]
    fn the_cameras_own_clock_is_measured() {
        let anchor = ClockAnchor::new(90_000, 500, arrival(0.0, 0));
        let ntp = ((START + 2_208_988_800 + 12) as u64) << 32 | 0x8000_0000;
        let error = anchor.clock_error(ntp, 500 + 90_000);
        assert!((error - 11.5).abs() < 1e-4, "{error}");
    }

    /// Presentation times in decode order, in pictures, that ffprobe 5.1 prints of
    /// `-f lavfi -i testsrc2=rate=25 -frames:v 40 -c:v libx264 -bf 3 -x264-params b-pyramid=normal`.
    const B_PYRAMID: [i64; 20] = [0, 4, 2, 1, 3, 8, 6, 5, 7, 12, 10, 9, 11, 16, 14, 13, 15, 19, 17, 18];

    #[test]
    fn decode_times_of_b_frames_rise_and_never_pass_presentation() {
        let mut times = DecodeTimes::new(2);
        let mut last = i64::MIN;
        for (n, picture) in B_PYRAMID.into_iter().enumerate() {
            let pts = 1_000_000 + picture * 3600;
            let (presented, dts) = times.next(pts);
            assert_eq!(presented, pts);
            assert!(dts > last && dts <= pts, "{n}: {dts} after {last} for {pts}");
            if n >= 2 {
                assert_eq!(dts, 1_000_000 + (n as i64 - 2) * 3600, "two pictures back");
            }
            last = dts;
        }
    }

    #[test]
    fn without_reordering_decode_is_presentation() {
        let mut times = DecodeTimes::new(0);
        for n in 0..100 {
            assert_eq!(times.next(n * 3600), (n * 3600, n * 3600));
        }
    }

    #[test]
    fn a_stream_that_reorders_more_than_it_said_is_followed() {
        let mut times = DecodeTimes::new(0);
        let mut changed = 0;
        for n in 0..200i64 {
            let pts = (n / 20 * 20 + B_PYRAMID[n as usize % 20]) * 3600;
            changed += usize::from(times.next(pts).0 != pts && n > 60);
        }
        assert_eq!(changed, 0, "after a few groups every picture is presented when it should be");
    }

    proptest! {
        #[test]
        fn decode_times_rise_whatever_comes(reorder in 0u8..20, all in proptest::collection::vec(0i64..100_000, 1..200)) {
            let mut times = DecodeTimes::new(reorder);
            let mut last = i64::MIN;
            for pts in all {
                let (presented, dts) = times.next(pts);
                prop_assert!(dts > last && dts <= presented && presented >= pts);
                prop_assert!(times.waiting.len() <= DecodeTimes::MAX_DEPTH);
                last = dts;
            }
        }
    }
}

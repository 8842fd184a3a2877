//! Which feed a camera is looked at on, and at which of its pictures.

use std::sync::Arc;
use std::time::Duration;

use crate::live::LiveStream;
use crate::media::{AccessUnit, VIDEO_CLOCK};
use crate::vision::looks::Need;
use crate::vision::{Watch, wire};

/// A watched camera and what is known of its feeds, main and sub.
pub struct Camera {
    pub watch: Watch,
    /// When its look contract was last missed.
    pub missed: Option<Duration>,
    feeds: [Feed; 2],
}

/// What is known of one feed's key pictures.
#[derive(Default)]
struct Feed {
    rap: Option<Arc<AccessUnit>>,
    rap_seen: Duration,
    length: Option<Duration>,
    /// Sequence number of the last picture looked at.
    looked: Option<u64>,
}

impl Feed {
    fn observe(&mut self, stream: &LiveStream, now: Duration) {
        let Some(rap) = stream.newest_rap() else { return };
        match &self.rap {
            Some(before) if before.seq == rap.seq => return,
            Some(before) if before.run == rap.run => {
                let ticks = (rap.pts_90k - before.pts_90k).clamp(0, i64::from(u32::MAX));
                self.length = Some(Duration::from_millis((ticks * 1000 / VIDEO_CLOCK) as u64));
            }
            _ => self.length = None,
        }
        (self.rap, self.rap_seen) = (Some(rap), now);
    }

    /// How long key pictures are apart, at least.
    fn gop(&self, now: Duration) -> Duration {
        self.length.unwrap_or_default().max(now.saturating_sub(self.rap_seen))
    }

    /// What a look would be at, where there is something new.
    fn pictures(
        &self,
        stream: &LiveStream,
        need: Need,
        now: Duration,
        fresh: Duration,
    ) -> Option<Vec<Arc<AccessUnit>>> {
        let rap = self.rap.clone()?;
        let unseen = |unit: &AccessUnit| self.looked.is_none_or(|looked| unit.seq > looked);
        if unseen(&rap) && now.saturating_sub(self.rap_seen) <= fresh {
            return Some(vec![rap]);
        }
        if need == Need::NewKeyPicture {
            return None;
        }
        let (run, after) = (rap.run, stream.since(rap.seq)?);
        let mut units = vec![rap];
        units.extend(after);
        let bytes: usize = units.iter().map(|unit| unit.data.len() + 1024).sum();
        (unseen(units.last()?) && bytes < wire::MAX_BLOB && units.iter().all(|unit| unit.run == run))
            .then_some(units)
    }
}

impl Camera {
    pub fn new(watch: Watch) -> Camera {
        Camera { watch, missed: None, feeds: Default::default() }
    }

    /// Watches it otherwise. What is known of a feed goes with its stream: another one counts its pictures anew.
    pub fn rewatch(&mut self, watch: Watch) {
        if !Arc::ptr_eq(&self.watch.main, &watch.main) {
            self.feeds[0] = Feed::default();
        }
        if self.watch.sub.as_ref().map(Arc::as_ptr) != watch.sub.as_ref().map(Arc::as_ptr) {
            self.feeds[1] = Feed::default();
        }
        self.watch = watch;
    }

    /// Takes note of new key pictures; how long those of the preferred feed are apart.
    pub fn observe(&mut self, now: Duration) -> Duration {
        self.feeds[0].observe(&self.watch.main, now);
        if let Some(sub) = &self.watch.sub {
            self.feeds[1].observe(sub, now);
        }
        self.feeds[self.preferred(now)].gop(now)
    }

    /// The stream and the pictures that a look would be at now, where there is something new; the last one is meant.
    pub fn offer(&self, need: Need, now: Duration) -> Option<(Arc<LiveStream>, Vec<Arc<AccessUnit>>)> {
        let feed = self.preferred(now);
        let stream = if feed == 1 { self.watch.sub.as_ref()? } else { &self.watch.main };
        let units = self.feeds[feed].pictures(stream, need, now, self.watch.look_every)?;
        Some((stream.clone(), units))
    }

    /// A look at this picture was handed out.
    pub fn looked_at(&mut self, stream: &LiveStream, seq: u64) {
        self.feeds[usize::from(stream.feed == crate::media::Feed::Sub)].looked = Some(seq);
    }

    /// The main feed, unless its key pictures come too seldom for the contract and the sub feed's do not.
    fn preferred(&self, now: Duration) -> usize {
        let [main, sub] = [self.feeds[0].gop(now), self.feeds[1].gop(now)];
        let has_sub =
            self.watch.sub.as_ref().is_some_and(|sub| sub.is_online()) && self.feeds[1].rap.is_some();
        usize::from(has_sub && main > self.watch.look_every + self.watch.look_every / 20 && sub < main)
    }
}

//! The live ring: a stream's recent samples and parts in memory, and the cursors that read them.
//!
//! One writer (the camera), any number of readers, each with its own cursor. A reader that falls behind gets a typed
//! skip and goes on at the newest random access point; it never holds the writer up. A stream is bounded by age and by
//! bytes, and all streams together by a [`Budget`]; the newest random access point and what follows always stay, unless
//! they alone pass [`HARD_CAP`].
//!
//! What does not belong here: sockets, and who reads.

mod directory;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::watch;

use crate::config::Id;
use crate::media::cmaf::Part;
use crate::media::rtp::{Packetiser, Packets};
use crate::media::{AccessUnit, AudioParams, Feed, Sample, VideoParams};
pub use directory::{Directory, Numbering};

/// Bytes of one stream beyond which no floor holds, and even the newest random access point and what follows are
/// dropped: a camera at 8 Mbit/s gets there after a minute without a key picture.
pub const HARD_CAP: usize = 64 << 20;

/// What a sample costs beside its payload, so that a flood of empty ones is bounded too.
const ENTRY_COST: usize = 256;

/// How far back samples and parts are kept: what HLS playlists show, and a margin for players that are late.
const KEPT_90K: i64 = 30 * crate::media::VIDEO_CLOCK;

/// The same of a stream that nobody reads: there is enough for whoever comes, and of most cameras nobody does.
const KEPT_UNREAD_90K: i64 = 8 * crate::media::VIDEO_CLOCK;

/// A stream is read for so long after its parts were asked for: players ask every few seconds.
const READ_90K: i64 = 60 * crate::media::VIDEO_CLOCK;

/// Segments whose parts stay however old: the three whole ones that a player wants (RFC 8216 section 6.3.3) and the
/// one that grows. Key pictures far apart make them reach back further than [`KEPT_90K`].
const KEPT_SEGMENTS: usize = 4;

/// The same while all streams together keep too much: the one whole segment without which there is no playlist.
const KEPT_SEGMENTS_UNDER_PRESSURE: usize = 2;

/// Bytes that all streams made from it should keep together. Past them each keeps its fair share.
#[derive(Debug)]
pub struct Budget {
    total: usize,
    used: AtomicUsize,
    streams: AtomicUsize,
    cursors: AtomicUsize,
}

impl Budget {
    pub fn new(total: usize) -> Arc<Budget> {
        Arc::new(Budget {
            total,
            used: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            cursors: AtomicUsize::new(0),
        })
    }

    /// What one stream may keep at most, while all together keep too much.
    fn fair_share(&self) -> Option<usize> {
        let exceeded = self.used.load(Ordering::Relaxed) > self.total;
        exceeded.then(|| self.total / self.streams.load(Ordering::Relaxed).max(1))
    }

    /// Whether a cursor stands in any of the streams.
    pub fn has_readers(&self) -> bool {
        self.cursors.load(Ordering::Relaxed) > 0
    }

    /// One stream's share goes from `from` to `to` bytes.
    fn account(&self, from: usize, to: usize) {
        if to >= from {
            self.used.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}

/// The live ring of one feed of one camera. Outlives sessions: readers stay while the camera is away.
pub struct LiveStream {
    pub camera: Id,
    pub feed: Feed,
    cap: usize,
    budget: Arc<Budget>,
    ring: Mutex<Ring>,
    /// Counts pushes. Always signalled after the lock on `ring` is released.
    pushes: watch::Sender<u64>,
    /// The same of samples alone: hundreds of cursors have nothing to do with parts.
    samples: watch::Sender<u64>,
    params: watch::Sender<Option<StreamParams>>,
}

/// Parameters of the stream as last seen; kept while the camera is away.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamParams {
    pub video: Arc<VideoParams>,
    pub audio: Option<Arc<AudioParams>>,
}

struct Ring {
    entries: VecDeque<Entry>,
    /// Place of the front entry; places count every entry ever held.
    first: u64,
    /// Place of the newest random access point. Entries before it are what a cap may drop.
    rap: Option<u64>,
    /// Sum of the entries' costs.
    entry_bytes: usize,
    parts: VecDeque<Placed>,
    part_bytes: usize,
    longest_segment_90k: i64,
    /// The numbers of the next segment and discontinuity where no part is held to count on from.
    placed: (u64, u64),
    /// Of the last picture pushed, kept or not.
    newest: Option<Newest>,
    /// Nothing can be decoded before the next random access point: a new run began, or the hard cap was reached.
    awaiting_rap: bool,
    announced_audio: Option<Arc<AudioParams>>,
    packetiser: Packetiser,
    /// Entries before this place have their packets, or will never need them. Packets must be made in order, since
    /// their sequence numbers are shared by every reader.
    packetised: u64,
    cursors: usize,
    /// Where the parts ended when they were last asked for.
    asked_90k: Option<i64>,
    online: bool,
    closed: bool,
    /// What the budget was told.
    accounted: usize,
}

/// A part and its place in the stream's life: what HLS numbers segments by.
#[derive(Clone, Debug)]
pub struct Placed {
    pub part: Arc<Part>,
    /// Rises by one with every independent part and every discontinuity.
    pub segment: u64,
    /// Rises by one where the run or the init segment changes.
    pub discontinuity: u64,
    /// Where the segment began.
    segment_start_90k: i64,
}

struct Newest {
    seq: u64,
    run: u64,
}

struct Entry {
    sample: Sample,
    packets: Option<Arc<Packets>>,
}

impl Entry {
    fn cost(&self) -> usize {
        let data = match &self.sample {
            Sample::Video(unit) => unit.data.len(),
            Sample::Audio(frame) => frame.data.len(),
        };
        data + ENTRY_COST
    }

    fn at_90k(&self) -> i64 {
        match &self.sample {
            Sample::Video(unit) => unit.dts_90k,
            Sample::Audio(frame) => frame.pts_90k(),
        }
    }

    fn unit(&self) -> Option<&Arc<AccessUnit>> {
        match &self.sample {
            Sample::Video(unit) => Some(unit),
            Sample::Audio(_) => None,
        }
    }
}

/// What a cursor meets.
#[derive(Clone, Debug)]
pub enum Next {
    /// The next sample, with its RTP packets made once for all readers.
    Sample(Sample, Arc<Packets>),
    /// So many access units were skipped because this reader is slow; a random access point follows.
    Skipped(u64),
    /// The stream is removed from the configuration.
    Closed,
}

/// A reader's place in the ring.
pub struct Cursor {
    stream: Arc<LiveStream>,
    /// `None`: at the newest random access point, once there is one.
    at: Option<u64>,
    /// The sequence number that the next picture has where none is skipped.
    expected: Option<u64>,
    samples: watch::Receiver<u64>,
}

impl Cursor {
    /// Waits for the next sample. Cancel safe.
    pub async fn next(&mut self) -> Next {
        loop {
            self.samples.borrow_and_update();
            if let Some(next) = self.poll() {
                return next;
            }
            if self.samples.changed().await.is_err() {
                return Next::Closed;
            }
        }
    }

    fn poll(&mut self) -> Option<Next> {
        let mut ring = self.stream.lock();
        if ring.closed {
            return Some(Next::Closed);
        }
        let at = match self.at {
            Some(at) if at >= ring.first => at,
            _ => {
                let rap = ring.rap?;
                self.at = Some(rap);
                let seq = ring.entry(rap)?.unit()?.seq;
                let skipped = self.expected.map_or(0, |expected| seq.saturating_sub(expected));
                self.expected = Some(seq);
                if skipped > 0 {
                    return Some(Next::Skipped(skipped));
                }
                rap
            }
        };
        ring.packetise_to(at);
        let entry = ring.entry(at)?;
        if let Some(unit) = entry.unit() {
            self.expected = Some(unit.seq + 1);
        }
        self.at = Some(at + 1);
        Some(Next::Sample(entry.sample.clone(), entry.packets.clone().unwrap_or_default()))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.stream.lock().cursors -= 1;
        self.stream.budget.cursors.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ring {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    fn entry(&self, place: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(place.checked_sub(self.first)?).ok()?)
    }

    fn units(&self) -> impl DoubleEndedIterator<Item = &Arc<AccessUnit>> {
        self.entries.iter().filter_map(Entry::unit)
    }

    /// Makes the packets of every entry up to and including `place` that lacks them.
    fn packetise_to(&mut self, place: u64) {
        let from = self.packetised.max(self.first);
        let to = (place + 1).min(self.end());
        for at in from..to {
            if let Some(entry) = self.entries.get_mut((at - self.first) as usize) {
                entry.packets = Some(Arc::new(self.packetiser.packetise(&entry.sample)));
            }
        }
        self.packetised = self.packetised.max(to);
    }

    fn kept_90k(&self, now_90k: i64) -> i64 {
        let asked = self.asked_90k.is_some_and(|at| now_90k - at < READ_90K);
        if asked || self.cursors > 0 { KEPT_90K } else { KEPT_UNREAD_90K }
    }

    fn push(&mut self, sample: Sample) {
        let mut is_rap = false;
        if let Sample::Video(unit) = &sample {
            is_rap = unit.is_rap;
            let new_run = self.newest.as_ref().is_none_or(|newest| newest.run != unit.run);
            self.awaiting_rap = (self.awaiting_rap || new_run) && !is_rap;
            self.newest = Some(Newest { seq: unit.seq, run: unit.run });
        }
        if self.awaiting_rap || (self.rap.is_none() && !is_rap) {
            return;
        }
        if is_rap {
            self.rap = Some(self.end());
        }
        let entry = Entry { sample, packets: None };
        let horizon = entry.at_90k() - self.kept_90k(entry.at_90k());
        self.entry_bytes += entry.cost();
        self.entries.push_back(entry);
        self.drop_entries(|_, oldest| oldest.at_90k() < horizon);
    }

    fn push_part(&mut self, part: Arc<Part>) {
        let end = part.start_90k + part.duration_90k;
        let horizon = end - self.kept_90k(end);
        self.part_bytes += part.len();
        let placed = self.place(part);
        self.parts.push_back(placed);
        self.drop_parts(KEPT_SEGMENTS, |_, oldest| oldest.start_90k < horizon);
    }

    fn place(&mut self, part: Arc<Part>) -> Placed {
        let start = part.start_90k;
        let Some(last) = self.parts.back() else {
            // The first, or the first after all were dropped: players must not take it for what they know already.
            let (segment, discontinuity) = self.placed;
            self.placed = (segment + 1, discontinuity + 1);
            return Placed { part, segment, discontinuity, segment_start_90k: start };
        };
        let broken = last.part.run != part.run || !Arc::ptr_eq(&last.part.init, &part.init);
        let Placed { mut segment, mut discontinuity, mut segment_start_90k, .. } = *last;
        if broken || part.independent {
            let end = last.part.start_90k + last.part.duration_90k;
            self.longest_segment_90k = self.longest_segment_90k.max(end - segment_start_90k);
            segment += 1;
            discontinuity += u64::from(broken);
            segment_start_90k = start;
            self.placed = (segment + 1, discontinuity + 1);
        }
        Placed { part, segment, discontinuity, segment_start_90k }
    }

    /// Drops the oldest entries while `too_much`, never the newest random access point and what follows.
    fn drop_entries(&mut self, too_much: impl Fn(usize, &Entry) -> bool) {
        while self.rap.is_some_and(|rap| self.first < rap) {
            let Some(oldest) = self.entries.front() else { return };
            if !too_much(self.entry_bytes, oldest) {
                return;
            }
            self.entry_bytes -= oldest.cost();
            self.entries.pop_front();
            self.first += 1;
        }
    }

    /// Drops the oldest parts while `too_much`, never those of the newest `segments` that began.
    fn drop_parts(&mut self, segments: usize, too_much: impl Fn(usize, &Part) -> bool) {
        // Mostly there is nothing to do, which need not be found out by counting.
        if !self.parts.front().is_some_and(|oldest| too_much(self.part_bytes, &oldest.part)) {
            return;
        }
        let independent = self.parts.iter().enumerate().rev().filter(|(_, placed)| placed.part.independent);
        let mut spare = independent.take(segments).last().map_or(0, |(at, _)| at);
        while spare > 0 {
            let Some(Placed { part: oldest, .. }) = self.parts.front() else { return };
            if !too_much(self.part_bytes, oldest) {
                return;
            }
            self.part_bytes -= oldest.len();
            self.parts.pop_front();
            spare -= 1;
        }
    }

    /// Parts are slices of the samples' payloads, so the larger of the two is about what memory is held.
    fn held(&self) -> usize {
        self.entry_bytes.max(self.part_bytes)
    }

    fn trim(&mut self, cap: usize, budget: &Budget) {
        let hard = HARD_CAP.max(cap);
        if self.entry_bytes > hard {
            self.first = self.end();
            self.entries.clear();
            self.entry_bytes = 0;
            self.rap = None;
            self.awaiting_rap = true;
        }
        self.drop_parts(1, |bytes, _| bytes > hard);
        if self.part_bytes > hard {
            self.parts.clear();
            self.part_bytes = 0;
        }
        // Under pressure from all streams together each gives up, with its next push, what exceeds its share: what a
        // reader that is a little late needs stays.
        let (cap, segments) = match budget.fair_share() {
            Some(share) => (cap.min(share), KEPT_SEGMENTS_UNDER_PRESSURE),
            None => (cap, KEPT_SEGMENTS),
        };
        self.drop_entries(|bytes, _| bytes > cap);
        self.drop_parts(segments, |bytes, _| bytes > cap);
        let held = self.held();
        budget.account(self.accounted, held);
        self.accounted = held;
    }
}

impl LiveStream {
    /// `cap`: bytes kept of this stream, except that the newest random access point and what follows stay, and as many
    /// parts as a playlist needs.
    pub fn new(camera: Id, feed: Feed, cap: usize) -> Arc<LiveStream> {
        LiveStream::within(&Budget::new(usize::MAX), camera, feed, cap)
    }

    /// The same with a budget that it shares with other streams.
    pub fn within(budget: &Arc<Budget>, camera: Id, feed: Feed, cap: usize) -> Arc<LiveStream> {
        let ring = Ring {
            entries: VecDeque::new(),
            first: 0,
            rap: None,
            entry_bytes: 0,
            parts: VecDeque::new(),
            part_bytes: 0,
            longest_segment_90k: 0,
            placed: (0, 0),
            newest: None,
            awaiting_rap: true,
            announced_audio: None,
            packetiser: Packetiser::new(rand::random()),
            packetised: 0,
            cursors: 0,
            asked_90k: None,
            online: false,
            closed: false,
            accounted: 0,
        };
        budget.streams.fetch_add(1, Ordering::Relaxed);
        Arc::new(LiveStream {
            camera,
            feed,
            cap,
            budget: budget.clone(),
            ring: Mutex::new(ring),
            pushes: watch::Sender::new(0),
            samples: watch::Sender::new(0),
            params: watch::Sender::new(None),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn signal(&self) {
        self.pushes.send_modify(|count| *count += 1);
    }

    fn signal_cursors(&self) {
        self.samples.send_modify(|count| *count += 1);
        self.signal();
    }

    pub fn push(&self, sample: Sample) {
        let video = match &sample {
            Sample::Video(unit) => Some(unit.params.clone()),
            Sample::Audio(_) => None,
        };
        let audio = {
            let mut ring = self.lock();
            if let Sample::Audio(frame) = &sample {
                ring.announced_audio = Some(frame.params.clone());
            }
            ring.push(sample);
            ring.trim(self.cap, &self.budget);
            ring.announced_audio.clone()
        };
        self.update_params(video, audio);
        self.signal_cursors();
    }

    /// What audio the session that begins has, so that [`params`](Self::params) tell of it before its first frame.
    pub fn announce_audio(&self, audio: Option<Arc<AudioParams>>) {
        self.lock().announced_audio = audio.clone();
        self.update_params(None, audio);
    }

    fn update_params(&self, video: Option<Arc<VideoParams>>, audio: Option<Arc<AudioParams>>) {
        self.params.send_if_modified(|params| {
            let Some(video) = video.or_else(|| params.as_ref().map(|params| params.video.clone())) else {
                return false;
            };
            let changed = params.as_ref().is_none_or(|old| {
                !(Arc::ptr_eq(&old.video, &video) || old.video == video) || old.audio != audio
            });
            if changed {
                *params = Some(StreamParams { video, audio });
            }
            changed
        });
    }

    pub fn push_part(&self, part: Arc<Part>) {
        {
            let mut ring = self.lock();
            ring.push_part(part);
            ring.trim(self.cap, &self.budget);
        }
        self.signal();
    }

    /// The camera is gone or back; readers stay either way.
    pub fn set_online(&self, online: bool) {
        self.lock().online = online;
        self.signal();
    }

    pub fn is_online(&self) -> bool {
        self.lock().online
    }

    /// Ends every cursor: the camera is no longer configured.
    pub fn close(&self) {
        {
            let mut ring = self.lock();
            ring.closed = true;
            ring.online = false;
        }
        self.signal_cursors();
    }

    /// Bytes of samples and parts that are held now.
    pub fn held(&self) -> usize {
        self.lock().held()
    }

    /// The cursors have ended, and so should whoever waits on [`subscribe`](Self::subscribe).
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub fn params(&self) -> Option<StreamParams> {
        self.params.borrow().clone()
    }

    /// Waits until the first picture's parameters are known.
    pub async fn wait_params(&self) -> StreamParams {
        let mut params = self.params.subscribe();
        loop {
            if let Some(params) = params.borrow_and_update().clone() {
                return params;
            }
            if params.changed().await.is_err() {
                // The sender is a field of `self`: it lives as long as this future.
                std::future::pending::<()>().await;
            }
        }
    }

    /// SSRCs of its pictures and of its sound.
    pub fn ssrcs(&self) -> [u32; 2] {
        self.lock().packetiser.ssrcs()
    }

    /// RTP time, in the audio's clock, of a moment on the pictures' timeline.
    pub fn audio_rtp_time(&self, at_90k: i64, params: &AudioParams) -> u32 {
        self.lock().packetiser.audio_time(at_90k, params)
    }

    /// A cursor at the newest random access point.
    pub fn cursor(self: &Arc<Self>) -> Cursor {
        let mut ring = self.lock();
        if ring.cursors == 0 {
            // Nobody needs packets of what lies before.
            ring.packetised = ring.packetised.max(ring.rap.unwrap_or(ring.first));
        }
        ring.cursors += 1;
        self.budget.cursors.fetch_add(1, Ordering::Relaxed);
        let at = ring.rap;
        drop(ring);
        Cursor { stream: self.clone(), at, expected: None, samples: self.samples.subscribe() }
    }

    pub fn newest_rap(&self) -> Option<Arc<AccessUnit>> {
        let ring = self.lock();
        ring.entry(ring.rap?)?.unit().cloned()
    }

    /// The access units after `seq` (exclusive) up to now, or `None` where they are no longer all held.
    pub fn since(&self, seq: u64) -> Option<Vec<Arc<AccessUnit>>> {
        let ring = self.lock();
        let Some(newest) = &ring.newest else { return Some(Vec::new()) };
        let mut units: Vec<_> = ring.units().rev().take_while(|unit| unit.seq > seq).cloned().collect();
        units.reverse();
        (units.len() as u64 == newest.seq.saturating_sub(seq)).then_some(units)
    }

    /// Rises with every pushed sample and part; a receiver wakes whoever waits for more.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.pushes.subscribe()
    }

    /// The place of the oldest part held, and the place after the newest: segment and discontinuity.
    fn places(&self) -> [(u64, u64); 2] {
        let ring = self.lock();
        let oldest = ring.parts.front().map(|placed| (placed.segment, placed.discontinuity));
        [oldest.unwrap_or(ring.placed), ring.placed]
    }

    /// The parts held now with their places, oldest first: about the last 8 s, from then on 30 s as long as somebody
    /// asks, and more where key pictures are far apart. Then the length of the longest segment so far, which never falls.
    pub fn placed_parts(&self) -> (Vec<Placed>, i64) {
        let mut ring = self.lock();
        ring.asked_90k = ring.parts.back().map(|last| last.part.start_90k);
        (ring.parts.iter().cloned().collect(), ring.longest_segment_90k)
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        let accounted = self.lock().accounted;
        self.budget.account(accounted, 0);
        self.budget.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

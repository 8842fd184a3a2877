//! A recording as one client plays it: at its own pace, from wherever it asks, over gaps.
//!
//! RTP time goes on over gaps, pauses and jumps, and passes as the client's own time does at whatever `Scale`
//! (RFC 2326 section 12.34 and appendix B): what instant of the recording a moment of it shows is told by the answer to
//! PLAY. The recording is read a part at a time, off the runtime's threads, and no further than one part ahead: a
//! client that is slow or pauses costs nothing but its own session.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};

use super::range::{Asked, Bad, Unit, told};
use crate::live::StreamParams;
use crate::media::rtp::{Packetiser, Packets, in_clock};
use crate::media::{AccessUnit, AudioFrame, Sample, VIDEO_CLOCK, time};
use crate::record::{Archive, RecordError, Reel};

/// From this speed on key pictures alone are sent: no camera's link carries more, and nobody sees more.
const KEYS_FROM: u8 = 4;

/// How long PLAY waits for the disk.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client that is further behind is not sent what it has missed at once: the recording goes on from there.
const LATE: Duration = Duration::from_secs(1);

/// Between the last picture before a gap, and the first one after it.
const STEP_90K: i64 = VIDEO_CLOCK / 25;

/// What comes next.
pub enum Event {
    Sample(Sample, Arc<Packets>),
    /// Nothing more, for this reason; empty where the range is at its end.
    End(String),
}

/// Why nothing is played.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("Range: {0}")]
    Range(#[from] Bad),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the recording could not be read within {} s", FIRST_TIMEOUT.as_secs())]
    Slow,
}

/// Where playing begins, for the answer to PLAY.
pub struct Begun {
    /// What of the recording is played.
    range: Range<i64>,
    /// Of pictures and sound: the next sequence numbers, and the RTP times of `range.start`.
    pub sequences: [u16; 2],
    pub rtp_times: [u32; 2],
}

pub struct Player {
    archive: Archive,
    camera: String,
    /// What was described.
    whole: Range<i64>,
    params: StreamParams,
    scale: u8,
    /// Where what was asked for ends.
    until: i64,
    reel: Reading,
    /// Read, and not sent yet.
    ready: VecDeque<Sample>,
    /// The instant of what was sent last.
    at: i64,
    packetiser: Packetiser,
    line: Timeline,
    /// When the moment of the timeline is due; none where nothing was sent since PLAY.
    due: Option<(Instant, i64)>,
}

/// Samples in the order of their decode times; none at the end.
type Read = Result<Option<Vec<Sample>>, RecordError>;

enum Reading {
    Idle(Box<Reel>),
    Busy(JoinHandle<(Box<Reel>, Read)>),
    /// Before the first PLAY, and at the end.
    Done,
}

/// Lays what is recorded on what is sent: instants of a run, and the moments at which they are shown.
struct Timeline {
    /// Of the run that is played now: its number, an instant of it, and that instant's moment.
    run: Option<(u64, i64, i64)>,
    /// The moment that follows.
    next_90k: i64,
}

impl Player {
    /// A recording of a camera's main feed; not played yet. An error where there is nothing in the range.
    pub async fn open(archive: Archive, camera: String, whole: Range<i64>) -> Result<Player, Refused> {
        let reel = open(&archive, &camera, whole.clone(), false).await?;
        let nothing = || RecordError::Nothing { camera: camera.clone() };
        let (video, audio) = reel.params().ok_or_else(nothing)?;
        Ok(Player {
            archive,
            camera,
            at: whole.start,
            until: whole.end,
            whole,
            params: StreamParams { video, audio },
            scale: 1,
            reel: Reading::Done,
            ready: VecDeque::new(),
            packetiser: Packetiser::new(rand::random()),
            // Sender reports tell of it as of the wall clock.
            line: Timeline { run: None, next_90k: time::to_90k(Timestamp::now()) },
            due: None,
        })
    }

    pub fn params(&self) -> &StreamParams {
        &self.params
    }

    pub fn camera(&self) -> &str {
        &self.camera
    }

    pub fn ssrcs(&self) -> [u32; 2] {
        self.packetiser.ssrcs()
    }

    /// What was described, as a `range` attribute tells it (RFC 2326 appendix C.1.5).
    pub fn whole(&self, unit: Unit) -> String {
        told(unit, &self.whole, &self.whole)
    }

    /// What is played, as an answer tells it.
    pub fn range(&self, unit: Unit, begun: &Begun) -> String {
        told(unit, &self.whole, &begun.range)
    }

    /// Plays from there on: where it was paused when nothing is asked for, and from the beginning after the end.
    pub async fn play(&mut self, asked: Option<Asked>, scale: u8) -> Result<Begun, Refused> {
        let range = match asked {
            Some(asked) => asked.of(&self.whole, self.position())?,
            None if self.is_over() => self.whole.clone(),
            None => self.position()..self.until,
        };
        let resumes = asked.is_none() && scale == self.scale && !self.is_over();
        if !resumes {
            let reel = open(&self.archive, &self.camera, range.clone(), scale >= KEYS_FROM).await?;
            self.ready.clear();
            (self.reel, self.scale, self.until, self.line.run) =
                (Reading::Idle(Box::new(reel)), scale, range.end, None);
        }
        self.due = None;
        let first = timeout(FIRST_TIMEOUT, self.first_picture()).await.map_err(|_| Refused::Slow)??;
        let begins = first.unwrap_or(range.start);
        let moment = self.line.moment(self.ready.front(), begins, self.scale);
        let sound = self.params.audio.as_ref().map_or(0, |audio| self.packetiser.audio_time(moment, audio));
        Ok(Begun {
            range: begins..range.end.max(begins),
            sequences: self.packetiser.sequences(),
            rtp_times: [self.packetiser.video_time(moment), sound],
        })
    }

    /// The instant of the next picture, once it is read; none at the end.
    async fn first_picture(&mut self) -> Result<Option<i64>, RecordError> {
        loop {
            let picture = self.ready.iter().find_map(|sample| match sample {
                Sample::Video(unit) => Some(unit.pts_90k),
                Sample::Audio(_) => None,
            });
            if picture.is_some() || !self.read().await? {
                return Ok(picture);
            }
        }
    }

    /// The instant that comes next.
    fn position(&self) -> i64 {
        self.ready.front().map_or(self.at, instant)
    }

    fn is_over(&self) -> bool {
        self.ready.is_empty() && matches!(self.reel, Reading::Done)
    }

    /// Waits until the next sample is due. Cancel safe.
    pub async fn next(&mut self) -> Event {
        loop {
            let Some(next) = self.ready.front() else {
                match self.read().await {
                    Ok(true) => continue,
                    Ok(false) => return Event::End(String::new()),
                    Err(error) => {
                        tracing::error!("a recording cannot be played on: {error}");
                        return Event::End("the recording cannot be read".to_owned());
                    }
                }
            };
            if let Sample::Video(unit) = next
                && unit.params.codec != self.params.video.codec
            {
                let at = time::from_90k(unit.pts_90k);
                (self.reel, self.at) = (Reading::Done, unit.pts_90k);
                self.ready.clear();
                return Event::End(format!("another codec from {at:.3} on: describe it from there"));
            }
            let moment = self.line.moment(Some(next), instant(next), self.scale);
            let now = Instant::now();
            let (begun, from) = *self.due.get_or_insert((now, moment));
            let due = begun + Duration::from_micros(((moment - from).max(0) * 100 / 9) as u64);
            if due + LATE < now {
                self.due = Some((now, moment));
            }
            sleep_until(due).await;
            if let Some(sample) = self.ready.pop_front() {
                self.at = instant(&sample);
                if let Some(sample) = self.laid_out(&sample) {
                    let packets = Arc::new(self.packetiser.packetise(&sample));
                    return Event::Sample(sample, packets);
                }
            }
        }
    }

    /// Takes what was read, and has more read meanwhile; false at the end. Cancel safe.
    async fn read(&mut self) -> Result<bool, RecordError> {
        self.read_ahead();
        let Reading::Busy(reading) = &mut self.reel else { return Ok(false) };
        let read = reading.await;
        self.reel = Reading::Done;
        match read {
            Ok((reel, Ok(Some(samples)))) => {
                self.reel = Reading::Idle(reel);
                self.ready.extend(samples);
                self.read_ahead();
                Ok(true)
            }
            Ok((_, Ok(None))) => Ok(false),
            Ok((_, Err(error))) => Err(error),
            Err(error) => Err(RecordError::Other(format!("reading: {error}"))),
        }
    }

    fn read_ahead(&mut self) {
        self.reel = match std::mem::replace(&mut self.reel, Reading::Done) {
            Reading::Idle(mut reel) => Reading::Busy(spawn_blocking(move || {
                let read = reel.read();
                (reel, read)
            })),
            other => other,
        };
    }

    /// The sample as it is sent; none of sound that was not described or that goes at another speed than its own.
    fn laid_out(&mut self, sample: &Sample) -> Option<Sample> {
        let scale = self.scale;
        self.line.enter(sample);
        match sample {
            Sample::Video(unit) => {
                let moment = |at| self.line.moment(Some(sample), at, scale);
                let (pts_90k, dts_90k) = (moment(unit.pts_90k), moment(unit.dts_90k));
                self.line.next_90k = dts_90k + STEP_90K / i64::from(scale);
                let (params, data) = (unit.params.clone(), unit.data.clone());
                let unit = AccessUnit { run: 0, pts_90k, dts_90k, params, data, ..**unit };
                Some(Sample::Video(Arc::new(unit)))
            }
            Sample::Audio(frame) => {
                let described = self.params.audio.as_ref() == Some(&frame.params);
                if scale > 1 || !described {
                    return None;
                }
                // The same shift for all of a run, so that no frame is a tick off.
                let shift_90k = self.line.moment(Some(sample), 0, scale);
                let pts = frame.pts + in_clock(shift_90k, &frame.params);
                let (params, data) = (frame.params.clone(), frame.data.clone());
                Some(Sample::Audio(Arc::new(AudioFrame { run: 0, pts, params, data, ..**frame })))
            }
        }
    }
}

impl Timeline {
    /// The moment of an instant in the run of `sample`.
    fn moment(&self, sample: Option<&Sample>, at: i64, scale: u8) -> i64 {
        let (from, moment) = match (&self.run, sample) {
            (Some((run, from, moment)), Some(sample)) if *run == run_of(sample) => (*from, *moment),
            (_, Some(sample)) => (instant(sample), self.next_90k),
            (_, None) => (at, self.next_90k),
        };
        moment.saturating_add(at.saturating_sub(from) / i64::from(scale.max(1)))
    }

    /// The sample comes next: its run goes on from here, where it begins.
    fn enter(&mut self, sample: &Sample) {
        let run = run_of(sample);
        if self.run.is_none_or(|(known, ..)| known != run) {
            self.run = Some((run, instant(sample), self.next_90k));
        }
    }
}

fn run_of(sample: &Sample) -> u64 {
    match sample {
        Sample::Video(unit) => unit.run,
        Sample::Audio(frame) => frame.run,
    }
}

/// When it is decoded.
fn instant(sample: &Sample) -> i64 {
    match sample {
        Sample::Video(unit) => unit.dts_90k,
        Sample::Audio(frame) => frame.pts_90k(),
    }
}

async fn open(archive: &Archive, camera: &str, range: Range<i64>, keys: bool) -> Result<Reel, Refused> {
    let (archive, camera) = (archive.clone(), camera.to_owned());
    let opening = spawn_blocking(move || archive.reel(&camera, range, keys));
    let opened = timeout(FIRST_TIMEOUT, opening).await.map_err(|_| Refused::Slow)?;
    Ok(opened.map_err(|error| RecordError::Other(format!("reading: {error}")))??)
}

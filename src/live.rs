//! The live ring: a stream's recent samples and parts in memory, and the cursors that read them.
//!
//! One writer (the camera), any number of readers, each with its own cursor. A reader that falls behind gets a typed
//! skip and goes on at the newest random access point; it never holds the writer up. Bytes are bounded per stream and
//! globally; the newest random access point and what follows always stay.
//!
//! What does not belong here: sockets, and who reads.

use std::sync::Arc;

use crate::config::Id;
use crate::media::cmaf::Part;
use crate::media::rtp::Packets;
use crate::media::{AccessUnit, AudioParams, Feed, Sample, VideoParams};

/// The live ring of one feed of one camera. Outlives sessions: readers stay while the camera is away.
pub struct LiveStream {
    pub camera: Id,
    pub feed: Feed,
}

/// Parameters of the stream as last seen; kept while the camera is away.
#[derive(Clone, Debug)]
pub struct StreamParams {
    pub video: Arc<VideoParams>,
    pub audio: Option<Arc<AudioParams>>,
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
pub struct Cursor {}

impl Cursor {
    /// Waits for the next sample. Cancel safe.
    pub async fn next(&mut self) -> Next {
        todo!()
    }
}

impl LiveStream {
    /// `cap`: bytes kept of this stream, not counting the newest random access point and what follows.
    pub fn new(camera: Id, feed: Feed, cap: usize) -> Arc<LiveStream> {
        let _ = cap;
        Arc::new(LiveStream { camera, feed })
    }

    pub fn push(&self, sample: Sample) {
        let _ = sample;
        todo!()
    }

    pub fn push_part(&self, part: Arc<Part>) {
        let _ = part;
        todo!()
    }

    /// The camera is gone or back; readers stay either way.
    pub fn set_online(&self, online: bool) {
        let _ = online;
        todo!()
    }

    pub fn is_online(&self) -> bool {
        todo!()
    }

    /// Ends every cursor: the camera is no longer configured.
    pub fn close(&self) {
        todo!()
    }

    pub fn params(&self) -> Option<StreamParams> {
        todo!()
    }

    /// Waits until the first picture's parameters are known.
    pub async fn wait_params(&self) -> StreamParams {
        todo!()
    }

    /// A cursor at the newest random access point.
    pub fn cursor(self: &Arc<Self>) -> Cursor {
        todo!()
    }

    pub fn newest_rap(&self) -> Option<Arc<AccessUnit>> {
        todo!()
    }

    /// The access units after `seq` (exclusive) up to now, or `None` where they are no longer all held.
    pub fn since(&self, seq: u64) -> Option<Vec<Arc<AccessUnit>>> {
        let _ = seq;
        todo!()
    }

    /// Rises with every pushed sample and part; a receiver wakes whoever waits for more.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }

    /// The parts held now, oldest first (about the last 30 s).
    pub fn parts(&self) -> Vec<Arc<Part>> {
        todo!()
    }
}

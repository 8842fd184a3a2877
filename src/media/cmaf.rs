//! CMAF packaging: samples in, fragmented MP4 parts out, made once per stream and shared by recorder and HLS.

use std::sync::Arc;

use bytes::Bytes;

use super::{AudioParams, Sample, VideoParams};

/// `ftyp` + `moov` of one run of constant parameters.
#[derive(Debug)]
pub struct Init {
    pub video: Arc<VideoParams>,
    pub audio: Option<Arc<AudioParams>>,
    /// What `tfdt` counts from, 90 kHz ticks since the Unix epoch.
    pub origin_90k: i64,
    /// The init segment without an edit list, as HLS wants it.
    pub bytes: Bytes,
}

impl Init {
    /// The init segment of a file whose first picture is at `start_90k`: an edit list makes players start it at zero,
    /// and a `uuid` box names the camera and the UTC anchor, so that the file describes itself.
    pub fn for_file(&self, camera: &str, stream: &str, start_90k: i64) -> Bytes {
        let _ = (camera, stream, start_90k);
        todo!()
    }
}

/// One `moof` + `mdat`, as a header and slices of the samples' own bytes.
#[derive(Clone, Debug)]
pub struct Part {
    pub run: u64,
    /// Rises by one with every part of the stream's life in this process.
    pub seq: u64,
    pub init: Arc<Init>,
    /// `moof` and the header of `mdat`.
    pub header: Bytes,
    /// The samples' payloads, in file order after `header`.
    pub payload: Vec<Bytes>,
    /// Presentation time of the first picture, and length to the first picture of the next part.
    pub start_90k: i64,
    pub duration_90k: i64,
    /// Starts with a random access point.
    pub independent: bool,
    pub pictures: u32,
}

impl Part {
    /// Bytes of header and payload together.
    pub fn len(&self) -> usize {
        self.header.len() + self.payload.iter().map(Bytes::len).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.pictures == 0
    }
}

/// Cuts a stream into parts: at every random access point, and where a part has lasted [`Packager::PART_90K`].
pub struct Packager {}

impl Packager {
    /// The target length of a part, half a second.
    pub const PART_90K: i64 = 45_000;

    /// `expect_audio`: parameters of the audio that the camera announced, so that the init segment has its track.
    pub fn new(run: u64, first_part: u64, expect_audio: Option<Arc<AudioParams>>) -> Packager {
        let _ = (run, first_part, expect_audio);
        todo!()
    }

    /// Takes the next sample; gives back the part that it completed. Samples before the first random access point are
    /// dropped; changed parameters end the part and begin a new [`Init`].
    pub fn push(&mut self, sample: &Sample) -> Option<Part> {
        let _ = sample;
        todo!()
    }

    /// The unfinished rest, at the end of a run.
    pub fn finish(&mut self) -> Option<Part> {
        todo!()
    }

    /// The sequence number of the next part, for the packager of the next run.
    pub fn next_part(&self) -> u64 {
        todo!()
    }
}

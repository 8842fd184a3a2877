//! What an exported clip says of itself, read back from the file: the truth about what somebody was given.

use std::fs::File;
use std::io;
use std::ops::Range;

use jiff::Timestamp;

use super::archive::JOIN_90K;
use super::recovery::{Parts, head};
use crate::media::time;

/// A clip, as its own boxes tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// RFC 6381.
    pub codec: String,
    /// Capture time of the first picture that is shown.
    pub first: Timestamp,
    /// Capture time of the last picture.
    pub last: Timestamp,
    /// Where the last picture ends.
    pub end: Timestamp,
    /// Pictures that are shown.
    pub pictures: u64,
    /// Where pictures are missing in between.
    pub holes: Vec<Range<Timestamp>>,
}

impl Clip {
    /// `None` of a file that is no clip, or has no picture.
    pub fn read(file: &File) -> io::Result<Option<Clip>> {
        let Some(head) = head(file)? else { return Ok(None) };
        let (start, origin) = (head.about.start_90k, head.about.origin_90k);
        let mut parts = Parts::new(file, head.size() as u64, file.metadata()?.len());
        let (mut pictures, mut last, mut end, mut holes) = (0, start, start, Vec::new());
        while let Some((_, fragment)) = parts.next()? {
            let run = &fragment.video;
            let times = || run.presentation().map(|at| at + origin);
            let first = times().min().unwrap_or(end);
            // Those before the start are decoded, and hidden by the edit list.
            if pictures > 0 && first - end > JOIN_90K {
                holes.push(time::from_90k(end)..time::from_90k(first));
            }
            for (at, sample) in times().zip(&run.samples).filter(|(at, _)| *at >= start) {
                pictures += 1;
                last = last.max(at);
                end = end.max(at + i64::from(sample.duration));
            }
        }
        Ok((pictures > 0).then(|| Clip {
            codec: head.about.codec,
            first: time::from_90k(start),
            last: time::from_90k(last),
            end: time::from_90k(end),
            pictures,
            holes,
        }))
    }
}

//! Where streams are reached.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::LiveStream;

/// Streams by the path that they are reached at (`forest-1`, `forest-1/sub`, `channels/wall-1`): what the relay serves.
/// A path belongs to a camera; permission is asked for that camera.
#[derive(Default)]
pub struct Directory {
    paths: RwLock<Paths>,
}

#[derive(Default)]
struct Paths {
    streams: BTreeMap<String, (Arc<LiveStream>, Numbering)>,
    /// The numbers that paths which lead nowhere now go on with: a camera's, say, while it starts anew.
    ends: BTreeMap<String, (u64, u64)>,
}

/// How a path counts the segments and discontinuities of its stream. Where a path gets another stream it counts on, so
/// that players never take what they are shown for what they know already. A new process counts anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbering {
    /// Added to the stream's own numbers, wrapping.
    segment: u64,
    discontinuity: u64,
}

impl Numbering {
    /// The path's number of the stream's own one.
    pub fn segment(self, own: u64) -> u64 {
        own.wrapping_add(self.segment)
    }

    pub fn discontinuity(self, own: u64) -> u64 {
        own.wrapping_add(self.discontinuity)
    }

    /// Begins with these numbers.
    fn from(end: (u64, u64), stream: &LiveStream) -> Numbering {
        let [start, _] = stream.places();
        Numbering { segment: end.0.wrapping_sub(start.0), discontinuity: end.1.wrapping_sub(start.1) }
    }

    /// The numbers that follow those of the stream so far.
    fn end(self, stream: &LiveStream) -> (u64, u64) {
        let [_, end] = stream.places();
        (self.segment(end.0), self.discontinuity(end.1))
    }
}

impl Directory {
    pub fn get(&self, path: &str) -> Option<Arc<LiveStream>> {
        self.numbered(path).map(|(stream, _)| stream)
    }

    /// The stream, and how its segments are numbered at this path.
    pub fn numbered(&self, path: &str) -> Option<(Arc<LiveStream>, Numbering)> {
        self.read().streams.get(path).cloned()
    }

    /// Every path with its stream, in order.
    pub fn all(&self) -> Vec<(String, Arc<LiveStream>)> {
        self.read().streams.iter().map(|(path, (stream, _))| (path.clone(), stream.clone())).collect()
    }

    /// The path leads to this stream from now on.
    pub fn insert(&self, path: impl Into<String>, stream: Arc<LiveStream>) {
        let path = path.into();
        let mut paths = self.write();
        let Paths { streams, ends } = &mut *paths;
        let numbering = match streams.get(&path) {
            Some((before, numbering)) if Arc::ptr_eq(before, &stream) => *numbering,
            Some((before, numbering)) => Numbering::from(numbering.end(before), &stream),
            None => ends.remove(&path).map_or(Numbering::default(), |end| Numbering::from(end, &stream)),
        };
        streams.insert(path, (stream, numbering));
    }

    pub fn remove(&self, path: &str) {
        let mut paths = self.write();
        if let Some((stream, numbering)) = paths.streams.remove(path) {
            paths.ends.insert(path.to_owned(), numbering.end(&stream));
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Paths> {
        self.paths.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self) -> RwLockWriteGuard<'_, Paths> {
        self.paths.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

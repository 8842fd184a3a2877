//! Where streams are reached.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock, RwLockReadGuard};

use super::LiveStream;

/// Streams by the path that they are reached at (`forest-1`, `forest-1/sub`, `channels/wall-1`): what the relay serves.
/// A path belongs to a camera; permission is asked for that camera.
#[derive(Default)]
pub struct Directory {
    streams: RwLock<BTreeMap<String, (Arc<LiveStream>, Numbering)>>,
}

/// How a path counts the segments and discontinuities of its stream. Where a path gets another stream it counts on, so
/// that players never take what they are shown for what they know already.
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

    /// For `next` in the place of `before`, which was numbered like this.
    fn go_on(self, before: &LiveStream, next: &LiveStream) -> Numbering {
        let [_, end] = before.places();
        let [start, _] = next.places();
        Numbering {
            segment: self.segment(end.0).wrapping_sub(start.0),
            discontinuity: self.discontinuity(end.1).wrapping_sub(start.1),
        }
    }
}

impl Directory {
    pub fn get(&self, path: &str) -> Option<Arc<LiveStream>> {
        self.numbered(path).map(|(stream, _)| stream)
    }

    /// The stream, and how its segments are numbered at this path.
    pub fn numbered(&self, path: &str) -> Option<(Arc<LiveStream>, Numbering)> {
        self.read().get(path).cloned()
    }

    /// Every path with its stream, in order.
    pub fn all(&self) -> Vec<(String, Arc<LiveStream>)> {
        self.read().iter().map(|(path, (stream, _))| (path.clone(), stream.clone())).collect()
    }

    /// The path leads to this stream from now on.
    pub fn insert(&self, path: impl Into<String>, stream: Arc<LiveStream>) {
        let path = path.into();
        let mut streams = self.streams.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let numbering = match streams.get(&path) {
            None => Numbering::default(),
            Some((before, numbering)) if Arc::ptr_eq(before, &stream) => *numbering,
            Some((before, numbering)) => numbering.go_on(before, &stream),
        };
        streams.insert(path, (stream, numbering));
    }

    pub fn remove(&self, path: &str) {
        self.streams.write().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(path);
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, (Arc<LiveStream>, Numbering)>> {
        self.streams.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

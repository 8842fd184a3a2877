//! How many read at once: of one path, from one address, of one person, and in all (`config::ReaderLimits`).
//!
//! How many may be connected is the net's to say (`net::connections`); who reads costs more than that.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::config::ReaderLimits;
use crate::net::connections::place_of;

/// The counts of one server. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Shared>);

struct Shared {
    limits: ReaderLimits,
    counts: Mutex<HashMap<Of, usize>>,
}

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Of {
    Readers,
    ReadersOn(String),
    ReadersAt(IpAddr),
    Playbacks,
    PlaybacksBy(String),
}

/// A reader's place among the others, as long as it is held.
pub struct Seat {
    shared: Arc<Shared>,
    taken: Vec<Of>,
}

/// Why there is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("{0} readers are on this box, as many as it takes; try again later")]
    Box(usize),
    #[error("{0} readers are on this path, as many as it takes; try again later")]
    Path(usize),
    #[error("{0} readers come from this address, as many as it gets; close one")]
    Address(usize),
    #[error("{0} recordings are being played, as many as this box takes; try again later")]
    Playbacks(usize),
    #[error("{1} plays {0} recordings, as many as one person gets; close one")]
    Person(usize, String),
}

impl Full {
    /// It may be otherwise in a moment, whatever the client does.
    pub fn passes(&self) -> bool {
        matches!(self, Full::Box(_) | Full::Path(_) | Full::Playbacks(_))
    }
}

impl Limits {
    pub fn new(limits: ReaderLimits) -> Limits {
        Limits(Arc::new(Shared { limits, counts: Mutex::default() }))
    }

    /// A seat for one more reader of `path` from `address`. Who plays recordings is named in `playback`.
    pub fn take(&self, path: &str, address: IpAddr, playback: Option<&str>) -> Result<Seat, Full> {
        let limits = &self.0.limits;
        let mut wanted = vec![
            (Of::Readers, limits.in_all, Full::Box(limits.in_all)),
            (Of::ReadersOn(path.to_owned()), limits.per_path, Full::Path(limits.per_path)),
            (Of::ReadersAt(place_of(address)), limits.per_address, Full::Address(limits.per_address)),
        ];
        if let Some(person) = playback {
            let each = limits.playbacks_per_person;
            wanted.push((Of::Playbacks, limits.playbacks, Full::Playbacks(limits.playbacks)));
            wanted.push((Of::PlaybacksBy(person.to_owned()), each, Full::Person(each, person.to_owned())));
        }
        let mut counts = self.0.counts();
        for (of, most, full) in &mut wanted {
            if counts.get(of).is_some_and(|count| count >= most) {
                return Err(std::mem::replace(full, Full::Box(0)));
            }
        }
        let taken: Vec<Of> = wanted.into_iter().map(|(of, ..)| of).collect();
        for of in &taken {
            *counts.entry(of.clone()).or_default() += 1;
        }
        drop(counts);
        Ok(Seat { shared: self.0.clone(), taken })
    }
}

impl Shared {
    fn counts(&self) -> MutexGuard<'_, HashMap<Of, usize>> {
        self.counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.shared.counts();
        for of in &self.taken {
            if let Some(count) = counts.get_mut(of) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(of);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_for_itself_and_what_is_left_is_free_again() {
        let limits = Limits::new(ReaderLimits {
            in_all: 6,
            per_path: 4,
            per_address: 3,
            playbacks: 2,
            playbacks_per_person: 1,
        });
        let at = |last: u8| IpAddr::from([192, 0, 2, last]);
        let refused = |path: &str, last, playback| limits.take(path, at(last), playback).err().unwrap();
        let mut held: Vec<_> = (0..3).map(|_| limits.take("a", at(1), None).unwrap()).collect();
        assert_eq!(refused("b", 1, None), Full::Address(3));
        held.push(limits.take("a", at(2), None).unwrap());
        assert_eq!(refused("a", 2, None), Full::Path(4));
        held.push(limits.take("playback/a", at(2), Some("li")).unwrap());
        assert_eq!(refused("playback/b", 2, Some("li")), Full::Person(1, "li".to_owned()));
        held.push(limits.take("playback/a", at(3), Some("wang")).unwrap());
        assert_eq!(refused("b", 4, None), Full::Box(6));
        held.remove(0);
        assert_eq!(refused("playback/a", 4, Some("zhao")), Full::Playbacks(2));
        held.push(limits.take("b", at(4), None).unwrap());
        drop(held);
        assert!(limits.0.counts().is_empty());
    }
}

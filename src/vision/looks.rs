//! The deadline queue: which camera is looked at next, at which pictures, and which contracts were not held.
//!
//! Pure: times are given, as the time since some start; whoever calls reads the live rings. Earliest deadline first, a
//! deadline being the last hand-out plus the contract. A camera that waits keeps its deadline while those that were
//! served move on, so that under overload every camera gets its turn. At most [`Limits`] are in flight; the newest
//! picture wins, since pictures are chosen when a look is handed out and never queued.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Id;

/// What may be in flight at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub jobs: usize,
    /// A look that is larger alone is handed out when nothing else is in flight.
    pub bytes: usize,
}

/// How urgent a look is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A new key picture is worth a look; without one it can wait for the next.
    NewKeyPicture,
    /// The contract is about to be broken: whatever is newest, at the price of decoding the GOP up to now.
    Newest,
}

/// What the camera has to offer at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing new.
    Nothing,
    /// The camera is away or its looks are suspended: its contract is not counted.
    Away,
    /// A look of so many bytes.
    Bytes(usize),
}

/// The schedule of all watched cameras.
#[derive(Debug)]
pub struct Looks {
    limits: Limits,
    watched: BTreeMap<Id, Watched>,
    jobs: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Watched {
    contract: Duration,
    /// The look being done: its bytes.
    in_flight: Option<usize>,
    handed_out: Option<Duration>,
    /// When the last look was done, or the camera came.
    looked: Duration,
    first_done: bool,
    /// Contracts missed since `looked`.
    missed: u32,
    /// How long key pictures are apart, once known.
    gop: Option<Duration>,
}

impl Watched {
    fn deadline(&self) -> Duration {
        self.handed_out.map_or(Duration::ZERO, |at| at + self.contract)
    }

    /// Key pictures come often enough, but for a camera's jitter.
    fn key_pictures_suffice(&self) -> bool {
        self.gop.is_none_or(|gop| gop <= self.contract + self.contract / 20)
    }

    fn need(&self, now: Duration) -> Option<Need> {
        let Some(handed_out) = self.handed_out else { return Some(Need::Newest) };
        let newest = if self.key_pictures_suffice() {
            // The next key picture is due by then: half the grace is left to it.
            handed_out + self.contract + grace(self.contract) / 2
        } else {
            handed_out + self.contract * 3 / 4
        };
        if now >= newest {
            return Some(Need::Newest);
        }
        (now >= handed_out + self.contract * 3 / 4).then_some(Need::NewKeyPicture)
    }
}

/// What a look may be late by before the contract counts as missed: decoding and inference vary.
fn grace(contract: Duration) -> Duration {
    contract / 10 + Duration::from_millis(100)
}

impl Looks {
    pub fn new(limits: Limits) -> Looks {
        Looks { limits, watched: BTreeMap::new(), jobs: 0, bytes: 0 }
    }

    /// From now on the camera is looked at once a `contract`; a camera known already keeps its place.
    pub fn watch(&mut self, camera: Id, contract: Duration, now: Duration) {
        let contract = contract.max(Duration::from_millis(1));
        let watched = self.watched.entry(camera).or_insert(Watched {
            contract,
            in_flight: None,
            handed_out: None,
            looked: now,
            first_done: false,
            missed: 0,
            gop: None,
        });
        watched.contract = contract;
    }

    pub fn unwatch(&mut self, camera: &str) {
        self.done(camera);
        self.watched.remove(camera);
    }

    pub fn is_empty(&self) -> bool {
        self.watched.is_empty()
    }

    /// How long the camera's key pictures are apart, as seen so far.
    pub fn saw_gop(&mut self, camera: &str, gop: Duration) {
        if let Some(watched) = self.watched.get_mut(camera) {
            watched.gop = Some(gop);
        }
    }

    /// The camera to look at now, if there is one; it counts as in flight until [`answered`](Self::answered) or
    /// [`lost`](Self::lost). `offer` tells what a camera has.
    pub fn next(&mut self, now: Duration, mut offer: impl FnMut(&Id, Need) -> Offer) -> Option<(Id, Need)> {
        if self.jobs >= self.limits.jobs {
            return None;
        }
        let idle = self.watched.iter().filter(|(_, watched)| watched.in_flight.is_none());
        let mut due: Vec<_> = idle
            .filter_map(|(id, watched)| Some((watched.deadline(), id.clone(), watched.need(now)?)))
            .collect();
        due.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (deadline, id, need) in due {
            let bytes = match offer(&id, need) {
                Offer::Bytes(bytes) => bytes,
                Offer::Nothing => continue,
                Offer::Away => {
                    self.pardon(&id, now);
                    continue;
                }
            };
            if self.jobs > 0 && self.bytes.saturating_add(bytes) > self.limits.bytes {
                // Smaller looks pass a large one, but not for ever: once it is late, room is made for it.
                if now > deadline {
                    return None;
                }
                continue;
            }
            if let Some(watched) = self.watched.get_mut(&id) {
                watched.in_flight = Some(bytes);
                watched.handed_out = Some(now);
                self.jobs += 1;
                self.bytes += bytes;
                return Some((id, need));
            }
        }
        None
    }

    /// The camera is away: no contract runs.
    fn pardon(&mut self, camera: &str, now: Duration) {
        if let Some(watched) = self.watched.get_mut(camera) {
            (watched.looked, watched.missed, watched.first_done) = (now, 0, false);
        }
    }

    fn done(&mut self, camera: &str) {
        if let Some(watched) = self.watched.get_mut(camera)
            && let Some(bytes) = watched.in_flight.take()
        {
            self.jobs = self.jobs.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }

    /// The look is done: how long after the one before, where there was one.
    pub fn answered(&mut self, camera: &str, now: Duration) -> Option<Duration> {
        self.done(camera);
        let watched = self.watched.get_mut(camera)?;
        let interval = watched.first_done.then(|| now.saturating_sub(watched.looked));
        (watched.looked, watched.missed, watched.first_done) = (now, 0, true);
        interval
    }

    /// The look failed or went down with the worker. Its turn is over, so that a bad picture holds nobody up.
    pub fn lost(&mut self, camera: &str) {
        self.done(camera);
    }

    /// What was in flight went down with the worker: all but the culprit may go again at once.
    pub fn lost_all(&mut self, culprit: Option<&str>) {
        for (id, watched) in &mut self.watched {
            if watched.in_flight.take().is_some() && culprit != Some(id) {
                watched.handed_out = None;
            }
        }
        (self.jobs, self.bytes) = (0, 0);
    }

    /// Cameras whose contract was missed since the last call; one that stays unseen is named once a contract.
    pub fn missed(&mut self, now: Duration) -> Vec<Id> {
        let mut missed = Vec::new();
        for (id, watched) in &mut self.watched {
            let unseen = now.saturating_sub(watched.looked).saturating_sub(grace(watched.contract));
            if unseen > watched.contract.saturating_mul(watched.missed.saturating_add(1)) {
                watched.missed += 1;
                missed.push(id.clone());
            }
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits { jobs: 2, bytes: 1000 };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn watching(cameras: &[(&str, u64)]) -> Looks {
        let mut looks = Looks::new(LIMITS);
        for (id, contract) in cameras {
            looks.watch(Id::from(*id), ms(*contract), ms(0));
        }
        looks
    }

    fn next(looks: &mut Looks, now: u64) -> Option<String> {
        looks.next(ms(now), |_, _| Offer::Bytes(1)).map(|(id, _)| id.to_string())
    }

    #[test]
    fn the_earliest_deadline_goes_first_and_jobs_are_bounded() {
        let mut looks = watching(&[("a", 2000), ("b", 1000), ("c", 4000)]);
        assert_eq!(next(&mut looks, 0).as_deref(), Some("a"));
        assert_eq!(next(&mut looks, 0).as_deref(), Some("b"));
        assert_eq!(next(&mut looks, 0), None, "two are in flight");
        assert_eq!(looks.answered("a", ms(10)), None);
        assert_eq!(next(&mut looks, 10).as_deref(), Some("c"));
        looks.answered("b", ms(20));
        looks.answered("c", ms(20));
        assert_eq!(next(&mut looks, 30), None, "nobody is due");
        assert_eq!(next(&mut looks, 1900).as_deref(), Some("b"));
        assert_eq!(next(&mut looks, 1900).as_deref(), Some("a"));
        assert_eq!(looks.answered("b", ms(1920)), Some(ms(1900)));
    }

    #[test]
    fn a_large_key_picture_is_passed_but_not_for_ever() {
        let mut looks = watching(&[("big", 1000), ("s1", 1000), ("s2", 1000)]);
        let offer = |id: &Id, _| Offer::Bytes(if &**id == "big" { 5000 } else { 10 });
        assert_eq!(&*looks.next(ms(0), offer).unwrap().0, "big", "alone it may go");
        assert_eq!(looks.next(ms(0), offer), None, "late looks wait for room");
        looks.answered("big", ms(100));
        assert_eq!(&*looks.next(ms(100), offer).unwrap().0, "s1");
        assert_eq!(&*looks.next(ms(100), offer).unwrap().0, "s2");
        looks.answered("s1", ms(120));
        // s2 is still in flight: big has no room and is passed until its deadline at 1000 ms.
        assert_eq!(&*looks.next(ms(950), offer).unwrap().0, "s1");
        looks.answered("s1", ms(960));
        assert_eq!(looks.next(ms(1980), offer), None, "now room is made");
        looks.answered("s2", ms(1990));
        assert_eq!(&*looks.next(ms(1990), offer).unwrap().0, "big");
    }

    #[test]
    fn a_gop_longer_than_the_contract_is_decoded_up_to_now() {
        let mut looks = watching(&[("a", 2000)]);
        looks.saw_gop("a", ms(10_000));
        let only_newest = |_: &Id, need| if need == Need::Newest { Offer::Bytes(1) } else { Offer::Nothing };
        assert_eq!(next(&mut looks, 0).as_deref(), Some("a"));
        looks.answered("a", ms(10));
        assert_eq!(looks.next(ms(1400), only_newest), None);
        assert!(looks.next(ms(1500), only_newest).is_some());
        looks.answered("a", ms(1510));
        // Key pictures once a contract: the next one is waited for, until it is clearly late.
        looks.saw_gop("a", ms(2040));
        assert_eq!(looks.next(ms(3550), only_newest), None);
        assert!(looks.next(ms(3660), only_newest).is_some());
    }

    #[test]
    fn what_is_not_seen_is_counted_once_a_contract_and_not_while_away() {
        let mut looks = watching(&[("a", 1000)]);
        assert!(looks.missed(ms(1150)).is_empty());
        assert_eq!(looks.missed(ms(1250)).len(), 1);
        assert!(looks.missed(ms(1300)).is_empty());
        assert_eq!(looks.missed(ms(2250)).len(), 1);
        assert_eq!(looks.next(ms(5000), |_, _| Offer::Away), None);
        assert!(looks.missed(ms(6000)).is_empty());
        assert_eq!(next(&mut looks, 6000).as_deref(), Some("a"));
        assert_eq!(looks.answered("a", ms(6100)), None, "no interval spans an absence");
    }

    #[test]
    fn after_a_crash_all_but_the_culprit_go_again() {
        let mut looks = watching(&[("a", 1000), ("b", 1000)]);
        next(&mut looks, 0);
        next(&mut looks, 0);
        looks.lost_all(Some("a"));
        assert_eq!(next(&mut looks, 10).as_deref(), Some("b"));
        assert_eq!(next(&mut looks, 10), None, "a's turn is over");
    }

    proptest! {
        /// A worker that is too slow for everybody's contract still sees everybody.
        #[test]
        fn nobody_starves_under_overload(
            cameras in prop::collection::vec((100u64..3000, 1usize..2500), 2..12),
            cost in 100u64..400,
        ) {
            let mut looks = Looks::new(LIMITS);
            for (index, (contract, _)) in cameras.iter().enumerate() {
                looks.watch(Id::from(index.to_string()), ms(*contract), ms(0));
            }
            let bytes = |id: &Id, _| Offer::Bytes(cameras[id.parse::<usize>().unwrap()].1);
            let mut seen = vec![0u64; cameras.len()];
            let mut flying = std::collections::VecDeque::new();
            let mut now = 0;
            while now < 60_000 {
                while let Some((id, _)) = looks.next(ms(now), bytes) {
                    flying.push_back(id);
                    prop_assert!(flying.len() <= LIMITS.jobs);
                }
                now += cost;
                if let Some(id) = flying.pop_front() {
                    looks.answered(&id, ms(now));
                    let index = id.parse::<usize>().unwrap();
                    let waited = now - seen[index];
                    prop_assert!(waited <= 2 * 3000 + 3 * cost * cameras.len() as u64, "{id} waited {waited} ms");
                    seen[index] = now;
                }
            }
            for at in seen {
                prop_assert!(now - at <= 2 * 3000 + 3 * cost * cameras.len() as u64);
            }
        }
    }
}

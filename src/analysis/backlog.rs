//! Revisions of alerts that the store has not taken yet, in their order.
//!
//! Bounded without losing an alert: when it is long, an older waiting revision of the same alert gives way to the newer
//! one, which says all that it said; and only so many snapshots are held.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use crate::alert::Alert;
use crate::dispatch::Dispatch;

/// From so many on, revisions of the same alert are merged.
const LONG: usize = 256;
/// Snapshots held; older ones are let go, their alerts are not.
const SNAPSHOTS: usize = 128;

#[derive(Clone, Debug)]
pub struct Pending {
    pub alert: Alert,
    /// A new snapshot, with boxes drawn.
    pub snapshot: Option<Bytes>,
    /// Of the snapshot in force.
    pub snapshot_sha256: Option<String>,
    /// When this revision came to be.
    pub since: Instant,
    /// It was sent from memory: its number and what it says are out in the world.
    pub sent: bool,
    /// The outbox entries, once made: what is stored is what was sent.
    events: Option<Vec<(String, Bytes)>>,
}

impl Pending {
    pub fn new(alert: Alert, snapshot: Option<Bytes>, snapshot_sha256: Option<String>) -> Pending {
        Pending { alert, snapshot, snapshot_sha256, since: Instant::now(), sent: false, events: None }
    }

    pub fn events(&mut self, dispatch: &Dispatch) -> Vec<(String, Bytes)> {
        let make = || dispatch.events(&self.alert, self.snapshot_sha256.as_deref());
        self.events.get_or_insert_with(make).clone()
    }

    /// Makes this the revision after the stored one, and keeps what people did with the alert. Exactly the next number,
    /// so that the store notices a change made in between; only what was sent already keeps its own as long as it is
    /// above the stored one and says the same of the disposition. False where no number is left.
    pub fn follow(&mut self, stored: &Alert) -> bool {
        let agrees = stored.revision < self.alert.revision && stored.disposition == self.alert.disposition;
        if self.sent && (agrees || *stored == self.alert) {
            return true;
        }
        let newest = if self.sent { stored.revision.max(self.alert.revision) } else { stored.revision };
        self.alert.disposition = stored.disposition;
        self.renumber(newest)
    }

    /// Makes this a revision of its own, above `newest`: false where no number is left.
    pub fn renumber(&mut self, newest: u32) -> bool {
        let Some(next) = newest.checked_add(1) else { return false };
        self.alert.revision = next;
        (self.sent, self.since, self.events) = (false, Instant::now(), None);
        true
    }
}

#[derive(Default)]
pub struct Backlog {
    waiting: VecDeque<Pending>,
}

impl Backlog {
    pub fn push(&mut self, mut pending: Pending) {
        if self.waiting.len() >= LONG
            // The first may be under way to the store.
            && let Some(at) = self.waiting.iter().skip(1).position(|older| older.alert.id == pending.alert.id)
            && let Some(older) = self.waiting.remove(at + 1)
        {
            pending.snapshot = pending.snapshot.or(older.snapshot);
        }
        self.waiting.push_back(pending);
        let with_snapshot =
            |waiting: &VecDeque<Pending>| waiting.iter().filter(|pending| pending.snapshot.is_some()).count();
        if with_snapshot(&self.waiting) > SNAPSHOTS
            && let Some(oldest) = self.waiting.iter_mut().find(|pending| pending.snapshot.is_some())
        {
            oldest.snapshot = None;
            oldest.snapshot_sha256 = None;
        }
    }

    pub fn front(&self) -> Option<&Pending> {
        self.waiting.front()
    }

    pub fn front_mut(&mut self) -> Option<&mut Pending> {
        self.waiting.front_mut()
    }

    pub fn pop(&mut self) -> Option<Pending> {
        self.waiting.pop_front()
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pending> {
        self.waiting.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Pending> {
        self.waiting.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::alert::{Disposition, Phase};
    use crate::config::Kind;

    fn pending(id: usize, revision: u32, snapshot: bool) -> Pending {
        let alert = Alert {
            id: format!("alert-{id}"),
            revision,
            phase: Phase::Active,
            disposition: Disposition::Reported,
            kind: Kind::Fire,
            level: 1,
            camera: "cam".into(),
            scene: "forest-fire".into(),
            zone: None,
            grid: None,
            position: None,
            confidence: 0.9,
            model: "m@1".into(),
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            count: 3,
            boxes: Vec::new(),
            snapshot_at: Timestamp::UNIX_EPOCH,
            evidence_start: Timestamp::UNIX_EPOCH,
            evidence_end: Timestamp::UNIX_EPOCH,
            drill: false,
        };
        Pending::new(alert, snapshot.then(|| Bytes::from_static(b"jpeg")), None)
    }

    #[test]
    fn revisions_merge_when_it_is_long_and_no_alert_is_lost() {
        let mut backlog = Backlog::default();
        for revision in 1..=1000 {
            backlog.push(pending(revision as usize % 10, revision, revision == 1000));
        }
        assert_eq!(backlog.len(), LONG);
        for id in 0..10 {
            let name = format!("alert-{id}");
            let revisions: Vec<_> =
                backlog.iter().filter(|p| p.alert.id == name).map(|p| p.alert.revision).collect();
            assert!(revisions.is_sorted() && revisions.last() > Some(&990), "{revisions:?}");
        }
    }

    #[test]
    fn a_merged_revision_keeps_the_snapshot_and_only_so_many_are_held() {
        let mut backlog = Backlog::default();
        for id in 0..LONG {
            backlog.push(pending(id, 1, true));
        }
        assert_eq!(backlog.iter().filter(|p| p.snapshot.is_some()).count(), SNAPSHOTS);
        backlog.push(pending(LONG - 1, 2, false));
        let merged = backlog.iter().last().unwrap();
        assert!(merged.snapshot.is_some() && merged.alert.revision == 2);
        assert_eq!(backlog.len(), LONG);
    }

    #[test]
    fn a_revision_follows_the_stored_one_and_what_people_did_stands() {
        let accepted = |revision| {
            let mut alert = pending(1, revision, false).alert;
            alert.disposition = Disposition::Accepted;
            alert
        };
        let told = |pending: &Pending| (pending.alert.revision, pending.alert.disposition, pending.sent);
        // Merged revisions leave a gap, in which somebody else's change must not be lost.
        for (own, stored) in [(2, 2), (2, 7), (9, 2)] {
            let mut unsent = pending(1, own, false);
            assert!(unsent.follow(&accepted(stored)));
            assert_eq!(told(&unsent), (stored + 1, Disposition::Accepted, false));
        }
        let sent = |revision| Pending { sent: true, ..pending(1, revision, false) };
        // What was sent keeps its number while it can.
        for stored in [1, 2, 3] {
            let mut known = sent(3);
            assert!(known.follow(&pending(1, stored, false).alert));
            assert_eq!(told(&known), (3, Disposition::Reported, true));
        }
        for (stored, becomes) in [(2, 4), (3, 4), (6, 7)] {
            let mut overtaken = sent(3);
            assert!(overtaken.follow(&accepted(stored)));
            assert_eq!(told(&overtaken), (becomes, Disposition::Accepted, false));
        }
        assert!(!pending(1, 3, false).follow(&accepted(u32::MAX)));
    }
}

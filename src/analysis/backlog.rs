//! Revisions of alerts that the store has not taken yet, in their order.
//!
//! Bounded without losing an alert: when it is long, an older waiting revision of the same alert gives way to the newer
//! one, which says all that it said; and only so many snapshots are held.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::alert::Alert;

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
}

#[derive(Default)]
pub struct Backlog {
    waiting: VecDeque<Pending>,
}

impl Backlog {
    pub fn push(&mut self, mut pending: Pending) {
        if self.waiting.len() >= LONG
            && let Some(at) = self.waiting.iter().position(|older| older.alert.id == pending.alert.id)
            && let Some(older) = self.waiting.remove(at)
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

    pub fn pop(&mut self) {
        self.waiting.pop_front();
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
        Pending { alert, snapshot: snapshot.then(|| Bytes::from_static(b"jpeg")), snapshot_sha256: None }
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
}

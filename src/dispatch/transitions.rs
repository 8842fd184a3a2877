//! What people did with an alert: judged, stored with its row of the audit trail, and told to every destination as the
//! alert's next revision.

use jiff::Timestamp;

use super::{Dispatch, sha256};
use crate::access::By;
use crate::access::audit::{self, Event};
use crate::alert::Alert;
use crate::alert::disposition::{Disposition, Reason};
use crate::store::{StoreError, TransitionRow};

/// Vision makes revisions, too, a few in a minute; somebody who is always slower than that sees another defect.
const ATTEMPTS: u32 = 16;

/// What somebody wants to do with an alert.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub to: Disposition,
    pub reason: Option<Reason>,
    /// Empty: none.
    pub note: String,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum TransitionError {
    #[error("there is no such alert")]
    Missing,
    #[error("the alert is {}, and can only become: {}", from.as_str(), words(from.next()))]
    Illegal { from: Disposition },
    #[error("reason: false_alarm or duplicate, with rejected and with nothing else")]
    Reason,
    /// The alert has another revision than was expected.
    #[error("the alert has changed")]
    Stale,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn words(dispositions: &[Disposition]) -> String {
    match dispositions {
        [] => "nothing any more".to_owned(),
        some => some.iter().map(|one| one.as_str()).collect::<Vec<_>>().join(", "),
    }
}

impl Dispatch {
    /// Does what is wanted where it may follow what was done before. Vision's own revisions in between do not matter,
    /// unless a revision is `expected`. Blocks.
    pub fn transition(
        &self,
        id: &str,
        wanted: &Wanted,
        expected: Option<u64>,
        by: &By,
    ) -> Result<Alert, TransitionError> {
        if wanted.reason.is_some() != (wanted.to == Disposition::Rejected) {
            return Err(TransitionError::Reason);
        }
        let store = &self.shared.store;
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let stored = store.alert(id)?.ok_or(TransitionError::Missing)?;
            if expected.is_some_and(|expected| expected != u64::from(stored.revision)) {
                return Err(TransitionError::Stale);
            }
            let from = stored.disposition;
            if !from.next().contains(&wanted.to) {
                return Err(TransitionError::Illegal { from });
            }
            let revision = stored.revision.saturating_add(1);
            let alert = Alert { revision, disposition: wanted.to, ..stored };
            let snapshot = store.snapshot(id)?.map(|jpeg| sha256(&jpeg));
            let events = self.events(&alert, snapshot.as_deref());
            let row = TransitionRow {
                at: Timestamp::now(),
                who: by.name.clone(),
                to: wanted.to,
                reason: wanted.reason,
                note: wanted.note.clone(),
                revision,
            };
            let detail = format!("{} to {}", from.as_str(), wanted.to.as_str());
            let entry = audit::entry(by, Event::Acknowledge, format!("alert/{id}"), detail);
            match store.put_transition(&alert, &row, &events, &entry) {
                Ok(()) => {
                    self.wake();
                    return Ok(alert);
                }
                Err(stale @ StoreError::Stale { .. }) => last = Some(stale),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or(TransitionError::Stale, TransitionError::Store))
    }
}

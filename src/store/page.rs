//! Cursors: the sort key of a page's last item, so that pages stay put while new items come in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Filter, Page, nanos};

/// What a query needs of a [`Filter`].
pub struct Window<K> {
    /// Nanoseconds, inclusive.
    pub from: i64,
    /// Nanoseconds, exclusive.
    pub until: i64,
    /// Only items that sort after this one.
    pub after: Option<K>,
    pub limit: usize,
}

impl<K: DeserializeOwned> Window<K> {
    /// `None` where the cursor is none of ours: an empty page.
    pub fn of(filter: &Filter) -> Option<Window<K>> {
        let after = match &filter.cursor {
            None => None,
            Some(text) => Some(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?),
        };
        let range = filter.range.clone().unwrap_or(Timestamp::MIN..Timestamp::MAX);
        let limit = filter.limit.clamp(1, 1000);
        Some(Window { from: nanos(range.start), until: nanos(range.end), after, limit })
    }
}

impl<T> Page<T> {
    pub(super) fn empty() -> Page<T> {
        Page { items: Vec::new(), next: None }
    }

    /// A page of at most `limit` of `keyed`, which holds one more where there are more.
    pub(super) fn of<K: Serialize>(mut keyed: Vec<(K, T)>, limit: usize) -> Page<T> {
        let more = keyed.len() > limit;
        keyed.truncate(limit);
        let next = keyed.last().filter(|_| more).and_then(|(key, _)| serde_json::to_vec(key).ok());
        Page {
            items: keyed.into_iter().map(|(_, item)| item).collect(),
            next: next.map(|key| URL_SAFE_NO_PAD.encode(key)),
        }
    }
}

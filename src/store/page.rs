//! Cursors: the sort key of a page's last item, so that pages stay put while new items come in.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Filter, Page, StoreError, nanos};

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
    /// # Errors
    /// [`StoreError::Cursor`] where the cursor is none of ours.
    pub fn of(filter: &Filter) -> Result<Window<K>, StoreError> {
        let after = filter.cursor.as_deref().map(key).transpose()?;
        let range = filter.range.clone().unwrap_or(Timestamp::MIN..Timestamp::MAX);
        let limit = filter.limit.clamp(1, 1000);
        Ok(Window { from: nanos(range.start), until: nanos(range.end), after, limit })
    }
}

impl<T> Page<T> {
    /// A page of what lies in memory, each with its id: in the order of the ids.
    ///
    /// # Errors
    /// [`StoreError::Cursor`] where the filter's cursor is none of ours.
    pub fn by_id(
        items: impl IntoIterator<Item = (String, T)>,
        filter: &Filter,
    ) -> Result<Page<T>, StoreError> {
        let after: Option<String> = filter.cursor.as_deref().map(key).transpose()?;
        let mut keyed: Vec<_> =
            items.into_iter().filter(|(id, _)| after.as_ref().is_none_or(|a| id > a)).collect();
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        keyed.truncate(filter.limit + 1);
        Ok(Page::of(keyed, filter.limit))
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

fn key<K: DeserializeOwned>(cursor: &str) -> Result<K, StoreError> {
    let json = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| StoreError::Cursor)?;
    serde_json::from_slice(&json).map_err(|_| StoreError::Cursor)
}

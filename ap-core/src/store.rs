//! What every store seam shares: revisions, preconditions, pages, sealed payloads and the one store error.

use std::{error::Error as StdError, fmt};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Version of a mutable record: 1 after creation, one more with each write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    /// What a record has right after it was created.
    pub const FIRST: Self = Self(1);

    /// The revision the next successful write gets.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must be true of a record for a write to happen; no write is blind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No such record exists yet.
    Absent,
    /// The record exists and nobody wrote to it since this revision was read.
    Revision(Revision),
}

impl Precondition {
    /// The revision the record has once the write succeeded.
    #[must_use]
    pub const fn resulting_revision(self) -> Revision {
        match self {
            Self::Absent => Revision::FIRST,
            Self::Revision(revision) => revision.next(),
        }
    }
}

/// Ciphertext of one payload: the only form in which payloads cross a store seam.
///
/// Bytes of an `ap-crypto` envelope; a store keeps them and returns them bit for bit. `Debug` prints the length only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Sealed(Bytes);

impl Sealed {
    /// Wraps the bytes of an envelope.
    #[must_use]
    pub const fn from_bytes(envelope: Bytes) -> Self {
        Self(envelope)
    }

    /// The bytes of the envelope.
    #[must_use]
    pub const fn as_bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealed({} bytes)", self.0.len())
    }
}

/// Keyed hash of a value that must be found again without being stored: a dedupe key, a webhook token, an external id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupHash(pub [u8; 32]);

impl fmt::Debug for LookupHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LookupHash(…)")
    }
}

/// Which part of a listing is wanted, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    after: Option<u128>,
    limit: u32,
}

impl PageRequest {
    /// Largest number of items in one page.
    pub const MAX_LIMIT: u32 = 500;

    /// The first `limit` items. Unit: items. Accepted: 1 to [`PageRequest::MAX_LIMIT`]; others are clamped into that range.
    #[must_use]
    pub fn first(limit: u32) -> Self {
        Self { after: None, limit: limit.clamp(1, Self::MAX_LIMIT) }
    }

    /// The same number of items, following `cursor`.
    #[must_use]
    pub const fn after(self, cursor: Cursor) -> Self {
        Self { after: Some(cursor.0), ..self }
    }

    /// The id the page starts behind, or `None` for the first page.
    #[must_use]
    pub const fn start_after(&self) -> Option<u128> {
        self.after
    }

    /// How many items at most.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }
}

impl Default for PageRequest {
    /// The first 100 items.
    fn default() -> Self {
        Self::first(100)
    }
}

/// Where the next page starts: the id of the last item seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(u128);

impl Cursor {
    /// A cursor behind the record with this id.
    #[must_use]
    pub const fn behind(id: u128) -> Self {
        Self(id)
    }
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items, in ascending order of id.
    pub items: Vec<T>,
    /// Present if more items follow.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Builds a page from up to `limit + 1` rows: one row too many says that another page follows.
    #[must_use]
    pub fn from_rows(mut rows: Vec<T>, request: &PageRequest, id: impl Fn(&T) -> u128) -> Self {
        let limit = request.limit as usize;
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(|row| Cursor(id(row))) } else { None };
        Self { items: rows, next }
    }
}

/// What kind of record an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Entity {
    /// A record of the audit trail.
    AuditRecord,
    /// A connection.
    Connection,
    /// A stored file.
    File,
    /// A flow.
    Flow,
    /// A version of a flow.
    FlowVersion,
    /// A job of a queue.
    Job,
    /// An entry of a run's journal.
    JournalEntry,
    /// A key of the key table.
    Key,
    /// A project.
    Project,
    /// A run.
    Run,
    /// A signal to a run.
    Signal,
    /// A data subject, or its key.
    Subject,
    /// The schedule or poll of a flow.
    Trigger,
    /// A value of a project's key-value store.
    Value,
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuditRecord => "audit record",
            Self::Connection => "connection",
            Self::File => "file",
            Self::Flow => "flow",
            Self::FlowVersion => "flow version",
            Self::Job => "job",
            Self::JournalEntry => "journal entry",
            Self::Key => "key",
            Self::Project => "project",
            Self::Run => "run",
            Self::Signal => "signal",
            Self::Subject => "data subject",
            Self::Trigger => "trigger",
            Self::Value => "stored value",
        })
    }
}

/// Why a store refused or failed a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A create met an existing record.
    #[error("{entity} already exists")]
    AlreadyExists {
        /// What exists.
        entity: Entity,
    },
    /// Another writer came first. Read again, then decide.
    #[error("{entity} was changed by another writer")]
    Conflict {
        /// What was changed.
        entity: Entity,
        /// Its revision now.
        current: Revision,
    },
    /// The lease was lost: another worker, or a restart, owns the run now. Drop all work on it. Or somebody else renews the
    /// connection.
    #[error("the lease is no longer held")]
    Fenced,
    /// The project has as many of these as it may, or as many bytes in them. Make room, or raise the limit.
    #[error("there is no room for another {entity}: the project's limit is reached")]
    LimitExceeded {
        /// Of what there are enough.
        entity: Entity,
    },
    /// No such record in this project. A record of another project reports the same.
    #[error("{entity} not found")]
    NotFound {
        /// What was looked for.
        entity: Entity,
    },
    /// The backend was busy or out of reach; the same call may succeed later.
    #[error("storage is temporarily unavailable")]
    Unavailable(#[source] BackendError),
    /// Any other failure; the same call will fail again.
    #[error("storage failed")]
    Backend(#[source] BackendError),
}

impl StoreError {
    /// Whether the same call may succeed later without any change by the caller.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The backend's own error: kept for the log, closed to matching.
#[derive(Debug)]
pub struct BackendError(Box<dyn StdError + Send + Sync>);

impl BackendError {
    /// Wraps what the backend reported; must not contain payloads or secrets.
    pub fn new(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(source.into())
    }
}

impl fmt::Display for BackendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for BackendError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_whether_more_follow() {
        let request = PageRequest::first(2);
        let full = Page::from_rows(vec![1_u128, 2, 3], &request, |row| *row);
        assert_eq!((full.items, full.next), (vec![1, 2], Some(Cursor::behind(2))));
        let last = Page::from_rows(vec![3_u128], &request, |row| *row);
        assert_eq!((last.items, last.next), (vec![3], None));
    }

    #[test]
    fn page_sizes_are_clamped() {
        assert_eq!(PageRequest::first(0).limit(), 1);
        assert_eq!(PageRequest::first(501).limit(), PageRequest::MAX_LIMIT);
    }

    #[test]
    fn sealed_prints_its_length_only() {
        let sealed = Sealed::from_bytes(Bytes::from_static(b"canary"));
        assert_eq!(format!("{sealed:?}"), "Sealed(6 bytes)");
    }
}

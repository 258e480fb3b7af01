//! [`Id`] and [`Columns`]: between the types of the seams and those of PostgreSQL.

use ap_core::{
    id::{
        AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, PlatformId, ProjectId, RunId, SignalId,
        ValueId, WorkerId,
    },
    run::RunStatus,
    scope::Scope,
    store::{LookupHash, Revision, Sealed},
    time::Timestamp,
};
use bytes::Bytes;
use sqlx::{
    Database, Decode, Encode, Postgres, Row, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo, PgValueFormat, types::Oid},
};

/// Any id, as a column of type `uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id(pub(super) u128);

macro_rules! ids {
    ($($name:ident),+) => {$(
        impl From<$name> for Id {
            fn from(id: $name) -> Self {
                Self(id.as_u128())
            }
        }

        impl From<Id> for $name {
            fn from(id: Id) -> Self {
                Self::from_u128(id.0)
            }
        }
    )+};
}

ids!(AuditId, ConnectionId, FileId, FlowId, FlowVersionId, JobId, KeyId, ProjectId, RunId, SignalId, ValueId, WorkerId);

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(UUID))
    }
}

impl PgHasArrayType for Id {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(UUID_ARRAY))
    }
}

impl Encode<'_, Postgres> for Id {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.0.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Id {
    fn decode(value: <Postgres as Database>::ValueRef<'_>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Ok(Self(u128::from_be_bytes(value.as_bytes()?.try_into()?))),
            PgValueFormat::Text => Err("an id in text form".into()),
        }
    }
}

/// The columns of a row, read from left to right.
pub(super) struct Columns<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> Columns<'r> {
    pub(super) const fn of(row: &'r PgRow) -> Self {
        Self { row, next: 0 }
    }

    pub(super) fn value<T: Decode<'r, Postgres> + Type<Postgres>>(&mut self) -> sqlx::Result<T> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index)
    }

    pub(super) fn id<T: From<Id>>(&mut self) -> sqlx::Result<T> {
        self.value::<Id>().map(T::from)
    }

    pub(super) fn maybe_id<T: From<Id>>(&mut self) -> sqlx::Result<Option<T>> {
        Ok(self.value::<Option<Id>>()?.map(T::from))
    }

    pub(super) fn time(&mut self) -> sqlx::Result<Timestamp> {
        self.value().map(Timestamp::from_micros)
    }

    pub(super) fn maybe_time(&mut self) -> sqlx::Result<Option<Timestamp>> {
        Ok(self.value::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    pub(super) fn count(&mut self) -> sqlx::Result<u64> {
        let value: i64 = self.value()?;
        u64::try_from(value).map_err(|_| corrupt("a negative number"))
    }

    pub(super) fn small(&mut self) -> sqlx::Result<u32> {
        let value: i32 = self.value()?;
        u32::try_from(value).map_err(|_| corrupt("a negative number"))
    }

    pub(super) fn revision(&mut self) -> sqlx::Result<Revision> {
        self.count().map(Revision)
    }

    pub(super) fn hash(&mut self) -> sqlx::Result<LookupHash> {
        let bytes: &[u8] = self.value()?;
        bytes.try_into().map(LookupHash).map_err(|_| corrupt("not a hash"))
    }

    pub(super) fn sealed(&mut self) -> sqlx::Result<Sealed> {
        self.value::<Vec<u8>>().map(|bytes| Sealed::from_bytes(Bytes::from(bytes)))
    }

    pub(super) fn status(&mut self) -> sqlx::Result<RunStatus> {
        self.value::<&str>()?.parse().map_err(|_| corrupt("not a status of a run"))
    }

    pub(super) fn scope(&mut self) -> sqlx::Result<Scope> {
        let bytes: &[u8] = self.value()?;
        let (tag, id) = bytes.split_first().ok_or_else(|| corrupt("an empty scope"))?;
        let wrong = || corrupt("not a scope");
        match tag {
            b'P' => PlatformId::from_slice(id).map(Scope::Platform).map_err(|_| wrong()),
            b'p' => ProjectId::from_slice(id).map(Scope::Project).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// What is stored is not what this release writes.
pub(super) fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(what.into())
}

/// Counts and epochs, as columns have them.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Numbers of things, as columns have them.
pub(super) fn signed_small(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Object identifiers of the types, fixed in PostgreSQL's catalogue.
const UUID: u32 = 2950;
const UUID_ARRAY: u32 = 2951;

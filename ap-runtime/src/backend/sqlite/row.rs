//! [`Columns`]: reading a row back; [`uint`]: writing a number.

use ap_core::{
    id::IdError,
    store::{LookupHash, Revision, Sealed},
    time::Timestamp,
};
use rusqlite::{
    Row,
    types::{FromSql, Type},
};

/// Reads the columns of a row from left to right.
pub(super) struct Columns<'r> {
    row: &'r Row<'r>,
    next: usize,
}

impl<'r> Columns<'r> {
    /// Starts at the first column.
    pub(super) const fn of(row: &'r Row<'r>) -> Self {
        Self { row, next: 0 }
    }

    /// The next column, as it is.
    pub(super) fn get<T: FromSql>(&mut self) -> rusqlite::Result<T> {
        self.row.get(self.step())
    }

    pub(super) fn int(&mut self) -> rusqlite::Result<i64> {
        self.get()
    }

    pub(super) fn uint(&mut self) -> rusqlite::Result<u64> {
        u64::try_from(self.int()?).map_err(decode)
    }

    pub(super) fn small(&mut self) -> rusqlite::Result<u32> {
        u32::try_from(self.int()?).map_err(decode)
    }

    pub(super) fn flag(&mut self) -> rusqlite::Result<bool> {
        Ok(self.int()? != 0)
    }

    pub(super) fn time(&mut self) -> rusqlite::Result<Timestamp> {
        self.int().map(Timestamp::from_micros)
    }

    pub(super) fn maybe_time(&mut self) -> rusqlite::Result<Option<Timestamp>> {
        Ok(self.get::<Option<i64>>()?.map(Timestamp::from_micros))
    }

    pub(super) fn revision(&mut self) -> rusqlite::Result<Revision> {
        self.uint().map(Revision)
    }

    pub(super) fn bytes(&mut self) -> rusqlite::Result<&'r [u8]> {
        let value = self.row.get_ref(self.step())?;
        value.as_blob().map_err(decode)
    }

    pub(super) fn text(&mut self) -> rusqlite::Result<&'r str> {
        let value = self.row.get_ref(self.step())?;
        value.as_str().map_err(decode)
    }

    pub(super) fn id<T>(&mut self, parse: impl FnOnce(&[u8]) -> Result<T, IdError>) -> rusqlite::Result<T> {
        parse(self.bytes()?).map_err(decode)
    }

    pub(super) fn maybe_id<T>(
        &mut self,
        parse: impl FnOnce(&[u8]) -> Result<T, IdError>,
    ) -> rusqlite::Result<Option<T>> {
        let value = self.row.get_ref(self.step())?;
        value.as_blob_or_null().map_err(decode)?.map(parse).transpose().map_err(decode)
    }

    pub(super) fn hash(&mut self) -> rusqlite::Result<LookupHash> {
        self.bytes()?.try_into().map(LookupHash).map_err(decode)
    }

    pub(super) fn maybe_hash(&mut self) -> rusqlite::Result<Option<LookupHash>> {
        Ok(self.get::<Option<[u8; 32]>>()?.map(LookupHash))
    }

    pub(super) fn sealed(&mut self) -> rusqlite::Result<Sealed> {
        Ok(Sealed::from_bytes(bytes::Bytes::copy_from_slice(self.bytes()?)))
    }

    const fn step(&mut self) -> usize {
        let column = self.next;
        self.next += 1;
        column
    }
}

/// A number as SQLite keeps it: signed.
pub(super) fn uint(value: u64) -> rusqlite::Result<i64> {
    i64::try_from(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// A stored value is not what its column holds.
pub(super) fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Null, error.into())
}

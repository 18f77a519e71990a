//! The primitive fields of the records that Kafka's coordinators store, plain or flexible: read and written.

use std::ops::RangeInclusive;

use uuid::Uuid;

use crate::batch::unsigned_varint;

/// Why a record cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoredRecordError {
    /// The bytes end inside a field, or a count exceeds them.
    #[error("the record is truncated")]
    Truncated,
    /// Bytes follow the last field.
    #[error("bytes follow the record's last field")]
    Surplus,
    /// A string is not UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// A length is negative, or null where nothing may be null.
    #[error("a length is invalid")]
    Length,
    /// Written by a newer Kafka in a way that cannot be read.
    #[error("version {0} of the value is not supported")]
    Version(i16),
    /// A string or byte field is too long for its length field, on writing.
    #[error("a field is too long")]
    TooLong,
    /// A field has a value that no writer gives it.
    #[error("the value {0} is not valid in its field")]
    Value(i64),
}

/// Reads fields in order; every length is checked against what is left.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { rest: bytes, flexible }
    }

    /// Reads the version that a value begins with; its fields are flexible from version `flexible_since` on.
    pub(crate) fn of_value(
        value: &'a [u8],
        versions: RangeInclusive<i16>,
        flexible_since: i16,
    ) -> Result<(i16, Self), StoredRecordError> {
        let mut reader = Self::new(value, false);
        let version = reader.i16()?;
        if !versions.contains(&version) {
            return Err(StoredRecordError::Version(version));
        }
        reader.flexible = version >= flexible_since;
        Ok((version, reader))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], StoredRecordError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(StoredRecordError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], StoredRecordError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(StoredRecordError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(crate) fn i8(&mut self) -> Result<i8, StoredRecordError> {
        self.array().map(i8::from_be_bytes)
    }

    pub(crate) fn i16(&mut self) -> Result<i16, StoredRecordError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, StoredRecordError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Result<i64, StoredRecordError> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn uuid(&mut self) -> Result<Uuid, StoredRecordError> {
        self.array().map(Uuid::from_bytes)
    }

    fn varint(&mut self) -> Result<u64, StoredRecordError> {
        let (value, len) = unsigned_varint(self.rest).ok_or(StoredRecordError::Truncated)?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// A compact length, `None` for null.
    fn compact_len(&mut self) -> Result<Option<usize>, StoredRecordError> {
        match self.varint()?.checked_sub(1) {
            None => Ok(None),
            Some(len) => usize::try_from(len).map(Some).map_err(|_| StoredRecordError::Length),
        }
    }

    fn plain_len(length: i64) -> Result<Option<usize>, StoredRecordError> {
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| StoredRecordError::Length),
        }
    }

    pub(crate) fn nullable_string(&mut self) -> Result<Option<String>, StoredRecordError> {
        let len = if self.flexible { self.compact_len()? } else { Self::plain_len(self.i16()?.into())? };
        let Some(len) = len else { return Ok(None) };
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| StoredRecordError::NotUtf8)?;
        Ok(Some(text.to_owned()))
    }

    pub(crate) fn string(&mut self) -> Result<String, StoredRecordError> {
        self.nullable_string()?.ok_or(StoredRecordError::Length)
    }

    fn nullable_len32(&mut self) -> Result<Option<usize>, StoredRecordError> {
        if self.flexible { self.compact_len() } else { Self::plain_len(self.i32()?.into()) }
    }

    fn len32(&mut self) -> Result<usize, StoredRecordError> {
        self.nullable_len32()?.ok_or(StoredRecordError::Length)
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], StoredRecordError> {
        let len = self.len32()?;
        self.take(len)
    }

    /// The count of an array whose elements have at least `element_len_min` bytes each.
    pub(crate) fn count(&mut self, element_len_min: usize) -> Result<usize, StoredRecordError> {
        self.nullable_count(element_len_min)?.ok_or(StoredRecordError::Length)
    }

    /// As [`Self::count`], `None` for a null array.
    pub(crate) fn nullable_count(&mut self, element_len_min: usize) -> Result<Option<usize>, StoredRecordError> {
        let count = self.nullable_len32()?;
        let fits = count.is_none_or(|count| count <= self.rest.len() / element_len_min);
        if fits { Ok(count) } else { Err(StoredRecordError::Truncated) }
    }

    /// Tagged fields, if this is a flexible version.
    pub(crate) fn tags(
        &mut self,
        mut field: impl FnMut(u64, &'a [u8]) -> Result<(), StoredRecordError>,
    ) -> Result<(), StoredRecordError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = usize::try_from(self.varint()?).map_err(|_| StoredRecordError::Length)?;
            field(tag, self.take(len)?)?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<(), StoredRecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(StoredRecordError::Surplus) }
    }
}

/// Writes fields in order behind a version.
pub(crate) struct Writer {
    out: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub(crate) fn new(version: i16, flexible: bool) -> Self {
        Self { out: version.to_be_bytes().to_vec(), flexible }
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: Uuid) {
        self.out.extend_from_slice(value.as_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn compact_len(&mut self, len: usize) -> Result<(), StoredRecordError> {
        let len = i32::try_from(len).map_err(|_| StoredRecordError::TooLong)?;
        self.varint(len.unsigned_abs() + 1);
        Ok(())
    }

    pub(crate) fn nullable_string(&mut self, text: Option<&str>) -> Result<(), StoredRecordError> {
        match text {
            None if self.flexible => self.varint(0),
            None => self.out.extend_from_slice(&(-1_i16).to_be_bytes()),
            Some(text) => self.string(text)?,
        }
        Ok(())
    }

    pub(crate) fn string(&mut self, text: &str) -> Result<(), StoredRecordError> {
        // Kafka limits strings to what an i16 can say in flexible versions too.
        let len = i16::try_from(text.len()).map_err(|_| StoredRecordError::TooLong)?;
        if self.flexible {
            self.compact_len(text.len())?;
        } else {
            self.out.extend_from_slice(&len.to_be_bytes());
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(crate) fn count(&mut self, count: usize) -> Result<(), StoredRecordError> {
        if self.flexible {
            return self.compact_len(count);
        }
        self.i32(i32::try_from(count).map_err(|_| StoredRecordError::TooLong)?);
        Ok(())
    }

    /// The length of a null array.
    pub(crate) fn null_count(&mut self) {
        if self.flexible {
            self.varint(0);
        } else {
            self.i32(-1);
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), StoredRecordError> {
        self.count(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Tagged fields in ascending order, if this is a flexible version; dropped otherwise.
    pub(crate) fn tags(&mut self, fields: &[(u32, &[u8])]) -> Result<(), StoredRecordError> {
        if self.flexible {
            self.varint(fields.len() as u32);
            for (tag, field) in fields {
                self.varint(*tag);
                self.varint(u32::try_from(field.len()).map_err(|_| StoredRecordError::TooLong)?);
                self.out.extend_from_slice(field);
            }
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }
}

//! Reading and writing the primitive fields of Kafka's record schemas, plain or flexible.

use super::GroupRecordError;
use crate::batch::unsigned_varint;

/// Reads fields in order; every length is checked against what is left.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], flexible: bool) -> Self {
        Self { rest: bytes, flexible }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GroupRecordError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(GroupRecordError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], GroupRecordError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(GroupRecordError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, GroupRecordError> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, GroupRecordError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, GroupRecordError> {
        self.array().map(i64::from_be_bytes)
    }

    fn varint(&mut self) -> Result<u64, GroupRecordError> {
        let (value, len) = unsigned_varint(self.rest).ok_or(GroupRecordError::Truncated)?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    /// A compact length, `None` for null.
    fn compact_len(&mut self) -> Result<Option<usize>, GroupRecordError> {
        match self.varint()?.checked_sub(1) {
            None => Ok(None),
            Some(len) => usize::try_from(len).map(Some).map_err(|_| GroupRecordError::Length),
        }
    }

    fn plain_len(length: i64) -> Result<Option<usize>, GroupRecordError> {
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| GroupRecordError::Length),
        }
    }

    pub(super) fn nullable_string(&mut self) -> Result<Option<String>, GroupRecordError> {
        let len = if self.flexible { self.compact_len()? } else { Self::plain_len(self.i16()?.into())? };
        let Some(len) = len else { return Ok(None) };
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| GroupRecordError::NotUtf8)?;
        Ok(Some(text.to_owned()))
    }

    pub(super) fn string(&mut self) -> Result<String, GroupRecordError> {
        self.nullable_string()?.ok_or(GroupRecordError::Length)
    }

    fn len32(&mut self) -> Result<usize, GroupRecordError> {
        let len = if self.flexible { self.compact_len()? } else { Self::plain_len(self.i32()?.into())? };
        len.ok_or(GroupRecordError::Length)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], GroupRecordError> {
        let len = self.len32()?;
        self.take(len)
    }

    /// The count of an array whose elements have at least `element_len_min` bytes each.
    pub(super) fn count(&mut self, element_len_min: usize) -> Result<usize, GroupRecordError> {
        let count = self.len32()?;
        if count > self.rest.len() / element_len_min { Err(GroupRecordError::Truncated) } else { Ok(count) }
    }

    /// Tagged fields, if this is a flexible version.
    pub(super) fn tags(
        &mut self,
        mut field: impl FnMut(u64, &'a [u8]) -> Result<(), GroupRecordError>,
    ) -> Result<(), GroupRecordError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let len = usize::try_from(self.varint()?).map_err(|_| GroupRecordError::Length)?;
            field(tag, self.take(len)?)?;
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), GroupRecordError> {
        if self.rest.is_empty() { Ok(()) } else { Err(GroupRecordError::Surplus) }
    }
}

/// Writes fields in order behind a version.
pub(super) struct Writer {
    out: Vec<u8>,
    flexible: bool,
}

impl Writer {
    pub(super) fn new(version: i16, flexible: bool) -> Self {
        Self { out: version.to_be_bytes().to_vec(), flexible }
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.out.extend_from_slice(&value.to_be_bytes());
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn compact_len(&mut self, len: usize) -> Result<(), GroupRecordError> {
        let len = i32::try_from(len).map_err(|_| GroupRecordError::TooLong)?;
        self.varint(len.unsigned_abs() + 1);
        Ok(())
    }

    pub(super) fn nullable_string(&mut self, text: Option<&str>) -> Result<(), GroupRecordError> {
        match text {
            None if self.flexible => self.varint(0),
            None => self.out.extend_from_slice(&(-1_i16).to_be_bytes()),
            Some(text) => self.string(text)?,
        }
        Ok(())
    }

    pub(super) fn string(&mut self, text: &str) -> Result<(), GroupRecordError> {
        // Kafka limits strings to what an i16 can say in flexible versions too.
        let len = i16::try_from(text.len()).map_err(|_| GroupRecordError::TooLong)?;
        if self.flexible {
            self.compact_len(text.len())?;
        } else {
            self.out.extend_from_slice(&len.to_be_bytes());
        }
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    pub(super) fn count(&mut self, count: usize) -> Result<(), GroupRecordError> {
        if self.flexible {
            return self.compact_len(count);
        }
        self.i32(i32::try_from(count).map_err(|_| GroupRecordError::TooLong)?);
        Ok(())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), GroupRecordError> {
        self.count(bytes.len())?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Tagged fields in ascending order, if this is a flexible version; dropped otherwise.
    pub(super) fn tags(&mut self, fields: &[(u32, &[u8])]) -> Result<(), GroupRecordError> {
        if self.flexible {
            self.varint(fields.len() as u32);
            for (tag, field) in fields {
                self.varint(*tag);
                self.varint(u32::try_from(field.len()).map_err(|_| GroupRecordError::TooLong)?);
                self.out.extend_from_slice(field);
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.out
    }
}

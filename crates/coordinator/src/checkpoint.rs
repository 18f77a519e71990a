//! The checkpoint of a shard: its persisted state at one offset, so that opening it replays only what follows.
//!
//! Layout, version 2 (integers little-endian; `str` is u32 length + UTF-8; `bytes` is u32 length + bytes;
//! `opt` is u8 0 or 1 + the value if 1):
//!
//! ```text
//! u8  version = 2, or 1 where nothing follows the groups with offsets
//! u32 groups, each: str id · str protocol type · i32 generation · opt str protocol · opt str leader
//!     · i64 state timestamp ms · u32 members, each: str id · opt str instance id · str client id · str client host
//!       · i32 rebalance timeout ms · i32 session timeout ms · bytes subscription · bytes assignment
//! u32 groups with offsets, each: str id · u32 topics, each: str name · u32 partitions, each:
//!     i32 index · i64 offset · i32 leader epoch · str metadata · i64 commit timestamp ms · i64 expire timestamp ms
//! u32 records of consumer groups, each as it is stored: bytes key · bytes value
//! u32 producers with open transactions, each: i64 id · u32 offsets, each as it is stored: bytes key · bytes value
//! ```
//!
//! Keys are strictly ascending. Integrity is the storage's concern (it checks a CRC of whatever enters memory);
//! any bytes nevertheless decode to a value or an error, in memory proportional to their length.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::persisted::{GroupOffsets, Persisted};
use crate::record::{CommittedOffset, CoordinatorRecord, GroupMetadata, MemberMetadata};

/// Written while there are consumer groups: brokers that know none of them read version 1 alone.
const VERSION: u8 = 2;
const VERSION_WITHOUT_CONSUMER_GROUPS: u8 = 1;

/// Why bytes are no checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// Written by a version this one does not know.
    #[error("checkpoint of version {0}, which is not known")]
    Version(u8),
    /// Not what the layout says.
    #[error("damaged checkpoint, {left} bytes before its end: {reason}")]
    Damaged {
        /// Bytes that were left to read.
        left: usize,
        /// What does not fit.
        reason: &'static str,
    },
}

impl Persisted {
    /// This state as bytes.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<u8> {
        let has_more = !self.consumer_groups.is_empty() || !self.staged.is_empty();
        let mut out = Writer(vec![if has_more { VERSION } else { VERSION_WITHOUT_CONSUMER_GROUPS }]);
        out.count(self.groups.len());
        for (id, group) in &self.groups {
            out.str(id);
            out.group(group);
        }
        out.count(self.offsets.len());
        for (id, topics) in &self.offsets {
            out.str(id);
            out.count(topics.len());
            for (topic, partitions) in topics {
                out.str(topic);
                out.count(partitions.len());
                for (index, committed) in partitions {
                    out.i32(*index);
                    out.committed(committed);
                }
            }
        }
        if has_more {
            let records = self.consumer_groups.iter().flat_map(|(id, group)| group.records(id));
            out.stored(records.map(CoordinatorRecord::Consumer));
            out.count(self.staged.len());
            for (producer_id, staged) in &self.staged {
                out.i64(*producer_id);
                out.stored(staged.iter().map(|((group, topic, partition), value)| CoordinatorRecord::Offset {
                    group: Arc::clone(group),
                    topic: Arc::clone(topic),
                    partition: *partition,
                    value: Some(value.clone()),
                }));
            }
        }
        out.0
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Persisted, CheckpointError> {
    let mut input = Reader(bytes);
    let [version] = input.array()?;
    if !(VERSION_WITHOUT_CONSUMER_GROUPS..=VERSION).contains(&version) {
        return Err(CheckpointError::Version(version));
    }
    let groups = input.map(|input| input.str(), Reader::group)?;
    let offsets = input.map(|input| input.str(), |input| input.map(|input| input.str(), Reader::partitions))?;
    if offsets.values().any(|topics: &GroupOffsets| topics.is_empty() || topics.values().any(BTreeMap::is_empty)) {
        return Err(input.damaged("a group or topic without offsets"));
    }
    let mut persisted = Persisted { groups, offsets, ..Persisted::default() };
    if version == VERSION {
        input.consumer_groups(&mut persisted)?;
        input.staged(&mut persisted)?;
    }
    if input.0.is_empty() { Ok(persisted) } else { Err(input.damaged("bytes follow")) }
}

/// Writes the fields of a checkpoint, of groups or of transactions.
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn count(&mut self, count: usize) {
        // All counted things come from records, whose lengths and numbers Kafka holds in 31 bits.
        let count = u32::try_from(count).expect("fits 32 bits");
        self.0.extend_from_slice(&count.to_le_bytes());
    }

    pub(crate) fn i8(&mut self, value: i8) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.count(value.len());
        self.0.extend_from_slice(value);
    }

    pub(crate) fn str(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }

    fn opt_str(&mut self, value: Option<&Arc<str>>) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            self.str(value);
        }
    }

    fn group(&mut self, group: &GroupMetadata) {
        self.str(&group.protocol_type);
        self.i32(group.generation);
        self.opt_str(group.protocol.as_ref());
        self.opt_str(group.leader.as_ref());
        self.i64(group.state_timestamp_ms);
        self.count(group.members.len());
        for member in &group.members {
            self.str(&member.member_id);
            self.opt_str(member.group_instance_id.as_ref());
            self.str(&member.client_id);
            self.str(&member.client_host);
            self.i32(member.rebalance_timeout_ms);
            self.i32(member.session_timeout_ms);
            self.bytes(&member.subscription);
            self.bytes(&member.assignment);
        }
    }

    /// Counted records, which were encoded before, when they were appended.
    fn stored(&mut self, records: impl Iterator<Item = CoordinatorRecord>) {
        let stored: Vec<_> = records.filter_map(|record| record.encode().ok()).collect();
        self.count(stored.len());
        for (key, value) in stored {
            self.bytes(&key);
            self.bytes(&value.unwrap_or_default());
        }
    }

    fn committed(&mut self, committed: &CommittedOffset) {
        self.i64(committed.offset);
        self.i32(committed.leader_epoch);
        self.str(&committed.metadata);
        self.i64(committed.commit_timestamp_ms);
        self.i64(committed.expire_timestamp_ms);
    }
}

/// Reads them: whatever the bytes are, in memory proportional to their length.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn damaged(&self, reason: &'static str) -> CheckpointError {
        CheckpointError::Damaged { left: self.0.len(), reason }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| self.damaged("cut short"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn count(&mut self) -> Result<usize, CheckpointError> {
        let count = u32::from_le_bytes(self.array()?) as usize;
        // Whatever is counted takes at least one byte each.
        if count > self.0.len() { Err(self.damaged("a count beyond the end")) } else { Ok(count) }
    }

    pub(crate) fn i8(&mut self) -> Result<i8, CheckpointError> {
        Ok(i8::from_le_bytes(self.array()?))
    }

    pub(crate) fn i16(&mut self) -> Result<i16, CheckpointError> {
        Ok(i16::from_le_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, CheckpointError> {
        Ok(i32::from_le_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, CheckpointError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn slice(&mut self) -> Result<&'a [u8], CheckpointError> {
        let length = self.count()?;
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        Ok(head)
    }

    fn utf8(&mut self) -> Result<&'a str, CheckpointError> {
        std::str::from_utf8(self.slice()?).map_err(|_| self.damaged("a string that is not UTF-8"))
    }

    pub(crate) fn str(&mut self) -> Result<Arc<str>, CheckpointError> {
        self.utf8().map(Arc::from)
    }

    fn opt_str(&mut self) -> Result<Option<Arc<str>>, CheckpointError> {
        match self.array()? {
            [0] => Ok(None),
            [1] => self.str().map(Some),
            _ => Err(self.damaged("a flag that is neither 0 nor 1")),
        }
    }

    /// A counted map whose keys ascend strictly.
    pub(crate) fn map<K: Ord, V>(
        &mut self,
        key: impl Fn(&mut Self) -> Result<K, CheckpointError>,
        value: impl Fn(&mut Self) -> Result<V, CheckpointError>,
    ) -> Result<BTreeMap<K, V>, CheckpointError> {
        let mut map = BTreeMap::new();
        for _ in 0..self.count()? {
            let key = key(self)?;
            if map.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(self.damaged("keys that do not ascend"));
            }
            let value = value(self)?;
            map.insert(key, value);
        }
        Ok(map)
    }

    fn group(&mut self) -> Result<GroupMetadata, CheckpointError> {
        let mut group = GroupMetadata {
            protocol_type: self.str()?,
            generation: self.i32()?,
            protocol: self.opt_str()?,
            leader: self.opt_str()?,
            state_timestamp_ms: self.i64()?,
            members: Vec::new(),
        };
        for _ in 0..self.count()? {
            group.members.push(MemberMetadata {
                member_id: self.str()?,
                group_instance_id: self.opt_str()?,
                client_id: self.str()?,
                client_host: self.str()?,
                rebalance_timeout_ms: self.i32()?,
                session_timeout_ms: self.i32()?,
                subscription: Bytes::copy_from_slice(self.slice()?),
                assignment: Bytes::copy_from_slice(self.slice()?),
            });
        }
        Ok(group)
    }

    fn stored(&mut self) -> Result<Option<CoordinatorRecord>, CheckpointError> {
        let (key, value) = (self.slice()?, self.slice()?);
        CoordinatorRecord::decode(key, Some(value)).map_err(|_| self.damaged("a record that cannot be read"))
    }

    fn consumer_groups(&mut self, persisted: &mut Persisted) -> Result<(), CheckpointError> {
        for _ in 0..self.count()? {
            match self.stored()? {
                Some(record @ CoordinatorRecord::Consumer(_)) => persisted.replay(&record),
                _ => return Err(self.damaged("a record that is no consumer group's")),
            }
        }
        Ok(())
    }

    fn staged(&mut self, persisted: &mut Persisted) -> Result<(), CheckpointError> {
        for _ in 0..self.count()? {
            let producer_id = self.i64()?;
            for _ in 0..self.count()? {
                match self.stored()? {
                    Some(CoordinatorRecord::Offset { group, topic, partition, value: Some(value) }) => {
                        persisted.staged.entry(producer_id).or_default().insert((group, topic, partition), value);
                    }
                    _ => return Err(self.damaged("a record that is no offset")),
                }
            }
        }
        Ok(())
    }

    fn partitions(&mut self) -> Result<BTreeMap<i32, CommittedOffset>, CheckpointError> {
        self.map(Self::i32, |input| {
            Ok(CommittedOffset {
                offset: input.i64()?,
                leader_epoch: input.i32()?,
                metadata: input.utf8()?.into(),
                commit_timestamp_ms: input.i64()?,
                expire_timestamp_ms: input.i64()?,
            })
        })
    }
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;

//! Decodes and verifies a whole object: what `ottla object inspect` prints.

use std::fmt;

use bytes::Bytes;

use crate::format::data_block::{DataBlock, RecordEntry};
use crate::format::footer::{FOOTER_BYTES, Footer};
use crate::format::object_index::{BlockEntry, ObjectIndex};
use crate::format::{FormatError, crc32c};

/// A verified object. Its `Display` is a report in lines.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Bytes of the object.
    pub size: u64,
    /// Who wrote it.
    pub footer: Footer,
    /// What lies where.
    pub index: ObjectIndex,
    /// The records of each data block, in the order of the index.
    pub blocks: Vec<Vec<RecordEntry>>,
}

/// Decodes every part of an object and checks every CRC.
///
/// Errors: the first thing that is not as the format has it.
pub fn inspect(object: &Bytes) -> Result<Inspection, FormatError> {
    let size = object.len() as u64;
    let footer = Footer::decode(object, size)?;
    let index_bytes = part(object, footer.index_position, footer.index_bytes(), "index")?;
    let index = ObjectIndex::decode(&footer, &index_bytes)?;
    let mut covered: u64 = FOOTER_BYTES as u64 + footer.index_bytes();
    let mut blocks = Vec::with_capacity(index.blocks.len());
    for entry in &index.blocks {
        let bytes = part(object, entry.position, u64::from(entry.size), "data block")?;
        blocks.push(DataBlock::decode(entry, &bytes)?.records().to_vec());
        covered += u64::from(entry.size);
        if !index.slices.iter().any(|slice| holds(slice, entry)) {
            return Err(FormatError::new("index", format!("the block at {} is in no slice", entry.position)));
        }
    }
    for entry in &index.checkpoints {
        let bytes = part(object, entry.position, u64::from(entry.len), "checkpoint")?;
        if crc32c(&bytes) != entry.crc {
            return Err(FormatError::new("checkpoint", format!("the CRC at {} does not match", entry.position)));
        }
        covered += u64::from(entry.len);
    }
    if covered != size {
        return Err(FormatError::new("object", format!("{covered} of {size} bytes belong to a part")));
    }
    Ok(Inspection { size, footer, index, blocks })
}

fn holds(slice: &crate::format::object_index::SliceEntry, entry: &BlockEntry) -> bool {
    // A record may begin below its slice, where the slice begins within it.
    slice.stream == entry.stream && entry.base < slice.end && entry.end > slice.start && entry.end <= slice.end
}

fn part(object: &Bytes, position: u64, len: u64, name: &'static str) -> Result<Bytes, FormatError> {
    let outside = || FormatError::new(name, format!("{len} bytes at {position} are outside of the object"));
    let start = usize::try_from(position).map_err(|_| outside())?;
    let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len)).ok_or_else(outside)?;
    if end > object.len() { Err(outside()) } else { Ok(object.slice(start..end)) }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let footer = &self.footer;
        writeln!(
            f,
            "object {} attempt {} of node {} in epoch {}: {} bytes, {} slices, {} data blocks, {} checkpoints",
            footer.object,
            footer.attempt,
            footer.node,
            footer.node_epoch,
            self.size,
            footer.slices,
            footer.blocks,
            footer.checkpoints
        )?;
        for slice in &self.index.slices {
            let (stream, epoch, start, end) = (slice.stream, slice.epoch, slice.start, slice.end);
            writeln!(f, "slice stream {stream} epoch {epoch} offsets {start}..{end}")?;
        }
        for (entry, records) in self.index.blocks.iter().zip(&self.blocks) {
            writeln!(
                f,
                "block stream {} offsets {}..{} position {} bytes {} records {} max timestamp {} crc {:08x}",
                entry.stream,
                entry.base,
                entry.end,
                entry.position,
                entry.size,
                entry.records,
                entry.max_timestamp_ms,
                entry.crc
            )?;
            for record in records {
                let head = &record.head;
                writeln!(
                    f,
                    "  record offsets {}..{} bytes {} max timestamp {}",
                    head.base_offset, head.next_offset, head.len, head.max_timestamp_ms
                )?;
            }
        }
        for entry in &self.index.checkpoints {
            let (stream, offset, len) = (entry.stream, entry.offset, entry.len);
            writeln!(f, "checkpoint stream {stream} at {offset} position {} bytes {len}", entry.position)?;
        }
        Ok(())
    }
}

//! LZ4 frames as Kafka reads them: one frame, version 1, independent blocks; bytes behind its end mark are
//! ignored. Block and header checksums are verified as Kafka's reader does; the content checksum is not
//! (the batch's CRC-32C covers every byte already).
//!
//! Frame, little-endian: magic u32 · flags u8 · block descriptor u8 · [content size u64] · header
//! checksum u8, then blocks {length u32, high bit = stored; bytes; [checksum u32]}, end mark 0,
//! [content checksum u32].

use super::blocks::BlockSource;
use super::codec::CodecError;

const MAGIC: u32 = 0x184D_2204;
const STORED: u32 = 1 << 31;
const MALFORMED: CodecError = CodecError::Malformed("lz4");

/// The blocks of one LZ4 frame.
pub(super) struct Lz4Frame<'a> {
    input: &'a [u8],
    block_max: usize,
    block_checksums: bool,
    ended: bool,
}

impl<'a> Lz4Frame<'a> {
    /// The frame in `input`.
    pub(super) fn new(input: &'a [u8]) -> Result<Self, CodecError> {
        let (magic, rest) = input.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let [flags, descriptor, ..] = *rest else { return Err(MALFORMED) };
        let independent = flags & 0x20 != 0;
        let dictionary = flags & 0x01 != 0;
        if u32::from_le_bytes(*magic) != MAGIC || flags >> 6 != 1 || !independent || dictionary || flags & 0x02 != 0 {
            return Err(MALFORMED);
        }
        let block_max = match (descriptor >> 4 & 0x07, descriptor & 0x8F) {
            (size @ 4..=7, 0) => 1 << (8 + 2 * size),
            _ => return Err(MALFORMED),
        };
        let header_len = if flags & 0x08 != 0 { 10 } else { 2 };
        let (header, rest) = rest.split_at_checked(header_len).ok_or(MALFORMED)?;
        let (&checksum, rest) = rest.split_first().ok_or(MALFORMED)?;
        if (xxh32(header) >> 8) as u8 != checksum {
            return Err(MALFORMED);
        }
        let block_checksums = flags & 0x10 != 0;
        Ok(Self { input: rest, block_max, block_checksums, ended: false })
    }
}

impl BlockSource for Lz4Frame<'_> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<Option<usize>, CodecError> {
        if self.ended {
            return Ok(None);
        }
        let (length, rest) = self.input.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let length = u32::from_le_bytes(*length);
        if length == 0 {
            self.ended = true;
            return Ok(None);
        }
        let size = (length & !STORED) as usize;
        if size > self.block_max {
            return Err(MALFORMED);
        }
        let (data, mut rest) = rest.split_at_checked(size).ok_or(MALFORMED)?;
        if self.block_checksums {
            let (checksum, after) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
            if xxh32(data) != u32::from_le_bytes(*checksum) {
                return Err(MALFORMED);
            }
            rest = after;
        }
        self.input = rest;
        // LZ4 expands at most 255-fold, so a small block never asks for the frame's whole block size.
        let room = self.block_max.min(size.saturating_mul(255).saturating_add(64));
        if block.len() < room {
            block.resize(room, 0);
        }
        if length & STORED != 0 {
            block[..size].copy_from_slice(data);
            return Ok(Some(size));
        }
        lz4_flex::block::decompress_into(data, &mut block[..room]).map(Some).map_err(|_| MALFORMED)
    }
}

const PRIME_1: u32 = 0x9E37_79B1;
const PRIME_2: u32 = 0x85EB_CA77;
const PRIME_3: u32 = 0xC2B2_AE3D;
const PRIME_4: u32 = 0x27D4_EB2F;
const PRIME_5: u32 = 0x1656_67B1;

/// xxHash, 32 bits, seed 0: the checksum of LZ4 frames.
fn xxh32(data: &[u8]) -> u32 {
    let mut stripes = data.chunks_exact(16);
    let mut hash = if data.len() < 16 {
        PRIME_5
    } else {
        let mut lanes = [PRIME_1.wrapping_add(PRIME_2), PRIME_2, 0, 0_u32.wrapping_sub(PRIME_1)];
        for stripe in &mut stripes {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(4)) {
                let mixed = lane.wrapping_add(word_of(word).wrapping_mul(PRIME_2));
                *lane = mixed.rotate_left(13).wrapping_mul(PRIME_1);
            }
        }
        let [a, b, c, d] = lanes;
        let pairs = a.rotate_left(1).wrapping_add(b.rotate_left(7));
        pairs.wrapping_add(c.rotate_left(12)).wrapping_add(d.rotate_left(18))
    };
    hash = hash.wrapping_add(data.len() as u32);
    let mut words = stripes.remainder().chunks_exact(4);
    for word in &mut words {
        hash = hash.wrapping_add(word_of(word).wrapping_mul(PRIME_3)).rotate_left(17).wrapping_mul(PRIME_4);
    }
    for &byte in words.remainder() {
        hash = hash.wrapping_add(u32::from(byte).wrapping_mul(PRIME_5)).rotate_left(11).wrapping_mul(PRIME_1);
    }
    hash = (hash ^ hash >> 15).wrapping_mul(PRIME_2);
    hash = (hash ^ hash >> 13).wrapping_mul(PRIME_3);
    hash ^ hash >> 16
}

fn word_of(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh32_known_values() {
        assert_eq!(xxh32(b""), 0x02CC_5D05);
        assert_eq!(xxh32(b"abc"), 0x32D1_53FF);
        assert_eq!(xxh32(b"Nobody inspects the spammish repetition"), 0xE229_3B2F);
    }
}

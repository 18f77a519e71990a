//! Snappy as Kafka uses it: the xerial framing, or one bare block.
//!
//! Framing: magic `82 'SNAPPY' 00` · version i32 · lowest compatible version i32, then chunks of
//! {compressed length i32, snappy block}, all big-endian. A magic may come again between chunks
//! (concatenated streams).

use std::io::{self, Write};

use super::blocks::BlockSource;
use super::codec::CodecError;

const MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const HEADER_LEN: usize = 16;
/// What snappy can expand at most: a 3-byte copy element yields 64 bytes.
const RATIO_MAX: usize = 22;
/// Bytes per block on writing, the xerial library's default.
const BLOCK_LEN: usize = 32 << 10;
const MALFORMED: CodecError = CodecError::Malformed("snappy");

/// The blocks of snappy data.
pub(super) struct SnappyBlocks<'a> {
    input: &'a [u8],
    framed: bool,
}

impl<'a> SnappyBlocks<'a> {
    /// Those in `input`.
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, framed: input.len() >= HEADER_LEN && input.starts_with(&MAGIC) }
    }
}

impl BlockSource for SnappyBlocks<'_> {
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<Option<usize>, CodecError> {
        if self.input.is_empty() {
            return Ok(None);
        }
        let compressed = if self.framed {
            if self.input.starts_with(&MAGIC) {
                self.input = self.input.get(HEADER_LEN..).ok_or(MALFORMED)?;
                return Ok(Some(0));
            }
            let (length, rest) = self.input.split_first_chunk::<4>().ok_or(MALFORMED)?;
            let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| MALFORMED)?;
            let (compressed, rest) = rest.split_at_checked(length).ok_or(MALFORMED)?;
            self.input = rest;
            compressed
        } else {
            std::mem::take(&mut self.input)
        };
        let len = snap::raw::decompress_len(compressed).map_err(|_| MALFORMED)?;
        if len > compressed.len().saturating_mul(RATIO_MAX) {
            return Err(MALFORMED);
        }
        if block.len() < len {
            block.resize(len, 0);
        }
        snap::raw::Decoder::new().decompress(compressed, &mut block[..len]).map(Some).map_err(|_| MALFORMED)
    }
}

/// Writes the xerial framing.
pub(super) struct SnappyEncoder<W> {
    out: W,
    pending: Vec<u8>,
    compressed: Vec<u8>,
    encoder: snap::raw::Encoder,
}

impl<W: Write> SnappyEncoder<W> {
    /// Starts a stream in `out`.
    pub(super) fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&MAGIC)?;
        out.write_all(&1_i32.to_be_bytes())?;
        out.write_all(&1_i32.to_be_bytes())?;
        Ok(Self {
            out,
            pending: Vec::with_capacity(BLOCK_LEN),
            compressed: vec![0; snap::raw::max_compress_len(BLOCK_LEN)],
            encoder: snap::raw::Encoder::new(),
        })
    }

    /// Writes what is pending and returns the buffer behind.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.write_block()?;
        Ok(self.out)
    }

    fn write_block(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let len = self.encoder.compress(&self.pending, &mut self.compressed).map_err(io::Error::other)?;
        // A block of 32 KiB compresses to far less than 2 GiB.
        self.out.write_all(&(len as i32).to_be_bytes())?;
        self.out.write_all(&self.compressed[..len])?;
        self.pending.clear();
        Ok(())
    }
}

impl<W: Write> Write for SnappyEncoder<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(BLOCK_LEN - self.pending.len());
        self.pending.extend_from_slice(&data[..count]);
        if self.pending.len() == BLOCK_LEN {
            self.write_block()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

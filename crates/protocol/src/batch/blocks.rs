//! Reading what is compressed block by block.

use super::codec::CodecError;

/// Blocks of a compressed payload, in order.
pub(super) trait BlockSource {
    /// Decodes the next block to the front of `block`, which keeps its memory from one to the next, and returns its
    /// length; `None` at the end.
    fn next_block(&mut self, block: &mut Vec<u8>) -> Result<Option<usize>, CodecError>;
}

/// A payload as a stream of decoded bytes.
pub(super) struct Blocks<S> {
    source: S,
    block: Vec<u8>,
    at: usize,
    len: usize,
}

impl<S: BlockSource> Blocks<S> {
    /// Decodes into `block`.
    pub(super) fn new(source: S, block: Vec<u8>) -> Self {
        Self { source, block, at: 0, len: 0 }
    }

    /// Gives the block memory back.
    pub(super) fn into_block(self) -> Vec<u8> {
        self.block
    }

    /// Decodes into `out`; 0 at the end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        while self.at == self.len {
            (self.at, self.len) = (0, 0);
            match self.source.next_block(&mut self.block)? {
                Some(len) => self.len = len,
                None => return Ok(0),
            }
        }
        let count = out.len().min(self.len - self.at);
        out[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

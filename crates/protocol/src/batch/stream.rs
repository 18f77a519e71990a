//! Records as a stream of decoded bytes, read in place when they are not compressed and through a bounded
//! window when they are.

use std::cell::Cell;

use super::codec::{Codec, CodecError, Decoder, Scratch};

/// Bytes decoded at a time.
const WINDOW_LEN: usize = 64 << 10;
/// Window memory kept between batches.
const WINDOW_KEPT_MAX: usize = 1 << 20;

thread_local! {
    // Taken while in use, so that reading one batch inside another is no conflict, just a second scratch.
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Decoded record bytes, in order.
pub(super) trait Source {
    /// The next `want` bytes without consuming them; fewer only at the end.
    fn peek(&mut self, want: usize) -> Result<&[u8], CodecError>;
    /// Consumes `count` bytes that were peeked at.
    fn advance(&mut self, count: usize);
    /// Consumes `count` bytes; `false` if there are fewer.
    fn skip(&mut self, count: usize) -> Result<bool, CodecError>;
    /// Some of the next bytes without consuming them: at most `want`, at least one unless at the end.
    fn peek_some(&mut self, want: usize) -> Result<&[u8], CodecError>;
}

/// What is to be done with a batch's records, whatever their codec.
pub(super) trait Walk {
    /// The outcome.
    type Output;
    /// Walks the records.
    fn walk<S: Source>(self, source: &mut S) -> Self::Output;
}

/// Runs `walk` on the decoded bytes of `payload`. More than `decoded_max` of them are a
/// [`CodecError::TooLarge`], which the walk sees where it happens.
pub(super) fn decode<W: Walk>(
    codec: Codec,
    payload: &[u8],
    decoded_max: u64,
    walk: W,
) -> Result<W::Output, CodecError> {
    if codec == Codec::None {
        return Ok(walk.walk(&mut Plain { rest: payload }));
    }
    let mut scratch = SCRATCH.take().unwrap_or_default();
    let output = match Decoder::new(codec, payload, &mut scratch) {
        Ok(Some(decoder)) => {
            let window = std::mem::take(&mut scratch.window);
            let mut source = Inflating { decoder, window, start: 0, end: 0, left: decoded_max, limit: decoded_max };
            let output = walk.walk(&mut source);
            scratch.window = source.window;
            source.decoder.recycle(&mut scratch);
            Ok(output)
        }
        Ok(None) => Ok(walk.walk(&mut Plain { rest: payload })),
        Err(error) => Err(error),
    };
    scratch.shrink(WINDOW_KEPT_MAX);
    SCRATCH.set(Some(scratch));
    output
}

struct Plain<'a> {
    rest: &'a [u8],
}

impl Source for Plain<'_> {
    #[inline]
    fn peek(&mut self, want: usize) -> Result<&[u8], CodecError> {
        Ok(&self.rest[..want.min(self.rest.len())])
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }

    #[inline]
    fn skip(&mut self, count: usize) -> Result<bool, CodecError> {
        match self.rest.get(count..) {
            Some(rest) => {
                self.rest = rest;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    fn peek_some(&mut self, want: usize) -> Result<&[u8], CodecError> {
        self.peek(want)
    }
}

struct Inflating<'a> {
    decoder: Decoder<'a>,
    window: Vec<u8>,
    start: usize,
    end: usize,
    /// Decoded bytes that may still come.
    left: u64,
    limit: u64,
}

impl Inflating<'_> {
    /// Decodes more behind what is in the window; `false` at the end. Makes room for `want` bytes.
    fn fill(&mut self, want: usize) -> Result<bool, CodecError> {
        if self.start > 0 {
            self.window.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        // Grows with what was really decoded, so a record that only claims to be huge costs nothing.
        let room = WINDOW_LEN.max((self.end * 2).min(want));
        if self.window.len() < room {
            self.window.resize(room, 0);
        }
        let read = self.decoder.read(&mut self.window[self.end..])?;
        self.left = self.left.checked_sub(read as u64).ok_or(CodecError::TooLarge(self.limit))?;
        self.end += read;
        Ok(read > 0)
    }
}

impl Source for Inflating<'_> {
    #[inline]
    fn peek(&mut self, want: usize) -> Result<&[u8], CodecError> {
        while self.end - self.start < want && self.fill(want)? {}
        let end = self.end.min(self.start + want);
        Ok(&self.window[self.start..end])
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
    }

    fn skip(&mut self, mut count: usize) -> Result<bool, CodecError> {
        loop {
            let step = count.min(self.end - self.start);
            self.start += step;
            count -= step;
            if count == 0 {
                return Ok(true);
            }
            if !self.fill(0)? {
                return Ok(false);
            }
        }
    }

    fn peek_some(&mut self, want: usize) -> Result<&[u8], CodecError> {
        if self.start == self.end {
            self.fill(0)?;
        }
        let end = self.end.min(self.start + want);
        Ok(&self.window[self.start..end])
    }
}

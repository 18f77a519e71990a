//! Compression codecs of record batches, both ways, with a limit on what comes out.

use std::io::{self, BufRead as _, Read, Write};

use zstd::zstd_safe;

use super::blocks::Blocks;
use super::lz4::Lz4Frame;
use super::snappy::{SnappyBlocks, SnappyEncoder};

/// A zstd context that grew beyond this (a frame with a large window) is not kept.
const ZSTD_CONTEXT_KEPT_MAX: usize = 16 << 20;
/// log2 of the largest zstd window: the library's own default, so what Kafka's clients write is readable.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A compression codec, Kafka's `CompressionType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not compressed.
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy in the framing of the xerial library, or bare.
    Snappy,
    /// LZ4 frames of independent blocks.
    Lz4,
    /// RFC 8878.
    Zstd,
}

/// Why compressed bytes could not be read, or bytes could not be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The compressed bytes are malformed.
    #[error("malformed {0} data")]
    Malformed(&'static str),
    /// More came out than the limit allows.
    #[error("the limit of {0} bytes is exceeded")]
    TooLarge(u64),
}

impl Codec {
    /// All codecs, by id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this id in the attributes.
    #[must_use]
    pub fn from_id(id: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// Its id in the attributes.
    #[must_use]
    pub fn id(self) -> i16 {
        self as i16
    }

    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec of this name; `uncompressed` is Kafka's word for none in topic configurations.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "uncompressed" => Some(Self::None),
            other => Self::ALL.into_iter().find(|codec| codec.name() == other),
        }
    }
}

/// Decoder memory that one thread uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    /// Decoded bytes that wait to be read.
    pub(super) window: Vec<u8>,
    /// One decoded block, for codecs that decode block by block.
    block: Vec<u8>,
    zstd: Option<Box<zstd_safe::DCtx<'static>>>,
}

impl Scratch {
    /// Lets go of memory that only an unusual batch needed.
    pub(super) fn shrink(&mut self, kept_max: usize) {
        for buffer in [&mut self.window, &mut self.block] {
            if buffer.capacity() > kept_max {
                *buffer = Vec::new();
            }
        }
        if self.zstd.as_ref().is_some_and(|context| context.sizeof() > ZSTD_CONTEXT_KEPT_MAX) {
            self.zstd = None;
        }
    }
}

/// Reads decoded bytes of one payload.
pub(super) enum Decoder<'a> {
    Gzip(Box<flate2::bufread::MultiGzDecoder<&'a [u8]>>),
    Snappy(Blocks<SnappyBlocks<'a>>),
    Lz4(Blocks<Lz4Frame<'a>>),
    Zstd { context: Box<zstd_safe::DCtx<'static>>, input: &'a [u8], mid_frame: bool },
}

impl<'a> Decoder<'a> {
    /// A decoder of `payload`; `None` for [`Codec::None`].
    pub(super) fn new(codec: Codec, payload: &'a [u8], scratch: &mut Scratch) -> Result<Option<Self>, CodecError> {
        Ok(Some(match codec {
            Codec::None => return Ok(None),
            Codec::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(payload))),
            Codec::Snappy => Self::Snappy(Blocks::new(SnappyBlocks::new(payload), std::mem::take(&mut scratch.block))),
            Codec::Lz4 => Self::Lz4(Blocks::new(Lz4Frame::new(payload)?, std::mem::take(&mut scratch.block))),
            Codec::Zstd => Self::Zstd { context: zstd_context(scratch)?, input: payload, mid_frame: false },
        }))
    }

    /// Gives the memory back.
    pub(super) fn recycle(self, scratch: &mut Scratch) {
        match self {
            Self::Gzip(_) => {}
            Self::Snappy(decoder) => scratch.block = decoder.into_block(),
            Self::Lz4(decoder) => scratch.block = decoder.into_block(),
            Self::Zstd { context, .. } => scratch.zstd = Some(context),
        }
    }

    /// Decodes into `out` and returns how many bytes; 0 at the end.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, CodecError> {
        match self {
            Self::Gzip(decoder) => read_gzip(decoder, out),
            Self::Snappy(decoder) => decoder.read(out),
            Self::Lz4(decoder) => decoder.read(out),
            Self::Zstd { context, input, mid_frame } => read_zstd(context, input, mid_frame, out),
        }
    }
}

fn read_gzip(decoder: &mut flate2::bufread::MultiGzDecoder<&[u8]>, out: &mut [u8]) -> Result<usize, CodecError> {
    loop {
        match decoder.read(out) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(CodecError::Malformed("gzip")),
            Ok(0) if decoder.get_mut().fill_buf().is_ok_and(|left| !left.is_empty()) => {
                return Err(CodecError::Malformed("gzip"));
            }
            Ok(read) => return Ok(read),
        }
    }
}

fn zstd_context(scratch: &mut Scratch) -> Result<Box<zstd_safe::DCtx<'static>>, CodecError> {
    let malformed = |_| CodecError::Malformed("zstd");
    let mut context = match scratch.zstd.take() {
        Some(context) => context,
        None => {
            let mut context = Box::new(zstd_safe::DCtx::create());
            context.set_parameter(zstd_safe::DParameter::WindowLogMax(ZSTD_WINDOW_LOG_MAX)).map_err(malformed)?;
            context
        }
    };
    context.reset(zstd_safe::ResetDirective::SessionOnly).map_err(malformed)?;
    Ok(context)
}

fn read_zstd(
    context: &mut zstd_safe::DCtx<'static>,
    input: &mut &[u8],
    mid_frame: &mut bool,
    out: &mut [u8],
) -> Result<usize, CodecError> {
    let mut written = 0;
    // A step may read without writing (a header) and write without reading (its own buffer, mid-frame).
    while written == 0 && (!input.is_empty() || *mid_frame) {
        let mut from = zstd_safe::InBuffer::around(input);
        let mut into = zstd_safe::OutBuffer::around(&mut *out);
        let hint = context.decompress_stream(&mut into, &mut from).map_err(|_| CodecError::Malformed("zstd"))?;
        let read = from.pos();
        written = into.pos();
        *mid_frame = hint != 0;
        *input = &input[read..];
        if read == 0 && written == 0 {
            return Err(CodecError::Malformed("zstd"));
        }
    }
    Ok(written)
}

/// Bytes that end at a limit.
pub(super) struct Bounded {
    pub(super) bytes: Vec<u8>,
    limit: usize,
}

impl Bounded {
    /// Continues `bytes`, up to `limit` bytes in all.
    pub(super) fn new(bytes: Vec<u8>, limit: usize) -> Self {
        Self { bytes, limit }
    }
}

impl Write for Bounded {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if data.len() > self.limit.saturating_sub(self.bytes.len()) {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses what is written and appends it to a bounded buffer.
pub(super) enum Encoder {
    Plain(Bounded),
    Gzip(Box<flate2::write::GzEncoder<Bounded>>),
    Snappy(Box<SnappyEncoder<Bounded>>),
    Lz4(Box<lz4_flex::frame::FrameEncoder<Bounded>>),
    Zstd(zstd::stream::write::Encoder<'static, Bounded>),
}

impl Encoder {
    /// An encoder behind `out`. `level` is the codec's own, `None` its default; snappy and lz4 have none here.
    pub(super) fn new(codec: Codec, level: Option<i32>, out: Bounded) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::Plain(out),
            Codec::Gzip => {
                let level = level
                    .and_then(|level| u32::try_from(level).ok())
                    .map(|level| flate2::Compression::new(level.min(9)));
                Self::Gzip(Box::new(flate2::write::GzEncoder::new(out, level.unwrap_or_default())))
            }
            Codec::Snappy => Self::Snappy(Box::new(SnappyEncoder::new(out)?)),
            Codec::Lz4 => {
                // 64 KiB independent blocks are what Kafka's own frame writer makes and its reader demands.
                let info = lz4_flex::frame::FrameInfo::new()
                    .block_size(lz4_flex::frame::BlockSize::Max64KB)
                    .block_mode(lz4_flex::frame::BlockMode::Independent);
                Self::Lz4(Box::new(lz4_flex::frame::FrameEncoder::with_frame_info(info, out)))
            }
            Codec::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(out, level.unwrap_or(3))?),
        })
    }

    /// Ends the stream and returns everything.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        let out = match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Snappy(encoder) => encoder.finish()?,
            Self::Lz4(encoder) => encoder.finish().map_err(io::Error::from)?,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        Ok(out.bytes)
    }
}

impl Write for Encoder {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(data),
            Self::Gzip(encoder) => encoder.write(data),
            Self::Snappy(encoder) => encoder.write(data),
            Self::Lz4(encoder) => encoder.write(data),
            Self::Zstd(encoder) => encoder.write(data),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

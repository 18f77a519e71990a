//! The bytes between peers. All numbers are big-endian.
//!
//! ```text
//! hello   magic "OTTLAPEER" | version u16 | node i32 | lane u8 | length u8 | cluster id
//!         both sides send one; a refusal is a hello of version 0 whose cluster id is the reason
//! frame   length u32 of what follows | request id u64 | kind u8 | body
//!         a request's kind says what is asked; an answer has the request's id and kind 0 (done) or 255 (text of an error)
//! ```
//!
//! Both sides speak the lesser of the two versions.

use bytes::Bytes;
use common::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;

const MAGIC: &[u8; 9] = b"OTTLAPEER";

/// The newest version this build speaks.
pub const PROTOCOL_VERSION: u16 = 1;

/// Most bytes of one frame: a command of Raft in its envelope fits.
pub(super) const FRAME_BYTES_MAX: u32 = 40 << 20;

const FRAME_HEAD_BYTES: u32 = 9;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Raft's own messages: see [`metadata::Node::handle`].
    Raft = 1,
    /// A node wants to be followed up.
    Join = 2,
    /// A broker wants a lease.
    Heartbeat = 3,
    /// Seal the log of a lost node.
    Seal = 4,
    /// Tell when an index of metadata is applied.
    Applied = 5,
    /// Change who votes.
    Quorum = 6,
    /// Take the tails of streams over, under reserved epochs.
    HandOver = 7,
    /// Give partitions away.
    Move = 8,
    /// Up to where is metadata committed?
    ReadIndex = 9,
    /// Write the markers that end a transaction.
    Markers = 10,
    /// Are partitions in a transaction?
    VerifyTransaction = 11,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        let all = [
            Self::Raft,
            Self::Join,
            Self::Heartbeat,
            Self::Seal,
            Self::Applied,
            Self::Quorum,
            Self::HandOver,
            Self::Move,
            Self::ReadIndex,
            Self::Markers,
            Self::VerifyTransaction,
        ];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// What a connection is for: nothing small waits behind something large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Small and urgent.
    Control = 0,
    /// Large.
    Bulk = 1,
}

/// The first bytes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Newest version of the protocol the sender speaks.
    pub version: u16,
    /// The sender.
    pub node: NodeId,
    /// What the connection is for.
    pub lane: Lane,
    /// The sender's cluster; empty when it belongs to none yet.
    pub cluster_id: String,
}

/// A frame that was read.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) body: Bytes,
}

/// Kinds of answers.
pub(super) const DONE: u8 = 0;
pub(super) const ERROR: u8 = 255;

pub(super) fn invalid(reason: impl Into<String>) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, reason.into())
}

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let id = &self.cluster_id.as_bytes()[..self.cluster_id.len().min(255)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_be_bytes());
        bytes.extend(self.node.0.to_be_bytes());
        bytes.push(self.lane as u8);
        bytes.push(u8::try_from(id.len()).unwrap_or(255));
        bytes.extend(id);
        bytes
    }

    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic).await?;
        if magic != *MAGIC {
            return Err(invalid("this is no peer of Ottla"));
        }
        let version = from.read_u16().await?;
        let node = NodeId(from.read_i32().await?);
        let lane = match from.read_u8().await? {
            0 => Lane::Control,
            1 => Lane::Bulk,
            other => return Err(invalid(format!("lane {other} does not exist"))),
        };
        let mut id = vec![0; usize::from(from.read_u8().await?)];
        from.read_exact(&mut id).await?;
        let cluster_id = String::from_utf8(id).map_err(|_| invalid("a cluster id that is no text"))?;
        Ok(Self { version, node, lane, cluster_id })
    }
}

/// The head of a frame: how long its body is, and whose it is.
pub(super) struct Head {
    pub(super) id: u64,
    pub(super) kind: u8,
    pub(super) body_bytes: u32,
}

pub(super) async fn read_head(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Head> {
    let length = from.read_u32().await?;
    if !(FRAME_HEAD_BYTES..=FRAME_BYTES_MAX).contains(&length) {
        return Err(invalid(format!("a frame of {length} bytes")));
    }
    Ok(Head { id: from.read_u64().await?, kind: from.read_u8().await?, body_bytes: length - FRAME_HEAD_BYTES })
}

/// Reads a body in steps, so that what is only announced takes no memory.
pub(super) async fn read_body(from: &mut (impl AsyncRead + Unpin), head: &Head) -> std::io::Result<Frame> {
    const STEP: usize = 1 << 20;
    let mut left = head.body_bytes as usize;
    let mut body = bytes::BytesMut::new();
    while left > 0 {
        let step = left.min(STEP);
        let start = body.len();
        body.resize(start + step, 0);
        from.read_exact(&mut body[start..]).await?;
        left -= step;
    }
    Ok(Frame { id: head.id, kind: head.kind, body: body.freeze() })
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &Frame) -> std::io::Result<()> {
    let length = u32::try_from(frame.body.len()).ok().and_then(|length| length.checked_add(FRAME_HEAD_BYTES));
    let length = length.filter(|length| *length <= FRAME_BYTES_MAX).ok_or_else(|| invalid("a frame too large"))?;
    let mut head = [0; 13];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..12].copy_from_slice(&frame.id.to_be_bytes());
    head[12] = frame.kind;
    to.write_all(&head).await?;
    to.write_all(&frame.body).await
}

/// Writes frames as they come; what waits with them is let go when they are written.
pub(super) async fn write_frames<T>(
    to: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<(Frame, T)>,
) -> std::io::Result<()> {
    let mut writer = BufWriter::new(to);
    while let Some((frame, _held)) = queue.recv().await {
        write_frame(&mut writer, &frame).await?;
        while let Ok((frame, _held)) = queue.try_recv() {
            write_frame(&mut writer, &frame).await?;
        }
        writer.flush().await?;
    }
    Ok(())
}

pub(super) fn kind_of(byte: u8) -> std::io::Result<Kind> {
    Kind::of(byte).ok_or_else(|| invalid(format!("request kind {byte} is unknown")))
}

//! What nodes send each other: Raft's own messages, parts of a snapshot, and forwarded commands.

use bytes::Bytes;
use common::{NodeEpoch, NodeId, StreamEpoch};
use prost::Message as _;

use super::WireError;
use super::convert::{IdMessage, uuid, uuid_bytes};
use crate::command::{Outcome, Refusal};
use crate::log::{EntryId, LogRecord, Vote};

/// A request to another node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request {
    Append {
        vote: Vote,
        previous: Option<EntryId>,
        committed: Option<EntryId>,
        entries: Vec<LogRecord>,
    },
    Vote {
        vote: Vote,
        last: Option<EntryId>,
        pre: bool,
        transfer: bool,
    },
    /// Part `sequence` of the snapshot that `vote`'s leader sends; without a chunk it is complete.
    Snapshot {
        vote: Vote,
        transfer: u64,
        sequence: u64,
        chunk: Option<Bytes>,
    },
    /// An encoded command for the leader.
    Submit {
        entry: Bytes,
    },
    /// The leader that has this vote is about to stop: the receiver is to stand for election.
    Succeed {
        vote: Vote,
    },
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Response {
    Appended(AppendOutcome),
    Voted {
        vote: Vote,
        granted: bool,
        last: Option<EntryId>,
    },
    /// A part of a snapshot was taken; with the vote once it is installed.
    Snapshot {
        installed: Option<Vote>,
    },
    Submitted {
        index: u64,
        outcome: Outcome,
    },
    /// The receiver of [`Request::Succeed`] stands for election, unless another leader is known there.
    Stands,
    /// The command was certainly not applied.
    Unavailable(String),
    /// The command may be applied, or the request could not be processed.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AppendOutcome {
    Success,
    Partial(Option<EntryId>),
    Conflict,
    HigherVote(Vote),
}

#[derive(Clone, PartialEq, prost::Message)]
struct RequestMessage {
    #[prost(oneof = "RequestKind", tags = "1, 2, 3, 4, 5")]
    kind: Option<RequestKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum RequestKind {
    #[prost(message, tag = "1")]
    Append(AppendMessage),
    #[prost(message, tag = "2")]
    Vote(VoteRequestMessage),
    #[prost(message, tag = "3")]
    Snapshot(SnapshotPart),
    #[prost(bytes = "bytes", tag = "4")]
    Submit(Bytes),
    #[prost(message, tag = "5")]
    Succeed(VoteMessage),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VoteMessage {
    #[prost(uint64, tag = "1")]
    term: u64,
    #[prost(uint64, tag = "2")]
    node: u64,
    #[prost(bool, tag = "3")]
    committed: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AppendMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "2")]
    previous: Option<IdMessage>,
    #[prost(message, optional, tag = "3")]
    committed: Option<IdMessage>,
    #[prost(message, repeated, tag = "4")]
    entries: Vec<RecordMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RecordMessage {
    #[prost(message, optional, tag = "1")]
    id: Option<IdMessage>,
    #[prost(bytes = "bytes", tag = "2")]
    payload: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VoteRequestMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(message, optional, tag = "2")]
    last: Option<IdMessage>,
    #[prost(bool, tag = "3")]
    pre: bool,
    #[prost(bool, tag = "4")]
    transfer: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SnapshotPart {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(uint64, tag = "2")]
    transfer: u64,
    #[prost(uint64, tag = "3")]
    sequence: u64,
    #[prost(bytes = "bytes", optional, tag = "4")]
    chunk: Option<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseMessage {
    #[prost(oneof = "ResponseKind", tags = "1, 2, 3, 4, 5, 6, 7")]
    kind: Option<ResponseKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum ResponseKind {
    #[prost(message, tag = "1")]
    Appended(AppendedMessage),
    #[prost(message, tag = "2")]
    Voted(VotedMessage),
    #[prost(message, tag = "3")]
    Snapshot(SnapshotTaken),
    #[prost(message, tag = "4")]
    Submitted(SubmittedMessage),
    #[prost(string, tag = "5")]
    Unavailable(String),
    #[prost(string, tag = "6")]
    Failed(String),
    #[prost(bool, tag = "7")]
    Stands(bool),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct AppendedMessage {
    /// 0 success, 1 partial, 2 conflict, 3 higher vote.
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(message, optional, tag = "2")]
    partial: Option<IdMessage>,
    #[prost(message, optional, tag = "3")]
    vote: Option<VoteMessage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct VotedMessage {
    #[prost(message, optional, tag = "1")]
    vote: Option<VoteMessage>,
    #[prost(bool, tag = "2")]
    granted: bool,
    #[prost(message, optional, tag = "3")]
    last: Option<IdMessage>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct SnapshotTaken {
    #[prost(message, optional, tag = "1")]
    installed: Option<VoteMessage>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubmittedMessage {
    #[prost(uint64, tag = "1")]
    index: u64,
    #[prost(oneof = "OutcomeKind", tags = "2, 3, 4, 5, 6, 7, 8")]
    outcome: Option<OutcomeKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum OutcomeKind {
    #[prost(bool, tag = "2")]
    Done(bool),
    #[prost(uint64, tag = "3")]
    Registered(u64),
    #[prost(message, tag = "4")]
    Opened(OpenedMessage),
    #[prost(uint64, tag = "5")]
    Leased(u64),
    #[prost(message, tag = "6")]
    Slices(SlicesMessage),
    #[prost(message, tag = "7")]
    Refused(RefusalMessage),
    #[prost(message, tag = "8")]
    Moved(SlicesMessage),
}

/// Epochs of opened streams, 0 where none was opened: a stream's first epoch is 1.
#[derive(Clone, PartialEq, prost::Message)]
struct OpenedMessage {
    #[prost(uint64, repeated, tag = "1")]
    epochs: Vec<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SlicesMessage {
    #[prost(bool, repeated, tag = "1")]
    committed: Vec<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RefusalMessage {
    /// 0 invalid, 1 topic exists, 2 unknown topic, 3 fenced, 4 duplicate node, 5 WAL missing, 6 unknown node.
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    node: i32,
    #[prost(bytes = "bytes", tag = "4")]
    wal: Bytes,
}

impl From<Vote> for VoteMessage {
    fn from(from: Vote) -> Self {
        Self { term: from.term, node: from.node, committed: from.committed }
    }
}

fn vote(from: Option<VoteMessage>) -> Result<Vote, WireError> {
    let from = from.ok_or(WireError::Field("a vote"))?;
    Ok(Vote { term: from.term, node: from.node, committed: from.committed })
}

impl Request {
    pub(crate) fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Append { vote, previous, committed, entries } => {
                let record =
                    |from: &LogRecord| RecordMessage { id: Some(from.id.into()), payload: from.payload.clone() };
                RequestKind::Append(AppendMessage {
                    vote: Some((*vote).into()),
                    previous: previous.map(Into::into),
                    committed: committed.map(Into::into),
                    entries: entries.iter().map(record).collect(),
                })
            }
            Self::Vote { vote, last, pre, transfer } => RequestKind::Vote(VoteRequestMessage {
                vote: Some((*vote).into()),
                last: last.map(Into::into),
                pre: *pre,
                transfer: *transfer,
            }),
            Self::Snapshot { vote, transfer, sequence, chunk } => RequestKind::Snapshot(SnapshotPart {
                vote: Some((*vote).into()),
                transfer: *transfer,
                sequence: *sequence,
                chunk: chunk.clone(),
            }),
            Self::Submit { entry } => RequestKind::Submit(entry.clone()),
            Self::Succeed { vote } => RequestKind::Succeed((*vote).into()),
        };
        RequestMessage { kind: Some(kind) }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        Ok(match RequestMessage::decode(bytes)?.kind.ok_or(WireError::Newer("a kind of request"))? {
            RequestKind::Append(from) => Self::Append {
                vote: vote(from.vote)?,
                previous: from.previous.map(Into::into),
                committed: from.committed.map(Into::into),
                entries: from.entries.into_iter().map(record).collect::<Result<_, _>>()?,
            },
            RequestKind::Vote(from) => Self::Vote {
                vote: vote(from.vote)?,
                last: from.last.map(Into::into),
                pre: from.pre,
                transfer: from.transfer,
            },
            RequestKind::Snapshot(from) => Self::Snapshot {
                vote: vote(from.vote)?,
                transfer: from.transfer,
                sequence: from.sequence,
                chunk: from.chunk,
            },
            RequestKind::Submit(entry) => Self::Submit { entry },
            RequestKind::Succeed(from) => Self::Succeed { vote: vote(Some(from))? },
        })
    }
}

fn record(from: RecordMessage) -> Result<LogRecord, WireError> {
    let id = from.id.ok_or(WireError::Field("an entry has an id"))?.into();
    Ok(LogRecord { id, payload: from.payload })
}

impl Response {
    pub(crate) fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Appended(outcome) => ResponseKind::Appended(appended_message(*outcome)),
            Self::Voted { vote, granted, last } => ResponseKind::Voted(VotedMessage {
                vote: Some((*vote).into()),
                granted: *granted,
                last: last.map(Into::into),
            }),
            Self::Snapshot { installed } => {
                ResponseKind::Snapshot(SnapshotTaken { installed: installed.map(Into::into) })
            }
            Self::Submitted { index, outcome } => {
                ResponseKind::Submitted(SubmittedMessage { index: *index, outcome: Some(outcome_kind(outcome)) })
            }
            Self::Stands => ResponseKind::Stands(true),
            Self::Unavailable(reason) => ResponseKind::Unavailable(reason.clone()),
            Self::Failed(reason) => ResponseKind::Failed(reason.clone()),
        };
        ResponseMessage { kind: Some(kind) }.encode_to_vec().into()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, WireError> {
        Ok(match ResponseMessage::decode(bytes)?.kind.ok_or(WireError::Newer("a kind of answer"))? {
            ResponseKind::Appended(from) => Self::Appended(match from.code {
                0 => AppendOutcome::Success,
                1 => AppendOutcome::Partial(from.partial.map(Into::into)),
                2 => AppendOutcome::Conflict,
                3 => AppendOutcome::HigherVote(vote(from.vote)?),
                _ => return Err(WireError::Newer("an outcome of replication")),
            }),
            ResponseKind::Voted(from) => {
                Self::Voted { vote: vote(from.vote)?, granted: from.granted, last: from.last.map(Into::into) }
            }
            ResponseKind::Snapshot(from) => {
                Self::Snapshot { installed: from.installed.map(|from| vote(Some(from))).transpose()? }
            }
            ResponseKind::Submitted(from) => Self::Submitted {
                index: from.index,
                outcome: outcome(from.outcome.ok_or(WireError::Newer("an outcome"))?)?,
            },
            ResponseKind::Stands(_) => Self::Stands,
            ResponseKind::Unavailable(reason) => Self::Unavailable(reason),
            ResponseKind::Failed(reason) => Self::Failed(reason),
        })
    }
}

fn appended_message(outcome: AppendOutcome) -> AppendedMessage {
    match outcome {
        AppendOutcome::Success => AppendedMessage { code: 0, ..AppendedMessage::default() },
        AppendOutcome::Partial(id) => AppendedMessage { code: 1, partial: id.map(Into::into), vote: None },
        AppendOutcome::Conflict => AppendedMessage { code: 2, ..AppendedMessage::default() },
        AppendOutcome::HigherVote(vote) => AppendedMessage { code: 3, partial: None, vote: Some(vote.into()) },
    }
}

fn outcome_kind(outcome: &Outcome) -> OutcomeKind {
    match outcome {
        Outcome::Done => OutcomeKind::Done(true),
        Outcome::Registered { epoch } => OutcomeKind::Registered(epoch.0),
        Outcome::Opened { epochs } => {
            let epochs = epochs.iter().map(|epoch| epoch.map_or(0, |epoch| epoch.0)).collect();
            OutcomeKind::Opened(OpenedMessage { epochs })
        }
        Outcome::Leased { first } => OutcomeKind::Leased(*first),
        Outcome::Slices { committed } => OutcomeKind::Slices(SlicesMessage { committed: committed.clone() }),
        Outcome::Moved { committed } => OutcomeKind::Moved(SlicesMessage { committed: committed.clone() }),
        Outcome::Refused(refusal) => OutcomeKind::Refused(refusal_message(refusal)),
    }
}

fn outcome(kind: OutcomeKind) -> Result<Outcome, WireError> {
    Ok(match kind {
        OutcomeKind::Done(_) => Outcome::Done,
        OutcomeKind::Registered(epoch) => Outcome::Registered { epoch: NodeEpoch(epoch) },
        OutcomeKind::Opened(from) => {
            let epoch = |epoch: u64| (epoch > 0).then_some(StreamEpoch(epoch));
            Outcome::Opened { epochs: from.epochs.into_iter().map(epoch).collect() }
        }
        OutcomeKind::Leased(first) => Outcome::Leased { first },
        OutcomeKind::Slices(from) => Outcome::Slices { committed: from.committed },
        OutcomeKind::Moved(from) => Outcome::Moved { committed: from.committed },
        OutcomeKind::Refused(from) => Outcome::Refused(match from.code {
            0 => Refusal::Invalid(from.message),
            1 => Refusal::TopicExists(from.message),
            2 => Refusal::UnknownTopic,
            3 => Refusal::Fenced(from.message),
            4 => Refusal::DuplicateNode(NodeId(from.node)),
            5 => Refusal::WalMissing(uuid(&from.wal)?),
            6 => Refusal::UnknownNode(NodeId(from.node)),
            _ => return Err(WireError::Newer("a refusal")),
        }),
    })
}

fn refusal_message(refusal: &Refusal) -> RefusalMessage {
    let coded = |code| RefusalMessage { code, ..RefusalMessage::default() };
    match refusal {
        Refusal::Invalid(message) => RefusalMessage { message: message.clone(), ..coded(0) },
        Refusal::TopicExists(name) => RefusalMessage { message: name.clone(), ..coded(1) },
        Refusal::UnknownTopic => coded(2),
        Refusal::Fenced(message) => RefusalMessage { message: message.clone(), ..coded(3) },
        Refusal::DuplicateNode(node) => RefusalMessage { node: node.0, ..coded(4) },
        Refusal::UnknownNode(node) => RefusalMessage { node: node.0, ..coded(6) },
        Refusal::WalMissing(wal) => RefusalMessage { wal: uuid_bytes(*wal), ..coded(5) },
    }
}

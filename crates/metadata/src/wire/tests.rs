//! Golden bytes: what was written once is read for ever.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use super::*;
use crate::command::{Command, FailOver, NewObject, NewSlice, Outcome, Refusal, Registration, Seal};
use crate::image::{ConfigResource, Endpoint, MetadataImage, NodeDraining, WalClass, WalDescriptor, WalState};
use crate::log::{EntryId, LogRecord, Vote};
use crate::raft::{EntryBody, Membership};

fn head() -> SnapshotHead {
    let membership =
        Membership { voters: vec![BTreeSet::from([1])], nodes: std::iter::once((1, Arc::default())).collect() };
    let last = Some(EntryId { term: 2, node: 1, index: 9 });
    SnapshotHead { last, membership_at: Some(EntryId { term: 1, node: 1, index: 0 }), membership }
}

fn chunks(image: &MetadataImage) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut sink = |chunk: &[u8]| {
        chunks.push(Bytes::copy_from_slice(chunk));
        Ok(())
    };
    encode_snapshot(&head(), image, &mut sink).expect("the sink takes everything");
    chunks
}

/// The image after it was written as a snapshot and read again.
pub(crate) fn round_trip(image: &MetadataImage) -> MetadataImage {
    let mut decoder = SnapshotDecoder::default();
    for chunk in chunks(image) {
        decoder.push(chunk).expect("decodes");
    }
    let (read, image) = decoder.finish().expect("whole");
    assert_eq!(read, head());
    image
}

fn every_command() -> Vec<Command> {
    let (node, node_epoch, id) = (NodeId(1), NodeEpoch(2), Uuid::from_u128(3));
    let replicas: Arc<[NodeId]> = Arc::from([NodeId(1), NodeId(2)].as_slice());
    let endpoint = Endpoint { listener: "L".into(), protocol: "P".into(), host: "h".into(), port: 65535 };
    let slice = NewSlice {
        stream: StreamId(1),
        epoch: StreamEpoch(2),
        start: Offset(3),
        end: Offset(4),
        bytes: 5,
        max_timestamp_ms: -1,
        checkpoint: Some(Offset(0)),
    };
    let object =
        NewObject { id: ObjectId(1), attempt: 2, size: 3, slices: vec![slice, NewSlice { checkpoint: None, ..slice }] };
    let mut commands = vec![
        Command::Bootstrap { cluster_id: "c".into() },
        // As version 1 wrote it: without peer, version, class and location.
        Command::RegisterNode(Registration {
            endpoints: vec![endpoint],
            rack: Some("r".into()),
            version: 1,
            wal: Some(WalDescriptor { uuid: id, class: WalClass::Private, location: "".into() }),
            ..Registration::new(node, id)
        }),
        Command::RegisterNode(Registration { version: 1, ..Registration::new(node, id) }),
        Command::CreateTopic {
            id,
            name: "t".into(),
            partitions: vec![Arc::clone(&replicas)],
            configs: vec![("k".into(), "v".into())],
        },
        Command::DeleteTopic { id },
        Command::CreatePartitions { topic: id, added: vec![replicas] },
        Command::OpenStreams { node, node_epoch, streams: vec![StreamId(1), StreamId(300)] },
        Command::TrimStream { stream: StreamId(1), epoch: StreamEpoch(2), start: Offset(3) },
        Command::LeaseObjectIds { node, node_epoch, count: 3 },
        Command::LeaseProducerIds { node, node_epoch, count: 3 },
        Command::CommitObjects { node, node_epoch, objects: vec![object], replaces: vec![ObjectId(7)] },
        Command::ForgetObjects { objects: vec![ObjectId(1)] },
        Command::SealWal { wal: id, end: Lsn(4) },
        Command::RetireWal { wal: id },
        Command::ClaimStore { store: "s".into() },
        Command::FinalizeFeatures { levels: vec![("f".into(), 2)] },
    ];
    let resources = [
        ConfigResource::Topic("t".into()),
        ConfigResource::Broker(Some(node)),
        ConfigResource::Broker(None),
        ConfigResource::Group("g".into()),
    ];
    commands.extend(resources.map(|resource| Command::AlterConfigs {
        resource,
        changes: vec![("k".into(), Some("v".into())), ("gone".into(), None)],
    }));
    commands
}

/// Commands, and forms of them, that came with version 2.
fn commands_of_version_2() -> Vec<Command> {
    let (node, node_epoch, wal) = (NodeId(1), NodeEpoch(2), Uuid::from_u128(3));
    let (source, target) = ((node, node_epoch), (NodeId(4), NodeEpoch(5)));
    let leaders = vec![(StreamId(6), NodeId(4)), (StreamId(7), NodeId(0))];
    let streams = vec![(StreamId(6), StreamEpoch(8)), (StreamId(300), StreamEpoch(9))];
    let seal = Seal { wal, end: Lsn(10), tails: vec![(StreamId(6), Offset(11)), (StreamId(7), Offset(0))] };
    let registration = Registration {
        peer: "h:1".into(),
        version: 2,
        wal: Some(WalDescriptor { uuid: wal, class: WalClass::Shared, location: "file:///w".into() }),
        ..Registration::new(node, wal)
    };
    vec![
        Command::RegisterNode(registration),
        Command::FailOver(FailOver { node, node_epoch, seal: Some(seal), leaders: leaders.clone() }),
        Command::FailOver(FailOver { node, node_epoch, seal: None, leaders: Vec::new() }),
        Command::ReserveMove { source, target, streams: vec![StreamId(6), StreamId(300)] },
        Command::CommitMove { source, target, streams: streams.clone() },
        Command::CancelMove { source, streams },
        Command::SetDraining { node, draining: true },
        Command::SetDraining { node, draining: false },
        Command::StopNode { node, node_epoch },
        Command::UnregisterNode { node },
        Command::AbandonWal { wal, leaders },
        Command::AlterReplicas { changes: vec![(StreamId(6), Arc::from([node, NodeId(0)].as_slice()))] },
    ]
}

fn bodies() -> Vec<EntryBody> {
    let commands = every_command().into_iter().chain(commands_of_version_2());
    let commands = commands.map(|command| EntryBody::Command { now_ms: -5, command: Arc::new(command) });
    let membership = Membership {
        voters: vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])],
        nodes: (1..=4).map(|id| (id, Arc::default())).collect(),
    };
    let addressed = Membership {
        voters: vec![BTreeSet::from([1])],
        nodes: (1..=2).map(|id| (id, Arc::from(format!("h{id}:9093")))).collect(),
    };
    commands.chain([EntryBody::Blank]).chain([membership, addressed].map(EntryBody::Membership)).collect()
}

#[test]
fn every_entry_comes_back() {
    for body in bodies() {
        assert_eq!(decode_entry(encode_entry(&body)).expect("decodes"), body);
    }
}

#[test]
fn golden_entries() {
    let hex = |body: &EntryBody| -> String { encode_entry(body).iter().map(|byte| format!("{byte:02x}")).collect() };
    assert_eq!(hex(&EntryBody::Blank), "0801");
    let all: Vec<String> = bodies().iter().map(hex).collect();
    let expected = include_str!("golden_entries.txt");
    assert_eq!(all.join("\n"), expected.trim_end(), "the bytes of an entry never change");
}

#[test]
fn damaged_and_newer_entries_are_errors() {
    for body in bodies() {
        let whole = encode_entry(&body);
        for len in 0..whole.len() {
            // A message cut between fields may decode, but never to the same entry.
            assert!(
                decode_entry(whole.slice(..len)).is_ok_and(|other| other != body)
                    || decode_entry(whole.slice(..len)).is_err()
            );
        }
    }
    // Field 99 of a proposal: a command of the future.
    let newer = Bytes::from_static(&[0x1a, 0x03, 0x9a, 0x06, 0x00]);
    assert!(matches!(decode_entry(newer), Err(WireError::Newer(_))));
}

#[test]
fn a_snapshot_without_a_chunk_is_noticed() {
    let mut image = MetadataImage { cluster_id: "c".into(), ..MetadataImage::default() };
    let register =
        Command::RegisterNode(Registration { version: 1, ..Registration::new(NodeId(1), Uuid::from_u128(1)) });
    crate::state::apply(&mut image, common::LogIndex(1), 0, &register);
    let chunks = chunks(&image);
    assert_eq!(chunks.len(), 3);
    for missing in 0..chunks.len() {
        let mut decoder = SnapshotDecoder::default();
        let rest = chunks.iter().enumerate().filter(|(at, _)| *at != missing);
        let pushed = rest.into_iter().try_for_each(|(_, chunk)| decoder.push(chunk.clone()));
        assert!(pushed.is_err() || decoder.finish().is_err(), "without chunk {missing}");
    }
    let hex: String = chunks[0].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN_HEAD);
}

/// What version 1 wrote: one item of each kind, an open partition, one that was never opened, a sealed log.
#[test]
fn a_snapshot_of_version_1_is_read_and_written_again() {
    let hex = |chunk: &[u8]| -> String { chunk.iter().map(|byte| format!("{byte:02x}")).collect() };
    let golden = include_str!("golden_snapshot_1.txt");
    let mut decoder = SnapshotDecoder::default();
    for line in golden.lines() {
        let bytes = (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).expect("hex"));
        decoder.push(bytes.collect()).expect("decodes");
    }
    let (_, image) = decoder.finish().expect("whole");
    let node = &image.nodes[&NodeId(1)];
    assert_eq!((&*node.peer, node.version, node.draining), ("", 1, NodeDraining::No));
    let stream = &image.streams[&StreamId(1)];
    assert_eq!((stream.reserved, stream.void.len(), stream.next_epoch()), (None, 0, StreamEpoch(2)));
    let wal = &image.wals[&Uuid::from_u128(12)];
    assert_eq!((wal.class, &*wal.location), (WalClass::Private, ""));
    assert_eq!(wal.state, WalState::Sealed { end: Lsn(77), pending: imbl::OrdMap::new() });
    assert_eq!(image.wals[&Uuid::from_u128(11)].state, WalState::Retired);
    let written: Vec<String> = chunks(&image).iter().map(|chunk| hex(chunk)).collect();
    assert_eq!(written, golden.lines().collect::<Vec<_>>(), "nodes of version 1 read what is written for them");
}

/// An image with all that came with version 2: peers, draining, a reservation, a void epoch, logs of every state.
fn image_of_version_2() -> MetadataImage {
    let mut image = MetadataImage { cluster_id: "c".into(), ..MetadataImage::default() };
    let life = |node: i32| (NodeId(node), NodeEpoch(u64::from(node.unsigned_abs())));
    let wal = |node: i32| Uuid::from_u128(100 + u128::from(node.unsigned_abs()));
    let register = |node: i32| {
        let descriptor = WalDescriptor { uuid: wal(node), class: WalClass::Shared, location: "file:///w".into() };
        let (peer, version, wal) = (format!("h:{node}").into(), 2, Some(descriptor));
        let new = Registration::new(NodeId(node), Uuid::from_u128(1));
        Command::RegisterNode(Registration { peer, version, wal, ..new })
    };
    let replicas: Arc<[NodeId]> = Arc::from([NodeId(1), NodeId(2)].as_slice());
    let fail_over = |node: i32, seal| {
        let (node, node_epoch) = life(node);
        Command::FailOver(FailOver { node, node_epoch, seal, leaders: Vec::new() })
    };
    let seal = Seal { wal: wal(3), end: Lsn(9), tails: vec![(StreamId(2), Offset(5))] };
    let reserve = || Command::ReserveMove { source: life(1), target: life(2), streams: vec![StreamId(1)] };
    let commands = [
        register(1),
        register(2),
        register(3),
        register(4),
        Command::CreateTopic {
            id: Uuid::from_u128(7),
            name: "t".into(),
            partitions: vec![replicas; 2],
            configs: Vec::new(),
        },
        Command::OpenStreams { node: NodeId(1), node_epoch: NodeEpoch(1), streams: vec![StreamId(1)] },
        reserve(),
        reserve(),
        Command::SetDraining { node: NodeId(2), draining: true },
        Command::StopNode { node: NodeId(1), node_epoch: NodeEpoch(1) },
        fail_over(3, Some(seal)),
        fail_over(4, None),
        Command::AbandonWal { wal: wal(4), leaders: Vec::new() },
    ];
    for (index, command) in (1..).zip(&commands) {
        let outcome = crate::state::apply(&mut image, common::LogIndex(index), 0, command);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{command:?}: {outcome:?}");
    }
    image
}

#[test]
fn golden_snapshot_of_version_2() {
    let image = image_of_version_2();
    let hex = |chunk: &Bytes| -> String { chunk.iter().map(|byte| format!("{byte:02x}")).collect() };
    let written: Vec<String> = chunks(&image).iter().map(hex).collect();
    assert_eq!(
        written.join("\n"),
        include_str!("golden_snapshot_2.txt").trim_end(),
        "the bytes of a snapshot never change"
    );
    assert_eq!(round_trip(&image), image);
}

/// Version 1, entry 9 of term 2 by node 1, membership {1} from entry 0, cluster `c`, counters, applied 1.
const GOLDEN_HEAD: &str = "0a25080112060802100118091a040801100122080a030a01011201012a01633802400148015801";

#[test]
fn requests_and_answers_come_back() {
    let (vote, id) = (Vote { term: 1, node: 2, committed: true }, EntryId { term: 1, node: 2, index: 3 });
    let record = LogRecord { id, payload: Bytes::from_static(b"x") };
    for request in [
        Request::Append { vote, previous: Some(id), committed: None, entries: vec![record] },
        Request::Vote { vote, last: None, pre: true, transfer: false },
        Request::Snapshot { vote, transfer: 1, sequence: 2, chunk: Some(Bytes::from_static(b"y")) },
        Request::Snapshot { vote, transfer: 1, sequence: 2, chunk: None },
        Request::Submit { entry: Bytes::from_static(b"z") },
        Request::Succeed { vote },
    ] {
        assert_eq!(Request::decode(request.encode()).expect("decodes"), request);
    }
    let outcomes = [
        Outcome::Done,
        Outcome::Registered { epoch: NodeEpoch(4) },
        Outcome::Opened { epochs: vec![Some(StreamEpoch(1)), None] },
        Outcome::Leased { first: 0 },
        Outcome::Slices { committed: vec![true, false] },
        Outcome::Moved { committed: vec![false, true] },
        Outcome::Refused(Refusal::Invalid("i".into())),
        Outcome::Refused(Refusal::TopicExists("t".into())),
        Outcome::Refused(Refusal::UnknownTopic),
        Outcome::Refused(Refusal::Fenced("f".into())),
        Outcome::Refused(Refusal::DuplicateNode(NodeId(0))),
        Outcome::Refused(Refusal::WalMissing(Uuid::from_u128(5))),
        Outcome::Refused(Refusal::UnknownNode(NodeId(6))),
    ];
    let submitted = outcomes.map(|outcome| Response::Submitted { index: 7, outcome });
    let appended = [AppendOutcome::Success, AppendOutcome::Partial(Some(id)), AppendOutcome::Partial(None)];
    let appended = appended.into_iter().chain([AppendOutcome::Conflict, AppendOutcome::HigherVote(vote)]);
    let others = [
        Response::Voted { vote, granted: true, last: Some(id) },
        Response::Snapshot { installed: None },
        Response::Snapshot { installed: Some(vote) },
        Response::Stands,
        Response::Unavailable("u".into()),
        Response::Failed("f".into()),
    ];
    for response in submitted.into_iter().chain(appended.map(Response::Appended)).chain(others) {
        assert_eq!(Response::decode(response.encode()).expect("decodes"), response);
    }
}

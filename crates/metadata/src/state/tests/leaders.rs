//! Who leads: failover, planned moves, draining, leaving.

use std::sync::Arc;

use common::{Lsn, NodeEpoch, NodeId, ObjectId, Offset, StreamEpoch, StreamId};
use uuid::Uuid;

use super::{Machine, object, register, slice};
use crate::command::{Command, FailOver, Life, NewSlice, Outcome, Refusal, Seal};
use crate::image::{NodeDraining, WalState};
use crate::state::moves::VOID_MAX;

const WALS: [Uuid; 4] = [Uuid::nil(), Uuid::from_u128(101), Uuid::from_u128(102), Uuid::from_u128(103)];

/// Nodes 1 to 3 in epochs 1 to 3, each with its log; a topic of three partitions (streams 1 to 3) that node 1 leads and
/// holds open in epoch 1.
fn cluster() -> Machine {
    let mut machine = Machine::default();
    for node in 1..=3_i32 {
        come(&mut machine, node, WALS[node.unsigned_abs() as usize]);
    }
    machine.create(1, "t", 3);
    assert_eq!(machine.open(NodeEpoch(1), &[1, 2, 3]), [Some(1); 3]);
    let lease = Command::LeaseObjectIds { node: NodeId(2), node_epoch: NodeEpoch(2), count: 100 };
    assert_eq!(machine.apply(&lease), Outcome::Leased { first: 1 });
    machine
}

fn come(machine: &mut Machine, node: i32, wal: Uuid) -> Outcome {
    let incarnation = Uuid::from_u128(u128::from(machine.state.applied.0) + 7_000);
    machine.apply(&register(NodeId(node), incarnation, Some(wal)))
}

fn life(number: i32) -> Life {
    (NodeId(number), NodeEpoch(u64::from(number.unsigned_abs())))
}

fn seal(node: usize, end: u64, tails: &[(u64, i64)]) -> Option<Seal> {
    let tails = tails.iter().map(|(stream, tail)| (StreamId(*stream), Offset(*tail))).collect();
    Some(Seal { wal: WALS[node], end: Lsn(end), tails })
}

fn fail_over(node: i32, seal: Option<Seal>, leaders: &[(u64, i32)]) -> Command {
    let leaders = leaders.iter().map(|(stream, leader)| (StreamId(*stream), NodeId(*leader))).collect();
    let (node, node_epoch) = life(node);
    Command::FailOver(FailOver { node, node_epoch, seal, leaders })
}

fn moved(committed: &[bool]) -> Outcome {
    Outcome::Moved { committed: committed.to_vec() }
}

/// Leader, leader epoch, stream epoch and owner.
fn led(machine: &Machine, stream: u64) -> (i32, i32, u64, Option<Life>) {
    let image = &machine.state.streams[&StreamId(stream)];
    let partition = machine.state.partition_of(StreamId(stream)).expect("its partition");
    (partition.leader.0, partition.leader_epoch, image.epoch.0, image.owner)
}

fn commit(machine: &mut Machine, node: i32, id: u64, slices: Vec<NewSlice>) -> Vec<bool> {
    let (node, node_epoch) = life(node);
    let objects = vec![object(id, slices)];
    match machine.apply(&Command::CommitObjects { node, node_epoch, objects, replaces: Vec::new() }) {
        Outcome::Slices { committed } => committed,
        other => panic!("{other:?}"),
    }
}

fn reserve(machine: &mut Machine, source: i32, target: i32, streams: &[u64]) -> Vec<Option<u64>> {
    let streams = streams.iter().copied().map(StreamId).collect();
    match machine.apply(&Command::ReserveMove { source: life(source), target: life(target), streams }) {
        Outcome::Opened { epochs } => epochs.into_iter().map(|epoch| epoch.map(|epoch| epoch.0)).collect(),
        other => panic!("{other:?}"),
    }
}

fn granted(streams: &[(u64, u64)]) -> Vec<(StreamId, StreamEpoch)> {
    streams.iter().map(|(stream, epoch)| (StreamId(*stream), StreamEpoch(*epoch))).collect()
}

fn commit_move(source: i32, target: i32, streams: &[(u64, u64)]) -> Command {
    Command::CommitMove { source: life(source), target: life(target), streams: granted(streams) }
}

fn is_refused(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Refused(_))
}

#[test]
fn a_failover_seals_fences_and_grants_in_one_step() {
    let mut machine = cluster();
    let command = fail_over(1, seal(1, 4096, &[(1, 10), (2, 0), (99, 5)]), &[(1, 2), (2, 3)]);
    assert_eq!(machine.apply(&command), moved(&[true, true]));
    assert!(!machine.state.is_live(NodeId(1)));
    assert_eq!(led(&machine, 1), (2, 1, 2, Some(life(2))));
    assert_eq!(led(&machine, 2), (3, 1, 2, Some(life(3))));
    let partition = &machine.state.topics[&Uuid::from_u128(1)].partitions[2];
    assert_eq!(machine.state.leader_or_none(partition), None);
    let pending = [(StreamId(1), Offset(10))].into_iter().collect();
    let sealed = WalState::Sealed { end: Lsn(4096), pending };
    assert_eq!(machine.state.wals[&WALS[1]].state, sealed, "what is empty or gone is not waited for");
    assert_eq!(machine.state.streams_led_by(NodeId(1)).collect::<Vec<_>>(), [StreamId(3)]);

    // Asked for again it changes nothing more; a later one moves what is left, once the log is sealed.
    assert_eq!(machine.apply(&command), moved(&[false, false]));
    assert_eq!(led(&machine, 1), (2, 1, 2, Some(life(2))));
    assert!(is_refused(&machine.apply(&fail_over(1, seal(1, 8192, &[]), &[]))), "another end");
    assert_eq!(machine.apply(&fail_over(1, None, &[(3, 2)])), moved(&[true]));

    // The old owner is fenced; the new one commits the tail, which retires the log.
    let late = Command::OpenStreams { node: NodeId(1), node_epoch: NodeEpoch(1), streams: vec![StreamId(1)] };
    assert!(is_refused(&machine.apply(&late)));
    let tail = |start, end| NewSlice { epoch: StreamEpoch(2), ..slice(1, start, end) };
    assert_eq!(commit(&mut machine, 2, 1, vec![slice(1, 0, 5)]), [false], "the epoch before");
    assert_eq!(commit(&mut machine, 2, 2, vec![tail(0, 9)]), [true]);
    assert_eq!(machine.state.sealed_wals.len(), 1);
    assert_eq!(commit(&mut machine, 2, 3, vec![tail(9, 12)]), [true]);
    assert_eq!(machine.state.wals[&WALS[1]].state, WalState::Retired);
    assert!(machine.state.sealed_wals.is_empty());
}

#[test]
fn an_unsealed_log_is_never_passed_by() {
    let mut machine = cluster();
    assert!(is_refused(&machine.apply(&fail_over(1, None, &[(1, 2)]))));
    assert!(machine.state.is_live(NodeId(1)), "refused whole");
    assert!(is_refused(&machine.apply(&fail_over(1, seal(2, 0, &[]), &[(1, 2)]))), "another node's log");
    assert_eq!(machine.apply(&fail_over(1, None, &[])), moved(&[]), "fenced, and waited for");
    assert!(!machine.state.is_live(NodeId(1)));
    assert!(is_refused(&machine.apply(&fail_over(1, None, &[(1, 2)]))));

    // It comes back with its log and leads again; the loss of its former life is no news.
    assert_eq!(come(&mut machine, 1, WALS[1]), Outcome::Registered { epoch: NodeEpoch(4) });
    assert!(is_refused(&machine.apply(&fail_over(1, seal(1, 0, &[]), &[(1, 2)]))));
    assert_eq!(machine.open(NodeEpoch(4), &[1]), [Some(2)]);
    assert_eq!(led(&machine, 1), (1, 1, 2, Some((NodeId(1), NodeEpoch(4)))));

    // A log that a clean stop has retired holds nothing.
    machine.apply(&Command::RetireWal { wal: WALS[1] });
    let leaders = vec![(StreamId(2), NodeId(3))];
    let command = FailOver { node: NodeId(1), node_epoch: NodeEpoch(4), seal: None, leaders };
    assert_eq!(machine.apply(&Command::FailOver(command)), moved(&[true]));
}

#[test]
fn only_what_the_lost_node_leads_goes_and_only_to_live_nodes() {
    let mut machine = cluster();
    assert_eq!(machine.apply(&fail_over(3, seal(3, 0, &[]), &[])), moved(&[]));
    let command = fail_over(1, seal(1, 0, &[]), &[(1, 3), (2, 1), (3, 9), (99, 2), (1, 2), (1, 2)]);
    assert_eq!(machine.apply(&command), moved(&[false, false, false, false, true, false]));
    assert_eq!(machine.state.wals[&WALS[1]].state, WalState::Retired, "nothing was pending");
}

#[test]
fn a_fenced_life_never_comes_back() {
    let mut machine = cluster();
    let again = register(NodeId(1), Uuid::from_u128(55), Some(WALS[1]));
    assert_eq!(machine.apply(&again), Outcome::Registered { epoch: NodeEpoch(4) });
    let command =
        FailOver { node: NodeId(1), node_epoch: NodeEpoch(4), seal: seal(1, 7, &[(1, 3)]), leaders: Vec::new() };
    machine.apply(&Command::FailOver(command));
    assert!(matches!(machine.apply(&again), Outcome::Refused(Refusal::Fenced(_))), "the same process");
    assert!(matches!(come(&mut machine, 1, WALS[1]), Outcome::Refused(Refusal::Fenced(_))), "its log is sealed");
    assert!(matches!(machine.apply(&Command::RetireWal { wal: WALS[1] }), Outcome::Refused(Refusal::Fenced(_))));
    let fresh = Uuid::from_u128(201);
    assert_eq!(come(&mut machine, 1, fresh), Outcome::Registered { epoch: NodeEpoch(5) });
    assert!(machine.state.is_live(NodeId(1)));
    // What it still leads it opens from its sealed log.
    assert_eq!(machine.open(NodeEpoch(5), &[1]), [Some(2)]);
    assert!(matches!(machine.state.wals[&WALS[1]].state, WalState::Sealed { .. }));
}

#[test]
fn a_sealed_log_is_settled_by_trims_and_deletions_too() {
    for by_trim in [true, false] {
        let mut machine = cluster();
        machine.apply(&fail_over(1, seal(1, 9, &[(1, 10), (2, 10)]), &[(1, 2), (2, 2), (3, 2)]));
        if by_trim {
            for (stream, start, is_retired) in [(1, 9, false), (1, 10, false), (2, 11, true)] {
                let (stream, start) = (StreamId(stream), Offset(start));
                machine.apply(&Command::TrimStream { stream, epoch: StreamEpoch(2), start });
                assert_eq!(machine.state.wals[&WALS[1]].state == WalState::Retired, is_retired);
            }
        } else {
            machine.apply(&Command::DeleteTopic { id: Uuid::from_u128(1) });
            assert_eq!(machine.state.wals[&WALS[1]].state, WalState::Retired);
        }
        assert!(machine.state.sealed_wals.is_empty());
    }
}

#[test]
fn a_stream_may_wait_in_several_sealed_logs() {
    let mut machine = cluster();
    machine.apply(&fail_over(1, seal(1, 9, &[(1, 10)]), &[(1, 2)]));
    machine.apply(&fail_over(2, seal(2, 9, &[(1, 15)]), &[(1, 3)]));
    assert_eq!(led(&machine, 1), (3, 2, 3, Some(life(3))));
    assert_eq!(machine.state.sealed_wals.len(), 2);
    let tail = |start, end| NewSlice { epoch: StreamEpoch(3), ..slice(1, start, end) };
    commit(&mut machine, 3, 1, vec![tail(0, 10)]);
    assert_eq!(machine.state.wals[&WALS[1]].state, WalState::Retired);
    assert_eq!(machine.state.sealed_wals.len(), 1);
    commit(&mut machine, 3, 2, vec![tail(10, 15)]);
    assert!(machine.state.sealed_wals.is_empty());
}

#[test]
fn a_move_is_granted_once_and_only_as_reserved() {
    let mut machine = cluster();
    assert_eq!(reserve(&mut machine, 1, 2, &[1, 2, 99]), [Some(2), Some(2), None]);
    assert_eq!(led(&machine, 1), (1, 0, 1, Some(life(1))), "reserved is not granted");
    assert_eq!(machine.apply(&commit_move(1, 3, &[(1, 2)])), moved(&[false]), "another target");
    assert_eq!(machine.apply(&commit_move(1, 2, &[(1, 1), (3, 2)])), moved(&[false, false]), "another epoch, or none");
    assert_eq!(commit(&mut machine, 1, 1, vec![slice(1, 0, 5)]), [true], "the source still serves");
    let both = commit_move(1, 2, &[(1, 2), (2, 2)]);
    assert_eq!(machine.apply(&both), moved(&[true, true]));
    assert_eq!(led(&machine, 1), (2, 1, 2, Some(life(2))));
    assert_eq!(machine.apply(&both), moved(&[true, true]), "the same answer");
    assert_eq!(led(&machine, 1), (2, 1, 2, Some(life(2))));
    assert_eq!(commit(&mut machine, 1, 2, vec![slice(1, 5, 6)]), [false], "the source's copy is void");
    assert_eq!(reserve(&mut machine, 1, 3, &[1]), [None]);
    assert_eq!(reserve(&mut machine, 2, 3, &[1]), [Some(3)]);

    let node = |target: Life, source: Life| Command::ReserveMove { source, target, streams: Vec::new() };
    assert!(is_refused(&machine.apply(&node(life(1), life(1)))), "to itself");
    assert!(is_refused(&machine.apply(&node((NodeId(2), NodeEpoch(1)), life(1)))), "to a life that has ended");
    assert!(is_refused(&machine.apply(&node(life(9), life(1)))));
}

#[test]
fn an_uncommitted_reservation_is_void_for_ever() {
    // By a new reservation, by a cancellation, by an opening, by a failover.
    for way in 0..4 {
        let mut machine = cluster();
        assert_eq!(reserve(&mut machine, 1, 2, &[1]), [Some(2)]);
        match way {
            0 => assert_eq!(reserve(&mut machine, 1, 2, &[1]), [Some(3)]),
            1 => {
                let cancel = Command::CancelMove { source: life(1), streams: granted(&[(1, 2), (2, 1), (99, 1)]) };
                assert_eq!(machine.apply(&cancel), moved(&[false, false, true]));
                assert_eq!(machine.apply(&cancel), moved(&[false, false, true]));
                assert_eq!(led(&machine, 1), (1, 0, 1, Some(life(1))), "the source resumes as it was");
            }
            2 => assert_eq!(machine.open(NodeEpoch(1), &[1]), [Some(3)]),
            _ => {
                machine.apply(&fail_over(1, seal(1, 0, &[]), &[(1, 3)]));
                assert_eq!(led(&machine, 1), (3, 1, 3, Some(life(3))));
            }
        }
        let stream = &machine.state.streams[&StreamId(1)];
        assert_eq!(
            stream.void.iter().map(|void| (void.epoch, void.wal)).collect::<Vec<_>>(),
            [(StreamEpoch(2), WALS[2])]
        );
        let before = led(&machine, 1);
        assert_eq!(machine.apply(&commit_move(1, 2, &[(1, 2)])), moved(&[false]), "too late, way {way}");
        assert_eq!(led(&machine, 1), before);
        assert_eq!(crate::wire::round_trip(&machine.state), machine.state);
    }
    // Whoever has moved already is told so.
    let mut machine = cluster();
    reserve(&mut machine, 1, 2, &[1]);
    machine.apply(&commit_move(1, 2, &[(1, 2)]));
    let cancel = Command::CancelMove { source: life(1), streams: granted(&[(1, 2)]) };
    assert_eq!(machine.apply(&cancel), moved(&[true]));
}

#[test]
fn a_move_ends_with_either_life() {
    let mut machine = cluster();
    reserve(&mut machine, 1, 2, &[1]);
    reserve(&mut machine, 1, 3, &[2]);
    come(&mut machine, 2, WALS[2]);
    assert!(is_refused(&machine.apply(&commit_move(1, 2, &[(1, 2)]))), "the target's");
    machine.apply(&fail_over(3, None, &[]));
    assert!(is_refused(&machine.apply(&commit_move(1, 3, &[(2, 2)]))), "the target is fenced");
    come(&mut machine, 1, WALS[1]);
    assert!(is_refused(&machine.apply(&commit_move(1, 3, &[(2, 2)]))), "the source's");
}

#[test]
fn what_failed_moves_leave_behind_is_bounded() {
    let mut machine = cluster();
    let attempts: Vec<Option<u64>> = (0..VOID_MAX as u64 + 4).map(|_| reserve(&mut machine, 1, 2, &[1])[0]).collect();
    let expected: Vec<Option<u64>> = (0..VOID_MAX as u64 + 4).map(|n| (n < VOID_MAX as u64).then_some(n + 2)).collect();
    assert_eq!(attempts, expected);
    assert_eq!(machine.state.streams[&StreamId(1)].void.len(), VOID_MAX);
    // The log that may hold records of them is gone for good: only the newest number stays known.
    machine.apply(&Command::RetireWal { wal: WALS[2] });
    come(&mut machine, 2, Uuid::from_u128(202));
    assert_eq!(machine.open(NodeEpoch(1), &[1]), [Some(VOID_MAX as u64 + 2)]);
    let target = (NodeId(2), NodeEpoch(4));
    for epoch in [3, 4] {
        let again = Command::ReserveMove { source: life(1), target, streams: vec![StreamId(2)] };
        machine.apply(&again);
        assert_eq!(machine.state.streams[&StreamId(2)].reserved.map(|reserved| reserved.epoch.0), Some(epoch - 1));
    }
}

#[test]
fn draining_ends_as_it_began() {
    let mut machine = cluster();
    let draining = |machine: &Machine| machine.state.nodes[&NodeId(1)].draining;
    let stop = Command::StopNode { node: NodeId(1), node_epoch: NodeEpoch(1) };
    let drain = |draining| Command::SetDraining { node: NodeId(1), draining };
    assert_eq!(machine.apply(&stop), Outcome::Done);
    assert_eq!(draining(&machine), NodeDraining::Stopping);
    assert_eq!(machine.apply(&drain(false)), Outcome::Done);
    assert_eq!(draining(&machine), NodeDraining::Stopping, "its own wish");
    come(&mut machine, 1, WALS[1]);
    assert_eq!(draining(&machine), NodeDraining::No, "a new life");
    assert!(is_refused(&machine.apply(&stop)), "late, of the former life");
    assert_eq!(machine.apply(&drain(true)), Outcome::Done);
    come(&mut machine, 1, WALS[1]);
    assert_eq!(draining(&machine), NodeDraining::ByOperator, "lasts over restarts");
    machine.create(2, "u", 1);
    assert_eq!(machine.apply(&drain(false)), Outcome::Done);
    assert_eq!(draining(&machine), NodeDraining::No);
    let unknown = Command::SetDraining { node: NodeId(9), draining: true };
    assert_eq!(machine.apply(&unknown), Outcome::Refused(Refusal::UnknownNode(NodeId(9))));
}

#[test]
fn new_partitions_are_led_by_live_nodes() {
    let mut machine = cluster();
    machine.apply(&fail_over(1, seal(1, 0, &[]), &[]));
    machine.apply(&Command::SetDraining { node: NodeId(2), draining: true });
    let mut create = |id: u128, replicas: &[i32]| {
        let replicas: Arc<[NodeId]> = replicas.iter().copied().map(NodeId).collect();
        let (name, id) = (format!("n{id}").into(), Uuid::from_u128(id));
        let outcome =
            machine.apply(&Command::CreateTopic { id, name, partitions: vec![replicas], configs: Vec::new() });
        (outcome == Outcome::Done).then(|| machine.state.topics[&id].partitions[0].leader.0)
    };
    assert_eq!(create(11, &[1, 2, 3]), Some(3));
    assert_eq!(create(12, &[1, 2]), Some(2), "better than none");
    assert_eq!(create(13, &[1]), None);
}

#[test]
fn a_node_is_forgotten_only_when_nothing_needs_it() {
    let mut machine = cluster();
    let unregister = Command::UnregisterNode { node: NodeId(1) };
    assert!(is_refused(&machine.apply(&unregister)), "alive");
    machine.apply(&fail_over(1, None, &[]));
    assert!(is_refused(&machine.apply(&unregister)), "an open log");
    machine.apply(&fail_over(1, seal(1, 9, &[(1, 5)]), &[(1, 2), (2, 2)]));
    assert!(is_refused(&machine.apply(&unregister)), "a sealed log");
    commit(&mut machine, 2, 1, vec![NewSlice { epoch: StreamEpoch(2), ..slice(1, 0, 5) }]);
    assert!(is_refused(&machine.apply(&unregister)), "leads stream 3");
    machine.apply(&fail_over(1, None, &[(3, 3)]));
    let to = |replicas: &[i32]| -> Arc<[NodeId]> { replicas.iter().copied().map(NodeId).collect() };
    let lists = [(1, &[1, 3][..]), (2, &[2, 1]), (3, &[3, 2, 1])];
    let changes = lists.map(|(stream, replicas)| (StreamId(stream), to(replicas))).to_vec();
    assert_eq!(machine.apply(&Command::AlterReplicas { changes }), moved(&[true; 3]));
    assert_eq!(machine.apply(&unregister), Outcome::Done);
    let partitions = &machine.state.topics[&Uuid::from_u128(1)].partitions;
    let replicas: Vec<Arc<[NodeId]>> = partitions.iter().map(|partition| Arc::clone(&partition.replicas)).collect();
    // Its leader, another node, nobody.
    assert_eq!(replicas, [to(&[2, 3]), to(&[2, 3]), to(&[3, 2])]);
    assert!(!machine.state.nodes.contains_key(&NodeId(1)) && !machine.state.wals.contains_key(&WALS[1]));
    assert_eq!(machine.apply(&unregister), Outcome::Refused(Refusal::UnknownNode(NodeId(1))));
    assert!(machine.state.objects.contains_key(&ObjectId(1)));
}

#[test]
fn an_operator_may_give_up_a_log() {
    let mut machine = cluster();
    let leaders = vec![(StreamId(1), NodeId(2)), (StreamId(2), NodeId(3))];
    let abandon = |node: usize| Command::AbandonWal { wal: WALS[node], leaders: leaders.clone() };
    assert!(is_refused(&machine.apply(&abandon(1))), "its node is alive");
    assert!(is_refused(&machine.apply(&abandon(0))), "unknown");
    machine.apply(&fail_over(1, None, &[]));
    assert_eq!(machine.apply(&abandon(1)), moved(&[true, true]));
    assert_eq!(machine.state.wals[&WALS[1]].state, WalState::Abandoned);
    assert_eq!(led(&machine, 1), (2, 1, 2, Some(life(2))));
    // What it held must never turn up again beside what the new leaders write.
    assert!(matches!(come(&mut machine, 1, WALS[1]), Outcome::Refused(Refusal::Fenced(_))));
    assert_eq!(come(&mut machine, 1, Uuid::from_u128(201)), Outcome::Registered { epoch: NodeEpoch(4) });
    assert_eq!(crate::wire::round_trip(&machine.state), machine.state);

    machine.apply(&fail_over(2, seal(2, 9, &[(1, 5)]), &[(1, 3)]));
    assert_eq!(machine.apply(&abandon(2)), moved(&[false, false]), "a sealed log that turned out unreadable");
    assert!(machine.state.sealed_wals.is_empty());
}

#[test]
fn replicas_change_without_their_leader() {
    let mut machine = cluster();
    let to = |replicas: &[i32]| -> Arc<[NodeId]> { replicas.iter().copied().map(NodeId).collect() };
    let alter = |stream, replicas: &[i32]| Command::AlterReplicas { changes: vec![(StreamId(stream), to(replicas))] };
    assert_eq!(machine.apply(&alter(1, &[2, 3])), moved(&[true]));
    for (stream, replicas) in [(9, &[1][..]), (1, &[]), (1, &[2, 2]), (1, &[9])] {
        assert_eq!(machine.apply(&alter(stream, replicas)), moved(&[false]), "{replicas:?}");
    }
    let partition = &machine.state.topics[&Uuid::from_u128(1)].partitions[0];
    assert_eq!((partition.leader, partition.leader_epoch), (NodeId(1), 0));
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect::<Vec<_>>();
    assert_eq!(ids(machine.state.replicas_of(partition).collect()), [2, 3, 1]);
    let partition = partition.clone();
    machine.apply(&fail_over(3, None, &[]));
    let live = machine.state.replicas_of(&partition).filter(|node| machine.state.is_live(*node));
    assert_eq!(ids(live.collect()), [2, 1]);
}

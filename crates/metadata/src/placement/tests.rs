//! Plans over random clusters: even, over racks, and only to nodes that can lead.

use common::LogIndex;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::command::{Command, FailOver, Outcome, Registration};
use crate::image::{WalClass, WalDescriptor};
use crate::state::apply;

fn submit(image: &mut MetadataImage, command: &Command) -> Outcome {
    let index = LogIndex(image.applied.0 + 1);
    let outcome = apply(image, index, 0, command);
    assert!(!matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    outcome
}

/// Nodes 0, 1, … with the given racks.
fn cluster(racks: &[Option<&str>]) -> MetadataImage {
    let mut image = MetadataImage::default();
    for (id, rack) in (0_i32..).zip(racks) {
        let incarnation = Uuid::from_u128(u128::from(id.unsigned_abs()) + 1);
        let rack = rack.map(Into::into);
        submit(&mut image, &Command::RegisterNode(Registration { rack, ..Registration::new(NodeId(id), incarnation) }));
    }
    image
}

fn create(image: &mut MetadataImage, id: u128, start: u64, count: usize, factor: usize) {
    let partitions = Placer::new(image, start).place(count, factor).expect("placed");
    let (id, name) = (Uuid::from_u128(id), format!("t{id}").into());
    submit(image, &Command::CreateTopic { id, name, partitions, configs: Vec::new() });
}

fn fence(image: &mut MetadataImage, node: i32) {
    let node_epoch = image.nodes[&NodeId(node)].epoch;
    submit(image, &Command::FailOver(FailOver { node: NodeId(node), node_epoch, seal: None, leaders: Vec::new() }));
}

fn drain(image: &mut MetadataImage, node: i32) {
    submit(image, &Command::SetDraining { node: NodeId(node), draining: true });
}

fn led(image: &MetadataImage, node: i32) -> usize {
    image.streams_led_by(NodeId(node)).count()
}

fn ids(replicas: &[NodeId]) -> Vec<i32> {
    replicas.iter().map(|id| id.0).collect()
}

/// Carries a plan out for a node whose log holds nothing.
fn fail_over(image: &mut MetadataImage, node: i32) -> usize {
    let leaders = plan_fail_over(image, NodeId(node));
    let moves = leaders.len();
    let node_epoch = image.nodes[&NodeId(node)].epoch;
    let command = FailOver { node: NodeId(node), node_epoch, seal: None, leaders };
    assert_eq!(submit(image, &Command::FailOver(command)), Outcome::Moved { committed: vec![true; moves] });
    moves
}

#[test]
fn leaders_take_turns_from_the_start_and_replicas_differ() {
    let image = cluster(&[None; 3]);
    let placed = Placer::new(&image, 1).place(6, 3).expect("placed");
    assert_eq!(placed.iter().map(|replicas| replicas[0].0).collect::<Vec<_>>(), [1, 2, 0, 1, 2, 0]);
    for replicas in &placed {
        let mut sorted = ids(replicas);
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2]);
    }
}

#[test]
fn the_topics_of_one_request_know_of_each_other() {
    let image = cluster(&[None; 4]);
    let mut placer = Placer::new(&image, 2);
    let leaders: BTreeSet<i32> = (0..4).map(|_| placer.place(1, 1).expect("placed")[0][0].0).collect();
    assert_eq!(leaders.len(), 4);
}

#[test]
fn fenced_nodes_never_lead_and_draining_ones_only_at_need() {
    let mut image = cluster(&[None; 3]);
    fence(&mut image, 0);
    drain(&mut image, 2);
    let placed = Placer::new(&image, 0).place(4, 3).expect("placed");
    assert!(placed.iter().all(|replicas| ids(replicas) == [1, 2, 0]), "{placed:?}");
    drain(&mut image, 1);
    let placed = Placer::new(&image, 0).place(4, 1).expect("placed");
    assert_eq!(placed.iter().map(|replicas| replicas[0].0).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2]));
}

#[test]
fn what_cannot_be_placed_is_refused() {
    let mut image = cluster(&[None]);
    assert_eq!(Placer::new(&image, 9).place(1, 2), Err(Unplaceable::TooFewNodes { registered: 1 }));
    fence(&mut image, 0);
    assert_eq!(Placer::new(&image, 9).place(1, 1), Err(Unplaceable::AllFenced));
    assert_eq!(Placer::new(&cluster(&[]), 9).place(1, 1), Err(Unplaceable::TooFewNodes { registered: 0 }));
}

#[test]
fn a_new_node_gets_what_a_small_topic_leaves_open() {
    let mut image = cluster(&[None; 2]);
    create(&mut image, 1, 0, 10, 1);
    let late = Registration::new(NodeId(2), Uuid::from_u128(77));
    submit(&mut image, &Command::RegisterNode(late));
    let placed = Placer::new(&image, 0).place(4, 1).expect("placed");
    let of_new = placed.iter().filter(|replicas| replicas[0] == NodeId(2)).count();
    assert_eq!(of_new, 2, "even over the topic; the odd one to whom leads least");
}

#[test]
fn a_coordinators_partitions_spread_like_any_others() {
    let mut image = cluster(&[None; 5]);
    create(&mut image, 1, 0, 50, 3);
    create(&mut image, 2, 3, 200, 3);
    fail_over(&mut image, 4);
    let topic = &image.topics[&Uuid::from_u128(1)];
    for node in 0..4 {
        let of_topic = topic.partitions.iter().filter(|partition| partition.leader == NodeId(node)).count();
        assert!((12..=13).contains(&of_topic), "node {node} leads {of_topic} of 50");
    }
}

#[test]
fn the_preferred_leader_is_the_first_replica_that_can() {
    let mut image = cluster(&[None; 4]);
    create(&mut image, 1, 0, 1, 3);
    let partition = |image: &MetadataImage| image.topics[&Uuid::from_u128(1)].partitions[0].clone();
    assert_eq!(ids(&partition(&image).replicas), [0, 1, 2]);
    assert_eq!(plan_preferred(&image), []);
    // Away by failover, and back when the node is there again.
    fail_over(&mut image, 0);
    assert_eq!(partition(&image).leader, NodeId(1));
    assert_eq!(plan_preferred(&image), []);
    submit(&mut image, &Command::RegisterNode(Registration::new(NodeId(0), Uuid::from_u128(55))));
    let stream = partition(&image).stream;
    assert_eq!(plan_preferred(&image), [(stream, NodeId(0))]);
    drain(&mut image, 0);
    assert_eq!(plan_preferred(&image), []);
    // Not among the replicas any more: whoever of them can, in their order.
    let replicas: Arc<[NodeId]> = Arc::from([NodeId(0), NodeId(3), NodeId(2)]);
    submit(&mut image, &Command::AlterReplicas { changes: vec![(stream, replicas)] });
    assert_eq!(plan_preferred(&image), [(stream, NodeId(3))]);
    fence(&mut image, 1);
    assert_eq!(plan_preferred(&image), [], "its leader is lost: a failover's work");
}

#[test]
fn what_a_failover_could_not_give_away_is_found_again() {
    let mut image = cluster(&[None; 2]);
    create(&mut image, 1, 0, 4, 1);
    assert_eq!(stranded(&image), []);
    fence(&mut image, 1);
    assert_eq!(stranded(&image), [(NodeId(1), image.nodes[&NodeId(1)].epoch)], "fenced without a plan");
    fence(&mut image, 0);
    assert_eq!(stranded(&image), [], "nobody could take over");
    let late = Registration::new(NodeId(2), Uuid::from_u128(77));
    submit(&mut image, &Command::RegisterNode(late));
    assert_eq!(stranded(&image).len(), 2);
    assert_eq!(fail_over(&mut image, 0) + fail_over(&mut image, 1), 4);
    assert_eq!(stranded(&image), []);

    // Its log is open: it may hold what nobody else has.
    let wal = WalDescriptor { uuid: Uuid::from_u128(9), class: WalClass::Private, location: "".into() };
    let again = Registration { wal: Some(wal), ..Registration::new(NodeId(0), Uuid::from_u128(78)) };
    submit(&mut image, &Command::RegisterNode(again));
    create(&mut image, 2, 0, 4, 1);
    fence(&mut image, 0);
    assert!(led(&image, 0) > 0);
    assert_eq!(stranded(&image), []);
    submit(&mut image, &Command::RetireWal { wal: Uuid::from_u128(9) });
    assert_eq!(stranded(&image), [(NodeId(0), image.nodes[&NodeId(0)].epoch)]);
}

#[test]
fn a_shared_log_that_was_out_of_reach_is_tried_again_whatever_its_node_leads() {
    let mut image = cluster(&[None; 2]);
    let wal = WalDescriptor { uuid: Uuid::from_u128(9), class: WalClass::Shared, location: "".into() };
    let registration = Registration { wal: Some(wal), ..Registration::new(NodeId(0), Uuid::from_u128(78)) };
    submit(&mut image, &Command::RegisterNode(registration));
    assert_eq!(stranded(&image), []);
    fence(&mut image, 0);
    assert_eq!(led(&image, 0), 0);
    assert_eq!(
        stranded(&image),
        [(NodeId(0), image.nodes[&NodeId(0)].epoch)],
        "it may be sealed unbeknown to metadata"
    );
}

#[derive(Debug, Clone)]
struct Shape {
    racks: Vec<Option<u8>>,
    topics: Vec<(usize, usize)>,
    lost: Vec<usize>,
    start: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let racks = proptest::collection::vec(proptest::option::weighted(0.8, 0..4_u8), 1..12);
    let topics = proptest::collection::vec((1..60_usize, 1..4_usize), 1..8);
    let lost = proptest::collection::vec(0..12_usize, 0..6);
    (racks, topics, lost, any::<u64>()).prop_map(|(racks, topics, lost, start)| Shape { racks, topics, lost, start })
}

fn build(shape: &Shape) -> MetadataImage {
    let names: Vec<Option<String>> = shape.racks.iter().map(|rack| rack.map(|rack| format!("r{rack}"))).collect();
    let racks: Vec<Option<&str>> = names.iter().map(Option::as_deref).collect();
    let mut image = cluster(&racks);
    for (id, (count, factor)) in (1..).zip(&shape.topics) {
        create(&mut image, id, shape.start, *count, (*factor).min(racks.len()));
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn new_partitions_are_even_and_over_racks(shape in shapes()) {
        let image = build(&shape);
        let nodes = shape.racks.len();
        for topic in image.topics.values() {
            let mut of_topic = vec![0_usize; nodes];
            for partition in &topic.partitions {
                of_topic[usize::try_from(partition.leader.0).expect("small")] += 1;
                let factor = partition.replicas.len();
                let distinct: BTreeSet<&NodeId> = partition.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), factor);
                // As many racks as there are, a node without one counting for itself.
                let racks = |ids: &mut dyn Iterator<Item = i32>| {
                    let rack = |id: i32| shape.racks[id.unsigned_abs() as usize].ok_or(id);
                    ids.map(rack).collect::<BTreeSet<_>>().len()
                };
                let all = racks(&mut (0..i32::try_from(nodes).expect("small")));
                prop_assert_eq!(racks(&mut partition.replicas.iter().map(|id| id.0)), factor.min(all));
            }
            let (most, least) = (of_topic.iter().max().copied(), of_topic.iter().min().copied());
            prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{:?}", of_topic);
        }
        // Never further apart than one partition of each topic.
        let leaders: Vec<usize> = (0..i32::try_from(nodes).expect("small")).map(|node| led(&image, node)).collect();
        let apart = leaders.iter().max().expect("nodes") - leaders.iter().min().expect("nodes");
        prop_assert!(apart <= 1, "{:?}", leaders);
    }

    #[test]
    fn what_a_node_leaves_spreads_evenly_over_who_can_lead(shape in shapes()) {
        let mut image = build(&shape);
        let nodes = i32::try_from(shape.racks.len()).expect("small");
        let mut gone = BTreeSet::new();
        for lost in &shape.lost {
            let lost = i32::try_from(*lost).expect("small");
            if lost >= nodes || !gone.insert(lost) {
                continue;
            }
            let before = led(&image, lost);
            fence(&mut image, lost);
            let moves = fail_over(&mut image, lost);
            let alive: Vec<i32> = (0..nodes).filter(|node| !gone.contains(node)).collect();
            prop_assert_eq!(moves, if alive.is_empty() { 0 } else { before });
            let leaders: Vec<usize> = alive.iter().map(|node| led(&image, *node)).collect();
            let apart = leaders.iter().max().zip(leaders.iter().min()).map_or(0, |(most, least)| most - least);
            let topics = shape.topics.len();
            prop_assert!(apart <= topics + 1, "{:?} after node {} of {}", leaders, lost, nodes);
            let total: usize = image.streams.len();
            let fair = total.div_ceil(alive.len().max(1));
            prop_assert!(leaders.iter().all(|leads| *leads <= fair + 1), "{:?}, fair {}", leaders, fair);
        }
    }

    #[test]
    fn a_draining_node_gives_everything_away_and_takes_nothing(shape in shapes()) {
        let mut image = build(&shape);
        let nodes = i32::try_from(shape.racks.len()).expect("small");
        (0..nodes.min(2)).for_each(|node| drain(&mut image, node));
        let plan = plan_drain(&image, NodeId(0));
        prop_assert_eq!(plan.len(), if nodes > 2 { led(&image, 0) } else { 0 });
        prop_assert!(plan.iter().all(|(_, target)| target.0 > 1));
    }
}

use bytes::Bytes;
use common::Offset;
use proptest::prelude::*;
use s3stream::testing::MemoryLog;

use super::rig::{NOW, Rig, accepted, append, code, idempotent, plain, topic};
use crate::partition::checkpoint::PartitionCheckpoint;
use crate::partition::producer_state::ProducerStates;
use crate::partition::state::CHECKPOINT_INTERVAL_BYTES;
use crate::partition::{AppendOrigin, Partition};

/// Everything a checkpoint and a replay must bring back.
fn derived(partition: &Partition) -> PartitionCheckpoint {
    let state = partition.state.lock();
    PartitionCheckpoint {
        offset: state.log_end,
        log_start: state.log_start,
        epochs: state.epochs.clone(),
        producers: state.producers.clone(),
        coordinator: None,
    }
}

/// The same without what only records below the log start tell: a trim tries to keep it, but a checkpoint with no
/// records to travel with is lost when the log behind it is trimmed.
fn surviving(mut state: PartitionCheckpoint) -> PartitionCheckpoint {
    let mut producers = ProducerStates::default();
    for (id, entry) in state.producers.iter() {
        let mut entry = entry.clone();
        entry.batches.retain(|batch| batch.last_offset >= state.log_start);
        if !entry.batches.is_empty() {
            producers.restore(id, entry);
        }
    }
    state.producers = producers;
    state
}

#[tokio::test]
async fn what_was_not_durable_is_gone_from_offsets_and_producer_state() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    accepted(&partition, &idempotent(5, 0, 0, 2));
    rig.log.flush();
    accepted(&partition, &idempotent(5, 0, 2, 2));
    drop(partition);
    let rig = rig.crash().await;
    let partition = rig.open().await;
    assert_eq!((partition.log_end(), partition.high_watermark()), (Offset(2), Offset(2)));
    let again = append(&partition, &idempotent(5, 0, 0, 2)).expect("a duplicate");
    assert_eq!(again.base_offset, Offset(0));
    assert_eq!(accepted(&partition, &idempotent(5, 0, 2, 2)).0, 2, "the lost one is sent again, and is new");
}

#[tokio::test]
async fn a_reopening_in_the_same_life_shows_nothing_before_it_is_durable() {
    let rig = Rig::manual();
    let before = rig.open().await;
    accepted(&before, &plain(3));
    let mut opening = std::pin::pin!(rig.open());
    for _ in 0..50 {
        assert!(futures::poll!(opening.as_mut()).is_pending(), "nothing was flushed");
        tokio::task::yield_now().await;
    }
    rig.log.flush();
    let partition = opening.await;
    assert_eq!((partition.log_end(), partition.high_watermark()), (Offset(3), Offset(3)));
}

#[tokio::test]
async fn every_life_leads_under_a_higher_epoch() {
    let mut rig = Rig::durable();
    for life in 0..4 {
        let partition = rig.open().await;
        assert_eq!(partition.leader_epoch(), life);
        // The second life writes nothing, so its epoch has no records and leaves no trace.
        if life != 1 {
            accepted(&partition, &plain(10));
        }
        drop(partition);
        rig = rig.crash().await;
    }
    let partition = rig.open().await;
    let end = |epoch| partition.end_of_epoch(epoch).map(|(epoch, end)| (epoch, end.0));
    assert_eq!([0, 1, 2, 3, 4].map(end), [Some((0, 10)), Some((0, 10)), Some((2, 20)), Some((3, 30)), Some((4, 30))]);
    assert_eq!(end(5), None);
    assert_eq!([0, 10, 25, 30].map(|offset| partition.epoch_at(Offset(offset))), [0, 2, 3, 4]);
    assert_eq!(partition.check_leader_epoch(3), Err(protocol::ErrorCode::FencedLeaderEpoch));
    assert_eq!(partition.check_leader_epoch(5), Err(protocol::ErrorCode::UnknownLeaderEpoch));
    assert_eq!((partition.check_leader_epoch(4), partition.check_leader_epoch(-1)), (Ok(()), Ok(())));
}

#[tokio::test]
async fn checkpoints_are_written_as_they_pay_and_bound_the_replay() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let big = |sequence| {
        let mut builder = protocol::batch::BatchBuilder::new().with_producer(1, 0, sequence);
        builder.push(NOW, None, Some(&vec![7; 40 << 10]));
        builder.build(0, -1)
    };
    accepted(&partition, &big(0));
    assert!(partition.state.lock().bytes_since_checkpoint > 0, "too little was written");
    accepted(&partition, &big(1));
    assert_eq!(partition.state.lock().bytes_since_checkpoint, 0, "a small state is written soon");
    // With many producers one costs more than a tenth, until 8 MiB have come.
    for id in 0..40_000 {
        partition.state.lock().producers.record(
            &crate::partition::producer_state::Sequenced {
                producer_id: 100 + id,
                producer_epoch: 0,
                base_sequence: 0,
                last_offset_delta: 0,
            },
            0,
            0,
            NOW,
        );
    }
    let mut written = 0;
    for sequence in 2.. {
        accepted(&partition, &big(sequence));
        written += 40 << 10;
        if partition.state.lock().bytes_since_checkpoint == 0 {
            break;
        }
        assert!(written <= CHECKPOINT_INTERVAL_BYTES + (40 << 10), "the interval was reached");
    }
    assert!(written >= CHECKPOINT_INTERVAL_BYTES - (40 << 10), "not before it costs little, or the interval is over");
    let before = derived(&partition);
    drop(partition);
    let rig = rig.crash().await;
    let mut after = derived(&*rig.open().await);
    assert_eq!(after.epochs.entries().last().map(|entry| entry.epoch), Some(1));
    after.epochs = before.epochs.clone();
    assert_eq!(after, before);
}

#[tokio::test]
async fn trimming_keeps_producers_and_moves_epochs_and_start() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    accepted(&partition, &idempotent(5, 0, 0, 4));
    accepted(&partition, &idempotent(5, 0, 4, 4));
    partition.trim(Offset(6)).await.expect("trims");
    assert_eq!((partition.log_start(), partition.epoch_at(Offset(5))), (Offset(6), -1));
    partition.trim(Offset(2)).await.expect("nothing to do");
    assert_eq!(partition.log_start(), Offset(6));
    partition.trim(Offset(8)).await.expect("trims everything");
    drop(partition);
    let rig = rig.crash().await;
    let partition = rig.open().await;
    assert_eq!((partition.log_start(), partition.log_end()), (Offset(8), Offset(8)));
    assert_eq!(append(&partition, &idempotent(5, 0, 4, 4)).expect("a duplicate").base_offset, Offset(4));
    assert_eq!(code(append(&partition, &idempotent(5, 0, 9, 1))), 45);
    assert_eq!(accepted(&partition, &idempotent(5, 0, 8, 1)).0, 8);
}

#[tokio::test]
async fn a_graceful_stop_leaves_everything_in_objects() {
    let rig = Rig::durable();
    let partition = rig.open().await;
    accepted(&partition, &idempotent(5, 0, 0, 4));
    accepted(&partition, &idempotent(6, 3, 9, 4));
    assert!(partition.append_final_checkpoint().is_some());
    assert_eq!(partition.append_final_checkpoint(), None, "nothing new");
    rig.store.flush().await.expect("uploads");
    let before = derived(&partition);
    drop(partition);
    // Another life without the old log.
    let rig = Rig { log: MemoryLog::new(1 << 20, 1 << 16, true).into(), ..rig }.crash().await;
    let after = derived(&*rig.open().await);
    assert_eq!((after.producers, after.offset), (before.producers, before.offset));
}

#[tokio::test]
async fn a_coordinators_checkpoint_comes_back_with_the_offset_it_describes() {
    let rig = Rig { topic: topic("__consumer_offsets", super::config()), ..Rig::durable() };
    let partition = rig.open().await;
    assert_eq!(partition.coordinator_checkpoint(), None);
    partition.append(&plain(3), AppendOrigin::Coordinator).expect("accepted");
    assert_eq!(partition.append_final_checkpoint(), None, "the coordinator writes its own");
    partition.append_coordinator_checkpoint(b"groups").expect("accepted");
    partition.append(&plain(2), AppendOrigin::Coordinator).expect("accepted");
    drop(partition);
    let rig = rig.crash().await;
    let partition = rig.open().await;
    assert_eq!(partition.coordinator_checkpoint(), Some((Offset(3), Bytes::from_static(b"groups"))));
    assert_eq!(partition.log_end(), Offset(5));
    // A coordinator that is loaded again without a reopening starts from the newest one as well.
    partition.append_coordinator_checkpoint(b"more groups").expect("accepted");
    assert_eq!(partition.coordinator_checkpoint(), Some((Offset(5), Bytes::from_static(b"more groups"))));
}

#[derive(Clone, Debug)]
enum Step {
    Append { producer: i64, bump: bool, records: i32 },
    Plain(i32),
    Duplicate(i64),
    Checkpoint,
    Upload,
    Trim(u8),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_i64..4, proptest::bool::weighted(0.1), 1_i32..5)
            .prop_map(|(producer, bump, records)| Step::Append { producer, bump, records }),
        1 => (1_i32..5).prop_map(Step::Plain),
        2 => (0_i64..4).prop_map(Step::Duplicate),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Upload),
        1 => any::<u8>().prop_map(Step::Trim),
        2 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Producer's next epoch and sequence, and its last batch with the offset it got.
type Known = std::collections::HashMap<i64, (i16, i32, Option<(Bytes, i64)>)>;

async fn run(steps: Vec<Step>) {
    let mut rig = Rig::durable();
    let mut partition = rig.open().await;
    let mut known = Known::default();
    for step in steps {
        match step {
            Step::Append { producer, bump, records } => {
                let (epoch, sequence, last) = known.entry(producer).or_insert((0, 0, None));
                if bump {
                    (*epoch, *sequence) = (*epoch + 1, 0);
                }
                let batch = idempotent(producer, *epoch, *sequence, records);
                let offset = accepted(&partition, &batch).0;
                *sequence += records;
                *last = Some((batch, offset));
            }
            Step::Plain(records) => {
                accepted(&partition, &plain(records));
            }
            Step::Duplicate(producer) => {
                if let Some((_, _, Some((batch, offset)))) = known.get(&producer)
                    && *offset >= partition.log_start().0
                {
                    assert_eq!(accepted(&partition, batch).0, *offset, "the original's offset");
                }
            }
            Step::Checkpoint => {
                partition.append_final_checkpoint();
            }
            Step::Upload => rig.store.flush().await.expect("uploads"),
            Step::Trim(part) => {
                let (start, end) = (partition.log_start().0, partition.log_end().0);
                let target = start + (end - start) * i64::from(part) / 255;
                partition.trim(Offset(target)).await.expect("trims");
            }
            Step::Crash => {
                let before = derived(&partition);
                drop(partition);
                rig = rig.crash().await;
                partition = rig.open().await;
                let mut after = derived(&partition);
                // The new life's own epoch starts where the log ends; where the last one wrote nothing it takes its place.
                let mut epochs = before.epochs.clone();
                epochs.assign(partition.leader_epoch(), before.offset);
                assert_eq!(after.epochs, epochs);
                after.epochs = before.epochs.clone();
                assert_eq!(surviving(after), surviving(before));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("OTTLA_PROPERTY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(64)
    ))]

    #[test]
    fn a_replay_ends_in_the_live_state(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}

use bytes::Bytes;
use common::Offset;
use proptest::prelude::*;
use s3stream::ReadClass;
use s3stream::testing::MemoryLog;

use super::rig::{NOW, Rig, accepted, append, code, idempotent, marker, plain, topic, transactional};
use crate::partition::checkpoint::PartitionCheckpoint;
use crate::partition::producer_state::{LastTransaction, NO_COORDINATOR_EPOCH, ProducerStates};
use crate::partition::state::CHECKPOINT_INTERVAL_BYTES;
use crate::partition::transactions::{AbortedTransaction, Transactions};
use crate::partition::{AppendOrigin, Isolation, Partition, TransactionMarker, Verification};

/// Everything a checkpoint and a replay must bring back.
fn derived(partition: &Partition) -> PartitionCheckpoint {
    let mut state = partition.state.lock();
    state.follow(partition.environment.durable.get());
    PartitionCheckpoint {
        offset: state.log_end,
        log_start: state.log_start,
        epochs: state.epochs.clone(),
        producers: state.producers.clone(),
        transactions: state.transactions.clone(),
        coordinator: None,
    }
}

/// A transactional batch: its offset, the next one, and its producer.
type Written = (i64, i64, i64);

/// The same without what only records below the log start tell: a trim tries to keep it, but a checkpoint with no
/// records to travel with is lost when the log behind it is trimmed. A transaction begins then with the first of its
/// records that is left, and without any it is forgotten.
fn surviving(mut state: PartitionCheckpoint, written: &[Written]) -> PartitionCheckpoint {
    let log_start = state.log_start;
    let first_left = |producer_id: i64, first: i64, end: i64| {
        let is_left =
            |(base, next, id): &&Written| *id == producer_id && (first..end).contains(base) && *next > log_start;
        written.iter().find(is_left).map(|(base, ..)| *base)
    };
    let (mut producers, mut transactions) = (ProducerStates::default(), Transactions::default());
    for (id, entry) in state.producers.iter() {
        let mut entry = entry.clone();
        entry.batches.retain(|batch| batch.last_offset >= log_start);
        entry.transaction = match entry.transaction {
            LastTransaction::Open { first_offset } => first_left(id, first_offset, i64::MAX)
                .map_or(LastTransaction::None, |first_offset| LastTransaction::Open { first_offset }),
            LastTransaction::Ended { marker_offset, .. } if marker_offset < log_start => LastTransaction::None,
            other => other,
        };
        if !matches!(entry.transaction, LastTransaction::Ended { .. }) {
            entry.coordinator_epoch = NO_COORDINATOR_EPOCH;
        }
        if let Some(first_offset) = entry.open_since() {
            transactions.restore_open(id, first_offset);
        }
        if !entry.batches.is_empty() || entry.is_transactional() {
            producers.restore(id, entry);
        }
    }
    for aborted in state.transactions.aborted() {
        if let Some(first_offset) = first_left(aborted.producer_id, aborted.first_offset, aborted.marker_offset) {
            // Later ones alone are promised to begin above it.
            transactions.restore_aborted(AbortedTransaction { first_offset, last_stable_offset: 0, ..*aborted });
        }
    }
    (state.producers, state.transactions) = (producers, transactions);
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
                transactional: false,
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

#[tokio::test]
async fn transactions_survive_with_and_without_a_checkpoint() {
    let mut rig = Rig::durable();
    let mut partition = rig.open().await;
    let write = |partition: &Partition, producer, epoch, sequence| {
        transact(partition, producer, epoch, &transactional(producer, epoch, sequence, 2))
    };
    write(&partition, 7, 0, 0);
    write(&partition, 8, 0, 0);
    write(&partition, 9, 0, 0);
    partition.append_marker(&marker(8, 0, false)).expect("ends");
    for checkpoint in [false, true] {
        if checkpoint {
            partition.append_final_checkpoint().expect("something was written");
        }
        let before = derived(&partition);
        drop(partition);
        rig = rig.crash().await;
        partition = rig.open().await;
        let after = derived(&partition);
        assert_eq!((&after.producers, &after.transactions), (&before.producers, &before.transactions));
        assert_eq!((partition.last_stable_offset(), partition.high_watermark()), (Offset(0), Offset(7)));
        assert_eq!(code(append(&partition, &idempotent(7, 0, 2, 1))), 48, "its transaction is open");
    }
    assert_eq!(append(&partition, &transactional(7, 0, 2, 1)).expect("open").base_offset, Offset(7));
    partition.append_marker(&marker(7, 0, true)).expect("ends");
    assert_eq!(partition.last_stable_offset(), Offset(4), "9's is open");
    partition.append_marker(&marker(9, 0, true)).expect("ends");
    let read = partition.read(Offset(0), 1 << 20, Isolation::ReadCommitted, true, ReadClass::Tail).await;
    assert_eq!(read.expect("reads").aborted, vec![(8, 2)]);
}

#[tokio::test]
async fn a_transaction_whose_marker_was_not_durable_is_open_again() {
    let rig = Rig::manual();
    let partition = rig.open().await;
    accepted(&partition, &plain(2));
    transact(&partition, 7, 0, &transactional(7, 0, 0, 2));
    rig.log.flush();
    partition.append_marker(&marker(7, 0, false)).expect("ends");
    accepted(&partition, &plain(1));
    assert_eq!(partition.last_stable_offset(), Offset(2));
    drop(partition);
    let rig = rig.crash().await;
    let partition = rig.open().await;
    assert_eq!((partition.last_stable_offset(), partition.log_end()), (Offset(2), Offset(4)));
    assert!(partition.state.lock().transactions.aborted().is_empty());
    partition.append_marker(&marker(7, 0, false)).expect("the coordinator tries again");
    rig.log.flush();
    assert_eq!(partition.last_stable_offset(), Offset(5));
    assert_eq!(partition.state.lock().transactions.aborted_within(0, 5), vec![(7, 2)]);
}

#[derive(Clone, Debug)]
enum Step {
    Append { producer: i64, bump: bool, records: i32 },
    Plain(i32),
    Transact { producer: i64, records: i32 },
    End { producer: i64, commit: bool, bump: bool },
    Duplicate(i64),
    Checkpoint,
    Upload,
    Trim(u8),
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (0_i64..4, proptest::bool::weighted(0.1), 1_i32..5)
            .prop_map(|(producer, bump, records)| Step::Append { producer, bump, records }),
        1 => (1_i32..5).prop_map(Step::Plain),
        5 => (4_i64..8, 1_i32..5).prop_map(|(producer, records)| Step::Transact { producer, records }),
        3 => (4_i64..8, any::<bool>(), any::<bool>())
            .prop_map(|(producer, commit, bump)| Step::End { producer, commit, bump }),
        2 => (0_i64..8).prop_map(Step::Duplicate),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Upload),
        1 => any::<u8>().prop_map(Step::Trim),
        2 => Just(Step::Crash),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Producer's next epoch and sequence, and its last batch with the offset it got.
type Known = std::collections::HashMap<i64, (i16, i32, Option<(Bytes, i64)>)>;

/// Appends a transactional batch, with a guard where that is needed; its offset.
fn transact(partition: &Partition, producer: i64, epoch: i16, batch: &Bytes) -> i64 {
    let sequence = protocol::batch::BatchView::exactly_one(batch).expect("one batch").base_sequence();
    let guard = match partition.begin_verification(producer, epoch, sequence, false) {
        Verification::Needed(guard) => Some(guard),
        Verification::NotNeeded => None,
    };
    let origin = AppendOrigin::Client { produce_version: 11, behind_refusal: false, guard };
    partition.append(batch, origin).expect("verified").base_offset.0
}

/// A partition that crashes, and what was done to it.
struct Lives {
    rig: Rig,
    partition: std::sync::Arc<Partition>,
    known: Known,
    written: Vec<Written>,
}

impl Lives {
    fn append(&mut self, producer: i64, bump: bool, records: i32) {
        let (epoch, sequence, last) = self.known.entry(producer).or_insert((0, 0, None));
        if bump {
            (*epoch, *sequence) = (*epoch + 1, 0);
        }
        let batch = idempotent(producer, *epoch, *sequence, records);
        let offset = accepted(&self.partition, &batch).0;
        *sequence += records;
        *last = Some((batch, offset));
    }

    fn transact(&mut self, producer: i64, records: i32) {
        let (epoch, sequence, last) = self.known.entry(producer).or_insert((0, 0, None));
        let batch = transactional(producer, *epoch, *sequence, records);
        let offset = transact(&self.partition, producer, *epoch, &batch);
        self.written.push((offset, offset + i64::from(records), producer));
        *sequence += records;
        *last = Some((batch, offset));
    }

    fn end(&mut self, producer: i64, commit: bool, bump: bool) {
        // Where producers may be forgotten, one is held to 0 after a marker under the same epoch.
        let bump = bump || self.partition.log_start().0 > 0;
        let (epoch, sequence, last) = self.known.entry(producer).or_insert((0, 0, None));
        if bump {
            (*epoch, *sequence, *last) = (*epoch + 1, 0, None);
        }
        let transaction_version = if bump { 2 } else { 1 };
        let marker = TransactionMarker { transaction_version, ..marker(producer, *epoch, commit) };
        let first = self.partition.append_marker(&marker).expect("ends");
        if bump {
            let again = self.partition.append_marker(&marker).expect("again");
            assert_eq!((again.base_offset, again.lsn <= first.lsn), (first.base_offset, true));
        }
    }

    fn duplicate(&self, producer: i64) {
        if let Some((_, _, Some((batch, offset)))) = self.known.get(&producer)
            && *offset >= self.partition.log_start().0
        {
            assert_eq!(accepted(&self.partition, batch).0, *offset, "the original's offset");
        }
    }

    async fn crash(self) -> Self {
        let Self { rig, partition, known, written } = self;
        let (before, stable_before) = (derived(&partition), partition.last_stable_offset());
        drop(partition);
        let rig = rig.crash().await;
        let partition = rig.open().await;
        let mut after = derived(&partition);
        // The new life's own epoch starts where the log ends; where the last one wrote nothing it takes its place.
        let mut epochs = before.epochs.clone();
        epochs.assign(partition.leader_epoch(), before.offset);
        assert_eq!(after.epochs, epochs);
        after.epochs = before.epochs.clone();
        if before.log_start == 0 {
            assert_eq!(after, before);
            assert_eq!(partition.last_stable_offset(), stable_before);
        } else {
            assert_eq!(surviving(after, &written), surviving(before, &written));
            assert!(partition.last_stable_offset() >= stable_before, "stable-below-open: it never falls");
        }
        Self { rig, partition, known, written }
    }
}

async fn run(steps: Vec<Step>) {
    let rig = Rig::durable();
    let partition = rig.open().await;
    let mut lives = Lives { rig, partition, known: Known::default(), written: Vec::new() };
    for step in steps {
        match step {
            Step::Append { producer, bump, records } => lives.append(producer, bump, records),
            Step::Plain(records) => {
                accepted(&lives.partition, &plain(records));
            }
            Step::Transact { producer, records } => lives.transact(producer, records),
            Step::End { producer, commit, bump } => lives.end(producer, commit, bump),
            Step::Duplicate(producer) => lives.duplicate(producer),
            Step::Checkpoint => {
                lives.partition.append_final_checkpoint();
            }
            Step::Upload => lives.rig.store.flush().await.expect("uploads"),
            Step::Trim(part) => {
                let (start, end) = (lives.partition.log_start().0, lives.partition.log_end().0);
                let target = start + (end - start) * i64::from(part) / 255;
                lives.partition.trim(Offset(target)).await.expect("trims");
            }
            Step::Crash => lives = lives.crash().await,
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

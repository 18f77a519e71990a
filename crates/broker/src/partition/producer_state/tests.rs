use std::collections::{HashMap, VecDeque};

use proptest::prelude::*;

use super::*;

fn batch(producer_id: i64, producer_epoch: i16, base_sequence: i32, records: i32) -> Sequenced {
    Sequenced { producer_id, producer_epoch, base_sequence, last_offset_delta: records - 1, transactional: false }
}

fn append(states: &mut ProducerStates, batch: &Sequenced, base_offset: i64) -> Result<Judgement, SequenceError> {
    let judgement = states.judge(batch)?;
    if judgement == Judgement::Append {
        states.record(batch, base_offset, base_offset * 10, 1);
    }
    Ok(judgement)
}

#[test]
fn an_unknown_producer_starts_anywhere_and_continues_in_sequence() {
    let mut states = ProducerStates::default();
    assert_eq!(append(&mut states, &batch(1, 3, 40, 10), 100), Ok(Judgement::Append));
    assert_eq!(append(&mut states, &batch(1, 3, 50, 1), 110), Ok(Judgement::Append));
    for sequence in [52, 49, 0, 41] {
        let out_of_order = SequenceError::OutOfOrder { producer_id: 1, sent: sequence, known: 50 };
        assert_eq!(append(&mut states, &batch(1, 3, sequence, 1), 111), Err(out_of_order));
    }
}

#[test]
fn a_new_epoch_starts_at_zero_and_an_old_one_is_fenced() {
    let mut states = ProducerStates::default();
    append(&mut states, &batch(1, 3, 0, 5), 0).expect("first");
    assert!(matches!(append(&mut states, &batch(1, 4, 5, 1), 5), Err(SequenceError::OutOfOrder { .. })));
    assert_eq!(
        append(&mut states, &batch(1, 4, 0, 5), 5),
        Ok(Judgement::Append),
        "same range, other epoch: no duplicate"
    );
    assert_eq!(
        append(&mut states, &batch(1, 3, 0, 5), 10),
        Err(SequenceError::StaleEpoch { producer_id: 1, sent: 3, known: 4 })
    );
}

#[test]
fn the_last_five_batches_are_known_again() {
    let mut states = ProducerStates::default();
    for index in 0..7 {
        append(&mut states, &batch(1, 0, index * 2, 2), i64::from(index) * 2).expect("in sequence");
    }
    for index in 2..7 {
        let judged = append(&mut states, &batch(1, 0, index * 2, 2), 99);
        let Ok(Judgement::Duplicate(original)) = judged else { panic!("{judged:?}") };
        assert_eq!((original.base_offset(), original.timestamp_ms), (i64::from(index) * 2, i64::from(index) * 20));
    }
    assert!(matches!(append(&mut states, &batch(1, 0, 2, 2), 99), Err(SequenceError::OutOfOrder { .. })), "sixth");
    assert!(matches!(append(&mut states, &batch(1, 0, 12, 1), 99), Err(SequenceError::OutOfOrder { .. })), "shorter");
    assert_eq!(states.batches(), 5);
}

#[test]
fn sequences_wrap_to_zero() {
    let mut states = ProducerStates::default();
    append(&mut states, &batch(1, 0, i32::MAX - 1, 2), 0).expect("up to the last");
    assert_eq!(append(&mut states, &batch(1, 0, 0, 1), 2), Ok(Judgement::Append));

    let mut states = ProducerStates::default();
    let across = batch(2, 0, i32::MAX - 1, 5);
    append(&mut states, &across, 0).expect("across the end");
    assert!(matches!(append(&mut states, &across, 9), Ok(Judgement::Duplicate(_))));
    assert!(matches!(append(&mut states, &batch(2, 0, 0, 1), 5), Err(SequenceError::OutOfOrder { .. })));
    assert_eq!(append(&mut states, &batch(2, 0, 3, 1), 5), Ok(Judgement::Append));
}

#[test]
fn a_control_batch_takes_its_epoch_and_leaves_no_sequence() {
    let mut states = ProducerStates::default();
    append(&mut states, &batch(1, 3, 0, 5), 0).expect("first");
    let marker = EndTransactionMarker { commit: true, coordinator_epoch: 2 };
    assert_eq!(states.record_marker(1, 4, marker, 5, 1), None);
    assert_eq!(states.batches(), 0);
    assert!(append(&mut states, &batch(1, 4, 7, 1), 6).is_err());
    assert_eq!(append(&mut states, &batch(1, 4, 0, 1), 6), Ok(Judgement::Append));
}

#[test]
fn idle_producers_expire() {
    let mut states = ProducerStates::default();
    states.record(&batch(1, 0, 0, 1), 0, 0, 1_000);
    states.record(&batch(2, 0, 0, 1), 1, 0, 2_000);
    states.expire(2_500, 1_000);
    assert_eq!(states.iter().map(|(id, _)| id).collect::<Vec<_>>(), vec![2]);
    assert_eq!(states.batches(), 1);
    assert_eq!(append(&mut states, &batch(1, 0, 77, 1), 2), Ok(Judgement::Append));
}

#[test]
fn beyond_the_limit_the_longest_silent_are_forgotten() {
    let mut states = ProducerStates::default();
    for id in 0..=ProducerStates::LIMIT as i64 {
        // The newest writer carries the oldest time: it is spared all the same.
        let now_ms = if id == ProducerStates::LIMIT as i64 { -1 } else { id };
        states.record(&batch(id, 0, 0, 1), id, 0, now_ms);
    }
    assert!(states.len() <= ProducerStates::LIMIT);
    assert_eq!(states.batches(), states.len());
    let ids: Vec<i64> = states.iter().map(|(id, _)| id).collect();
    assert!(!ids.contains(&0) && ids.contains(&(ProducerStates::LIMIT as i64)) && ids.contains(&60_000));
}

fn ended(commit: bool) -> EndTransactionMarker {
    EndTransactionMarker { commit, coordinator_epoch: 4 }
}

fn begin(states: &mut ProducerStates, producer_id: i64, epoch: i16, sequence: i32, base_offset: i64, now_ms: i64) {
    let batch = Sequenced { transactional: true, ..batch(producer_id, epoch, sequence, 1) };
    states.record(&batch, base_offset, 0, now_ms);
    states.begin_transaction(producer_id, base_offset);
}

#[test]
fn a_transaction_begins_once_and_ends_with_a_marker() {
    let mut states = ProducerStates::default();
    begin(&mut states, 1, 3, 0, 10, 1);
    begin(&mut states, 1, 3, 1, 11, 1);
    assert_eq!((states.get(1).and_then(ProducerEntry::open_since), states.transactional()), (Some(10), 1));
    assert_eq!(states.record_marker(1, 3, ended(true), 12, 1), Some(10));
    let entry = states.get(1).expect("known");
    assert_eq!((entry.open_since(), entry.coordinator_epoch, entry.batches.len()), (None, 4, 2));
    assert_eq!(entry.transaction, LastTransaction::Ended { commit: true, marker_offset: 12 });
    assert_eq!(states.record_marker(1, 3, ended(true), 13, 1), None, "none was open");
    assert_eq!(append(&mut states, &batch(1, 3, 2, 1), 14), Ok(Judgement::Append), "sequences go on");
    states.record(&batch(1, 4, 0, 1), 15, 0, 1);
    let entry = states.get(1).expect("known");
    assert_eq!((entry.transaction, entry.is_transactional()), (LastTransaction::None, true), "the epoch stays");
    assert_eq!(states.transactional(), 1);
}

#[test]
fn a_transaction_stays_open_under_a_later_epoch() {
    let mut states = ProducerStates::default();
    begin(&mut states, 1, 3, 0, 10, 1);
    begin(&mut states, 1, 4, 0, 11, 1);
    assert_eq!(states.get(1).and_then(ProducerEntry::open_since), Some(10));
    assert_eq!(states.record_marker(1, 5, ended(false), 12, 1), Some(10));
    assert_eq!(states.batches(), 0);
}

#[test]
fn outside_of_an_open_transaction_nothing_is_taken_but_duplicates() {
    let mut states = ProducerStates::default();
    states.record(&batch(1, 3, 0, 1), 9, 0, 1);
    begin(&mut states, 1, 3, 1, 10, 1);
    let outside = Err(SequenceError::OutsideTransaction { producer_id: 1 });
    assert_eq!(states.judge(&batch(1, 3, 2, 1)), outside);
    assert_eq!(states.judge(&batch(1, 4, 0, 1)), outside);
    assert_eq!(states.judge(&batch(1, 3, -1, 1)), outside, "without a sequence");
    assert!(matches!(states.judge(&batch(1, 3, 0, 1)), Ok(Judgement::Duplicate(_))));
    assert!(matches!(states.judge(&batch(1, 3, 7, 1)), Err(SequenceError::OutOfOrder { .. })), "that comes first");
    let inside = Sequenced { transactional: true, ..batch(1, 3, 2, 1) };
    assert_eq!(states.judge(&inside), Ok(Judgement::Append));
    states.record_marker(1, 3, ended(true), 11, 1);
    assert_eq!(states.judge(&batch(1, 3, 2, 1)), Ok(Judgement::Append));
}

#[test]
fn without_a_sequence_the_epoch_alone_is_judged() {
    let mut states = ProducerStates::default();
    let unsequenced = |epoch| Sequenced { transactional: true, ..batch(1, epoch, -1, 2) };
    for base_offset in [0, 2] {
        assert_eq!(append(&mut states, &unsequenced(3), base_offset), Ok(Judgement::Append));
    }
    assert_eq!(states.batches(), 0);
    assert!(matches!(states.judge(&unsequenced(2)), Err(SequenceError::StaleEpoch { .. })));
}

#[test]
fn open_is_kept() {
    let mut states = ProducerStates::default();
    begin(&mut states, -5, 0, 0, 0, 0);
    begin(&mut states, -6, 0, 0, 1, 0);
    states.record_marker(-6, 0, ended(true), 2, 0);
    states.expire(1_000_000, 1_000);
    assert_eq!(states.iter().map(|(id, _)| id).collect::<Vec<_>>(), [-5], "not by age");
    for id in 0..=ProducerStates::LIMIT as i64 {
        states.record(&batch(id, 0, 0, 1), 10 + id, 0, 10 + id);
    }
    assert!(states.get(-5).is_some() && states.get(0).is_none(), "nor by the bound");
    assert!(states.len() <= ProducerStates::LIMIT);
    assert_eq!((states.batches(), states.transactional()), (states.len(), 1));
    states.record_marker(-5, 0, ended(true), i64::from(u32::MAX), 20);
    states.expire(1_000_000_000, 1_000);
    assert_eq!((states.len(), states.batches(), states.transactional()), (0, 0, 0));
}

/// A batch's sequence numbers, and its base offset.
type Remembered = (Vec<i32>, i64);

/// Kafka's rules, written down as naively as possible: every batch is remembered with its sequence numbers.
#[derive(Default)]
struct Model {
    producers: HashMap<i64, (i16, VecDeque<Remembered>)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Appended,
    Duplicate(i64),
    Stale,
    OutOfOrder,
}

impl Model {
    fn append(&mut self, batch: &Sequenced, base_offset: i64) -> Verdict {
        let numbers: Vec<i32> = (0..=i64::from(batch.last_offset_delta))
            .map(|delta| ((i64::from(batch.base_sequence) + delta) % (1 << 31)) as i32)
            .collect();
        let known = self.producers.get(&batch.producer_id);
        if let Some((epoch, batches)) = known {
            if batch.producer_epoch < *epoch {
                return Verdict::Stale;
            }
            if batch.producer_epoch == *epoch {
                if let Some((_, offset)) = batches.iter().find(|(known, _)| *known == numbers) {
                    return Verdict::Duplicate(*offset);
                }
                let last = batches.back().and_then(|(numbers, _)| numbers.last().copied()).expect("never empty");
                if numbers[0] != (if last == i32::MAX { 0 } else { last + 1 }) {
                    return Verdict::OutOfOrder;
                }
            } else if numbers[0] != 0 {
                return Verdict::OutOfOrder;
            }
        }
        let (epoch, batches) = self.producers.entry(batch.producer_id).or_default();
        if *epoch != batch.producer_epoch {
            *epoch = batch.producer_epoch;
            batches.clear();
        }
        batches.push_back((numbers, base_offset));
        if batches.len() > 5 {
            batches.pop_front();
        }
        Verdict::Appended
    }
}

/// Few producers, epochs and positions, so that duplicates, gaps and bumps all happen often, also around the wrap.
fn sends() -> impl Strategy<Value = Vec<Sequenced>> {
    let send = (0_i64..2, 0_i16..3, 0_i32..24, 1_i32..4, any::<bool>()).prop_map(|(id, epoch, at, records, high)| {
        let base = if high { i32::MAX - 12 } else { 0 };
        let sequence = ((i64::from(base) + i64::from(at)) & i64::from(i32::MAX)) as i32;
        batch(id, epoch, sequence, records)
    });
    proptest::collection::vec(send, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("OTTLA_PROPERTY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(256)
    ))]

    #[test]
    fn judges_as_the_model_and_replays_to_the_same_state(mut sends in sends(), follow in any::<u64>()) {
        let (mut states, mut replayed, mut model) = (ProducerStates::default(), ProducerStates::default(), Model::default());
        let mut offset = 0;
        for (index, send) in sends.iter_mut().enumerate() {
            // Half of the sends follow on, or else hardly any would be accepted.
            if follow >> (index % 64) & 1 == 1
                && let Some(last) = states.iter().find(|(id, _)| *id == send.producer_id)
            {
                send.producer_epoch = last.1.epoch;
                send.base_sequence = last.1.batches.last().map_or(0, |last| increment_sequence(last.last_sequence, 1));
            }
            let verdict = match append(&mut states, send, offset) {
                Ok(Judgement::Append) => Verdict::Appended,
                Ok(Judgement::Duplicate(original)) => Verdict::Duplicate(original.base_offset()),
                Err(SequenceError::StaleEpoch { .. }) => Verdict::Stale,
                Err(SequenceError::OutOfOrder { .. }) => Verdict::OutOfOrder,
                Err(error @ SequenceError::OutsideTransaction { .. }) => panic!("{error}"),
            };
            prop_assert_eq!(&verdict, &model.append(send, offset));
            if verdict == Verdict::Appended {
                replayed.record(send, offset, offset * 10, 1);
                offset += i64::from(send.last_offset_delta) + 1;
            }
        }
        prop_assert_eq!(&states, &replayed);
        prop_assert_eq!(states.batches(), states.iter().map(|(_, entry)| entry.batches.len()).sum::<usize>());
    }
}

use crate::transaction::{PartitionSet, TransactionState};

#[test]
fn states_have_kafkas_numbers_and_names() {
    let names = [
        "Empty",
        "Ongoing",
        "PrepareCommit",
        "PrepareAbort",
        "CompleteCommit",
        "CompleteAbort",
        "Dead",
        "PrepareEpochFence",
    ];
    for (id, (state, name)) in (0_i8..).zip(TransactionState::ALL.into_iter().zip(names)) {
        assert_eq!((state.id(), state.name()), (id, name));
        assert_eq!(TransactionState::from_name(name), Some(state));
        assert_eq!(TransactionState::from_recorded_id(id), (id < 6).then_some(state));
    }
    assert_eq!(TransactionState::from_recorded_id(8), None);
    assert_eq!(TransactionState::from_recorded_id(-1), None);
    assert_eq!(TransactionState::from_name("ongoing"), None);
}

#[test]
fn states_follow_each_other_as_in_kafka() {
    use TransactionState::{CompleteAbort, CompleteCommit, Empty, Ongoing, PrepareAbort, PrepareCommit};
    let legal: [(TransactionState, &[TransactionState]); 6] = [
        (Empty, &[Empty, CompleteCommit, CompleteAbort]),
        (Ongoing, &[Empty, Ongoing, CompleteCommit, CompleteAbort]),
        (PrepareCommit, &[Ongoing]),
        (PrepareAbort, &[Empty, Ongoing, CompleteCommit, CompleteAbort]),
        (CompleteCommit, &[PrepareCommit]),
        (CompleteAbort, &[PrepareAbort]),
    ];
    for (state, before) in legal {
        for other in TransactionState::ALL {
            assert_eq!(state.may_follow(Some(other)), before.contains(&other), "{state:?} after {other:?}");
        }
        assert_eq!(state.may_follow(None), state == Empty);
    }
    for never in [TransactionState::Dead, TransactionState::PrepareEpochFence] {
        assert!(!TransactionState::ALL.into_iter().any(|before| never.may_follow(Some(before))));
    }
}

#[test]
fn partitions_are_a_set_by_topic() {
    let list = [("b", 2), ("a", 7), ("b", 0), ("b", 2)];
    let mut set: PartitionSet = list.iter().map(|(topic, partition)| ((*topic).into(), *partition)).collect();
    assert_eq!(set.len(), 3);
    let ascending: Vec<(&str, i32)> = set.iter().map(|(topic, partition)| (&**topic, partition)).collect();
    assert_eq!(ascending, [("a", 7), ("b", 0), ("b", 2)]);
    let one: PartitionSet = [("b".into(), 0)].into_iter().collect();
    assert!(set.contains_all(&one) && !one.contains_all(&set));
    set.remove("a", 1);
    set.remove("c", 1);
    set.remove("a", 7);
    assert!(!set.contains("a", 7) && set.topics().len() == 1, "no topic without partitions");
    set.remove("b", 0);
    set.remove("b", 2);
    assert!(set.is_empty());
}

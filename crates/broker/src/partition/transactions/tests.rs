use proptest::prelude::*;

use super::*;

#[test]
fn stable_below_open() {
    let mut transactions = Transactions::default();
    assert_eq!(transactions.first_unstable(), None);
    transactions.begin(1, 10);
    transactions.begin(2, 12);
    transactions.begin(3, 20);
    transactions.end(2, 12, 30, true);
    assert_eq!((transactions.first_open(), transactions.first_unstable()), (Some(10), Some(10)));
    transactions.end(1, 10, 31, false);
    assert_eq!((transactions.first_open(), transactions.first_unstable()), (Some(20), Some(10)), "not durable yet");
    assert_eq!((transactions.marker_holding(9), transactions.marker_holding(10)), (None, Some(31)));
    transactions.durable(31);
    assert_eq!(transactions.first_unstable(), Some(10), "the marker at 31 is not below 31");
    transactions.durable(32);
    assert_eq!(transactions.first_unstable(), Some(20));
    transactions.end(3, 20, 32, true);
    transactions.durable(33);
    assert_eq!(transactions.first_unstable(), None);
}

#[test]
fn aborted_overlap() {
    let mut transactions = Transactions::default();
    transactions.begin(1, 10);
    transactions.begin(2, 12);
    transactions.end(2, 12, 30, false);
    transactions.end(1, 10, 31, false);
    transactions.begin(1, 32);
    transactions.end(1, 32, 33, true);
    transactions.begin(2, 40);
    transactions.end(2, 40, 41, false);
    assert_eq!(transactions.aborted_within(0, 10), vec![]);
    assert_eq!(transactions.aborted_within(0, 11), vec![(1, 10)]);
    assert_eq!(transactions.aborted_within(0, 100), vec![(1, 10), (2, 12), (2, 40)], "by first offset");
    assert_eq!(transactions.aborted_within(30, 31), vec![(1, 10), (2, 12)], "begun before the first offset read");
    assert_eq!(transactions.aborted_within(31, 32), vec![(1, 10)]);
    assert_eq!(transactions.aborted_within(32, 40), vec![]);
    transactions.truncate_front(31);
    assert_eq!(transactions.aborted_within(0, 100), vec![(1, 10), (2, 40)], "its marker is still there");
    transactions.truncate_front(42);
    assert!(transactions.aborted().is_empty());
}

#[test]
fn where_a_bound_is_reached_no_other_transaction_begins() {
    let mut transactions = Transactions::default();
    for at in 0..Transactions::OPEN_MAX as i64 {
        assert!(!transactions.is_full());
        transactions.begin(at, at);
    }
    assert!(transactions.is_full());
    transactions.end(0, 0, i64::from(u32::MAX), true);
    assert!(!transactions.is_full());
    let mut transactions = Transactions::default();
    for at in 0..Transactions::ABORTED_MAX as i64 {
        assert!(!transactions.is_full());
        transactions.begin(1, at * 2);
        transactions.end(1, at * 2, at * 2 + 1, false);
    }
    assert!(transactions.is_full());
    transactions.truncate_front(2);
    assert!(!transactions.is_full(), "one is below the log start");
}

/// A transaction as naively as it can be written down.
#[derive(Clone, Copy, Debug)]
struct Told {
    producer_id: i64,
    first_offset: i64,
    marker: Option<(i64, bool)>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(i64),
    End(i64, bool),
    Flush(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_i64..5).prop_map(Step::Write),
        3 => ((0_i64..5), any::<bool>()).prop_map(|(producer_id, commit)| Step::End(producer_id, commit)),
        2 => any::<u8>().prop_map(Step::Flush),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn stable_below_open_and_aborted_overlap_as_naively_told(steps in steps(), from in any::<u8>(), end in any::<u8>()) {
        let (mut transactions, mut told) = (Transactions::default(), Vec::<Told>::new());
        let (mut log_end, mut high_watermark, mut stable_before) = (0_i64, 0_i64, 0_i64);
        for step in steps {
            let open = |told: &[Told], id| told.iter().position(|t| t.producer_id == id && t.marker.is_none());
            match step {
                Step::Write(producer_id) => {
                    if open(&told, producer_id).is_none() {
                        transactions.begin(producer_id, log_end);
                        told.push(Told { producer_id, first_offset: log_end, marker: None });
                    }
                    log_end += 1;
                }
                Step::End(producer_id, commit) => {
                    if let Some(at) = open(&told, producer_id) {
                        transactions.end(producer_id, told[at].first_offset, log_end, commit);
                        told[at].marker = Some((log_end, commit));
                    }
                    log_end += 1;
                }
                Step::Flush(part) => {
                    high_watermark += (log_end - high_watermark) * i64::from(part) / 255;
                    transactions.durable(high_watermark);
                }
            }
            let is_unstable = |t: &&Told| t.marker.is_none_or(|(marker, _)| marker >= high_watermark);
            let first = told.iter().filter(is_unstable).map(|t| t.first_offset).min();
            prop_assert_eq!(transactions.first_unstable(), first);
            let stable = first.map_or(high_watermark, |first| first.min(high_watermark));
            prop_assert!(stable >= stable_before, "it never falls");
            stable_before = stable;
            let from = stable * i64::from(from) / 255;
            let end = from + (stable - from) * i64::from(end) / 255;
            let overlaps = |t: &&Told| t.marker.is_some_and(|(m, c)| !c && m >= from) && t.first_offset < end;
            let mut expected: Vec<_> = told.iter().filter(overlaps).map(|t| (t.producer_id, t.first_offset)).collect();
            expected.sort_by_key(|(_, first)| *first);
            prop_assert_eq!(transactions.aborted_within(from, end), expected);
        }
    }
}

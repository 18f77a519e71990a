//! Every kind of defect is planted once, and a clean history stays clean.

use super::{Event, History, Kind, Limits, Outcome, Value, Verdict, replay};

/// A history in which two producers wrote ten values each, alternating, all acked; then `disturb` changes
/// the list of events.
fn judged(disturb: impl FnOnce(&mut Vec<Event>)) -> Verdict {
    let mut events = Vec::new();
    for offset in 0..20 {
        let (producer, sequence) = ((offset % 2) as u32, offset / 2);
        events.push(Event::Acked { partition: 0, producer, sequence, offset: Some(offset) });
    }
    events.push(Event::Range { partition: 0, start: 0, end: 20 });
    for offset in 0..20 {
        let (producer, sequence) = ((offset % 2) as u32, offset / 2);
        events.push(Event::Read { partition: 0, offset, producer, sequence });
    }
    disturb(&mut events);
    let lines: Vec<String> = events.iter().map(|e| serde_json::to_string(e).expect("serializable")).collect();
    let mut history = History::new(Limits::default());
    replay(&mut history, lines.join("\n").as_bytes()).expect("well-formed");
    history.finish()
}

/// The index of the read of `offset`.
const fn read(offset: usize) -> usize {
    21 + offset
}

fn only(verdict: &Verdict, kind: Kind, times: u64) {
    assert_eq!(verdict.count(kind), times, "{verdict}");
    let others: Vec<_> = verdict.examples().iter().filter(|(_, d)| d.kind != kind).collect();
    assert!(others.is_empty(), "also found {others:?}");
}

#[test]
fn clean_history() {
    let verdict = judged(|_| ());
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!((verdict.acked, verdict.records_read, verdict.unknown), (20, 20, 0));
}

#[test]
fn lost_at_the_end() {
    let verdict = judged(|events| {
        events.truncate(read(17));
        events[20] = Event::Range { partition: 0, start: 0, end: 17 };
    });
    only(&verdict, Kind::Lost, 3);
}

#[test]
fn lost_in_the_middle_is_also_a_gap() {
    let verdict = judged(|events| {
        events.remove(read(5));
    });
    assert_eq!((verdict.count(Kind::Lost), verdict.count(Kind::Gap)), (1, 1), "{verdict}");
}

#[test]
fn unknown_outcome_may_be_there_or_not() {
    let unknown = |events: &mut Vec<Event>| {
        events[19] = Event::Unknown { partition: 0, producer: 1, sequence: 9 };
    };
    assert!(judged(unknown).is_clean());
    let verdict = judged(|events| {
        unknown(events);
        events.pop();
        events[20] = Event::Range { partition: 0, start: 0, end: 19 };
    });
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(verdict.unknown, 1);
}

#[test]
fn failed_must_not_be_there() {
    let verdict = judged(|events| events[19] = Event::Failed { partition: 0, producer: 1, sequence: 9 });
    only(&verdict, Kind::FailedButPresent, 1);
}

#[test]
fn duplicated() {
    let verdict = judged(|events| {
        events.push(Event::Read { partition: 0, offset: 20, producer: 1, sequence: 9 });
        events[20] = Event::Range { partition: 0, start: 0, end: 21 };
    });
    only(&verdict, Kind::Duplicated, 1);
}

#[test]
fn reordered() {
    let swap = |event: &mut Event, to: u64| {
        if let Event::Acked { sequence, .. } | Event::Read { sequence, .. } = event {
            *sequence = to;
        }
    };
    let verdict = judged(|events| {
        for base in [0, read(0)] {
            swap(&mut events[base + 4], 3);
            swap(&mut events[base + 6], 2);
        }
    });
    only(&verdict, Kind::Reordered, 1);
}

#[test]
fn altered() {
    let verdict = judged(|events| {
        events[7] = Event::Unknown { partition: 0, producer: 1, sequence: 3 };
        events[read(7)] = Event::Altered { partition: 0, offset: 7 };
    });
    only(&verdict, Kind::Altered, 1);
}

#[test]
fn two_values_acked_at_one_offset() {
    let verdict = judged(|events| {
        events.insert(0, Event::Acked { partition: 0, producer: 2, sequence: 0, offset: Some(3) });
    });
    assert_eq!(verdict.count(Kind::TwoValuesAtOneOffset), 1, "{verdict}");
    assert_eq!(verdict.count(Kind::Lost), 1, "{verdict}");
}

#[test]
fn another_value_read_than_acked() {
    let verdict = judged(|events| {
        events.push(Event::Unknown { partition: 0, producer: 2, sequence: 0 });
        let last = events.len() - 1;
        events.swap(last, 20);
        events.swap(20, 19);
        events.remove(last);
        events.insert(20, Event::Acked { partition: 0, producer: 1, sequence: 9, offset: Some(19) });
        events.insert(21, Event::Range { partition: 0, start: 0, end: 20 });
        let read_19 = events.len() - 1;
        events[read_19] = Event::Read { partition: 0, offset: 19, producer: 2, sequence: 0 };
    });
    assert_eq!(verdict.count(Kind::TwoValuesAtOneOffset), 1, "{verdict}");
    assert_eq!(verdict.count(Kind::Lost), 1, "{verdict}");
}

#[test]
fn moved() {
    let verdict = judged(|events| {
        events[19] = Event::Acked { partition: 0, producer: 1, sequence: 9, offset: Some(25) };
    });
    only(&verdict, Kind::Moved, 1);
}

#[test]
fn invented() {
    let verdict = judged(|events| {
        events.push(Event::Read { partition: 0, offset: 20, producer: 7, sequence: 0 });
        events.push(Event::Read { partition: 0, offset: 21, producer: 1, sequence: 10 });
        events[20] = Event::Range { partition: 0, start: 0, end: 22 };
    });
    only(&verdict, Kind::Invented, 2);
}

#[test]
fn gaps_at_start_middle_and_end() {
    let verdict = judged(|events| {
        events[20] = Event::Range { partition: 0, start: 0, end: 25 };
        for lost in [10, 0] {
            let (producer, sequence) = ((lost % 2) as u32, lost as u64 / 2);
            events[lost] = Event::Unknown { partition: 0, producer, sequence };
            events.remove(read(lost));
        }
    });
    only(&verdict, Kind::Gap, 3);
}

#[test]
fn read_going_back() {
    let verdict = judged(|events| {
        events.push(Event::Unknown { partition: 0, producer: 3, sequence: 0 });
        events.push(Event::Read { partition: 0, offset: 4, producer: 3, sequence: 0 });
        events[4] = Event::Unknown { partition: 0, producer: 0, sequence: 2 };
    });
    only(&verdict, Kind::ReadWentBack, 1);
}

#[test]
fn never_read_back() {
    let verdict = judged(|events| events.truncate(20));
    assert_eq!(verdict.count(Kind::NotRead), 1, "{verdict}");
    assert_eq!(verdict.count(Kind::Lost), 20, "{verdict}");
}

#[test]
fn end_offset_going_back() {
    let verdict = judged(|events| {
        events.extend([5, 9, 8, 9].map(|end| Event::End { partition: 0, end }));
    });
    only(&verdict, Kind::EndWentBack, 1);
}

#[test]
fn polls() {
    let poll = |offset| Event::Polled { member: 1, partition: 0, offset };
    let clean = judged(|events| {
        events.push(Event::Assigned { member: 1, partition: 0 });
        events.extend([0, 1, 2].map(poll));
        events.push(Event::Assigned { member: 1, partition: 0 });
        events.extend([1, 2].map(poll));
    });
    assert!(clean.is_clean(), "what was read but not committed may come again: {clean}");
    let verdict = judged(|events| events.extend([0, 1, 1, 2, 4].map(poll)));
    assert_eq!(verdict.count(Kind::PollWentBack), 1, "{verdict}");
    assert_eq!(verdict.count(Kind::PollSkipped), 1, "{verdict}");
}

#[test]
fn group_offsets_going_back() {
    let started_below = judged(|events| {
        events.push(Event::Committed { member: 0, partition: 0, offset: 6 });
        events.push(Event::Assigned { member: 1, partition: 0 });
        events.push(Event::Polled { member: 1, partition: 0, offset: 5 });
    });
    only(&started_below, Kind::GroupOffsetWentBack, 1);
    let answered = judged(|events| {
        events.push(Event::Committed { member: 0, partition: 0, offset: 6 });
        events.push(Event::Asking { query: 1 });
        events.push(Event::Committed { member: 0, partition: 0, offset: 7 });
        events.push(Event::GroupOffset { query: 1, partition: 0, offset: Some(6) });
        events.push(Event::Asking { query: 2 });
        events.push(Event::GroupOffset { query: 2, partition: 0, offset: Some(6) });
        events.push(Event::GroupOffset { query: 2, partition: 0, offset: None });
    });
    only(&answered, Kind::GroupOffsetWentBack, 2);
    let committed = judged(|events| {
        events.extend([6, 4].map(|offset| Event::Committed { member: 0, partition: 0, offset }));
    });
    only(&committed, Kind::GroupOffsetWentBack, 1);
}

#[test]
fn limits_refuse() {
    let mut history = History::new(Limits { partitions: 1, producers: 2, records_per_partition: 100 });
    let value = Value { producer: 1, sequence: 5 };
    assert!(history.produced(0, value, Outcome::Unknown).is_ok());
    assert!(history.produced(1, value, Outcome::Unknown).is_err());
    assert!(history.produced(0, Value { producer: 2, ..value }, Outcome::Unknown).is_err());
    assert!(history.produced(0, Value { sequence: 100, ..value }, Outcome::Unknown).is_err());
    assert!(history.produced(0, value, Outcome::Acked { offset: Some(100) }).is_err());
    assert!(history.read(0, 1 << 60, None).is_err());
}

#[test]
fn malformed_lines_are_errors() {
    let mut history = History::new(Limits::default());
    for line in ["", "{}", r#"{"op":"read"}"#, r#"{"op":"polled","member":1,"partition":0,"offset":-1}"#] {
        assert!(replay(&mut history, format!("{line}\n").as_bytes()).is_err(), "{line}");
    }
}

#[test]
fn an_answer_is_judged_by_what_was_known_before_it_was_asked_for() {
    let mut history = History::new(Limits::default());
    let write = |history: &mut History, sequence: u64| {
        let outcome = Outcome::Acked { offset: Some(sequence) };
        history.produced(0, Value { producer: 0, sequence }, outcome).expect("within limits");
    };
    let asked_early = history.end_floor(0);
    (0..5).for_each(|sequence| write(&mut history, sequence));
    let asked_late = history.end_floor(0);
    // A paused broker's answer to what it was asked before the pause may be old.
    history.end_offset(0, 1, asked_early).expect("within limits");
    history.end_offset(0, 5, asked_late).expect("within limits");
    assert!(history.verdict.is_clean(), "{}", history.verdict);
    // What it is asked afterwards may not.
    history.end_offset(0, 4, asked_late).expect("within limits");
    only(&history.verdict, Kind::EndWentBack, 1);
}

#[test]
fn log_start_going_back() {
    let verdict = judged(|events| events.extend([0, 7, 3].map(|start| Event::Start { partition: 0, start })));
    only(&verdict, Kind::StartWentBack, 1);
}

#[test]
fn leaders_and_their_epochs() {
    let leader = |source, epoch, leader| Event::Leader { source, partition: 0, epoch, leader };
    let clean = judged(|events| {
        // Brokers learn of a change one after the other, and one that comes back begins with what it knew.
        events.extend([leader(1, 0, 1), leader(2, 1, 2), leader(1, 0, 1), leader(1, 1, 2)]);
        events.extend([Event::SourceLost { source: 1 }, leader(1, 0, 1), leader(1, 2, 1)]);
    });
    assert!(clean.is_clean(), "{clean}");
    only(&judged(|e| e.extend([leader(1, 3, 1), leader(2, 3, 2)])), Kind::TwoLeadersInOneEpoch, 1);
    only(&judged(|e| e.extend([leader(1, 3, 1), leader(1, 2, 1)])), Kind::LeaderEpochWentBack, 1);
}

#[test]
fn acked_without_an_offset_may_be_anywhere_but_must_be_there() {
    let nowhere = |events: &mut Vec<Event>| {
        events[19] = Event::Acked { partition: 0, producer: 1, sequence: 9, offset: None };
    };
    assert!(judged(nowhere).is_clean());
    let verdict = judged(|events| {
        nowhere(events);
        events.pop();
        events[20] = Event::Range { partition: 0, start: 0, end: 19 };
    });
    only(&verdict, Kind::Lost, 1);
}

#[test]
fn several_members_share_what_is_polled() {
    let poll = |member, offset| Event::Polled { member, partition: 0, offset };
    let share = |events: &mut Vec<Event>, second_polls: bool| {
        events.push(Event::Assigned { member: 1, partition: 0 });
        events.extend((0..8).map(|offset| poll(1, offset)));
        events.push(Event::Assigned { member: 2, partition: 0 });
        if second_polls {
            events.push(poll(2, 8));
        }
        // The second member's commit is told of first: the first one's was under way for longer.
        events.push(Event::Committed { member: 2, partition: 0, offset: 9 });
        events.push(Event::Committed { member: 1, partition: 0, offset: 8 });
        events.push(Event::Assigned { member: 1, partition: 0 });
        events.extend((9..20).map(|offset| poll(1, offset)));
        events.push(Event::Drained { partition: 0, start: 0, end: 20 });
    };
    let clean = judged(|events| share(events, true));
    assert!(clean.is_clean(), "{clean}");
    let skipped = judged(|events| share(events, false));
    only(&skipped, Kind::NeverPolled, 1);
    let went_back = judged(|events| {
        events.extend([9, 8].map(|offset| Event::Committed { member: 2, partition: 0, offset }));
    });
    only(&went_back, Kind::GroupOffsetWentBack, 1);
}

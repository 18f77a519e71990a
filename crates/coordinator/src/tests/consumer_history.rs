//! Random histories of a consumer group against what must always hold. `OTTLA_GROUP_HISTORIES` sets how many.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::consumer_member::Consumer;
use super::harness::{GROUP, Harness, histories};
use crate::Persisted;

const MEMBERS: usize = 5;
const TOPICS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Action {
    /// A heartbeat; the answer may be lost.
    Beat(usize, bool),
    /// Its process dies without a word; another one comes in its place.
    Crash(usize),
    Leave(usize),
    /// Subscribes to these topics, by name or by a regular expression.
    Subscribe(usize, u8, bool),
    Grow(usize),
    Wait(i64),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    let member = 0..MEMBERS;
    prop_oneof![
        20 => (member.clone(), prop::bool::weighted(0.1)).prop_map(|(member, lost)| Action::Beat(member, lost)),
        1 => member.clone().prop_map(Action::Crash),
        1 => member.clone().prop_map(Action::Leave),
        2 => (member, 1_u8..8, prop::bool::weighted(0.3)).prop_map(|(member, topics, regex)| Action::Subscribe(member, topics, regex)),
        1 => (0..TOPICS.len()).prop_map(Action::Grow),
        5 => prop_oneof![1..1_000_i64, 5_000..12_000_i64, 30_000..50_000_i64].prop_map(Action::Wait),
        1 => Just(Action::Restart),
    ]
}

struct History {
    harness: Harness,
    consumers: Vec<Consumer>,
    partitions: [i32; 3],
    processes: usize,
    last_epochs: (i32, i32),
}

impl History {
    fn new() -> Self {
        let mut harness = Harness::new();
        harness.topics.set("a", 2);
        harness.topics.set("b", 3);
        let consumer = |index: usize| {
            let consumer = Consumer::new(&format!("m{index}"), &TOPICS[..=index % 3]);
            if index % 2 == 1 { consumer.of_instance(&format!("i{index}")) } else { consumer }
        };
        let consumers = (0..MEMBERS).map(consumer).collect();
        Self { harness, consumers, partitions: [2, 3, 0], processes: MEMBERS, last_epochs: (0, 0) }
    }

    fn run(&mut self, action: &Action) {
        match *action {
            Action::Beat(index, lost) => self.beat(index, lost),
            Action::Crash(index) => {
                self.consumers[index].begin_anew();
                self.consumers[index].id = format!("m{}", self.processes);
                self.processes += 1;
            }
            Action::Leave(index) => {
                let epoch = if self.consumers[index].instance.is_some() { -2 } else { -1 };
                self.consumers[index].leave(&mut self.harness, epoch);
            }
            Action::Subscribe(index, topics, regex) => {
                let chosen =
                    TOPICS.iter().enumerate().filter(|(bit, _)| topics & (1 << bit) != 0).map(|(_, topic)| *topic);
                let names: Vec<&str> = chosen.collect();
                let consumer = &mut self.consumers[index];
                consumer.regex = Some(if regex { names.join("|") } else { String::new() });
                consumer.topics = names.iter().filter(|_| !regex).map(|name| (*name).to_owned()).collect();
            }
            Action::Grow(topic) => {
                self.partitions[topic] = (self.partitions[topic] + 1).min(8);
                self.harness.topics.set(TOPICS[topic], self.partitions[topic]);
            }
            Action::Wait(ms) => self.harness.advance(ms),
            Action::Restart => self.harness.restart(),
        }
        self.check();
    }

    fn beat(&mut self, index: usize, lost: bool) {
        let consumer = &mut self.consumers[index];
        let response = self.harness.beat(consumer.request());
        match response.error_code {
            0 if lost => {}
            0 => consumer.take(&response),
            // Another process held the instance: it waits until that one's session is over.
            111 => {}
            // Fenced, or unknown: whatever it had is not its own any more.
            25 | 69 | 82 | 110 => consumer.begin_anew(),
            other => panic!("error {other}: {:?}", response.error_message),
        }
    }

    /// One-owner, as clients see it: nobody reads what a live member of the group reads.
    fn check(&mut self) {
        let persisted = self.harness.shard.persisted();
        let Some(group) = persisted.consumer_groups.get(GROUP) else { return };
        group.check();
        let mut owners: BTreeMap<&(String, i32), &str> = BTreeMap::new();
        let is_member = |consumer: &&Consumer| {
            group.members.get(consumer.id.as_str()).is_some_and(|member| member.current.epoch >= consumer.epoch)
        };
        for consumer in self.consumers.iter().filter(is_member) {
            for partition in &consumer.owned {
                let other = owners.insert(partition, &consumer.id);
                assert_eq!(other, None, "one-owner: {partition:?} is read by {} too", consumer.id);
            }
        }
        let epochs = (group.epoch, group.assignment_epoch);
        assert!(epochs.0 >= self.last_epochs.0 && epochs.1 >= self.last_epochs.1, "epochs only grow");
        self.last_epochs = epochs;
        let checkpoint = self.harness.shard.checkpoint();
        assert_eq!(Persisted::restore(&checkpoint).as_ref(), Ok(self.harness.shard.persisted()));
    }

    /// After all faults: everybody sends heartbeats, and soon every partition has a reader that subscribes to it.
    fn settle(&mut self) {
        for _ in 0..40 {
            for index in 0..MEMBERS {
                self.beat(index, false);
                self.check();
            }
            self.harness.advance(5_000);
        }
        let mut readers: BTreeMap<(String, i32), usize> = BTreeMap::new();
        for (index, consumer) in self.consumers.iter().enumerate() {
            assert!(consumer.epoch > 0 && consumer.owned == consumer.told, "{consumer:?}");
            for partition in &consumer.owned {
                let by_regex =
                    consumer.regex.as_ref().is_some_and(|regex| regex.split('|').any(|name| name == partition.0));
                assert!(by_regex || consumer.topics.contains(&partition.0), "{consumer:?} reads {partition:?}");
                readers.insert(partition.clone(), index);
            }
        }
        for (topic, count) in TOPICS.iter().zip(self.partitions) {
            let wanted = self.consumers.iter().any(|consumer| {
                let regex = consumer.regex.as_deref().unwrap_or_default();
                consumer.topics.contains(*topic) || regex.split('|').any(|name| name == *topic)
            });
            let read = (0..count).filter(|partition| readers.contains_key(&((*topic).to_owned(), *partition))).count();
            assert_eq!(read, if wanted { count as usize } else { 0 }, "{topic} of {:?}", self.consumers);
        }
        let epochs: Vec<i32> = self.consumers.iter().map(|consumer| consumer.epoch).collect();
        assert!(epochs.windows(2).all(|pair| pair[0] == pair[1]), "{epochs:?}");
    }
}

#[test]
fn random_histories_keep_every_rule() {
    histories(action(), |actions| {
        let mut history = History::new();
        actions.iter().for_each(|action| history.run(action));
        history.settle();
    });
}

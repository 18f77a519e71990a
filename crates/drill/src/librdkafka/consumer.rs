//! Members of a group, and reading to the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::{Quiet, code};
use crate::client::{Member, Range};
use crate::ledger::Ledger;

/// Records taken before the caller gets its turn again.
const POLL_RECORDS_MAX: usize = 5_000;

pub(super) struct GroupMember {
    consumer: BaseConsumer<Told>,
    topic: String,
}

impl GroupMember {
    pub(super) fn new(config: &ClientConfig, topic: &str, number: u32, ledger: Arc<Ledger>) -> Result<Self> {
        let told = Told { ledger, number, positions: Mutex::default() };
        let consumer: BaseConsumer<Told> = config.create_with_context(told)?;
        consumer.subscribe(&[topic])?;
        Ok(Self { consumer, topic: topic.to_owned() })
    }

    /// The offsets to commit: those above what was committed last.
    fn uncommitted(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (&partition, position) in self.consumer.context().positions.lock().iter_mut() {
            if position.next > position.committing {
                position.committing = position.next;
                // It fails for an offset that is none, which a polled record's is not.
                let _ = list.add_partition_offset(&self.topic, partition, Offset::Offset(position.next));
            }
        }
        list
    }

    fn commit_as(&self, mode: CommitMode) {
        let list = self.uncommitted();
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, mode)
        {
            self.consumer.context().ledger.error(format!("commit: {}", code(&error)));
        }
    }
}

impl Member for GroupMember {
    fn poll(&mut self, patience: Duration) {
        let mut patience = patience;
        let told = self.consumer.context();
        for _ in 0..POLL_RECORDS_MAX {
            match self.consumer.poll(patience) {
                None => return,
                Some(Err(error)) => told.ledger.error(code(&error)),
                Some(Ok(message)) => {
                    let (partition, offset) = (message.partition(), message.offset());
                    told.ledger.polled(told.number, partition as u32, offset as u64);
                    told.positions.lock().entry(partition).or_default().next = offset + 1;
                }
            }
            patience = Duration::ZERO;
        }
    }

    fn commit(&mut self) {
        self.commit_as(CommitMode::Async);
    }

    fn leave(self: Box<Self>) {
        self.commit_as(CommitMode::Sync);
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Position {
    next: i64,
    committing: i64,
}

/// Writes down what the member is told.
struct Told {
    ledger: Arc<Ledger>,
    number: u32,
    positions: Mutex<BTreeMap<i32, Position>>,
}

impl ClientContext for Told {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, _: &str) {
        self.ledger.error(code(&error));
    }
}

impl ConsumerContext for Told {
    fn pre_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                for one in list.elements() {
                    self.positions.lock().remove(&one.partition());
                    self.ledger.assigned(self.number, one.partition() as u32);
                }
            }
            Rebalance::Revoke(list) => {
                for one in list.elements() {
                    self.positions.lock().remove(&one.partition());
                }
            }
            Rebalance::Error(error) => self.ledger.error(code(error)),
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if let Err(error) = result {
            self.ledger.error(format!("commit: {}", code(&error)));
            // What was not committed is committed with the next.
            for one in offsets.elements() {
                if let Some(position) = self.positions.lock().get_mut(&one.partition()) {
                    position.committing = 0;
                }
            }
            return;
        }
        for one in offsets.elements() {
            if let (Ok(()), Some(Ok(offset))) = (one.error(), one.offset().to_raw().map(u64::try_from)) {
                self.ledger.committed(self.number, one.partition() as u32, offset);
            }
        }
    }
}

/// Hands the records of `ranges` to `take` until every end is reached.
pub(super) fn read_to_ends(
    consumer: &BaseConsumer<Quiet>,
    ranges: &[Range],
    patience: Duration,
    take: &mut dyn FnMut(u32, u64, &[u8]),
) -> Result<()> {
    let unread = ranges.iter().filter(|range| range.end > range.start);
    let mut unread: BTreeMap<u32, u64> = unread.map(|range| (range.partition, range.end)).collect();
    while !unread.is_empty() {
        let polled = consumer.poll(patience);
        match polled.with_context(|| format!("{} partitions were not read to their end", unread.len()))? {
            Ok(message) => {
                let (partition, offset) = (message.partition() as u32, message.offset() as u64);
                let Some(&end) = unread.get(&partition) else { continue };
                if offset < end {
                    take(partition, offset, message.payload().unwrap_or_default());
                }
                if offset + 1 >= end {
                    unread.remove(&partition);
                }
            }
            // Nothing more where something was promised: the checker will say what is missing.
            Err(KafkaError::PartitionEOF(partition)) => drop(unread.remove(&(partition as u32))),
            Err(KafkaError::MessageConsumption(code)) if retried(code) => {}
            Err(error) => bail!("reading back: {error}"),
        }
    }
    Ok(())
}

/// Errors after which the client tries again by itself.
fn retried(code: rdkafka::error::RDKafkaErrorCode) -> bool {
    use rdkafka::error::RDKafkaErrorCode::{
        AllBrokersDown, BrokerTransportFailure, LeaderNotAvailable, NotLeaderForPartition, OperationTimedOut,
        RequestTimedOut, Resolve,
    };
    matches!(
        code,
        AllBrokersDown
            | BrokerTransportFailure
            | LeaderNotAvailable
            | NotLeaderForPartition
            | OperationTimedOut
            | RequestTimedOut
            | Resolve
    )
}

//! Reads many partitions for one request, and parks the request while there is too little to return: Kafka's
//! `DelayedFetch`. Limits as in KIP-74: partitions in request order, whole batches only, and the first partition
//! that has data returns at least one batch however large it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::Offset;
use common::budget::ByteLease;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt};
use protocol::ErrorCode;
use s3stream::ReadClass;

use super::response::{FetchAnswer, LeaderEndpoint, PartitionAnswer};
use super::session::{FetchKey, FetchWish, Told};
use crate::Broker;
use crate::partition::{DataWait, Isolation, LookupError, Partition, PartitionRead, ReadError};

/// Most bytes that one request loads from the log or the store.
const LOAD_BYTES_MAX: usize = 8 << 20;
/// Partitions that one request loads at the same time.
const LOADS_IN_FLIGHT: usize = 8;
/// Part of the budget that one request gets while others wait.
const SHARES: u64 = 64;
/// How long a fetch whose client does not wait at all waits for its share of the response budget.
const BUDGET_WAIT_MIN: Duration = Duration::from_secs(1);

/// Where a reading may take records from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    /// Memory that the caches hold already.
    Memory,
    /// The log and the object store as well.
    Any,
}

/// What a request asks as a whole.
#[derive(Clone, Copy, Debug)]
pub struct FetchParameters {
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Bytes worth returning before that.
    pub min_bytes: usize,
    /// Most bytes of the whole response, except for one oversized first batch.
    pub max_bytes: usize,
    /// How far to read.
    pub isolation: Isolation,
    /// Topics are named by id.
    pub by_topic_id: bool,
}

impl From<&PartitionAnswer> for Told {
    fn from(answer: &PartitionAnswer) -> Self {
        Self {
            high_watermark: answer.high_watermark,
            log_start: answer.log_start_offset,
            error: answer.error_code != 0,
            has_records: !answer.records.is_empty(),
        }
    }
}

/// Answers every wish, waiting as `parameters` says. The lease covers the records' memory; `listener` is where the
/// client is told to find other leaders.
pub async fn fetch(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    parameters: &FetchParameters,
    listener: &str,
) -> (FetchAnswer, Option<ByteLease>) {
    let found: Vec<Found> = wishes.iter().map(|(key, wish)| find(broker, key, *wish, parameters.by_topic_id)).collect();
    let mut pass = read(wishes, &found, parameters, parameters.max_bytes, Source::Memory).await;
    if !parameters.max_wait.is_zero() && !wishes.is_empty() && !pass.is_enough(parameters.min_bytes) {
        pass = park(broker, wishes, &found, parameters, pass).await;
    }
    within_budget(broker, wishes, &found, parameters, pass).await.into_answer(broker, listener)
}

/// Re-reads whenever one of the partitions has news, until there is enough or the time is over.
async fn park(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    mut pass: Pass,
) -> Pass {
    let deadline = tokio::time::sleep(parameters.max_wait);
    tokio::pin!(deadline);
    while !pass.is_enough(parameters.min_bytes) {
        // A parked fetch holds no cache memory, however long its client lets it wait.
        pass.release();
        let mut wait = DataWait::new(broker.wal.durable());
        for (found, (_, answer)) in found.iter().zip(&pass.partitions) {
            if let Ok(partition) = found {
                // News is what lies above the end that was just read up to; what lies below is counted.
                let read_up_to = match parameters.isolation {
                    Isolation::ReadUncommitted => answer.high_watermark,
                    Isolation::ReadCommitted => answer.last_stable_offset,
                };
                wait.watch(partition, Offset(read_up_to), parameters.isolation);
            }
        }
        let is_over = tokio::select! {
            () = &mut deadline => true,
            () = wait.woken() => false,
        };
        if is_over && pass.bytes == 0 {
            return pass;
        }
        pass = read(wishes, found, parameters, parameters.max_bytes, Source::Memory).await;
        if is_over {
            return pass;
        }
    }
    pass
}

/// The partition a wish names, or the error it gets.
type Found = Result<Arc<Partition>, PartitionAnswer>;

/// One reading of all partitions.
struct Pass {
    partitions: Vec<(FetchKey, PartitionAnswer)>,
    bytes: usize,
    /// `bytes`, or the limit where there is more than that: whole batches rarely fill it. As Kafka counts towards
    /// the least a client waits for.
    available: usize,
    errors: bool,
    /// Whether something is left out because it needs I/O.
    unloaded: bool,
    lease: Option<ByteLease>,
}

impl Pass {
    fn of(wishes: &[(FetchKey, FetchWish)], answers: Vec<Answered>) -> Self {
        Self {
            bytes: answers.iter().map(|answered| answered.answer.bytes()).sum(),
            available: answers.iter().map(|answered| answered.available).sum(),
            errors: answers.iter().any(|answered| answered.answer.error_code != 0),
            unloaded: answers.iter().any(|answered| answered.unloaded),
            partitions: wishes.iter().map(|(key, _)| key.clone()).zip(answers.into_iter().map(|a| a.answer)).collect(),
            lease: None,
        }
    }

    fn is_enough(&self, min_bytes: usize) -> bool {
        self.errors || self.unloaded || self.available >= min_bytes
    }

    /// Lets go of the records; what was counted stays.
    fn release(&mut self) {
        for (_, answer) in &mut self.partitions {
            answer.records = Vec::new();
            answer.aborted = answer.aborted.take().map(|_| Vec::new());
        }
    }

    fn into_answer(self, broker: &Broker, listener: &str) -> (FetchAnswer, Option<ByteLease>) {
        let hints = self.partitions.iter().filter_map(|(_, answer)| answer.current_leader);
        let endpoints = leader_endpoints(broker, hints.map(|(leader, _)| leader), listener);
        let answer = FetchAnswer { partitions: self.partitions, endpoints, ..FetchAnswer::default() };
        (answer, self.lease)
    }
}

/// Leases the memory of what was read, and loads what is not in memory. Where the budget is short, lets go, waits for
/// a share, and reads that much. Where not even that can be had, the answer comes without records, and the client
/// asks again.
///
/// Rule **lease-before-load**: what the caches hold is bounded by them; memory beyond that is leased before it is
/// filled. Shares are small, so that many slow readers cannot keep others from going on.
async fn within_budget(
    broker: &Broker,
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    mut pass: Pass,
) -> Pass {
    let budget = &broker.response_budget;
    if !pass.unloaded {
        if pass.bytes == 0 {
            return pass;
        }
        pass.lease = budget.try_take(pass.bytes as u64);
        if pass.lease.is_some() {
            return pass;
        }
    }
    pass.release();
    let wanted = if pass.unloaded { parameters.max_bytes.min(LOAD_BYTES_MAX) } else { pass.bytes } as u64;
    let lease = match budget.try_take(wanted) {
        Some(lease) => Some(lease),
        None => {
            let share = wanted.min(budget.limit() / SHARES);
            tokio::time::timeout(parameters.max_wait.max(BUDGET_WAIT_MIN), budget.take(share)).await.ok()
        }
    };
    let Some(mut lease) = lease else { return pass };
    let share = usize::try_from(lease.bytes()).unwrap_or(usize::MAX);
    let mut pass = read(wishes, found, parameters, share, Source::Any).await;
    lease.shrink_to(pass.bytes as u64);
    pass.lease = Some(lease);
    pass
}

/// Reads all partitions, in their order: first what is in memory, then what is not, several at a time, if `source`
/// allows that. A partition that must be loaded has its limit set aside from what those after it may return.
async fn read(
    wishes: &[(FetchKey, FetchWish)],
    found: &[Found],
    parameters: &FetchParameters,
    max_bytes: usize,
    source: Source,
) -> Pass {
    let mut planned = 0_usize;
    let mut readings = Vec::with_capacity(wishes.len());
    for ((_, wish), found) in wishes.iter().zip(found) {
        let limit = usize::try_from(wish.max_bytes).unwrap_or(0).min(max_bytes.saturating_sub(planned));
        let ask = Ask { from: Offset(wish.offset), limit, at_least_one: planned == 0, isolation: parameters.isolation };
        let reading = match found {
            Ok(partition) => read_cached(partition, wish, ask),
            Err(error) => Reading::Answer(error.clone().into()),
        };
        planned += match &reading {
            Reading::Answer(answered) => answered.answer.bytes(),
            // Something is set aside even where the limit is zero: only one partition exceeds its limit.
            Reading::Load { ask, .. } => ask.limit.max(1),
        };
        readings.push(reading);
    }
    let answers = match source {
        Source::Memory => readings.into_iter().map(Reading::without_loading).collect(),
        Source::Any => load(readings).await,
    };
    Pass::of(wishes, answers)
}

/// What one partition is asked for.
#[derive(Clone, Copy)]
struct Ask {
    from: Offset,
    limit: usize,
    at_least_one: bool,
    isolation: Isolation,
}

/// One partition's part in a reading.
struct Answered {
    answer: PartitionAnswer,
    /// How many bytes it counts for.
    available: usize,
    /// Whether its records are left out because they need I/O.
    unloaded: bool,
}

impl From<PartitionAnswer> for Answered {
    fn from(answer: PartitionAnswer) -> Self {
        Self { answer, available: 0, unloaded: false }
    }
}

/// A partition that was looked at without waiting.
enum Reading<'a> {
    Answer(Answered),
    /// Its records are in the log or the store.
    Load {
        partition: &'a Partition,
        ask: Ask,
    },
}

impl<'a> Reading<'a> {
    fn to_load(&self) -> Option<(&'a Partition, Ask)> {
        match self {
            Self::Answer(_) => None,
            Self::Load { partition, ask } => Some((partition, *ask)),
        }
    }

    async fn loaded(self) -> Answered {
        match self {
            Self::Answer(answered) => answered,
            Self::Load { partition, ask } => {
                let Ask { from, limit, isolation, at_least_one } = ask;
                let read = partition.read(from, limit, isolation, at_least_one, ReadClass::CatchUp).await;
                answer(partition, ask, Source::Any, read)
            }
        }
    }

    fn without_loading(self) -> Answered {
        match self {
            Self::Answer(answered) => answered,
            Self::Load { partition, ask } => {
                // Without a byte to return nothing needs I/O.
                let read = partition.read_cached(ask.from, 0, ask.isolation, false).map(Option::unwrap_or_default);
                Answered { unloaded: true, ..answer(partition, ask, Source::Memory, read) }
            }
        }
    }
}

fn read_cached<'a>(partition: &'a Partition, wish: &FetchWish, ask: Ask) -> Reading<'a> {
    if let Err(code) = partition.check_leader_epoch(wish.leader_epoch) {
        return Reading::Answer(PartitionAnswer::error(code.code()).into());
    }
    match partition.read_cached(ask.from, ask.limit, ask.isolation, ask.at_least_one) {
        Ok(Some(read)) => Reading::Answer(answer(partition, ask, Source::Memory, Ok(read))),
        Ok(None) => Reading::Load { partition, ask },
        Err(error) => Reading::Answer(answer(partition, ask, Source::Memory, Err(error))),
    }
}

/// Loads what is not in memory, several partitions at a time.
async fn load(readings: Vec<Reading<'_>>) -> Vec<Answered> {
    let asks: Vec<Option<(&Partition, Ask)>> = readings.iter().map(Reading::to_load).collect();
    let loads: Vec<BoxFuture<'_, Answered>> = readings.into_iter().map(|reading| reading.loaded().boxed()).collect();
    let mut answers: Vec<Answered> = stream::iter(loads).buffered(LOADS_IN_FLIGHT).collect().await;
    // Where the one that may exceed its limit turned out to have nothing, the next one may.
    for (at, ask) in asks.into_iter().enumerate() {
        if answers.iter().any(|answered| answered.answer.bytes() > 0 || answered.answer.error_code != 0) {
            break;
        }
        if let Some((partition, ask)) = ask.filter(|(_, ask)| !ask.at_least_one) {
            answers[at] = Reading::Load { partition, ask: Ask { at_least_one: true, ..ask } }.loaded().await;
        }
    }
    answers
}

fn answer(partition: &Partition, ask: Ask, source: Source, read: Result<PartitionRead, ReadError>) -> Answered {
    match read {
        Ok(read) => {
            let available = if read.truncated { read.bytes.max(ask.limit) } else { read.bytes };
            let answer = PartitionAnswer {
                error_code: 0,
                high_watermark: read.high_watermark.0,
                last_stable_offset: read.last_stable_offset.0,
                log_start_offset: read.log_start.0,
                aborted: (ask.isolation == Isolation::ReadCommitted).then_some(read.aborted),
                current_leader: None,
                records: read.slices.into_iter().map(|slice| unpinned(slice.bytes, source)).collect(),
            };
            Answered { answer, available, unloaded: false }
        }
        Err(error) => {
            if let ReadError::Storage(cause) = &error {
                tracing::warn!(?partition, offset = ask.from.0, %cause, "a fetch could not be served");
            }
            PartitionAnswer::error(error.code().code()).into()
        }
    }
}

/// A small slice must not pin a large block behind a slow reader: it is copied. What was loaded for this request alone
/// is copied up to a larger size, because nothing else bounds the blocks behind it.
fn unpinned(bytes: Bytes, source: Source) -> Bytes {
    let copied_below = match source {
        Source::Memory => 4 << 10,
        Source::Any => 64 << 10,
    };
    if bytes.len() < copied_below { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// Finds the partition a wish names; the error says what the client should do otherwise.
fn find(broker: &Broker, key: &FetchKey, wish: FetchWish, by_topic_id: bool) -> Found {
    let image = broker.metadata.image();
    let topic = if by_topic_id { image.topics.get(&key.topic_id) } else { image.topic(&key.topic) };
    let unknown = if by_topic_id { LookupError::UnknownTopicId } else { LookupError::UnknownTopicOrPartition };
    let found = topic.ok_or(unknown).and_then(|topic| broker.partitions.lookup(topic, key.partition));
    let partition = found.map_err(|error| {
        let answer = PartitionAnswer::error(error.code().code());
        match error {
            LookupError::NotLeader { leader, leader_epoch } => {
                PartitionAnswer { current_leader: Some((leader.0, leader_epoch)), ..answer }
            }
            _ => answer,
        }
    })?;
    match partition.check_leader_epoch(wish.leader_epoch) {
        Ok(()) => Ok(partition),
        Err(code) => {
            // Who believes in an older epoch is told the new one (KIP-951); who believes in a newer one knows better.
            let own = (broker.config.node_id.0, partition.leader_epoch());
            let current_leader = (code == ErrorCode::FencedLeaderEpoch).then_some(own);
            Err(PartitionAnswer { current_leader, ..PartitionAnswer::error(code.code()) })
        }
    }
}

fn leader_endpoints(broker: &Broker, leaders: impl Iterator<Item = i32>, listener: &str) -> Vec<LeaderEndpoint> {
    let mut ids: Vec<i32> = leaders.collect();
    ids.sort_unstable();
    ids.dedup();
    let image = broker.metadata.image();
    let endpoint = |id: &i32| {
        let node = image.nodes.get(&common::NodeId(*id))?;
        let endpoint = node.endpoints.iter().find(|endpoint| endpoint.listener == listener)?;
        let rack = node.rack.as_deref().map(str::to_owned);
        Some(LeaderEndpoint { id: *id, host: endpoint.host.clone(), port: endpoint.port, rack })
    };
    ids.iter().filter_map(endpoint).collect()
}

#[cfg(test)]
mod tests {
    use protocol::batch::{Attributes, BatchBuilder};

    use super::*;
    use crate::partition::tests::rig::{Rig, accepted, plain};
    use crate::partition::{AppendOrigin, TransactionMarker, Verification};

    #[tokio::test]
    async fn only_one_loaded_partition_exceeds_its_limit_and_that_is_one_with_records() {
        let rig = Rig::durable();
        let partition = rig.open().await;
        let batch = plain(3);
        for _ in 0..2 {
            accepted(&partition, &batch);
        }
        rig.store.flush().await.expect("uploads");
        rig.store.drop_log_cache();
        let bytes_of = |asks: &[(i64, usize, bool)]| {
            let ask = |(from, limit, at_least_one): &(i64, usize, bool)| {
                let (limit, at_least_one) = (*limit, *at_least_one);
                let ask = Ask { from: Offset(*from), limit, at_least_one, isolation: Isolation::ReadUncommitted };
                Reading::Load { partition: &partition, ask }
            };
            let readings: Vec<_> = asks.iter().map(ask).collect();
            async move {
                let answers = load(readings).await;
                answers.iter().map(|answered| answered.answer.bytes()).collect::<Vec<_>>()
            }
        };
        let one = batch.len();
        assert_eq!(bytes_of(&[(0, 2 * one, true), (3, one, false)]).await, [2 * one, one]);
        assert_eq!(bytes_of(&[(0, 1, true), (3, 1, false)]).await, [one, 0]);
        // The first has nothing above the high watermark.
        assert_eq!(bytes_of(&[(6, 1, true), (3, 1, false), (0, 1, false)]).await, [0, one, 0]);
    }

    #[tokio::test]
    async fn readers_of_committed_records_are_told_of_aborted_ones() {
        let rig = Rig::durable();
        let partition = rig.open().await;
        let Verification::Needed(guard) = partition.begin_verification(7, 0, 0, false) else { panic!("unknown") };
        let attributes = Attributes::default().with_transactional(true);
        let mut batch = BatchBuilder::new().with_producer(7, 0, 0).with_attributes(attributes);
        batch.push(-1, None, Some(b"aborted"));
        let origin = AppendOrigin::Client { produce_version: 11, behind_refusal: false, guard: Some(guard) };
        partition.append(&batch.build(0, -1), origin).expect("verified");
        let told = |isolation, limit| {
            let ask = Ask { from: Offset(0), limit, at_least_one: limit > 0, isolation };
            let wish = FetchWish { offset: 0, max_bytes: 1 << 20, leader_epoch: -1 };
            let Reading::Answer(answered) = read_cached(&partition, &wish, ask) else { panic!("it is in memory") };
            let PartitionAnswer { high_watermark, last_stable_offset, aborted, .. } = answered.answer;
            (high_watermark, last_stable_offset, aborted)
        };
        assert_eq!(told(Isolation::ReadCommitted, 100), (1, 0, Some(vec![])));
        let (producer_epoch, coordinator_epoch) = (1, 0);
        let marker = TransactionMarker {
            producer_id: 7,
            producer_epoch,
            commit: false,
            coordinator_epoch,
            transaction_version: 2,
        };
        partition.append_marker(&marker).expect("ends");
        assert_eq!(told(Isolation::ReadCommitted, 100), (2, 2, Some(vec![(7, 0)])));
        assert_eq!(told(Isolation::ReadCommitted, 0), (2, 2, Some(vec![])), "nothing was read");
        assert_eq!(told(Isolation::ReadUncommitted, 100), (2, 2, None));
    }
}

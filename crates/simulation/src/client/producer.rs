//! An idempotent producer of one partition, as Kafka's: batches with sequences, up to five under way, sent again in order until
//! they are acknowledged. Some give up their connection at the first refusal, as after a disconnect; some hear first what becomes
//! of what else is under way. Now and then one gives up and begins anew, with another id or, as KIP-360 has it, with the next
//! epoch of its own, so that outcomes stay unknown.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use common::{Random as _, SeededRandom, clock};
use drill::history::Outcome;
use drill::payload::{self, HEADER_BYTES, Stamp};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest};
use protocol::batch::BatchBuilder;
use protocol::errors::ErrorCode;

use super::router::{PATIENCE, Router};
use super::wire::Wire;
use crate::world::{Phase, World};

const PRODUCE: i16 = 9;
const INIT_PRODUCER_ID: i16 = 4;

/// An answer to a produce request is waited for so long.
const ANSWER: Duration = Duration::from_secs(2);

/// Most requests under way, as Kafka's idempotent producers have.
const WINDOW: u64 = 5;

/// A batch that is not acknowledged yet.
struct Batch {
    /// Its first value.
    first: u64,
    count: u64,
    records: Bytes,
    /// When it was sent first.
    sent: Duration,
}

/// See the module.
pub struct Producer {
    router: Router,
    random: SeededRandom,
    lane: u32,
    partition: u32,
    /// How often it began anew; makes its number in the history.
    lives: u32,
    id: Option<(i64, i16)>,
    next: u64,
    waiting: VecDeque<Batch>,
    window: usize,
    /// Since when no batch was acknowledged although some wait.
    stuck: Option<Duration>,
    /// How long it waits before it gives up.
    resolve: Duration,
    /// Hears all answers that are under way before it sends again.
    patient: bool,
}

/// The producer of a lane.
#[must_use]
pub fn name(lane: u32) -> String {
    format!("p{lane}")
}

impl Producer {
    /// Lane `lane` writes to the partition that its number gives.
    #[must_use]
    pub fn new(world: &Arc<World>, lane: u32) -> Self {
        let random = SeededRandom::new(world.random.next_u64());
        let window = usize::try_from(1 + random.below(WINDOW)).unwrap_or(1);
        // Most wait as long as it takes.
        let resolve = if random.below(3) == 0 { 1 + random.below(8) } else { 600 };
        Self {
            router: Router::new(world, name(lane)),
            lane,
            partition: lane % world.shape.partitions,
            lives: 0,
            id: None,
            next: 0,
            waiting: VecDeque::new(),
            window,
            stuck: None,
            resolve: Duration::from_secs(resolve),
            patient: random.below(2) == 0,
            random,
        }
    }

    fn world(&self) -> &World {
        &self.router.world
    }

    /// Its number in the history: a new life is another producer.
    fn number(&self) -> u32 {
        self.lane * 100 + self.lives
    }

    fn is_writing(&self) -> bool {
        matches!(self.world().phase(), Phase::Faults | Phase::Healed)
    }

    /// Works until the run ends.
    pub async fn run(mut self) -> turmoil::Result {
        let name = self.router.name.clone();
        while self.world().phase() == Phase::Start {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while self.is_writing() || !self.waiting.is_empty() {
            if let Err(reason) = self.work().await {
                self.router.trace(&format!("partition {}: {reason}", self.partition));
                self.router.forget(self.partition);
                self.give_up_in_time();
                self.router.pause().await;
            }
        }
        self.world().done(&name);
        Ok(())
    }

    /// Begins anew when it waited too long: nobody will know of what is under way.
    fn give_up_in_time(&mut self) {
        let now = self.world().trace.now();
        let tired = self.stuck.is_some_and(|since| now.saturating_sub(since) >= self.resolve) && self.is_writing();
        if tired {
            for batch in std::mem::take(&mut self.waiting) {
                let values = batch.first..batch.first + batch.count;
                self.world().judge.produced(self.partition, self.number(), values, Outcome::Unknown);
            }
            let bumped = self.id.filter(|_| self.random.below(2) == 0).map(|(id, epoch)| (id, epoch + 1));
            self.router.trace(&format!("gave up, begins anew as {bumped:?}"));
            (self.id, self.next, self.stuck) = (bumped, 0, None);
            self.lives += 1;
        }
    }

    async fn work(&mut self) -> Result<()> {
        if self.id.is_none() {
            let request =
                InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
            let address = self.router.anyone();
            let answer = self.router.ask(&address, &request, INIT_PRODUCER_ID, PATIENCE).await?;
            anyhow::ensure!(answer.error_code == 0, "no producer id: error {}", answer.error_code);
            self.id = Some((answer.producer_id.0, answer.producer_epoch));
            let id = answer.producer_id.0;
            self.router.trace(&format!("is producer {} by id {id}", self.number()));
        }
        let leader = self.router.leader(self.partition).await?;
        let mut wire = self.router.take(&leader.address).await?;
        self.pump(&mut wire).await
    }

    /// Sends what waits, oldest first, and what is new, until something goes wrong or there is nothing more to do.
    async fn pump(&mut self, wire: &mut Wire) -> Result<()> {
        let mut under_way = 0;
        // Why the first was refused, and how many were since: those stand in front.
        let mut refused: Option<(anyhow::Error, usize)> = None;
        let mut due = clock::deadline(Duration::ZERO);
        loop {
            while refused.is_none() && under_way < self.waiting.len() {
                self.send(wire, under_way).await?;
                under_way += 1;
            }
            let writes = refused.is_none() && self.is_writing() && under_way < self.window;
            if under_way == 0 && !self.is_writing() {
                return Ok(());
            }
            let next = tokio::select! {
                biased;
                answer = wire.receive(), if under_way > 0 => Some(answer?),
                () = tokio::time::sleep_until(due), if writes => None,
                () = tokio::time::sleep(ANSWER) => bail!("no answer"),
            };
            let Some(answer) = next else {
                due = clock::deadline(Duration::from_millis(10 + self.random.below(150)));
                self.make();
                continue;
            };
            let answer = wire.decode::<ProduceRequest>(answer, PRODUCE)?;
            let topic = answer.responses.first().context("a topic")?;
            let one = topic.partition_responses.first().context("a partition")?;
            let at = refused.as_ref().map_or(0, |(_, refused)| *refused);
            match self.answered(at, one.error_code, one.base_offset) {
                Ok(()) => under_way -= 1,
                Err(reason) if self.patient => refused = Some((refused.map_or(reason, |(first, _)| first), at + 1)),
                Err(reason) => return Err(reason),
            }
            if let Some((reason, _)) = refused.take_if(|(_, refused)| *refused == under_way) {
                return Err(reason);
            }
        }
    }

    /// Makes a batch of new values.
    fn make(&mut self) {
        let Some((id, epoch)) = self.id else { return };
        let count = 1 + self.random.below(4);
        let first = self.next;
        let sequence = i32::try_from(first).unwrap_or(0);
        let mut builder = BatchBuilder::new().with_producer(id, epoch, sequence);
        let sent = self.world().trace.now();
        for value in first..first + count {
            let stamp = Stamp {
                run: self.world().seed,
                producer: self.number(),
                partition: self.partition,
                sequence: value,
                sent_us: u64::try_from(sent.as_micros()).unwrap_or(0),
            };
            let large = if self.random.below(20) == 0 { 20_000 } else { 200 };
            let bytes = HEADER_BYTES + usize::try_from(self.random.below(large)).unwrap_or(0);
            let mut value = vec![0; bytes];
            payload::write(&stamp, &mut value);
            // Old enough that no broker's clock, wherever it jumps, takes it for a record from the future.
            builder.push(crate::machine::EPOCH_MS - 86_400_000, None, Some(&value));
        }
        self.next += count;
        self.stuck.get_or_insert(sent);
        self.waiting.push_back(Batch { first, count, records: builder.build(0, -1), sent });
    }

    async fn send(&mut self, wire: &mut Wire, index: usize) -> Result<()> {
        let batch = &self.waiting[index];
        let index = i32::try_from(self.partition)?;
        let partition = PartitionProduceData::default().with_index(index).with_records(Some(batch.records.clone()));
        let topic = TopicProduceData::default().with_name(super::topic()).with_partition_data(vec![partition]);
        let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(1500).with_topic_data(vec![topic]);
        tokio::time::timeout(ANSWER, wire.send(&request, PRODUCE)).await??;
        Ok(())
    }

    /// The batch that waits at `at` was answered; those before it were refused.
    fn answered(&mut self, at: usize, code: i16, base_offset: i64) -> Result<()> {
        let batch = self.waiting.get(at).context("an answer to nothing")?;
        let (first, count, sent) = (batch.first, batch.count, batch.sent);
        let offset = match ErrorCode::from_code(code) {
            Some(ErrorCode::None) => u64::try_from(base_offset).ok(),
            Some(ErrorCode::DuplicateSequenceNumber) => None,
            error => {
                let what = format!("values {first}+{count} of producer {}: {error:?}", self.number());
                self.judge_refusal(error, &what);
                bail!("{what}");
            }
        };
        let number = self.number();
        self.router.trace(&format!("partition {} acked {first}+{count} of {number} at {offset:?}", self.partition));
        let outcome = Outcome::Acked { offset };
        self.world().judge.produced(self.partition, number, first..first + count, outcome);
        self.world().acknowledged(self.lane, sent);
        self.waiting.remove(at);
        self.stuck = self.waiting.front().map(|batch| batch.sent);
        Ok(())
    }

    /// Whether a batch may be refused so. Not for its sequence: all before it were acknowledged, so that it was forgotten, or
    /// one was refused, and then so is this (rule no-gap-of-our-own of the broker).
    fn judge_refusal(&self, error: Option<ErrorCode>, what: &str) {
        if !error.is_some_and(ErrorCode::retriable) {
            self.world().judge.complain(format!("partition {}, {what}", self.partition));
        }
    }
}

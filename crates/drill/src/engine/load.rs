//! Producers that keep every partition at its rate, whatever becomes of the others.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Scope;
use std::time::Duration;

use anyhow::Result;

use super::{Stage, Threads};
use crate::client::{Producer, Refusal};
use crate::history::Value;
use crate::payload::{self, Stamp};

/// How often a producer looks what is due.
const TICK: Duration = Duration::from_millis(1);
/// Every partition may have this many records under way, however small its share of the bytes is.
const WAITING_MIN: u64 = 4;

/// One partition of a producer.
struct Lane {
    partition: u32,
    /// The next record's sequence.
    sequence: u64,
    /// Records sent, and given up because too many were waiting. Where a partition is out, what cannot be sent in time is
    /// not sent later: the rate stays what it is.
    spent: f64,
}

struct Pump<'a, 'b> {
    stage: &'a Stage<'b>,
    client: Box<dyn Producer>,
    number: u32,
    lanes: Vec<Lane>,
    /// Records a second in each partition.
    rate: f64,
    limit: u64,
    buffer: Vec<u8>,
}

pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    stage: &'env Stage<'env>,
) -> Result<Threads<'scope>> {
    let plan = stage.plan;
    let partitions = f64::from(plan.partitions);
    let rate = stage.rate / plan.record_bytes as f64 / partitions;
    let limit = plan.in_flight_bytes / u64::from(plan.partitions) / plan.record_bytes as u64;
    let mut threads = Vec::new();
    for number in 0..plan.producers {
        let own = (number..plan.partitions).step_by(plan.producers as usize);
        // Partitions take turns within an interval: all at once would be a burst.
        let lanes =
            own.map(|partition| Lane { partition, sequence: 0, spent: f64::from(partition) / partitions - 1.0 });
        let mut pump = Pump {
            client: stage.drill.clients.producer(&stage.topic, Arc::clone(&stage.ledger))?,
            stage,
            number,
            lanes: lanes.collect(),
            rate,
            limit: limit.max(WAITING_MIN),
            buffer: vec![0; plan.record_bytes],
        };
        threads.push(scope.spawn(move || pump.run()));
    }
    Ok(threads)
}

impl Pump<'_, '_> {
    fn run(&mut self) {
        let begin_us = self.stage.ledger.now_us();
        while !self.stage.load_over.load(Relaxed) {
            let elapsed = (self.stage.ledger.now_us() - begin_us) as f64 / 1e6;
            let due = elapsed * self.rate;
            for index in 0..self.lanes.len() {
                if let Err(refusal) = self.fill(index, due) {
                    self.refused(refusal);
                    break;
                }
            }
            std::thread::sleep(TICK);
        }
        self.client.flush(self.stage.plan.patience);
    }

    /// Sends what is due in one partition.
    fn fill(&mut self, index: usize, due: f64) -> Result<(), Refusal> {
        let lane = &mut self.lanes[index];
        let ledger = &self.stage.ledger;
        while lane.spent + 1.0 <= due {
            let value = Value { producer: self.number, sequence: lane.sequence };
            if !ledger.sending(lane.partition, value, self.limit) {
                lane.spent = due.min(f64::MAX);
                break;
            }
            let stamp = Stamp {
                run: ledger.run(),
                producer: self.number,
                partition: lane.partition,
                sequence: lane.sequence,
                sent_us: ledger.now_us(),
            };
            payload::write(&stamp, &mut self.buffer);
            if let Err(refusal) = self.client.send(lane.partition, &self.buffer) {
                ledger.not_sent(lane.partition);
                return Err(refusal);
            }
            lane.sequence += 1;
            lane.spent += 1.0;
        }
        Ok(())
    }

    /// A full queue empties by itself. A producer that gave up is replaced by one with a number of its own, as a
    /// program would start again; what the old one had under way stays unknown.
    fn refused(&mut self, refusal: Refusal) {
        let Refusal::Fatal(code) = refusal else { return };
        self.stage.ledger.error(format!("producer gave up: {code}"));
        self.number += self.stage.plan.producers;
        match self.stage.drill.clients.producer(&self.stage.topic, Arc::clone(&self.stage.ledger)) {
            Ok(client) => self.client = client,
            Err(error) => self.stage.ledger.error(format!("no new producer: {error:#}")),
        }
        for lane in &mut self.lanes {
            lane.sequence = 0;
        }
    }
}

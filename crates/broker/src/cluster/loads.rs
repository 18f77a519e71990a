//! What this broker's partitions carry, on its way to the active controller's balancer: sampled all together now and then, told
//! in portions with the heartbeats.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{Clock, StreamId};
use metadata::balance::Traffic;
use parking_lot::Mutex;

use super::peer::messages::Load;
use crate::partition::Partitions;

/// Time between samples, at least: the next one waits until the last one is told.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// Every so many samples all is told, news or not: another controller may not have heard of it.
const REPEAT: u32 = 12;
/// Partitions that one heartbeat tells of.
const PORTION: usize = 512;

/// What is still to be told: at most one entry for each partition that is open here.
#[derive(Debug, Default)]
pub struct Loads {
    waiting: Mutex<VecDeque<Load>>,
}

impl Loads {
    /// The next portion.
    pub(crate) fn take(&self) -> Vec<Load> {
        let mut waiting = self.waiting.lock();
        let portion = waiting.len().min(PORTION);
        waiting.drain(..portion).collect()
    }

    /// A portion that nobody heard: it comes first.
    pub(crate) fn give_back(&self, portion: Vec<Load>) {
        let mut waiting = self.waiting.lock();
        portion.into_iter().rev().for_each(|load| waiting.push_front(load));
    }

    /// Samples now and then.
    pub(crate) async fn run(self: Arc<Self>, partitions: Partitions, clock: Arc<dyn Clock>) -> Infallible {
        let mut sampler = Sampler::default();
        let mut since = clock.boot();
        loop {
            tokio::time::sleep(SAMPLE_INTERVAL).await;
            if !self.waiting.lock().is_empty() {
                continue;
            }
            let now = clock.boot();
            let taken = partitions.open().into_iter().map(|one| (one.stream().id(), one.meter().take())).collect();
            let loads = sampler.sample(taken, now.saturating_sub(since));
            since = now;
            self.waiting.lock().extend(loads);
        }
    }
}

/// Tells what is news, and now and then all: that a partition which carried nothing still carries nothing is none.
#[derive(Default)]
struct Sampler {
    samples: u32,
    /// Whether each partition carried anything when it was told of last.
    told: BTreeMap<StreamId, bool>,
}

impl Sampler {
    fn sample(&mut self, taken: Vec<(StreamId, Traffic)>, elapsed: Duration) -> Vec<Load> {
        let elapsed_ms = elapsed.as_millis().max(1);
        let rate = |count: u64| u64::try_from(u128::from(count) * 1000 / elapsed_ms).unwrap_or(u64::MAX);
        let before = std::mem::take(&mut self.told);
        self.samples = self.samples.wrapping_add(1);
        let is_repeat = self.samples.is_multiple_of(REPEAT);
        let mut loads = Vec::new();
        for (stream, traffic) in taken {
            let carries = traffic != Traffic::default();
            self.told.insert(stream, carries);
            if carries || is_repeat || before.get(&stream) != Some(&false) {
                let Traffic { bytes_in, bytes_out, requests } = traffic;
                let (bytes_in, bytes_out, requests) = (rate(bytes_in), rate(bytes_out), rate(requests));
                loads.push(Load { stream: stream.0, bytes_in, bytes_out, requests });
            }
        }
        loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(bytes_in: u64) -> Traffic {
        Traffic { bytes_in, bytes_out: 0, requests: u64::from(bytes_in > 0) * 10 }
    }

    #[test]
    fn silence_is_told_once() {
        let mut sampler = Sampler::default();
        let mut told = |bytes: &[u64]| -> Vec<(u64, u64)> {
            let taken = (1..).zip(bytes).map(|(id, bytes)| (StreamId(id), traffic(*bytes))).collect();
            sampler.sample(taken, Duration::from_secs(5)).iter().map(|load| (load.stream, load.bytes_in)).collect()
        };
        assert_eq!(told(&[5000, 0]), [(1, 1000), (2, 0)]);
        assert_eq!(told(&[5000, 0]), [(1, 1000)]);
        assert_eq!(told(&[0, 50]), [(1, 0), (2, 10)]);
        assert_eq!(told(&[]), []);
        assert_eq!(told(&[0]), [(1, 0)], "it is back: somebody else may have told of it meanwhile");
        let quiet = (0..REPEAT).filter(|_| !told(&[0]).is_empty()).count();
        assert_eq!(quiet, 1, "now and then all is told, for a controller that is new");
    }

    #[test]
    fn portions_are_bounded_and_what_nobody_heard_comes_again() {
        let loads = Loads::default();
        let load = |stream: u64| Load { stream, ..Load::default() };
        loads.waiting.lock().extend((0..PORTION as u64 + 3).map(load));
        let first = loads.take();
        assert_eq!(first.len(), PORTION);
        loads.give_back(first.clone());
        assert_eq!(loads.take(), first);
        assert_eq!(loads.take().len(), 3);
        assert_eq!(loads.take(), []);
    }
}

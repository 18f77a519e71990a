//! A log that tasks work on, in simulated time: between any two steps of theirs the world may change.

use std::sync::Arc;
use std::time::Duration;

use common::Lsn;
use common::simulated_disk::DiskLife;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::disk::StoredLog;
use crate::core::writer::{FlushError, Writer};
use crate::core::{Flush, Next};
use crate::device::Pace;
use crate::engine::grower::{Grown, Growth, RETRY_PAUSE};
use crate::engine::{Driver, Shared};
use crate::reads::ReadBlocks as _;
use crate::{Block, BoxFuture, ReadError};

/// How often a shut gate is looked at.
const GATE_LOOK: Duration = Duration::from_millis(5);

pub(super) struct Tasks {
    shared: Arc<Shared>,
    life: DiskLife,
    work: Arc<Notify>,
    growth: Arc<Notify>,
    /// They end with it, wherever they are.
    _tasks: JoinSet<()>,
}

impl Tasks {
    pub(super) fn start(
        writer: Writer,
        shared: &Arc<Shared>,
        growth: Option<Growth>,
        life: &DiskLife,
        log: &Arc<StoredLog>,
    ) -> Self {
        let (work, grow) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut tasks = JoinSet::new();
        let write = Write {
            shared: Arc::clone(shared),
            writer,
            life: life.clone(),
            work: Arc::clone(&work),
            growth: Arc::clone(&grow),
            log: Arc::clone(log),
        };
        write.acknowledged();
        tasks.spawn(write.run());
        if let Some(growth) = growth {
            tasks.spawn(make_segments(growth, life.clone(), Arc::clone(&grow)));
        }
        Self { shared: Arc::clone(shared), life: life.clone(), work, growth: grow, _tasks: tasks }
    }
}

impl Driver for Tasks {
    fn wake_writer(&self) {
        self.work.notify_one();
    }

    fn wake_grower(&self) {
        self.growth.notify_one();
    }

    fn read(&self, lsn: Lsn) -> BoxFuture<'_, Result<Arc<Block>, ReadError>> {
        Box::pin(async move {
            self.life.pause().await;
            self.shared.read(lsn)
        })
    }
}

async fn make_segments(growth: Growth, life: DiskLife, wake: Arc<Notify>) {
    loop {
        life.pause().await;
        match growth.step(&mut || Pace::Go) {
            Grown::Enough => wake.notified().await,
            Grown::Step => {}
            Grown::Failed => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

struct Write {
    shared: Arc<Shared>,
    writer: Writer,
    life: DiskLife,
    work: Arc<Notify>,
    growth: Arc<Notify>,
    log: Arc<StoredLog>,
}

impl Write {
    async fn run(mut self) {
        while let Some(mut flush) = self.next_flush().await {
            if let Err(error) = self.flush(&mut flush).await {
                self.shared.fail(&error);
                break;
            }
            self.log.published.lock().unleased |= self.shared.gate.as_ref().is_some_and(|gate| !gate.is_open());
            if self.shared.publish(flush) {
                self.growth.notify_one();
            }
            self.acknowledged();
        }
        self.shared.ended();
    }

    async fn next_flush(&self) -> Option<Flush> {
        loop {
            {
                let mut state = self.shared.state.lock();
                match state.core.next() {
                    Next::Flush(flush) => return Some(flush),
                    Next::Finished => return None,
                    Next::Idle => state.idle = true,
                }
            }
            self.work.notified().await;
            self.shared.state.lock().idle = false;
        }
    }

    /// As [`Writer::run`] and the threads' way past the gate, with time between the steps.
    async fn flush(&mut self, flush: &mut Flush) -> Result<(), FlushError> {
        self.life.pause().await;
        self.writer.write(&*self.shared.device, flush)?;
        self.life.pause().await;
        self.writer.sync(&*self.shared.device)?;
        self.life.pause().await;
        self.writer.check_seal(&*self.shared.device)?;
        // From the look at the gate on nothing comes between, so that whoever watches can tell whether it was passed.
        self.life.pause().await;
        while !self.shared.gate_is_open()? {
            while !self.shared.gate_is_open()? {
                tokio::time::sleep(GATE_LOOK).await;
            }
            self.life.pause().await;
            self.writer.check_seal(&*self.shared.device)?;
        }
        Ok(())
    }

    /// Notes how far this log's owner has let others know of its records.
    fn acknowledged(&self) {
        let mut published = self.log.published.lock();
        published.upto = self.shared.durable.get().max(published.upto);
    }
}

//! Members of one consumer group, which read along and commit.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::Scope;
use std::time::Duration;

use anyhow::Result;

use super::{Stage, Threads};
use crate::client::Member;

const POLL: Duration = Duration::from_millis(100);
const COMMIT_INTERVAL_US: u64 = 1_000_000;

pub(super) fn start<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    stage: &'env Stage<'env>,
) -> Result<Threads<'scope>> {
    let mut threads = Vec::new();
    for number in 0..stage.plan.members {
        let member = stage.drill.clients.member(&stage.topic, &stage.group, number, Arc::clone(&stage.ledger))?;
        threads.push(scope.spawn(move || read_along(stage, member)));
    }
    Ok(threads)
}

fn read_along(stage: &Stage<'_>, mut member: Box<dyn Member>) {
    let mut committed_us = stage.ledger.now_us();
    while !stage.group_over.load(Relaxed) {
        member.poll(POLL);
        let now_us = stage.ledger.now_us();
        if now_us - committed_us >= COMMIT_INTERVAL_US {
            committed_us = now_us;
            member.commit();
        }
    }
    member.leave();
}

//! Keeps this broker's lease: a heartbeat to the active controller, again and again.

use std::sync::Arc;
use std::time::Duration;

use common::{Clock, NodeEpoch};
use tokio::sync::watch;

use super::lease::Lease;
use super::member::Member;
use super::peer::Kind;
use super::peer::messages::{HeartbeatAnswer, HeartbeatRequest, Load, Verdict, decode, encode};

/// Pause before another attempt when no controller answered.
const RETRY: Duration = Duration::from_millis(50);

/// See the module.
pub(crate) struct Agent {
    pub(crate) member: Arc<Member>,
    pub(crate) node_epoch: NodeEpoch,
    pub(crate) lease: Arc<Lease>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) interval: Duration,
    /// Set once this life of the node is over.
    pub(crate) fenced: Arc<watch::Sender<bool>>,
}

impl Agent {
    /// Runs until this life of the node is over.
    pub(crate) async fn run(self) {
        loop {
            if self.votes_alone() {
                self.lease.grant_for_good();
                tokio::time::sleep(self.interval).await;
                continue;
            }
            let leader = self.member.raft.leader();
            let sent = self.clock.boot();
            self.lease.limit(sent + 2 * self.interval);
            let loads = self.member.loads.take();
            let answer = self.ask(loads.clone()).await;
            if !answer.as_ref().is_ok_and(|answer| answer.verdict() == Verdict::Granted) {
                self.member.loads.give_back(loads);
            }
            let pause = match answer.as_ref().map(|answer| (answer.verdict(), answer.lease_ms)) {
                Ok((Verdict::Granted, ms)) => {
                    self.lease.grant(sent, Duration::from_millis(ms));
                    self.interval
                }
                Ok((Verdict::Fenced, _)) => {
                    self.lease.end();
                    self.fenced.send_replace(true);
                    return;
                }
                Ok((Verdict::Suspected, _)) => self.interval,
                Ok((Verdict::NotLeader, _)) => RETRY,
                Err(reason) => {
                    tracing::debug!(reason, lease_left = ?self.lease.left(), "no heartbeat was answered");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A new controller counts a whole lease from its beginning: it should hear of this broker soon.
                _ = self.member.raft.leader_changed(leader.as_ref()), if pause == self.interval => {}
            }
        }
    }

    async fn ask(&self, loads: Vec<Load>) -> Result<HeartbeatAnswer, String> {
        let request = HeartbeatRequest {
            node: self.member.node.0,
            node_epoch: self.node_epoch.0,
            applied: self.member.metadata.image().applied.0,
            loads,
        };
        // Another one is better than a late one.
        let deadline = self.interval * 2;
        decode(self.member.ask_leader(Kind::Heartbeat, encode(&request), deadline).await?)
    }

    /// Whoever is the only member, and so the only voter and broker, is never deposed.
    fn votes_alone(&self) -> bool {
        let members = self.member.raft.members();
        members.len() == 1 && members.contains_key(&self.member.node)
    }
}

//! What the active controller knows of the brokers' lives. Pure; times are boot times of the controller.
//!
//! A session ends for good in one of two ways: a new life of the node registers, or `FailOver` fences it. Between suspicion and
//! that nothing is decided: whoever was suspected and sends a heartbeat goes on.

use std::collections::HashMap;
use std::time::Duration;

use common::{NodeEpoch, NodeId};

/// Clocks of two machines may differ by so much of a lease: one part in this.
const DRIFT: u32 = 20;

#[derive(Clone, Copy, Debug)]
struct Session {
    epoch: NodeEpoch,
    /// When a lease was granted last, or could have been by an earlier controller.
    granted: Duration,
    /// When the node was heard last.
    heard: Duration,
    /// A connection of its ended since.
    suspected: bool,
    /// Gets no lease any more: its log is being sealed without its consent.
    closing: bool,
}

/// What should be done about a silent node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// Look whether its process is gone.
    Probe,
    /// Its lease has run out: end its life.
    Expired,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sessions {
    lease: Duration,
    /// Silence after which a node is looked after.
    patience: Duration,
    by_node: HashMap<NodeId, Session>,
}

impl Sessions {
    /// No sessions, for a controller that just became active.
    pub(crate) fn new(lease: Duration, patience: Duration) -> Self {
        Self { lease, patience, by_node: HashMap::new() }
    }

    /// Takes over who lives according to metadata. A node that is new here may have a lease from an earlier controller,
    /// granted until this very moment.
    pub(crate) fn sync(&mut self, live: Vec<(NodeId, NodeEpoch)>, now: Duration) {
        let mut known = std::mem::take(&mut self.by_node);
        for (node, epoch) in live {
            let fresh = Session { epoch, granted: now, heard: now, suspected: false, closing: false };
            let session = known.remove(&node).filter(|session| session.epoch == epoch).unwrap_or(fresh);
            self.by_node.insert(node, session);
        }
    }

    /// A heartbeat of a node that metadata holds for alive; whether it gets a lease.
    pub(crate) fn heartbeat(&mut self, node: NodeId, epoch: NodeEpoch, now: Duration) -> bool {
        let fresh = Session { epoch, granted: now, heard: now, suspected: false, closing: false };
        let session = self.by_node.entry(node).or_insert(fresh);
        if session.epoch < epoch {
            *session = fresh;
        }
        if session.epoch != epoch || session.closing {
            return false;
        }
        *session = Session { granted: now, heard: now, suspected: false, ..*session };
        true
    }

    /// A connection of the node ended.
    pub(crate) fn suspect(&mut self, node: NodeId) {
        if let Some(session) = self.by_node.get_mut(&node) {
            session.suspected = true;
        }
    }

    /// Whom to look after now. A node that is reported as [`Suspicion::Expired`] gets no lease from now on.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<(NodeId, NodeEpoch, Suspicion)> {
        let lease = self.lease + self.lease / DRIFT;
        let patience = self.patience;
        let judge = |(node, session): (&NodeId, &mut Session)| {
            session.closing |= now >= session.granted + lease;
            let silent = session.suspected || now >= session.heard + patience;
            let suspicion = match session.closing {
                true => Suspicion::Expired,
                false if silent => Suspicion::Probe,
                false => return None,
            };
            Some((*node, session.epoch, suspicion))
        };
        let mut due: Vec<_> = self.by_node.iter_mut().filter_map(judge).collect();
        due.sort_by_key(|(node, ..)| *node);
        due
    }

    /// Nodes with a lease that this controller granted or must assume.
    pub(crate) fn leased(&self, now: Duration) -> usize {
        self.by_node.values().filter(|session| now < session.granted + self.lease).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);
    const NODE: NodeId = NodeId(2);
    const LIFE: NodeEpoch = NodeEpoch(7);

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn sessions() -> Sessions {
        let mut sessions = Sessions::new(LEASE, Duration::from_secs(1));
        sessions.sync(vec![(NODE, LIFE)], at(0));
        sessions
    }

    #[test]
    fn silence_is_looked_after_and_ends_a_life_only_after_a_whole_lease_and_the_drift() {
        let mut sessions = sessions();
        assert_eq!(sessions.due(at(999)), []);
        assert_eq!(sessions.due(at(1_000)), [(NODE, LIFE, Suspicion::Probe)]);
        assert!(sessions.heartbeat(NODE, LIFE, at(1_100)));
        assert_eq!(sessions.due(at(1_200)), [], "it lives");
        assert_eq!(sessions.due(at(4_200)), [(NODE, LIFE, Suspicion::Probe)], "not yet: clocks drift");
        assert_eq!(sessions.due(at(4_250)), [(NODE, LIFE, Suspicion::Expired)]);
        assert!(!sessions.heartbeat(NODE, LIFE, at(4_260)), "its log is being sealed");
    }

    #[test]
    fn a_broken_connection_is_a_suspicion_at_once_and_a_heartbeat_ends_it() {
        let mut sessions = sessions();
        sessions.suspect(NODE);
        sessions.suspect(NodeId(9));
        assert_eq!(sessions.due(at(10)), [(NODE, LIFE, Suspicion::Probe)]);
        assert!(sessions.heartbeat(NODE, LIFE, at(20)));
        assert_eq!(sessions.due(at(30)), []);
    }

    #[test]
    fn a_new_life_starts_anew_and_the_old_one_gets_nothing() {
        let mut sessions = sessions();
        sessions.due(at(5_000));
        assert!(sessions.heartbeat(NODE, NodeEpoch(8), at(5_001)), "registered, though not synced yet");
        assert!(!sessions.heartbeat(NODE, LIFE, at(5_002)));
        sessions.sync(vec![(NODE, NodeEpoch(8))], at(5_003));
        assert_eq!(sessions.due(at(5_004)), []);
        sessions.sync(Vec::new(), at(5_005));
        assert_eq!(sessions.due(at(60_000)), [], "it was fenced");
    }
}

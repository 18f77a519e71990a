//! Peers of which it is not known right now whether they live: a connection of theirs ended, and nothing was heard of them
//! since.
//!
//! Clients ask for new leaders the moment their connections break, which is before anybody can have sealed a log. Told of
//! the dead leader once more, they believe it: librdkafka looks again a second later. Told that there is no leader, which is
//! what Kafka says then, they ask again after 100 ms. So metadata's answers name no leader that is in doubt. A doubt
//! decides nothing else, and ends by itself: with a new leader, an answer of the peer, a new life of it, or in time.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::{Clock, NodeEpoch, NodeId};
use metadata::{MetadataClient, MetadataImage, NodeImage};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::one_each::OneEach;
use super::peer::messages::{AppliedRequest, encode};
use super::peer::{Kind, Lane, Peers};

/// How long a peer may take to say that it is there. Longer than the silence that ends a connection.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

/// See the module.
pub struct Doubts {
    clock: Arc<dyn Clock>,
    /// A doubt that nobody has settled in this time is dropped: whoever looks after lost nodes had time enough.
    limit: Duration,
    /// The life that is in doubt, and since when. Bounded by the nodes that metadata knows.
    lives: Mutex<BTreeMap<NodeId, (NodeEpoch, Duration)>>,
    raised: Notify,
}

/// The nodes that were in doubt at one moment.
#[derive(Debug, Default)]
pub struct Doubtful(Vec<NodeId>);

impl Doubtful {
    /// Whether `node` was among them.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

impl Doubts {
    /// None yet. Each lasts for `limit` at most.
    pub(crate) fn new(clock: Arc<dyn Clock>, limit: Duration) -> Self {
        Self { clock, limit, lives: Mutex::default(), raised: Notify::new() }
    }

    /// A connection of `node` ended.
    pub(crate) fn raise(&self, node: NodeId, image: &MetadataImage) {
        if let Some(known) = image.nodes.get(&node).filter(|known| !known.fenced) {
            self.lives.lock().insert(node, (known.epoch, self.clock.boot()));
            self.raised.notify_one();
        }
    }

    /// `node` was heard.
    fn settle(&self, node: NodeId) {
        self.lives.lock().remove(&node);
    }

    /// Whose life is in doubt, of those that `image` holds for alive.
    #[must_use]
    pub fn about(&self, image: &MetadataImage) -> Doubtful {
        let mut lives = self.lives.lock();
        if lives.is_empty() {
            return Doubtful::default();
        }
        let now = self.clock.boot();
        let is_alive =
            |node: &NodeId, epoch| image.nodes.get(node).is_some_and(|known| known.epoch == epoch && !known.fenced);
        lives.retain(|node, (epoch, since)| now < *since + self.limit && is_alive(node, *epoch));
        Doubtful(lives.keys().copied().collect())
    }
}

/// Keeps a connection to every live peer, so that the end of any is noticed here, and asks those in doubt whether they are
/// there.
pub(super) struct PeerWatch {
    pub(super) node: NodeId,
    pub(super) metadata: MetadataClient,
    pub(super) peers: Peers,
    pub(super) doubts: Arc<Doubts>,
    /// Between two questions to a peer.
    pub(super) interval: Duration,
}

impl PeerWatch {
    pub(super) async fn run(self) -> Infallible {
        let mut asked = OneEach::none();
        let mut round = tokio::time::interval(self.interval);
        round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_round = tokio::select! {
                () = asked.ended() => continue,
                () = self.doubts.raised.notified() => false,
                _ = round.tick() => true,
            };
            let image = self.metadata.image();
            // When a node dies, each of the others hears of it at the same moment: that must not become a question from each to each.
            let doubtful = (!is_round).then(|| self.doubts.about(&image));
            for other in whom(&image, self.node, doubtful.as_ref()) {
                asked.begin(other.id, self.ask(Arc::clone(other)));
            }
        }
    }

    async fn ask(&self, other: Arc<NodeImage>) -> NodeId {
        // Every node that has joined answers this at once.
        let body = encode(&AppliedRequest { index: 0 });
        let answer = self.peers.call(&other.peer, Lane::Control, Kind::Applied, body, ANSWER_DEADLINE).await;
        if answer.is_ok() {
            self.doubts.settle(other.id);
        }
        other.id
    }
}

/// The live peers of `node`; of these those in doubt, if so wished.
fn whom<'a>(
    image: &'a MetadataImage,
    node: NodeId,
    doubtful: Option<&'a Doubtful>,
) -> impl Iterator<Item = &'a Arc<NodeImage>> {
    let peers = image.nodes.values().filter(move |other| other.id != node && !other.fenced && !other.peer.is_empty());
    peers.filter(move |other| doubtful.is_none_or(|doubtful| doubtful.contains(other.id)))
}

#[cfg(test)]
mod tests {
    use common::ManualClock;

    use super::*;
    use crate::api::cluster_image::{fence, image, renew};

    const LIMIT: Duration = Duration::from_secs(3);
    const NODE: NodeId = NodeId(2);

    fn doubts() -> (Arc<ManualClock>, Doubts) {
        let clock = Arc::new(ManualClock::at(0));
        let doubts = Doubts::new(Arc::clone(&clock) as Arc<dyn Clock>, LIMIT);
        (clock, doubts)
    }

    #[test]
    fn a_doubt_ends_with_an_answer_with_a_new_leader_with_a_new_life_and_in_time() {
        let (clock, doubts) = doubts();
        let image = image(&[&[1, 2], &[2, 1]]);
        assert!(!doubts.about(&image).contains(NODE));

        doubts.raise(NODE, &image);
        assert!(doubts.about(&image).contains(NODE));
        assert!(!doubts.about(&image).contains(NodeId(1)));
        doubts.settle(NODE);
        assert!(!doubts.about(&image).contains(NODE), "it answered");

        doubts.raise(NODE, &image);
        let mut fenced = image.clone();
        fence(&mut fenced, NODE.0);
        assert!(!doubts.about(&fenced).contains(NODE), "metadata knows by now");

        doubts.raise(NODE, &image);
        let mut renewed = image.clone();
        renew(&mut renewed, NODE.0);
        assert!(!doubts.about(&renewed).contains(NODE), "that is another life");

        doubts.raise(NODE, &image);
        clock.advance(LIMIT - Duration::from_millis(1));
        assert!(doubts.about(&image).contains(NODE));
        clock.advance(Duration::from_millis(1));
        assert!(!doubts.about(&image).contains(NODE), "nobody has settled it");
    }

    #[test]
    fn a_doubt_is_a_question_to_the_doubtful_alone() {
        let (_, doubts) = doubts();
        let mut image = image(&[&[1, 2]]);
        for id in 1..=3 {
            Arc::make_mut(image.nodes.get_mut(&NodeId(id)).unwrap()).peer = "here".into();
        }
        let asked = |image: &MetadataImage, doubtful: Option<&Doubtful>| -> Vec<i32> {
            whom(image, NodeId(1), doubtful).map(|node| node.id.0).collect()
        };
        assert_eq!(asked(&image, None), [2, 3]);
        assert_eq!(asked(&image, Some(&doubts.about(&image))), [0_i32; 0]);
        doubts.raise(NODE, &image);
        assert_eq!(asked(&image, Some(&doubts.about(&image))), [2]);
        fence(&mut image, NODE.0);
        assert_eq!(asked(&image, None), [3]);
    }

    #[test]
    fn of_nodes_that_do_not_count_there_is_no_doubt() {
        let (_, doubts) = doubts();
        let mut image = image(&[&[1, 2]]);
        doubts.raise(NodeId(77), &image);
        fence(&mut image, NODE.0);
        doubts.raise(NODE, &image);
        assert!(doubts.lives.lock().is_empty());
    }
}

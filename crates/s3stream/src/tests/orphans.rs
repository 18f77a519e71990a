//! Objects that were put and never committed: see [`crate::collector`].

use common::ObjectId;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use super::*;
use crate::collector::Collector;
use crate::{ObjectDescriptor, ReadClass};

async fn keys(rig: &Rig) -> Vec<Path> {
    let listed: Vec<_> = rig.objects.list(None).try_collect().await.expect("lists");
    let mut keys: Vec<Path> = listed.into_iter().map(|object| object.location).collect();
    keys.sort();
    keys
}

async fn collect(rig: &Rig) -> Vec<Path> {
    Collector::new(Arc::clone(&rig.store.core)).collect_orphans().await;
    keys(rig).await
}

/// What a life of the node leaves behind that was killed between put and commit.
async fn put(rig: &Rig, node_epoch: u64, id: u64, attempt: u32) -> Path {
    let object = ObjectDescriptor { id: ObjectId(id), node_epoch: NodeEpoch(node_epoch), attempt, size: 3 };
    let key = crate::object::key::object_key(&rig.settings.prefix, &object);
    rig.objects.put(&key, PutPayload::from_static(b"put")).await.expect("puts");
    key
}

#[tokio::test]
async fn an_upload_whose_life_ended_before_its_commit_is_collected() {
    let rig = Rig::new(MemoryLog::new(1 << 20, 1000, true), settings());
    let stream = rig.open(1);
    append(&stream, 1, b"committed");
    rig.store.flush().await.expect("uploads");
    let committed = keys(&rig).await;
    // Put, and metadata is away: the upload gets no further.
    rig.metadata.set_unavailable(true);
    append(&stream, 1, b"orphan");
    let mut all = committed.clone();
    while all == committed {
        let _ = tokio::time::timeout(Duration::from_millis(20), rig.store.flush()).await;
        all = keys(&rig).await;
    }
    assert_eq!(collect(&rig).await, all, "this life may still commit it");

    let rig = rig.crash().await;
    rig.metadata.set_unavailable(false);
    let marker = Path::from("test/cluster.json");
    rig.objects.put(&marker, PutPayload::from_static(b"{}")).await.expect("puts");
    assert_eq!(
        collect(&rig).await,
        [vec![marker.clone()], committed.clone()].concat(),
        "the orphan is gone, nothing else"
    );
    // A crash within the collection leaves what the next one finds; so does a late put of the ended life.
    put(&rig, 1, 99, 0).await;
    let uncommitted = put(&rig, 2, 100, 0).await;
    let other_attempt = put(&rig, 1, 1, 7).await;
    let left = collect(&rig).await;
    assert!(
        left.contains(&uncommitted) && !left.contains(&other_attempt) && left.len() == committed.len() + 2,
        "{left:?}"
    );

    // What the log kept of it is uploaded by the new life under an object of its own.
    let stream = rig.open(1);
    rig.store.flush().await.expect("uploads");
    collect(&rig).await;
    stream.opened();
    let read = stream.fetch(offset(0), offset(2), 100, ReadClass::CatchUp).await.expect("reads");
    assert_eq!(read.slices.iter().flat_map(|slice| slice.bytes.to_vec()).collect::<Vec<_>>(), b"committedorphan");
}

/// The other half of the argument: what the collector takes for an orphan cannot be committed any more.
#[tokio::test]
async fn a_commit_of_an_ended_life_is_refused() {
    use crate::{CommitError, ObjectCommit, ObjectManager, PortError};
    let rig = Rig::new(MemoryLog::new(1 << 20, 1000, true), settings());
    let rig = rig.crash().await;
    let late = ObjectCommit {
        node: rig.settings.node,
        node_epoch: NodeEpoch(1),
        objects: vec![(
            ObjectDescriptor { id: ObjectId(1), node_epoch: NodeEpoch(1), attempt: 0, size: 3 },
            Vec::new(),
        )],
        replaces: Vec::new(),
    };
    assert!(rig.metadata.is_orphan(NodeEpoch(1), ObjectId(1), 0));
    let refused = rig.metadata.commit(late).await;
    assert!(matches!(refused, Err(CommitError::Refused(PortError::Fenced(_)))));
}

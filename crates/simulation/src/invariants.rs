//! What must hold of the state itself when nothing happens any more, whatever clients see of it. Clients notice a broken rule
//! late, or not at all where the seed is kind.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use common::{ObjectId, StreamId};
use futures::FutureExt as _;
use metadata::MetadataImage;
use metadata::image::ObjectImage;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use s3stream::inspect::{Inspection, inspect};

use crate::world::World;

/// Every defect.
#[must_use]
pub fn at_rest(world: &World) -> Vec<String> {
    let mut images: Vec<Arc<MetadataImage>> = world.brokers().map(|(_, broker)| broker.metadata.image()).collect();
    images.sort_by_key(|image| image.applied);
    let mut defects = Vec::new();
    for pair in images.windows(2) {
        if let [a, b] = pair
            && a.applied == b.applied
            && a != b
        {
            defects.push(format!("two nodes that applied everything up to {} differ", a.applied));
        }
    }
    let Some(image) = images.pop() else { return vec!["no broker is up".to_owned()] };
    defects.extend(check_objects(world, &image));
    defects.extend(check_tails(world, &image));
    defects
}

/// Every committed object is in the store as it was committed, and holds the ranges that are said to lie in it.
fn check_objects(world: &World, image: &MetadataImage) -> Vec<String> {
    let mut defects = Vec::new();
    let mut read: BTreeMap<ObjectId, Inspection> = BTreeMap::new();
    for (id, object) in image.objects.iter().filter(|(_, object)| object.references > 0) {
        match read_object(world, *id, object) {
            Ok(inspection) => drop(read.insert(*id, inspection)),
            Err(defect) => defects.push(format!("object {id}, which is committed: {defect}")),
        }
    }
    for ((stream, start), range) in &image.ranges {
        let holds = |inspection: &Inspection| {
            let mut slices = inspection.index.slices.iter();
            slices.any(|slice| slice.stream == *stream && slice.start <= *start && range.end <= slice.end)
        };
        if !read.get(&range.object).is_none_or(holds) {
            let (object, end) = (range.object, range.end);
            defects.push(format!("object {object} does not hold {start}..{end} of stream {stream}"));
        }
    }
    defects
}

fn read_object(world: &World, id: ObjectId, object: &ObjectImage) -> Result<Inspection, String> {
    let key = Path::from(format!("objects/{:010}/{:016}-{}", object.node_epoch.0, id.0, object.attempt));
    // The store itself lies in memory: only the way to it takes time.
    let bytes: Bytes = async { world.objects.get(&key).await?.bytes().await }
        .now_or_never()
        .ok_or("the store does not answer at once")?
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 != object.size {
        return Err(format!("{} bytes instead of {}", bytes.len(), object.size));
    }
    inspect(&bytes).map_err(|error| error.to_string())
}

/// No log was trimmed beyond what objects hold: what the logs still hold of a stream begins at its committed end.
fn check_tails(world: &World, image: &MetadataImage) -> Vec<String> {
    let contents = match world.disks.contents() {
        Ok(contents) => contents,
        Err(error) => return vec![format!("a write-ahead log cannot be read: {error}")],
    };
    let mut first: BTreeMap<StreamId, common::Offset> = BTreeMap::new();
    for record in contents.into_iter().flat_map(|(_, _, records)| records) {
        let Some(stream) = image.streams.get(&record.meta.stream) else { continue };
        let epoch = record.meta.stream_epoch;
        let is_void = epoch > stream.epoch || stream.void.iter().any(|void| void.epoch == epoch);
        if is_void || record.meta.next_offset <= stream.end.max(stream.start) {
            continue;
        }
        let first = first.entry(record.meta.stream).or_insert(record.meta.base_offset);
        *first = record.meta.base_offset.min(*first);
    }
    let gap = |(id, first): (StreamId, common::Offset)| {
        let needed = image.streams.get(&id).map(|stream| stream.end.max(stream.start))?;
        (first > needed).then(|| format!("stream {id} is committed up to {needed}, its logs begin at {first}"))
    };
    first.into_iter().filter_map(gap).collect()
}

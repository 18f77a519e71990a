//! Object keys. A key is never written twice: `<prefix>/objects/<node epoch>/<object id>-<attempt>`.

use common::{NodeEpoch, ObjectId};
use object_store::path::Path;

use crate::ports::ObjectDescriptor;

/// The folder of all objects under `prefix`.
pub(crate) fn objects_folder(prefix: &str) -> Path {
    Path::from(prefix).join("objects")
}

/// The folder of the objects that a node has put in one of its lives.
pub(crate) fn epoch_folder(prefix: &str, epoch: NodeEpoch) -> Path {
    objects_folder(prefix).join(format!("{:010}", epoch.0))
}

/// Where an object lies.
pub(crate) fn object_key(prefix: &str, object: &ObjectDescriptor) -> Path {
    // Fixed width, so that a listing is in the order of ids.
    epoch_folder(prefix, object.node_epoch).join(format!("{:016}-{}", object.id.0, object.attempt))
}

/// Node epoch, id and attempt of a key; `None` for anything else that lies there.
pub(crate) fn parse_key(prefix: &str, key: &Path) -> Option<(NodeEpoch, ObjectId, u32)> {
    let folder = objects_folder(prefix);
    let mut parts = key.prefix_match(&folder)?;
    let epoch = parts.next()?.as_ref().parse().ok()?;
    let name = parts.next()?;
    let (id, attempt) = name.as_ref().split_once('-')?;
    let parsed = (NodeEpoch(epoch), ObjectId(id.parse().ok()?), attempt.parse().ok()?);
    parts.next().is_none().then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_documented_and_parse_back() {
        let object = ObjectDescriptor { id: ObjectId(42), node_epoch: NodeEpoch(7), attempt: 3, size: 9 };
        let key = object_key("clusters/a", &object);
        assert_eq!(key.as_ref(), "clusters/a/objects/0000000007/0000000000000042-3");
        assert_eq!(parse_key("clusters/a", &key), Some((NodeEpoch(7), ObjectId(42), 3)));
        assert_eq!(parse_key("clusters/b", &key), None);
        assert_eq!(object_key("", &object).as_ref(), "objects/0000000007/0000000000000042-3");
        assert_eq!(parse_key("", &Path::from("objects/7/42")), None);
        assert_eq!(parse_key("", &Path::from("objects/7/42-1/x")), None);
    }
}

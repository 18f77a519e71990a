//! The one thing the coordinator reads from members' otherwise opaque metadata: which topics a consumer
//! subscribes to, so that their offsets neither expire nor get deleted under it.
//!
//! Layout (Kafka's consumer protocol, big-endian; fields after the topics depend on the version and are not
//! needed): int16 version, int32 count, count × (int16 length, bytes).

use std::collections::BTreeSet;
use std::sync::Arc;

/// Protocol type of consumer groups.
pub(crate) const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Adds the topics of one member's subscription. `None` if the bytes are no subscription.
pub(crate) fn read_topics(mut bytes: &[u8], topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let version = i16::from_be_bytes(take(&mut bytes)?);
    let count = i32::from_be_bytes(take(&mut bytes)?);
    if version < 0 {
        return None;
    }
    for _ in 0..usize::try_from(count).ok()? {
        let length = usize::try_from(i16::from_be_bytes(take(&mut bytes)?)).ok()?;
        let (name, rest) = bytes.split_at_checked(length)?;
        topics.insert(std::str::from_utf8(name).ok()?.into());
        bytes = rest;
    }
    Some(())
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBSCRIPTION: &[u8] = b"\x00\x01\x00\x00\x00\x02\x00\x01a\x00\x02bc\xff\xff\xff\xff\x00\x00\x00\x00";

    #[test]
    fn reads_topics_of_any_version() {
        let mut topics = BTreeSet::new();
        assert_eq!(read_topics(SUBSCRIPTION, &mut topics), Some(()));
        assert_eq!(topics.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["a", "bc"]);
    }

    #[test]
    fn refuses_what_is_cut_short_or_negative() {
        for end in 0..13 {
            assert_eq!(read_topics(&SUBSCRIPTION[..end], &mut BTreeSet::new()), None, "{end} bytes");
        }
        assert_eq!(read_topics(b"\xff\xff\x00\x00\x00\x00", &mut BTreeSet::new()), None);
        assert_eq!(read_topics(b"\x00\x00\xff\xff\xff\xff", &mut BTreeSet::new()), None);
        assert_eq!(read_topics(b"\x00\x00\x7f\xff\xff\xff\x00\x00", &mut BTreeSet::new()), None);
    }
}

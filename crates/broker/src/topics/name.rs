//! Which topic names are legal.

use metadata::MetadataImage;

/// Longest name, in characters.
const MAX_NAME_LENGTH: usize = 249;

/// Checks the form of a name.
///
/// # Errors
/// Kafka's sentence for INVALID_TOPIC_EXCEPTION.
pub fn check_name(name: &str) -> Result<(), String> {
    let problem = if name.is_empty() {
        "the empty string is not allowed".to_owned()
    } else if name == "." || name == ".." {
        format!("'{name}' is not allowed")
    } else if name.len() > MAX_NAME_LENGTH {
        format!("the length of '{name}' is longer than the max allowed length {MAX_NAME_LENGTH}")
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
    } else {
        return Ok(());
    };
    Err(format!("Topic name is invalid: {problem}"))
}

/// An existing topic whose name differs from `name` only by `.` and `_`, which metrics cannot tell apart.
#[must_use]
pub fn colliding<'a>(image: &'a MetadataImage, name: &str) -> Option<&'a str> {
    if !name.contains(['.', '_']) {
        return None;
    }
    image.topic_ids.keys().map(AsRef::as_ref).find(|existing| *existing != name && is_same_metric(existing, name))
}

fn is_same_metric(one: &str, other: &str) -> bool {
    let unify = |byte: u8| if byte == b'.' { b'_' } else { byte };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| unify(one) == unify(other))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn names_are_judged_as_in_kafka() {
        for good in ["a", "a.b-c_D9", &"x".repeat(249), "..."] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "ä", &"x".repeat(250)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(check_name("..").expect_err("bad"), "Topic name is invalid: '..' is not allowed");
    }

    #[test]
    fn dots_and_underscores_collide() {
        let mut image = MetadataImage::default();
        image.topic_ids.insert(Arc::from("a.b"), Uuid::from_u128(1));
        assert_eq!(colliding(&image, "a_b"), Some("a.b"));
        assert_eq!(colliding(&image, "a.b"), None);
        assert_eq!(colliding(&image, "a-b"), None);
        assert_eq!(colliding(&image, "a_bc"), None);
    }
}

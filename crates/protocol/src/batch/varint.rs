//! Zigzag varints of records, read and written as Kafka's `ByteUtils` does: at most 5 bytes for 32 bits and 10
//! for 64, bits beyond the width are dropped.

/// Most bytes of a 32-bit varint.
pub(crate) const VARINT_MAX: usize = 5;
/// Most bytes of a 64-bit varint.
pub(crate) const VARLONG_MAX: usize = 10;

/// Reads a 32-bit varint from the start of `bytes`: the value and its length. `None` if it does not end in
/// time.
#[inline]
pub(crate) fn varint(bytes: &[u8]) -> Option<(i32, usize)> {
    let (raw, len) = unsigned(bytes, VARINT_MAX)?;
    let raw = raw as u32;
    Some(((raw >> 1) as i32 ^ -((raw & 1) as i32), len))
}

/// Reads a 64-bit varint from the start of `bytes`: the value and its length.
#[inline]
pub(crate) fn varlong(bytes: &[u8]) -> Option<(i64, usize)> {
    let (raw, len) = unsigned(bytes, VARLONG_MAX)?;
    Some(((raw >> 1) as i64 ^ -((raw & 1) as i64), len))
}

/// Reads an unsigned varint of at most `len_max` bytes.
#[inline]
pub(crate) fn unsigned(bytes: &[u8], len_max: usize) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    if first < 0x80 {
        return Some((u64::from(first), 1));
    }
    let mut value = u64::from(first & 0x7F);
    for (index, byte) in bytes.iter().take(len_max).enumerate().skip(1) {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// Appends a 32-bit varint.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_unsigned(out, u64::from(((value << 1) ^ (value >> 31)) as u32));
}

/// Appends a 64-bit varint.
pub(crate) fn put_varlong(out: &mut Vec<u8>, value: i64) {
    put_unsigned(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_unsigned(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_at_the_edges() {
        for value in [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i32::MAX, i32::MIN] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint(&out), Some((value, out.len())));
            assert_eq!(varint(&out[..out.len() - 1]), None);
        }
        for value in [0, -1, i64::MAX, i64::MIN, 1 << 40] {
            let mut out = Vec::new();
            put_varlong(&mut out, value);
            assert_eq!(varlong(&out), Some((value, out.len())));
        }
    }

    #[test]
    fn overlong_is_refused() {
        assert_eq!(varint(&[0x80; 6]), None);
        assert_eq!(varlong(&[0x80; 11]), None);
        assert_eq!(varint(&[]), None);
    }
}

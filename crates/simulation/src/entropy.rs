//! The randomness of the process, made from the seed.
//!
//! Dependencies take randomness by themselves: the keys of hash maps, the order in which `select!` looks at its branches,
//! election timeouts. All of it comes through libc's `getrandom`, so that this process has one of its own.

use std::ffi::{c_uint, c_void};
use std::sync::atomic::{AtomicU64, Ordering};

static STATE: AtomicU64 = AtomicU64::new(0);

/// Begins anew from `seed`. Threads that exist have their hash keys already: run the simulation on one that is made after
/// this.
pub fn seed(seed: u64) {
    STATE.store(seed, Ordering::SeqCst);
}

/// SplitMix64.
fn next() -> u64 {
    let state = STATE.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst).wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Takes the place of libc's: the standard library and the `getrandom` crate look it up by this name.
///
/// # Safety
/// As libc's: `buffer` has room for `length` bytes.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, _flags: c_uint) -> isize {
    let mut filled = 0;
    while filled < length {
        let bytes = next().to_ne_bytes();
        let part = bytes.len().min(length - filled);
        // SAFETY: the caller gives `length` bytes at `buffer`, of which `filled..filled + part` are within; `bytes` is a
        // local array of at least `part` bytes, which cannot overlap them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast::<u8>().add(filled), part) };
        filled += part;
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}

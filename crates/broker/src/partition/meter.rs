//! What a partition carries: one relaxed addition for a batch written, or an answer read.

use std::sync::atomic::{AtomicU64, Ordering};

use metadata::balance::Traffic;

/// Bits below the bytes that count requests: a million of them between two samples.
const REQUEST_BITS: u32 = 20;

/// Bytes and requests since the last sample, each pair in one number.
#[derive(Debug, Default)]
pub struct Meter {
    written: AtomicU64,
    read: AtomicU64,
}

impl Meter {
    /// A batch was appended.
    pub fn wrote(&self, bytes: u64) {
        self.written.fetch_add(bytes << REQUEST_BITS | 1, Ordering::Relaxed);
    }

    /// A request was answered with so much of it.
    pub fn read(&self, bytes: u64) {
        self.read.fetch_add(bytes << REQUEST_BITS | 1, Ordering::Relaxed);
    }

    /// What there was since the last call.
    pub fn take(&self) -> Traffic {
        let parts = |counted: u64| (counted >> REQUEST_BITS, counted & ((1 << REQUEST_BITS) - 1));
        let (bytes_in, writes) = parts(self.written.swap(0, Ordering::Relaxed));
        let (bytes_out, reads) = parts(self.read.swap(0, Ordering::Relaxed));
        Traffic { bytes_in, bytes_out, requests: writes + reads }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_holds_what_came_since_the_last() {
        let meter = Meter::default();
        meter.wrote(1000);
        meter.wrote(24);
        meter.read(5);
        assert_eq!(meter.take(), Traffic { bytes_in: 1024, bytes_out: 5, requests: 3 });
        assert_eq!(meter.take(), Traffic::default());
    }
}

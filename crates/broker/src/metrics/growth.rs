//! How fast something grows, by those who look at it now and then.

use std::time::Duration;

use parking_lot::Mutex;

/// Between two looks that a rate is made from.
const INTERVAL_MIN: Duration = Duration::from_secs(10);

/// A number that grows, as it was at two looks.
#[derive(Debug, Default)]
pub(crate) struct Growth(Mutex<[Option<(Duration, u64)>; 2]>);

impl Growth {
    /// What it grows by in a second, over the last ten seconds or more; `None` at the first look.
    pub(crate) fn look(&self, now: Duration, value: u64) -> Option<f64> {
        let mut looks = self.0.lock();
        let last = looks[1];
        if last.is_none_or(|(at, _)| now.saturating_sub(at) >= INTERVAL_MIN) {
            *looks = [last, Some((now, value))];
        }
        let (since, from) = looks[0].or(last)?;
        let time = now.checked_sub(since).filter(|time| !time.is_zero())?;
        Some(value.saturating_sub(from) as f64 / time.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_spans_ten_seconds_however_often_somebody_looks() {
        let growth = Growth::default();
        let at = Duration::from_secs;
        assert_eq!(growth.look(at(100), 1_000), None);
        assert_eq!(growth.look(at(105), 1_500), Some(100.0), "less, if that is all there is");
        assert_eq!(growth.look(at(110), 3_000), Some(200.0));
        assert_eq!(growth.look(at(115), 3_000), Some(2_000.0 / 15.0));
        assert_eq!(growth.look(at(130), 3_000), Some(0.0), "what was before the last ten seconds is forgotten");
    }
}

//! Durations: as a histogram that only grows, and exactly. Pure.

use serde::{Deserialize, Serialize};

/// Durations, counted by upper bounds in seconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Durations {
    /// The count in each bucket of [`BOUNDS`].
    counts: Vec<u64>,
    /// Their sum, in milliseconds.
    sum_ms: u64,
    /// Their number.
    pub count: u64,
    /// Each one, in milliseconds. Not saved in the file.
    #[serde(skip)]
    each: Vec<u64>,
}

/// Upper bounds from unfreezing to the build of a desktop, in seconds.
pub const BOUNDS: [f64; 15] = [
    0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
];

impl Durations {
    /// Adds one duration.
    pub fn add(&mut self, ms: u64) {
        self.counts.resize(BOUNDS.len(), 0);
        let fits = |bound: &f64| ms as f64 <= bound * 1000.0;
        if let Some(n) = BOUNDS.iter().position(fits) {
            self.counts[n] += 1;
        }
        self.sum_ms = self.sum_ms.saturating_add(ms);
        self.count += 1;
        self.each.push(ms);
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: &Durations) {
        self.counts.resize(BOUNDS.len(), 0);
        for (sum, count) in self.counts.iter_mut().zip(&others.counts) {
            *sum += count;
        }
        self.sum_ms = self.sum_ms.saturating_add(others.sum_ms);
        self.count += others.count;
        self.each.extend(&others.each);
    }

    /// The cumulative count for each bound, and the sum in seconds.
    pub fn histogram(&self) -> (Vec<(f64, u64)>, f64) {
        let mut so_far = 0;
        let counts = self.counts.iter().copied().chain(std::iter::repeat(0));
        let buckets = BOUNDS.into_iter().zip(counts).map(|(bound, count)| {
            so_far += count;
            (bound, so_far)
        });
        (buckets.collect(), self.sum_ms as f64 / 1000.0)
    }

    /// The quantile `share`, in seconds; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let mut each = self.each.clone();
        each.sort_unstable();
        // The nearest rank.
        let rank = (share * each.len() as f64).ceil() as usize;
        let ms = each.get(rank.saturating_sub(1))?;
        Some(*ms as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_counted_and_told_exactly() {
        let mut durations = Durations::default();
        assert_eq!(durations.quantile(0.5), None);
        for ms in (1..=100).rev() {
            durations.add(ms * 10);
        }
        durations.add(9_999_999);
        assert_eq!(
            (durations.quantile(0.5), durations.quantile(0.95)),
            (Some(0.51), Some(0.96))
        );
        assert_eq!(durations.quantile(1.0), Some(9999.999));
        let (buckets, sum) = durations.histogram();
        assert_eq!(buckets[..3], [(0.25, 25), (0.5, 50), (1.0, 100)]);
        assert_eq!(buckets.last(), Some(&(3600.0, 100)));
        assert!((sum - 10_050.499).abs() < 1e-6, "{sum}");
        let mut both = Durations::default();
        both.extend(&durations);
        both.extend(&durations);
        assert_eq!((both.count, both.quantile(0.5)), (202, Some(0.51)));
    }
}

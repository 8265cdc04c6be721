//! Latencies in constant memory with less than 1 % error, after HdrHistogram: 128 steps for each power of two.

use serde::{Deserialize, Serialize};

const STEP_BITS: u32 = 7;
const STEPS: usize = 1 << STEP_BITS;
const BUCKETS: usize = STEPS * (64 - STEP_BITS as usize + 1);

/// Counts by nanoseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

/// What is told of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, sum: 0, max: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, nanos: u64) {
        self.counts[bucket(nanos)] += 1;
        self.total += 1;
        self.sum += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value that a share of `quantile` does not exceed; 0 when nothing was recorded.
    pub fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.total as f64 * quantile).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(index).min(self.max);
            }
        }
        self.max
    }

    pub fn summary(&self) -> Latency {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        Latency {
            mean_ms: self.sum as f64 / self.total.max(1) as f64 / 1e6,
            p50_ms: ms(self.quantile(0.5)),
            p90_ms: ms(self.quantile(0.9)),
            p99_ms: ms(self.quantile(0.99)),
            p999_ms: ms(self.quantile(0.999)),
            max_ms: ms(self.max),
        }
    }
}

/// Values below 128 have a bucket each; above, the 7 bits behind the highest one choose.
fn bucket(nanos: u64) -> usize {
    let shift = (63 - (nanos | 1).leading_zeros()).saturating_sub(STEP_BITS);
    if shift == 0 && nanos < STEPS as u64 {
        return nanos as usize;
    }
    STEPS * (shift as usize + 1) + (nanos >> shift) as usize - STEPS
}

/// The greatest value that falls into a bucket.
fn upper_end(index: usize) -> u64 {
    if index < STEPS {
        return index as u64;
    }
    let shift = (index / STEPS - 1) as u32;
    let low = ((index % STEPS + STEPS) as u64) << shift;
    low + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_within_one_percent_below_its_buckets_end() {
        let mut value = 1_u64;
        while value < u64::MAX / 3 {
            for nanos in [value - 1, value, value + 1] {
                let end = upper_end(bucket(nanos));
                assert!(end >= nanos && end - nanos <= nanos / 127, "{nanos} in a bucket to {end}");
            }
            value = value * 3 / 2 + 1;
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_a_sorted_list() {
        let mut histogram = Histogram::default();
        (1..=1_000).for_each(|micros| histogram.record(micros * 1_000));
        let near = |quantile: f64, micros: u64| {
            let found = histogram.quantile(quantile);
            assert!(found >= micros * 1_000 && found <= micros * 1_010, "{quantile}: {found}");
        };
        near(0.5, 500);
        near(0.99, 990);
        near(0.999, 999);
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(histogram.summary().max_ms, 1.0);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}

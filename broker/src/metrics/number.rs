//! Numbers that are counted: what rises, what moves, and observations sorted into buckets. None of them takes a lock.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// A number that rises.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that moves.
#[derive(Debug, Default)]
pub(super) struct Gauge(AtomicI64);

impl Gauge {
    pub(super) fn add(&self, change: i64) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The most buckets that a histogram has, the one without a bound included.
const BUCKETS_MAX: usize = 21;
/// Copies of a histogram: threads that observe at the same time mostly use different ones, so none waits for
/// another's cache line.
const STRIPES: usize = 4;

/// Bounds of what takes time, in nanoseconds: from a request answered in memory to a disk that is about to fail.
pub(super) const SECONDS: Scale = Scale {
    bounds: &[
        10_000,
        20_000,
        50_000,
        100_000,
        200_000,
        500_000,
        1_000_000,
        2_000_000,
        5_000_000,
        10_000_000,
        20_000_000,
        50_000_000,
        100_000_000,
        200_000_000,
        500_000_000,
        1_000_000_000,
        2_000_000_000,
        5_000_000_000,
        10_000_000_000,
        30_000_000_000,
    ],
    unit: 1e9,
};
/// Bounds of what comes in groups.
pub(super) const COUNTS: Scale =
    Scale { bounds: &[1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096], unit: 1.0 };

/// How a histogram sorts what it observes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// Upper bounds of the buckets but the last, rising; fewer than [`BUCKETS_MAX`].
    bounds: &'static [u64],
    /// How many of what is observed are one of what the page shows.
    unit: f64,
}

/// Observations sorted into fixed buckets.
#[derive(Debug)]
pub(super) struct Histogram {
    scale: Scale,
    stripes: [Stripe; STRIPES],
}

/// Two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    /// Observations at most as large as the bound of the same place and larger than the one before.
    buckets: [AtomicU64; BUCKETS_MAX],
    sum: AtomicU64,
}

impl Histogram {
    pub(super) fn new(scale: Scale) -> Self {
        assert!(scale.bounds.len() < BUCKETS_MAX, "every bound has a bucket, and so has the rest");
        Self { scale, stripes: Default::default() }
    }

    pub(super) fn observe(&self, value: u64) {
        self.observe_many(value, 1);
    }

    pub(super) fn observe_time(&self, time: Duration) {
        self.observe_many(nanos(time), 1);
    }

    /// As if `value` had been observed `count` times.
    pub(super) fn observe_many(&self, value: u64, count: u64) {
        let stripe = &self.stripes[STRIPE.with(|stripe| *stripe)];
        let bucket = self.scale.bounds.partition_point(|bound| *bound < value);
        stripe.buckets[bucket].fetch_add(count, Ordering::Relaxed);
        stripe.sum.fetch_add(value.saturating_mul(count), Ordering::Relaxed);
    }

    /// What was observed until now. Taken while others observe, so the sum may be a little ahead of the counts.
    pub(super) fn read(&self) -> Reading {
        let mut below = [0; BUCKETS_MAX];
        let mut sum = 0_u64;
        for stripe in &self.stripes {
            for (total, bucket) in below.iter_mut().zip(&stripe.buckets) {
                *total += bucket.load(Ordering::Relaxed);
            }
            sum = sum.wrapping_add(stripe.sum.load(Ordering::Relaxed));
        }
        let mut count = 0;
        for total in &mut below {
            count += *total;
            *total = count;
        }
        let bounds = self.scale.bounds.iter().map(|bound| *bound as f64 / self.scale.unit);
        let buckets = bounds.zip(below).collect();
        Reading { buckets, count, sum: sum as f64 / self.scale.unit }
    }
}

/// A histogram at one moment, in the page's unit.
pub(super) struct Reading {
    /// By upper bound: how many observations are not larger.
    pub(super) buckets: Vec<(f64, u64)>,
    /// All of them, so that one page never contradicts itself.
    pub(super) count: u64,
    pub(super) sum: f64,
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

thread_local! {
    /// The stripe that this thread counts in.
    static STRIPE: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_of_all_threads_are_sorted_and_summed() {
        let histogram = Histogram::new(COUNTS);
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| {
                    histogram.observe(0);
                    histogram.observe(1);
                    histogram.observe_many(3, 5);
                    histogram.observe(5_000);
                });
            }
        });
        let threads = 2 * STRIPES as u64;
        let reading = histogram.read();
        assert_eq!(reading.count, 8 * threads);
        assert_eq!(reading.sum, (5_016 * threads) as f64);
        let at = |bound: f64| reading.buckets.iter().find(|it| it.0 == bound).unwrap().1;
        assert_eq!([at(1.0), at(2.0), at(4.0)], [2 * threads, 2 * threads, 7 * threads]);
        assert_eq!(at(4096.0), 7 * threads, "what is beyond the last bound is in no bucket");
    }

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::new(SECONDS);
        histogram.observe_time(Duration::from_micros(10));
        histogram.observe_time(Duration::from_nanos(10_001));
        let reading = histogram.read();
        assert_eq!(reading.buckets[..2], [(0.00001, 1), (0.00002, 2)]);
        assert_eq!(reading.buckets.len(), SECONDS.bounds.len());
    }
}

//! A stopwatch for the micro benches: a call again and again for a while, the median and the fastest of its
//! slices, one line. On a busy machine the fastest tells more.

use std::time::{Duration, Instant};

/// Slices whose median is told.
const SLICES: usize = 9;
const SLICE: Duration = Duration::from_millis(150);

/// One line: the time of a call and, where a call moves bytes, how many a second.
///
/// `calls_max` bounds calls that leave something behind; the first slice warms up and is dropped.
pub fn measure(name: &str, bytes: usize, calls_max: u64, mut call: impl FnMut()) -> String {
    let mut costs: Vec<f64> = Vec::new();
    let (mut calls, per_slice_max) = (0, (calls_max / (SLICES as u64 + 1)).max(1));
    for slice in 0..=SLICES {
        let begin = Instant::now();
        let mut here = 0;
        while here < per_slice_max && (here % 16 != 0 || begin.elapsed() < SLICE) {
            call();
            here += 1;
        }
        calls += here;
        if slice > 0 {
            costs.push(begin.elapsed().as_nanos() as f64 / here as f64);
        }
    }
    costs.sort_by(f64::total_cmp);
    let (fastest, nanos) = (costs[0], costs[SLICES / 2]);
    let rate =
        if bytes == 0 { String::new() } else { format!("{:9.0} MB/s", bytes as f64 * 1e3 / nanos) };
    format!("{name:<58} {nanos:>12.0} ns {rate:>14}   fastest {fastest:.0} ns, {calls} calls")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bounded_call_is_made_at_most_so_often() {
        let mut calls = 0;
        let line = measure("nothing", 10, 100, || calls += 1);
        assert_eq!(calls, 100);
        assert!(line.contains("100 calls"), "{line}");
    }
}

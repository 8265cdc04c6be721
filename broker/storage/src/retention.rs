//! Which segments may go, by time and by size. A pure decision; `log.rs` carries it out.
//!
//! Age is that of a segment's newest record, so one record from the future could keep it for ever: timestamps count at
//! most `message.timestamp.after.max.ms` ahead of the time when the segment was last written. Only whole segments go, oldest first and without
//! gaps, and never one that reaches beyond the limit (the high watermark).

use millrace_model::env::WallMs;
use millrace_model::offset::Offset;

use crate::log::LogConfig;

/// What matters of one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) bytes: u64,
    /// The offset behind its last record.
    pub(crate) end: Offset,
    /// Time of its newest record, if its records have one.
    pub(crate) newest: Option<i64>,
    /// When it was last written, as far as this process knows.
    pub(crate) written: WallMs,
}

/// How many of `segments`, oldest first, may go.
pub(crate) fn expendable(
    segments: &[Candidate],
    config: &LogConfig,
    limit: Offset,
    now: WallMs,
) -> usize {
    let free = segments.iter().take_while(|segment| segment.end <= limit).count();
    let old = segments.iter().take_while(|segment| is_old(segment, config, now)).count();
    let mut left: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let surplus = segments.iter().take_while(|segment| {
        left -= segment.bytes;
        u64::try_from(config.retention_bytes).is_ok_and(|keep| left >= keep)
    });
    surplus.count().max(old).min(free)
}

fn is_old(segment: &Candidate, config: &LogConfig, now: WallMs) -> bool {
    let written = segment.written.0;
    let latest = written.saturating_add(config.timestamp_after_max_ms);
    let newest = segment.newest.map_or(written, |newest| newest.min(latest));
    config.retention_ms >= 0 && now.0.saturating_sub(newest) > config.retention_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(1_000_000);

    fn check(newest: &[i64], retention_ms: i64, retention_bytes: i64, limit: i64, expected: usize) {
        let segment = |(i, newest): (i64, &i64)| {
            let (end, newest) = (Offset(i * 10), (*newest >= 0).then_some(*newest));
            Candidate { bytes: 100, end, newest, written: WallMs(900_000) }
        };
        let segments: Vec<_> = (1..).zip(newest).map(segment).collect();
        let config = LogConfig {
            retention_ms,
            retention_bytes,
            timestamp_after_max_ms: 50_000,
            ..LogConfig::default()
        };
        let found = expendable(&segments, &config, Offset(limit), NOW);
        assert_eq!(found, expected, "{newest:?} {retention_ms} {retention_bytes} {limit}");
    }

    #[test]
    fn old_segments_go_up_to_the_first_young_one() {
        check(&[1, 2, 3], -1, -1, 30, 0);
        check(&[1, 2, 3], 60_000, -1, 30, 3);
        check(&[1, 945_000, 3], 60_000, -1, 30, 1);
        check(&[940_000, 940_001], 60_000, -1, 30, 0);
        check(&[939_999], 60_000, -1, 30, 1);
    }

    #[test]
    fn surplus_segments_go_while_enough_is_left() {
        check(&[950_000; 5], -1, 200, 50, 3);
        check(&[950_000; 5], -1, 201, 50, 2);
        check(&[950_000; 5], -1, 0, 50, 5);
        check(&[950_000; 5], -1, 1_000, 50, 0);
    }

    #[test]
    fn nothing_beyond_the_limit_goes() {
        check(&[1, 2, 3], 60_000, -1, 25, 2);
        check(&[1, 2, 3], 60_000, 0, 9, 0);
    }

    #[test]
    fn records_from_the_future_or_without_a_time_go_by_when_they_were_written() {
        check(&[i64::MAX], 50_000, -1, 10, 0);
        check(&[i64::MAX], 49_999, -1, 10, 1);
        check(&[-1], 100_000, -1, 10, 0);
        check(&[-1], 99_999, -1, 10, 1);
    }
}

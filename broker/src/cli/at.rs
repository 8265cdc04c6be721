//! Places in a log as people write them: `earliest`, `latest`, an offset, a time.
//!
//! Times are RFC 3339 (`2026-01-02T03:04:05Z`, with an offset or without seconds' fractions), a date (its midnight in
//! UTC), both without a place (`2026-01-02 03:04`: UTC again), milliseconds since the Unix epoch (`@1700000000000`), or
//! so long ago (`-15m`, `-2h30m`, `-3d`).

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{SignedDuration, Timestamp, civil};
use millrace_client::StartAt;

use crate::cli::connect::Session;
use crate::cli::failure::Failure;

/// One place in each partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    Earliest,
    Latest,
    Offset(i64),
    /// So many records before the end.
    BeforeEnd(i64),
    TimeMs(i64),
}

/// What the text is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is neither earliest, latest, an offset (42), records before the end (-10), a time \
     (2026-01-02T03:04:05Z, 2026-01-02, @1767323045000) nor so long ago (-15m, -2h)"
)]
pub(super) struct NoPlace;

impl FromStr for At {
    type Err = NoPlace;

    fn from_str(text: &str) -> Result<Self, NoPlace> {
        let at = match text {
            "earliest" | "start" | "beginning" => Some(Self::Earliest),
            "latest" | "end" => Some(Self::Latest),
            _ => number(text).or_else(|| time(text)),
        };
        at.ok_or(NoPlace)
    }
}

fn number(text: &str) -> Option<At> {
    match text.strip_prefix('-') {
        Some(count) if is_digits(count) => count.parse().ok().map(At::BeforeEnd),
        None if is_digits(text) => text.parse().ok().map(At::Offset),
        _ => None,
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit())
}

fn time(text: &str) -> Option<At> {
    if let Some(ms) = text.strip_prefix('@') {
        return ms.parse().ok().map(At::TimeMs);
    }
    if let Some(ago) = text.strip_prefix('-') {
        // Days are 24 hours here: the friendly format knows them only with a calendar.
        let ago_ms = match ago.strip_suffix('d') {
            Some(days) => days.parse::<i64>().ok()?.checked_mul(86_400_000)?,
            None => i64::try_from(ago.parse::<SignedDuration>().ok()?.as_millis()).ok()?,
        };
        return Some(At::TimeMs(now_ms().saturating_sub(ago_ms)));
    }
    let at = text.parse::<Timestamp>().ok().or_else(|| midnight(text)).or_else(|| in_utc(text))?;
    Some(At::TimeMs(at.as_millisecond()))
}

/// The beginning of a day in UTC.
fn midnight(text: &str) -> Option<Timestamp> {
    let is_date = text.len() == "2026-01-02".len();
    let date = text.parse::<civil::Date>().ok().filter(|_| is_date)?;
    format!("{date}T00:00:00Z").parse().ok()
}

/// A date and a time of day that name no place: those of UTC, as a date alone is.
fn in_utc(text: &str) -> Option<Timestamp> {
    let is_both = text.len() >= "2026-01-02 03:04".len();
    let at = text.parse::<civil::DateTime>().ok().filter(|_| is_both)?;
    format!("{at}Z").parse().ok()
}

impl At {
    /// What the broker understands; `None` for a place that counts from the end, which takes two questions.
    pub(super) fn start(self) -> Option<StartAt> {
        Some(match self {
            Self::Earliest => StartAt::Earliest,
            Self::Latest => StartAt::Latest,
            Self::Offset(offset) => StartAt::Offset(offset),
            Self::TimeMs(ms) => StartAt::TimestampMs(ms),
            Self::BeforeEnd(_) => return None,
        })
    }

    /// The offset of this place in each of these partitions of a topic; none: in all. A place outside the log becomes
    /// its nearest end.
    ///
    /// # Errors
    /// There is no such topic or partition.
    pub(super) async fn find(
        self,
        session: &Session,
        topic: &str,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let starts = offsets(session, topic, partitions, StartAt::Earliest).await?;
        let ends = offsets(session, topic, partitions, StartAt::Latest).await?;
        let times = match self {
            Self::TimeMs(ms) => {
                offsets(session, topic, partitions, StartAt::TimestampMs(ms)).await?
            }
            _ => BTreeMap::new(),
        };
        let place = |(partition, start): (i32, i64)| {
            let end = ends.get(&partition).copied().unwrap_or(start).max(start);
            let at = match self {
                Self::Earliest => start,
                Self::Latest => end,
                Self::Offset(offset) => offset.clamp(start, end),
                Self::BeforeEnd(count) => end.saturating_sub(count).max(start),
                Self::TimeMs(_) => times.get(&partition).copied().unwrap_or(end),
            };
            (partition, at)
        };
        Ok(starts.into_iter().map(place).collect())
    }
}

/// The offset of one place in each of these partitions of a topic; none: in all.
///
/// # Errors
/// There is no such topic or partition.
pub(super) async fn offsets(
    session: &Session,
    topic: &str,
    partitions: &[i32],
    place: StartAt,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let doing = format!("find offsets in topic {topic}");
    let found = session.admin().offsets(topic, partitions, place).await;
    let found = found.map_err(session.failed(&doing))?;
    let one = |it: millrace_client::FoundOffset| {
        it.offset.map(|offset| (it.partition, offset)).map_err(session.failed(&doing))
    };
    found.into_iter().map(one).collect()
}

/// The time on this machine's clock, in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// A time as people and programs read it, in UTC; the number itself where it is no time.
pub(super) fn time_text(ms: i64) -> String {
    match Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: At) {
        assert_eq!(text.parse(), Ok(expected), "{text}");
    }

    #[test]
    fn places_are_read() {
        check("earliest", At::Earliest);
        check("end", At::Latest);
        check("42", At::Offset(42));
        check("-10", At::BeforeEnd(10));
        check("@1500", At::TimeMs(1500));
        check("1970-01-01T00:00:01Z", At::TimeMs(1000));
        check("1970-01-01T01:00:01.5+01:00", At::TimeMs(1500));
        check("1970-01-02", At::TimeMs(86_400_000));
    }

    #[test]
    fn so_long_ago_counts_from_now() {
        for (text, ago_ms) in
            [("-15m", 900_000), ("-2h30m", 9_000_000), ("-1d", 86_400_000), ("-5s", 5_000)]
        {
            let Ok(At::TimeMs(ms)) = text.parse() else { panic!("{text} is a time") };
            let off = now_ms() - ago_ms - ms;
            assert!((0..60_000).contains(&off), "{text} is off by {off} ms");
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in
            ["", "-", "soon", "1.5", "--1", "@", "2026-13-01", "-1y", "99999999999999999999"]
        {
            assert_eq!(text.parse::<At>(), Err(NoPlace), "{text}");
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(time_text(1500), "1970-01-01T00:00:01.500Z");
        assert_eq!(time_text(i64::MAX), i64::MAX.to_string());
    }
}

//! Where records without a key go: one partition of a topic for a while, then the next one, so that they come together
//! in few writes and still spread. Only [`super`] calls it.

use std::collections::HashMap;
use std::sync::Mutex;

use millrace_model::env::MonoMs;
use millrace_model::ids::TopicId;

/// A partition is left after this many bytes,
const STAY_BYTES: usize = 64 * 1024;
/// or after this long.
const STAY_MS: u64 = 1_000;
/// Topics remembered; when there are more, those whose time is over are forgotten, then all.
const TOPICS_MAX: usize = 10_000;

/// The partition of each topic that is stayed with just now.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    /// Guards the map; held to look at one entry.
    stays: Mutex<HashMap<TopicId, Stay>>,
}

#[derive(Clone, Copy, Debug)]
struct Stay {
    partition: i32,
    bytes: usize,
    until: MonoMs,
}

impl Sticky {
    /// The partition for `bytes` more without a key.
    pub(super) fn choose(
        &self,
        topic: TopicId,
        partition_count: i32,
        bytes: usize,
        now: MonoMs,
    ) -> i32 {
        let count = partition_count.max(1);
        let mut stays = self.stays.lock().expect("no holder panics");
        if stays.len() >= TOPICS_MAX && !stays.contains_key(&topic) {
            stays.retain(|_, stay| stay.until > now);
            if stays.len() >= TOPICS_MAX {
                stays.clear();
            }
        }
        let fresh = |partition| Stay { partition, bytes: 0, until: now.plus(STAY_MS) };
        let stay = stays.entry(topic).or_insert_with(|| fresh(first(topic, count)));
        if stay.bytes >= STAY_BYTES || stay.until <= now || stay.partition >= count {
            *stay = fresh((stay.partition + 1) % count);
        }
        stay.bytes += bytes;
        stay.partition
    }
}

/// Not the same one for every topic.
fn first(topic: TopicId, count: i32) -> i32 {
    let [a, b, c, d, ..] = topic.0;
    (i32::from_be_bytes([a, b, c, d]) & i32::MAX) % count
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId([1; 16]);

    #[test]
    fn a_partition_is_stayed_with_until_it_has_its_bytes_or_its_time() {
        let sticky = Sticky::default();
        let choose = |bytes, now| sticky.choose(TOPIC, 3, bytes, MonoMs(now));
        let first = choose(STAY_BYTES - 1, 0);
        assert_eq!(choose(1, 999), first);
        let second = choose(1, 999);
        assert_eq!(second, (first + 1) % 3);
        assert_eq!(choose(1, 1_998), second);
        assert_eq!(choose(1, 1_999), (first + 2) % 3);
        assert_eq!(choose(1, 2_999), first);
    }

    #[test]
    fn a_grown_topic_and_many_topics_are_no_trouble() {
        let sticky = Sticky::default();
        for topic in 0..2 * TOPICS_MAX as u32 {
            let mut id = [0; 16];
            id[..4].copy_from_slice(&topic.to_be_bytes());
            assert!((0..7).contains(&sticky.choose(TopicId(id), 7, 1, MonoMs(0))));
        }
        assert!(sticky.stays.lock().unwrap().len() <= TOPICS_MAX);
        assert_eq!(sticky.choose(TOPIC, 0, 1, MonoMs(0)), 0);
    }
}

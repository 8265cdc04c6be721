//! Which partition: murmur2 over a record's key, as Kafka's default partitioner, and Java's string hash over a group's
//! name, as Kafka's coordinators (and the tools that compute them).

/// The partition of a keyed record (`BuiltInPartitioner.partitionForKey`): `toPositive(murmur2(key)) % count`.
///
/// # Panics
/// When `partition_count` is not positive.
pub fn partition_for_key(key: &[u8], partition_count: i32) -> i32 {
    assert!(partition_count > 0, "a topic has at least one partition");
    (murmur2(key) & i32::MAX) % partition_count
}

/// The partition of `__consumer_offsets` that coordinates `group` (`Utils.abs(group.hashCode()) % count`).
///
/// # Panics
/// When `partition_count` is not positive.
pub fn coordinator_partition(group: &str, partition_count: i32) -> i32 {
    assert!(partition_count > 0, "the offsets topic has at least one partition");
    let hash = java_string_hash(group);
    // Kafka's `Utils.abs` maps the one number without a positive counterpart to 0.
    hash.checked_abs().unwrap_or(0) % partition_count
}

/// Murmur2 as Kafka's `Utils.murmur2`: 32 bits, fixed seed.
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    let mut h = SEED ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes(word.try_into().expect("chunks of four"));
        k = k.wrapping_mul(M);
        k ^= k >> R;
        k = k.wrapping_mul(M);
        h = h.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (shift, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * shift);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^= h >> 15;
    h as i32
}

/// `String.hashCode` of Java: over UTF-16 units.
fn java_string_hash(text: &str) -> i32 {
    text.encode_utf16()
        .fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_kafkas_published_values() {
        for (text, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn coordinators_follow_javas_string_hash() {
        assert_eq!(java_string_hash("hello"), 99_162_322);
        assert_eq!(java_string_hash("𝄞é"), 1_772_394 * 31 + 233, "surrogates count by unit");
        assert_eq!(java_string_hash("polygenelubricants"), i32::MIN);
        assert_eq!(coordinator_partition("polygenelubricants", 50), 0);
        assert_eq!(coordinator_partition("hello", 50), 22);
    }

    #[test]
    fn partitions_are_those_of_kafkas_own_code() {
        // `BuiltInPartitioner.partitionForKey(key, 7)` and `Utils.abs(key.hashCode()) % 50` of 4.3.1.
        for (text, partition, coordinator) in [
            ("", 2, 0),
            ("a", 5, 47),
            ("ab", 0, 5),
            ("abc", 4, 4),
            ("k1", 0, 16),
            ("é", 4, 33),
            ("the quick brown fox", 6, 21),
        ] {
            assert_eq!(partition_for_key(text.as_bytes(), 7), partition, "{text}");
            assert_eq!(coordinator_partition(text, 50), coordinator, "{text}");
        }
    }

    #[test]
    fn keys_spread_over_all_partitions() {
        let mut seen = [false; 7];
        for n in 0..100_u32 {
            seen[partition_for_key(&n.to_be_bytes(), 7) as usize] = true;
        }
        assert_eq!(seen, [true; 7]);
    }
}

//! Chance that can be had again: every draw follows from a seed, which a failing test prints.

/// Another seed for every test that draws, to look further than a committed seed does.
const SEED: &str = "TESTS_SEED";

/// The seed of a test: `committed`, or what the environment says.
///
/// # Panics
/// When the environment says something that is no number.
pub fn seed(committed: u64) -> u64 {
    let given = std::env::var(SEED).ok();
    given.map_or(committed, |text| text.parse().expect("TESTS_SEED is a number"))
}

/// SplitMix64: small, fast, good enough for tests.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.draw() % limit as u64) as usize
    }

    /// One of `items`, which is not empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

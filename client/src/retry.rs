//! When to try again: pauses that grow, with luck in them so that many clients do not come back at one instant.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use millrace_model::env::Prng;
use tokio::time::Instant;

use crate::Error;

/// A generator with a seed of its own.
pub(crate) fn luck() -> Prng {
    // The standard library's hash keys are random per instance: enough luck for pauses and ids, and no crate for it.
    Prng::new(RandomState::new().build_hasher().finish())
}

/// Pauses between tries: each up to twice as long as the one before, the second half of it left to luck.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    tries: u32,
    luck: Prng,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, tries: 0, luck: luck() }
    }

    /// How long to wait before the next try.
    pub(crate) fn pause(&mut self) -> Duration {
        let longest = self.first.saturating_mul(1 << self.tries.min(20)).min(self.max);
        self.tries = self.tries.saturating_add(1);
        let half = longest / 2;
        let luck_us = self.luck.below(half.as_micros() as u64 + 1);
        half + Duration::from_micros(luck_us)
    }

    /// It worked: the next trouble begins with short pauses again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Tries until it works, fails for good or `patience` is over.
///
/// NOTE: not an `AsyncFnMut`, because futures that borrow through one cannot be spawned.
pub(crate) async fn until<T, F: Future<Output = Result<T, Error>>>(
    patience: Duration,
    mut backoff: Backoff,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match attempt().await {
            Err(error) if error.is_retriable() => error,
            done => return done,
        };
        let pause = backoff.pause().max(error.retry_after().unwrap_or_default());
        if Instant::now() + pause >= deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for most_ms in [100, 200, 400, 800, 1000, 1000] {
            let pause_ms = backoff.pause().as_millis();
            assert!((most_ms / 2..=most_ms).contains(&pause_ms), "{pause_ms} of {most_ms}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(100));
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_and_what_does_not_is_not() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(10));
        let lost = Error::Lost { reason: String::new() };
        let mut tries = 0;
        let done = until(Duration::from_secs(9), backoff.clone(), || {
            tries += 1;
            ready(if tries < 3 { Err(lost.clone()) } else { Ok(()) })
        });
        assert_eq!((done.await, tries), (Ok(()), 3));

        let mut tries = 0;
        let closed: Result<(), _> = until(Duration::from_secs(9), backoff.clone(), || {
            tries += 1;
            ready(Err(Error::Closed))
        })
        .await;
        assert_eq!((closed, tries), (Err(Error::Closed), 1));

        let over: Result<(), _> =
            until(Duration::from_secs(9), backoff, || ready(Err(lost.clone()))).await;
        assert_eq!(over, Err(lost));
    }
}

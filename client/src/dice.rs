//! Randomness and waiting: the only source of both in this crate, so that one seed repeats a run.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Seeded randomness, shared by all parts of a client.
#[derive(Debug, Clone)]
pub(crate) struct Dice(Arc<Mutex<StdRng>>);

/// Randomness without a lock, for choices that are made for each call: splitmix64. Good for spreading load, not for
/// secrets.
#[derive(Debug)]
pub(crate) struct Rolls(AtomicU64);

/// Waits that double from one failure to the next, up to a cap, with jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
    waits: Option<ExponentialBackoff>,
}

impl Dice {
    /// Dice that fall the same for the same seed.
    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        Self(Arc::new(Mutex::new(StdRng::from_seed(seed))))
    }

    /// Dice seeded by the operating system; `None` where it has no randomness to give.
    pub(crate) fn from_system() -> Option<Self> {
        let rng = StdRng::try_from_rng(&mut rand::rngs::SysRng).ok()?;
        Some(Self(Arc::new(Mutex::new(rng))))
    }

    /// 16 random bytes: the nonce of an owner.
    pub(crate) fn nonce(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.with(|rng| rng.fill_bytes(&mut bytes));
        bytes
    }

    /// A fresh request id: 32 hex digits.
    pub(crate) fn request_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.nonce()))
    }

    /// The seed of a generator that lives on its own.
    pub(crate) fn seed(&self) -> u64 {
        self.with(|rng| rng.random())
    }

    /// `length` times a random factor from `low` to 1.
    pub(crate) fn shorten(&self, length: Duration, low: f64) -> Duration {
        length.mul_f64(self.with(|rng| rng.random_range(low..=1.0)))
    }

    /// Dice of their own for one part, seeded from these.
    pub(crate) fn rolls(&self) -> Rolls {
        Rolls::new(self.with(|rng| rng.next_u64()))
    }

    fn with<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Rolls {
    /// Rolls that fall the same for the same seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next word.
    pub(crate) fn next(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        mix(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP))
    }

    /// The next fraction, at least 0 and below 1.
    pub(crate) fn fraction(&self) -> f64 {
        fraction(self.next())
    }
}

/// The fraction that the upper 53 bits of a word say, at least 0 and below 1.
pub(crate) fn fraction(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

/// Spreads a word over all bits: the last step of splitmix64.
pub(crate) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Backoff {
    /// Waits of about `first`, then twice that, and never above `cap`.
    pub(crate) fn new(first: Duration, cap: Duration) -> Self {
        Self { first, cap, waits: None }
    }

    /// The next wait: half of it certain, half of it random, so that clients do not come in step.
    pub(crate) fn next(&mut self, dice: &Dice) -> Duration {
        // Up to its own length is added to each wait as jitter: halves keep the sum below the cap.
        let (first, cap) = (self.first.min(self.cap) / 2, self.cap / 2);
        let waits = self.waits.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(first)
                .with_max_delay(cap)
                .without_max_times()
                .with_jitter()
                .with_jitter_seed(dice.seed())
                .build()
        });
        waits.next().unwrap_or(cap)
    }

    /// Begins again with the first wait.
    pub(crate) fn reset(&mut self) {
        self.waits = None;
    }

    /// Whether there was no wait since the beginning or the last reset.
    pub(crate) fn is_fresh(&self) -> bool {
        self.waits.is_none()
    }

    /// Sets another cap; another one than before begins again with the first wait.
    pub(crate) fn cap(&mut self, cap: Duration) {
        if self.cap != cap {
            self.cap = cap;
            self.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_begin_again() {
        let dice = Dice::from_seed([7; 32]);
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for whole in [10, 20, 40, 80, 100, 100] {
            let wait = backoff.next(&dice);
            assert!(wait >= Duration::from_millis(whole / 2), "{wait:?} of {whole} ms");
            assert!(wait <= Duration::from_millis(whole), "{wait:?} of {whole} ms");
        }
        backoff.reset();
        assert!(backoff.next(&dice) <= Duration::from_millis(10));
    }

    #[test]
    fn rolls_spread_evenly_and_repeat_with_their_seed() {
        let (rolls, again) = (Rolls::new(5), Rolls::new(5));
        let mut counts = [0_u32; 16];
        for _ in 0..160_000 {
            let roll = rolls.next();
            assert_eq!(roll, again.next());
            counts[usize::try_from(roll >> 60).unwrap()] += 1;
        }
        // Five standard deviations of a binomial around 10,000.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 485), "{counts:?}");
    }

    #[test]
    fn equal_seeds_give_equal_ids_and_other_seeds_others() {
        let id = |seed| Dice::from_seed([seed; 32]).request_id();
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        assert_eq!(id(1).len(), 32);
    }
}

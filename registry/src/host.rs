//! What a node gets from outside: clock, network, disk and randomness. Several nodes in one process, or in a
//! simulation, are several hosts.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::{SmallRng, StdRng, SysRng};
use rand::{Rng, SeedableRng, TryRng};

use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, StdDisk};
use crate::net::{Net, TokioNet};

/// Where blocking work (writing the log, encoding a snapshot) runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterMode {
    /// On threads of its own: the disk of the machine blocks.
    #[default]
    Thread,
    /// In tasks of the runtime: a simulation must own every step.
    Task,
}

/// Everything a node gets from outside. Cheap to clone; clones share the source of randomness.
#[derive(Clone, Debug)]
pub struct Host {
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// The sockets.
    pub net: Arc<dyn Net>,
    /// The files.
    pub disk: Arc<dyn Disk>,
    /// The dice.
    pub random: Random,
    /// Where blocking work runs.
    pub writer: WriterMode,
}

impl Host {
    /// The machine this process runs on, with randomness from `seed`.
    pub fn system(seed: u64) -> Self {
        Self {
            clock: Arc::new(SystemClock::new()),
            net: Arc::new(TokioNet),
            disk: Arc::new(StdDisk),
            random: Random::system(seed),
            writer: WriterMode::Thread,
        }
    }

    /// Runs blocking work where [`Host::writer`] says. `None`: the work panicked.
    pub async fn run_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        match self.writer {
            WriterMode::Thread => tokio::task::spawn_blocking(work).await.ok(),
            WriterMode::Task => {
                wait_for(&*self.disk).await;
                Some(work())
            }
        }
    }
}

/// Lets the lag of a disk pass.
pub(crate) async fn wait_for(disk: &dyn Disk) {
    let lag = disk.lag();
    if !lag.is_zero() {
        tokio::time::sleep(lag).await;
    }
}

/// A seeded source of randomness, shared by its clones.
#[derive(Clone)]
pub struct Random(Arc<Dice>);

struct Dice {
    common: Mutex<SmallRng>,
    /// For secrets: nobody can tell its next bits from all that were seen before.
    secret: Mutex<StdRng>,
}

impl Random {
    /// Equal seeds give equal sequences, of secrets too: only for tests and simulations.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, StdRng::seed_from_u64(seed))
    }

    /// A sequence from `seed`, and secrets from the operating system.
    fn system(seed: u64) -> Self {
        let mut secret = [0; 32];
        let filled = SysRng.try_fill_bytes(&mut secret);
        filled.expect("a system that has given the seed gives random bytes");
        Self::with(seed, StdRng::from_seed(secret))
    }

    fn with(seed: u64, secret: StdRng) -> Self {
        let (common, secret) = (Mutex::new(SmallRng::seed_from_u64(seed)), Mutex::new(secret));
        Self(Arc::new(Dice { common, secret }))
    }

    /// 128 bits to keep secret.
    pub fn secret_bits(&self) -> u128 {
        let mut dice = self.0.secret.lock().unwrap_or_else(PoisonError::into_inner);
        u128::from(dice.next_u64()) << 64 | u128::from(dice.next_u64())
    }

    /// 64 random bits.
    pub fn bits(&self) -> u64 {
        // The generator has no invariant that a panic elsewhere could break.
        self.0.common.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// 128 random bits.
    pub fn wide_bits(&self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }

    /// A number between `low` and `high`, both included; `low` where they are in the wrong order.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        match high.checked_sub(low).and_then(|span| span.checked_add(1)) {
            Some(span) => low + self.bits() % span,
            None if high < low => low,
            None => self.bits(),
        }
    }
}

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.bits() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.bits())
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        self.0.common.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(dst);
        Ok(())
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random")
    }
}

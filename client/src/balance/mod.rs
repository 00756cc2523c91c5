//! Balancing calls to a service over its instances, in this process, without a proxy.
//!
//! A list comes in ([`follow`]), becomes an immutable [`snapshot`] that is swapped in whole, and each call draws from
//! it ([`picker`]) without a lock. What a call learns goes into the atomics of its [`endpoint`]. Above that stand the
//! surfaces: [`Balancer::pick`], [`Channel`] for gRPC, [`Http`] for hyper, [`Balancer::discover`] for tower.
//!
//! Pure parts: `spread` (tiers, zones), `subset`, `table`, `ring`, `maglev` (drawing), `outlier`, `judge` (what an
//! answer means), `latency`, `report`. The way of a call: `call`, `body`, `answer`, `deadline`, `details`, `hedge`.

mod answer;
mod body;
mod call;
mod channel;
mod deadline;
pub(crate) mod details;
mod discover;
mod endpoint;
mod follow;
mod hedge;
mod http;
mod judge;
mod latency;
mod maglev;
mod observe;
mod outlier;
mod pick;
mod picker;
mod report;
mod ring;
mod settings;
mod snapshot;
mod spread;
mod subset;
mod table;
#[cfg(test)]
mod tests;

pub use answer::{Answer, BodyError};
pub use call::{CallError, Idempotent};
pub use channel::Channel;
pub use deadline::Deadline;
pub use discover::Discovered;
pub use endpoint::{Endpoint, Key, Standing};
pub use http::{Http, HttpLayer};
pub use observe::{Attempt, Cause, Change, Observer, Outcome, Why};
pub use outlier::Ejection;
pub use pick::{Hint, Pick, PickError};
pub use report::Load;
pub use settings::{Balance, Hedge, Policy, Retry};

use crate::{client::Client, connect::Connector, dice::Rolls, error::Error};
use follow::{Source, follow};
use pick::Core;
use rollcall_core::name::ServiceName;
use rollcall_proto::v1;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// Balances calls to one service. Cheap to clone; the list is followed until the last clone is gone.
#[derive(Debug, Clone)]
pub struct Balancer {
    core: Arc<Core>,
    connector: Connector,
    _following: Arc<Following>,
}

/// The task that keeps the snapshot current.
#[derive(Debug)]
struct Following(JoinHandle<()>);

impl Client {
    /// Balances calls to a service. Returns at once; the first call waits for the first list. Errors: a setting that
    /// cannot be meant.
    pub fn balance(&self, balance: Balance) -> Result<Balancer, Error> {
        let balance = balance.checked()?;
        let watch = self.watch(balance.selection())?;
        let pictures = watch.pictures();
        let service = balance.service.clone();
        let source = Source::Registry { pictures, service, _watch: watch };
        Ok(Balancer::start(balance, source, self.shared.dice.rolls()))
    }

    /// A gRPC channel to a service of the default namespace, with every default: see [`Client::balance`] for more.
    pub fn channel(&self, service: &str) -> Result<Channel, Error> {
        Ok(self.balance(Balance::service(service)?)?.channel())
    }
}

impl Balancer {
    /// Balances over lists of your own: each value of the receiver replaces the list before. The seed decides every
    /// random choice; different processes need different ones. Needs a tokio runtime. Errors as [`Client::balance`].
    pub fn over(
        balance: Balance,
        lists: watch::Receiver<Vec<v1::Instance>>,
        seed: u64,
    ) -> Result<Self, Error> {
        let balance = balance.checked()?;
        Ok(Self::start(balance, Source::Lists(lists), Rolls::new(seed)))
    }

    fn start(balance: Balance, source: Source, rolls: Rolls) -> Self {
        let Balance { service, settings, connector, observer, .. } = balance;
        let core = Arc::new(Core::new(service, settings, observer, rolls));
        let following = Following(tokio::spawn(follow(Arc::clone(&core), source)));
        Self { core, connector, _following: Arc::new(following) }
    }

    /// Picks an endpoint for one call. Report on the [`Pick`] how it ended: that is what the balancer learns from.
    pub fn pick(&self) -> Result<Pick, PickError> {
        self.pick_for(Hint::default())
    }

    /// Picks an endpoint for a call of which something is known.
    pub fn pick_for(&self, hint: Hint) -> Result<Pick, PickError> {
        self.core.pick(hint, Why::First, &[])
    }

    /// Waits for the first list of endpoints, which may be empty. Errors: it did not come in time.
    pub async fn ready(&self, timeout: Duration) -> Result<(), PickError> {
        self.core.listed(timeout).await
    }

    /// The service that is called.
    pub fn service(&self) -> &ServiceName {
        &self.core.service
    }

    /// What is listed now, in order of keys, also what is not called; `None` before the first list.
    pub fn endpoints(&self) -> Option<Arc<[Arc<Endpoint>]>> {
        self.core.listing.borrow().endpoints.clone()
    }

    /// Whether so much is out that ejections are ignored, or nothing is routable.
    pub fn is_panicking(&self) -> bool {
        self.core.snapshot.load().panic
    }

    /// A gRPC channel over this balancer.
    pub fn channel(&self) -> Channel {
        Channel::new(self.clone(), self.connector.clone())
    }
}

impl Core {
    fn is_listed(&self) -> bool {
        // The listing is set after the first snapshot, and never unset.
        self.listing.borrow().endpoints.is_some()
    }

    async fn listed(&self, wait: Duration) -> Result<(), PickError> {
        let mut listing = self.listing.subscribe();
        let listed = listing.wait_for(|listing| listing.endpoints.is_some());
        match tokio::time::timeout(wait, listed).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let problem = self.listing.borrow().problem.clone();
                let problem =
                    problem.unwrap_or_else(|| format!("no list came within {wait:?}").into());
                Err(PickError::Unknown { service: self.service.clone(), problem })
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

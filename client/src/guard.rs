//! The guard of one registration: what the owner of a listed instance can see and do.

use crate::{
    client::Client,
    error::Error,
    registration::{Acknowledged, State, goodbye, to_name},
    report::HealthReport,
    session::{Cell, Key},
};
use rollcall_core::name::InstanceName;
use rollcall_proto::v1;
use std::{fmt, future::pending, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Pause before an instance that could not be drained is drained again.
const DRAIN_AGAIN: Duration = Duration::from_millis(200);

/// Keeps one instance listed for as long as it lives. Dropping it says goodbye as well as it can without waiting;
/// [`Guard::deregister`] waits. A persistent instance stays listed when its guard is dropped.
#[must_use = "dropping the guard ends the registration"]
pub struct Guard {
    name: InstanceName,
    client: Client,
    key: Key,
    cell: Arc<Cell>,
}

impl Guard {
    pub(crate) fn new(name: InstanceName, client: Client, key: Key, cell: Arc<Cell>) -> Self {
        Self { name, client, key, cell }
    }

    /// Full name of the instance.
    pub fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Where the registration stands now.
    pub fn state(&self) -> State {
        self.cell.state()
    }

    /// Where the registration stands, and every change of it.
    pub fn states(&self) -> watch::Receiver<State> {
        self.cell.states()
    }

    /// Fencing token of this owner; `None` while it is not listed.
    pub fn generation(&self) -> Option<u64> {
        self.state().generation()
    }

    /// The last sign of life that the registry acknowledged; `None` before the first.
    pub fn acknowledged(&self) -> Option<Acknowledged> {
        self.cell.acknowledged()
    }

    /// Says how the instance is. It goes out with the next beat, at once where it changes between healthy and
    /// degraded, and is repeated with every beat until the next report.
    pub fn report(&self, report: HealthReport) {
        self.client.shared.session.report(self.key, &self.cell, report);
    }

    /// Drains the instance, takes it into maintenance or enables it again, as its owner: what is set ends with this
    /// registration. The reason is for the journal. Errors: it is not listed at present, or as every write.
    pub async fn set_admin_state(
        &self,
        state: v1::AdminState,
        reason: impl Into<String>,
    ) -> Result<(), Error> {
        let now = self.state();
        let Some(generation) = now.generation() else {
            let name = self.name.clone();
            return Err(Error::NotListed { call: "set admin state", name, state: now });
        };
        set(&self.client, &self.name, generation, state, reason.into()).await
    }

    /// Waits for `signal`, takes the instance out of traffic (DRAINING), and ends `grace` later: time for callers to
    /// learn of it and for calls on their way. Made for the `shutdown` argument of a server:
    /// `serve_with_shutdown(address, guard.drain_on(signal, grace))`, then [`Guard::deregister`].
    ///
    /// It ends also where the registry does not answer: at the latest the deadline of a call and `grace` after the
    /// signal. Should the instance be registered anew meanwhile, it is drained again.
    pub fn drain_on<S>(
        &self,
        signal: S,
        grace: Duration,
    ) -> impl Future<Output = ()> + Send + 'static + use<S>
    where
        S: Future + Send + 'static,
    {
        let mut drain = Drain {
            client: self.client.clone(),
            name: self.name.clone(),
            states: self.states(),
            drained: None,
        };
        async move {
            // What the signal carries does not matter.
            let _ = signal.await;
            let first = timeout(drain.client.timeout(), drain.until_drained());
            if first.await.is_err() {
                tracing::warn!(instance = %drain.name, "not drained in time, it shuts down all the same");
            }
            // Endless: the grace ends it.
            let _ = timeout(grace, drain.stay_drained()).await;
        }
    }

    /// Ends the registration: stops the beats and removes the instance. Where it is not ours any more nothing
    /// happens. Errors: the registry did not answer; the lease runs out by itself then.
    pub async fn deregister(self) -> Result<(), Error> {
        let session = &self.client.shared.session;
        let Some(generation) = session.leave(&self.client.shared, self.key).await else {
            return Ok(());
        };
        self.client
            .deregister(v1::DeregisterRequest {
                items: vec![goodbye(&self.name, generation)],
                role: v1::Role::Owner.into(),
                ..v1::DeregisterRequest::default()
            })
            .await
            .map(|_| ())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.client.shared.session.release(&self.client.shared, self.key);
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.name)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// An instance on its way out.
struct Drain {
    client: Client,
    name: InstanceName,
    states: watch::Receiver<State>,
    /// The generation that was drained.
    drained: Option<u64>,
}

impl Drain {
    /// Drains the generation that is listed. Returns when that is done, or when there is none that is ours.
    async fn until_drained(&mut self) {
        loop {
            let state = self.states.borrow_and_update().clone();
            let generation = match state {
                State::Registered { generation } if self.drained != Some(generation) => generation,
                State::Registering { .. } => {
                    if self.states.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                State::Registered { .. } | State::Fenced { .. } | State::Stopped => return,
            };
            let (to, reason) = (v1::AdminState::Draining, "shutting down".to_owned());
            match set(&self.client, &self.name, generation, to, reason).await {
                Ok(()) => self.drained = Some(generation),
                Err(error) => {
                    tracing::warn!(instance = %self.name, %error, "not drained");
                    if !error.is_retryable() {
                        // It stands in an operator's state, or belongs to somebody else.
                        self.drained = Some(generation);
                    }
                    sleep(DRAIN_AGAIN).await;
                }
            }
        }
    }

    /// Never ends: what is registered anew is drained again.
    async fn stay_drained(&mut self) {
        loop {
            self.until_drained().await;
            if self.states.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

async fn set(
    client: &Client,
    name: &InstanceName,
    generation: u64,
    state: v1::AdminState,
    reason: String,
) -> Result<(), Error> {
    let request = v1::SetAdminStateRequest {
        name: Some(to_name(name)),
        state: state.into(),
        reason,
        role: v1::Role::Owner.into(),
        generation,
        ..v1::SetAdminStateRequest::default()
    };
    client.set_admin_state(request).await.map(|_| ())
}

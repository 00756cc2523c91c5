//! Keeps every registration of a client: one task and one heartbeat stream for all of them.
//!
//! [`book`] knows what is registered and when it must beat, [`link`] is one stream to one node, [`worker`] runs both.
//! Guards talk to the worker through an inbox that never blocks; the worker lives while there is something to keep.

mod book;
mod link;
mod worker;

pub(crate) use book::length;

use crate::{
    client::Shared,
    error::Error,
    registration::{Acknowledged, State},
    report::HealthReport,
};
use rollcall_core::name::InstanceName;
use rollcall_proto::v1;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, oneshot, watch},
    task::JoinHandle,
};

/// Names a registration within its client.
pub(crate) type Key = u64;

/// Where the outcome of a first registration goes.
pub(crate) type Answer = oneshot::Sender<Result<(), Error>>;

/// What guard and worker share.
#[derive(Debug)]
pub(crate) struct Cell {
    state: watch::Sender<State>,
    acknowledged: Mutex<Option<Acknowledged>>,
    /// The last self-report.
    report: Mutex<Option<HealthReport>>,
}

/// A registration to be kept from now on.
#[derive(Debug)]
pub(crate) struct Newcomer {
    pub(crate) name: InstanceName,
    pub(crate) request: v1::Registration,
    pub(crate) cell: Arc<Cell>,
}

/// Orders that may wait where a beat is only wished to be early; with more it comes at its time.
const HURRIED: usize = 1_024;

/// The inbox of the worker. Bounded by the number of guards: each adds one order and removes itself with one.
#[derive(Debug, Default)]
pub(crate) struct Session {
    inbox: Mutex<Inbox>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Inbox {
    orders: Vec<Order>,
    worker: Option<JoinHandle<()>>,
    keys: Key,
    closed: bool,
}

/// What guards ask for.
#[derive(Debug)]
enum Order {
    /// Register these in one call and keep them.
    Add { first: Key, newcomers: Vec<Newcomer>, timeout: Duration, answer: Option<Answer> },
    /// The guard was dropped: say goodbye.
    Release(Key),
    /// Stop keeping it and tell its generation: the guard deregisters it by itself.
    Leave(Key, oneshot::Sender<Option<u64>>),
    /// Something new is to be said about it: beat now.
    Hurry(Key),
    /// Stop keeping anything and tell what was kept.
    Close(oneshot::Sender<Vec<(InstanceName, u64)>>),
}

impl Session {
    /// Keeps these from now on; returns the key of the first one, the others follow by one.
    pub(crate) fn add(
        &self,
        shared: &Arc<Shared>,
        newcomers: Vec<Newcomer>,
        timeout: Duration,
        answer: Option<Answer>,
    ) -> Result<Key, Error> {
        let mut inbox = self.inbox();
        if inbox.closed {
            return Err(Error::Closed { call: "register" });
        }
        let first = inbox.keys;
        inbox.keys += newcomers.len() as Key;
        inbox.orders.push(Order::Add { first, newcomers, timeout, answer });
        self.hire(inbox, shared);
        Ok(first)
    }

    /// Says goodbye for a dropped guard. Callable from anywhere, also without a runtime.
    pub(crate) fn release(&self, shared: &Arc<Shared>, key: Key) {
        let mut inbox = self.inbox();
        // Without a worker there is nothing left to say goodbye to.
        if inbox.worker.is_some() {
            inbox.orders.push(Order::Release(key));
            if tokio::runtime::Handle::try_current().is_ok() {
                self.hire(inbox, shared);
            } else {
                self.wake.notify_one();
            }
        }
    }

    /// Stops keeping it; the generation that it had, `None` where there is nothing to deregister.
    pub(crate) async fn leave(&self, shared: &Arc<Shared>, key: Key) -> Option<u64> {
        let (tell, told) = oneshot::channel();
        self.order(shared, Order::Leave(key, tell));
        told.await.unwrap_or(None)
    }

    /// Stops keeping anything, for good.
    pub(crate) async fn close(&self, shared: &Arc<Shared>) -> Vec<(InstanceName, u64)> {
        let (tell, told) = oneshot::channel();
        self.inbox().closed = true;
        self.order(shared, Order::Close(tell));
        told.await.unwrap_or_default()
    }

    /// Says something new about an instance with its next beat, at once where its health changed.
    pub(crate) fn report(&self, key: Key, cell: &Cell, report: HealthReport) {
        let before = cell.lock_report().replace(report.clone());
        let was_degraded = before.is_some_and(|before| before.reason().is_some());
        if was_degraded == report.reason().is_some() {
            return;
        }
        let mut inbox = self.inbox();
        if inbox.worker.is_some() && inbox.orders.len() < HURRIED {
            inbox.orders.push(Order::Hurry(key));
            drop(inbox);
            self.wake.notify_one();
        }
    }

    fn order(&self, shared: &Arc<Shared>, order: Order) {
        let mut inbox = self.inbox();
        inbox.orders.push(order);
        self.hire(inbox, shared);
    }

    /// Wakes the worker, and starts one where there is none or its runtime is gone.
    fn hire(&self, mut inbox: MutexGuard<'_, Inbox>, shared: &Arc<Shared>) {
        if inbox.worker.as_ref().is_none_or(JoinHandle::is_finished) {
            inbox.worker = Some(tokio::spawn(worker::supervise(Arc::clone(shared))));
        }
        drop(inbox);
        self.wake.notify_one();
    }

    fn take_orders(&self) -> Vec<Order> {
        std::mem::take(&mut self.inbox().orders)
    }

    /// The worker has nothing to do any more. True: it may end, the next order starts another one.
    fn dismiss(&self) -> bool {
        let mut inbox = self.inbox();
        let idle = inbox.orders.is_empty();
        if idle {
            inbox.worker = None;
        }
        idle
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cell {
    pub(crate) fn new() -> Self {
        let (state, _) = watch::channel(State::Registering { problem: None });
        Self { state, acknowledged: Mutex::default(), report: Mutex::default() }
    }

    pub(crate) fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub(crate) fn states(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(crate) fn acknowledged(&self) -> Option<Acknowledged> {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> Option<HealthReport> {
        self.lock_report().clone()
    }

    fn lock_report(&self) -> MutexGuard<'_, Option<HealthReport>> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        self.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    fn acknowledge(&self, beat: Acknowledged) {
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = Some(beat);
    }
}

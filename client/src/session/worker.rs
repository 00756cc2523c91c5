//! The task that keeps the registrations of a client: sends what the book says is due, moves from node to node, and
//! survives whatever happens to it.

use super::{
    Order,
    book::{Beat, Book, Job},
    link::{Goodbye, Link, patience},
};
use crate::{
    client::{Client, Shared},
    connect::BoxFuture,
    dice::Backoff,
    error::Error,
    nodes::Lane,
    registration::{Acknowledged, goodbye},
};
use futures_util::FutureExt as _;
use rollcall_core::name::InstanceName;
use rollcall_proto::v1;
use std::{
    collections::HashMap, future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration,
};
use tokio::{
    sync::oneshot,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

/// Registrations on their way at the same time.
const CALLS: usize = 256;
/// A stream that ends sooner than this counts as a failure of its node.
const SHORT_LIFE: Duration = Duration::from_secs(1);
/// First wait after every node failed once.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
/// Wait after a panic.
const PANIC_PAUSE: Duration = Duration::from_millis(100);
/// Time for a goodbye that goes by a call of its own.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);
/// Sleep where nothing is due: orders and messages wake earlier.
const LONG: Duration = Duration::from_secs(3600);

struct Worker {
    shared: Arc<Shared>,
    book: Book,
    link: Option<Link>,
    opening: Option<BoxFuture<(usize, Result<Link, String>)>>,
    /// The node that the next stream goes to, and not before when.
    next: usize,
    open_at: Instant,
    failures: usize,
    backoff: Backoff,
    /// Registrations on their way, and which they are. Looked up, never iterated.
    calls: JoinSet<Outcome>,
    jobs: HashMap<Id, Job>,
    /// Goodbyes that go by a call of their own.
    goodbyes: JoinSet<()>,
    /// Who closes the client, and what was kept until then: told when every goodbye is said.
    closing: Vec<(oneshot::Sender<Kept>, Kept)>,
}

type Kept = Vec<(InstanceName, u64)>;

/// How a registration ended, and when it was sent.
struct Outcome {
    sent: Instant,
    result: Result<v1::RegisterResponse, Error>,
}

/// Runs a worker until it has nothing to keep any more.
pub(super) async fn supervise(shared: Arc<Shared>) {
    let mut worker = Worker::new(shared);
    while AssertUnwindSafe(worker.run()).catch_unwind().await.is_err() {
        // Book and calls are whole: every change of them is made between two awaits.
        tracing::error!("the task that keeps registrations panicked, it goes on with a new stream");
        worker.drop_link();
        worker.opening = None;
        tokio::time::sleep(PANIC_PAUSE).await;
    }
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            next: shared.nodes.current(),
            shared,
            book: Book::default(),
            link: None,
            opening: None,
            open_at: Instant::now(),
            failures: 0,
            backoff: Backoff::new(REOPEN_FIRST, REOPEN_FIRST),
            calls: JoinSet::new(),
            jobs: HashMap::new(),
            goodbyes: JoinSet::new(),
            closing: Vec::new(),
        }
    }

    async fn run(&mut self) {
        loop {
            let now = Instant::now();
            self.take_orders(now);
            self.start_jobs(now);
            self.keep_link(now);
            self.send_beats(now);
            if self.goodbyes.is_empty() {
                for (tell, kept) in self.closing.drain(..) {
                    let _ = tell.send(kept);
                }
            }
            let silent = self.calls.is_empty() && self.goodbyes.is_empty() && self.link.is_none();
            let idle = self.book.is_empty() && silent;
            if idle && self.shared.session.dismiss() {
                return;
            }
            let wake = self.wake_at().unwrap_or(now + LONG);
            tokio::select! {
                biased;
                message = receive(&mut self.link) => self.heard(message),
                opened = finish(&mut self.opening) => self.opened(opened),
                Some(ended) = self.calls.join_next_with_id() => self.ended(ended),
                Some(_) = self.goodbyes.join_next() => {}
                () = self.shared.session.wake.notified() => {}
                () = sleep_until(wake) => {}
            }
        }
    }

    fn take_orders(&mut self, now: Instant) {
        let mut goodbyes = Vec::new();
        for order in self.shared.session.take_orders() {
            match order {
                Order::Add { first, newcomers, timeout, answer } => {
                    self.book.add(first, newcomers, timeout, answer);
                }
                Order::Release(key) => goodbyes.extend(self.book.release(key)),
                Order::Hurry(key) => self.book.hurry_one(key, now),
                Order::Leave(key, tell) => self.book.hand_over(key, tell),
                Order::Close(tell) => {
                    self.calls.abort_all();
                    self.jobs.clear();
                    self.opening = None;
                    // Guards that were dropped just before have said goodbye on this stream.
                    self.drop_link();
                    self.closing.push((tell, self.book.clear()));
                }
            }
        }
        self.say(goodbyes, now);
    }

    fn start_jobs(&mut self, now: Instant) {
        while self.calls.len() < CALLS
            && let Some((job, items)) = self.book.next_job(now)
        {
            let client = Client::of(Arc::clone(&self.shared), job.timeout);
            let call = self.calls.spawn(async move {
                let sent = Instant::now();
                let request = v1::RegisterRequest { items, request_id: String::new() };
                Outcome { sent, result: client.register_once(request).await }
            });
            self.jobs.insert(call.id(), job);
        }
    }

    /// Opens a stream where one is needed, and gives up one whose node does not acknowledge.
    fn keep_link(&mut self, now: Instant) {
        if let Some(link) = &mut self.link
            && !link.leaving
            && link.overdue_at().is_some_and(|at| at <= now)
        {
            let (node, opened) = (link.node, link.opened);
            link.leaving = true;
            let address = self.shared.nodes.address(node);
            tracing::warn!(%address, "no acknowledgement in time, beat at the next node");
            self.shared.nodes.forget(node, Lane::Beats);
            self.move_on(node, Some(opened), now);
        }
        let Some(ttl) = self.book.shortest() else {
            self.opening = None;
            // Only goodbyes may still be on their way.
            if self.link.as_ref().is_some_and(|l| l.leaving || l.overdue_at().is_none()) {
                self.drop_link();
            }
            return;
        };
        if self.wants_link() && self.opening.is_none() && now >= self.open_at {
            self.book.hurry(now);
            let beats = self.book.beat(now, &self.shared.dice);
            let (shared, node) = (Arc::clone(&self.shared), self.next);
            self.opening = Some(Box::pin(async move {
                (node, Link::open(shared, node, beats, patience(ttl)).await)
            }));
        }
    }

    fn wants_link(&self) -> bool {
        self.link.as_ref().is_none_or(|link| link.leaving)
    }

    fn send_beats(&mut self, now: Instant) {
        let Some(link) = &mut self.link else { return };
        let mut stuck = false;
        for beat in self.book.beat(now, &self.shared.dice) {
            let patience = patience(beat.ttl);
            stuck |= !link.send(beat, Vec::new(), now, patience);
        }
        if stuck && !link.leaving {
            link.leaving = true;
            let (node, opened) = (link.node, link.opened);
            self.move_on(node, Some(opened), now);
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let beat = self.link.as_ref().and_then(|_| self.book.next_beat());
        let overdue = self.link.as_ref().filter(|l| !l.leaving).and_then(Link::overdue_at);
        let open = (self.wants_link() && self.opening.is_none() && !self.book.is_silent())
            .then_some(self.open_at);
        // While every call is taken, a retry waits for one to end.
        let retry = (self.calls.len() < CALLS).then(|| self.book.next_retry()).flatten();
        [beat, overdue, open, retry].into_iter().flatten().min()
    }

    fn heard(&mut self, message: Result<v1::StreamHeartbeatsResponse, String>) {
        let now = Instant::now();
        let Some(link) = &mut self.link else { return };
        let (node, opened) = (link.node, link.opened);
        let message = match message {
            Ok(message) => message,
            Err(problem) => {
                let address = self.shared.nodes.address(node);
                tracing::debug!(%address, problem, "the heartbeat stream ended");
                let left = link.leaving;
                self.drop_link();
                if !left {
                    self.move_on(node, Some(opened), now);
                }
                return;
            }
        };
        let acknowledged = link.acknowledged(message.ack_sequence);
        for handle in message.reregister_handles {
            self.book.reregister(handle, now, &self.shared.dice);
        }
        for fenced in &message.fenced_handles {
            self.book.fenced(fenced);
        }
        if let Some(sent) = acknowledged {
            let beat = Acknowledged { sent: sent.at, received: now };
            self.book.acknowledged(&sent.handles, beat);
        }
        if let Some(pace) = message.heartbeat_interval.as_ref().and_then(super::length) {
            self.book.set_pace(pace);
        }
        if message.go_away_after.is_some() && !link.leaving {
            tracing::info!(address = %self.shared.nodes.address(node), "the node goes away");
            link.leaving = true;
            self.move_on(node, Some(opened), now);
        }
    }

    fn opened(&mut self, (node, opened): (usize, Result<Link, String>)) {
        self.opening = None;
        match opened {
            Ok(link) => {
                tracing::debug!(address = %self.shared.nodes.address(node), "beating");
                // The one before is dropped only now: it took acknowledgements until here.
                self.drop_link();
                self.link = Some(link);
            }
            Err(problem) => {
                let now = Instant::now();
                let address = self.shared.nodes.address(node);
                tracing::debug!(%address, problem, "no heartbeat stream");
                self.move_on(node, None, now);
                // A link that is leaving may still carry the beat that this one did not.
                self.book.hurry(now);
            }
        }
    }

    /// The next stream goes to the node after this one: at once, unless all of them failed in turn.
    fn move_on(&mut self, node: usize, opened: Option<Instant>, now: Instant) {
        self.shared.nodes.failed(node);
        self.next = self.shared.nodes.after(node);
        if opened.is_some_and(|opened| now - opened >= SHORT_LIFE) {
            self.failures = 0;
            self.backoff.reset();
        }
        self.failures += 1;
        self.open_at = now;
        if self.failures.is_multiple_of(self.shared.nodes.count()) {
            self.backoff.cap(self.book.shortest().map_or(REOPEN_FIRST, |ttl| ttl / 6));
            self.open_at += self.backoff.next(&self.shared.dice);
        }
    }

    fn ended(&mut self, ended: Result<(Id, Outcome), JoinError>) {
        let now = Instant::now();
        let (id, outcome) = match ended {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => (error.id(), None),
        };
        let Some(job) = self.jobs.remove(&id) else { return };
        let broken = |problem: String| Error::Protocol {
            call: "register",
            address: self.shared.nodes.address(self.shared.nodes.current()).clone(),
            problem,
        };
        let (sent, result) = match outcome {
            Some(Outcome { sent, result }) => (sent, result),
            None => (now, Err(broken("an answer that made this library panic".to_owned()))),
        };
        let goodbyes = match result {
            Ok(answer) if answer.items.len() == job.keys.len() => {
                self.book.registered(job, &answer, (sent, now), &self.shared.dice)
            }
            Ok(answer) => {
                let (asked, came) = (job.keys.len(), answer.items.len());
                let error = broken(format!("{came} results for {asked} registrations"));
                self.book.failed(job, &error, now, &self.shared.dice)
            }
            Err(error) => self.book.failed(job, &error, now, &self.shared.dice),
        };
        self.say(goodbyes, now);
    }

    /// Says goodbye on the stream, or by a call where there is none. Nobody waits for it but who closes the client.
    fn say(&mut self, goodbyes: Vec<Goodbye>, now: Instant) {
        let (leases, others): (Vec<_>, Vec<_>) = goodbyes.into_iter().partition(|g| g.handle != 0);
        self.deregister(others);
        if leases.is_empty() {
            return;
        }
        let wait = patience(self.book.shortest().unwrap_or_default());
        let link = self.link.as_mut().filter(|link| !link.leaving);
        if !link.is_some_and(|link| link.send(Beat::none(), leases.clone(), now, wait)) {
            self.deregister(leases);
        }
    }

    /// Gives up the stream. Goodbyes that were not acknowledged on it are repeated by a call.
    fn drop_link(&mut self) {
        let unheard = self.link.take().map(Link::unheard).unwrap_or_default();
        self.deregister(unheard);
    }

    fn deregister(&mut self, goodbyes: Vec<Goodbye>) {
        if goodbyes.is_empty() {
            return;
        }
        let client = Client::of(Arc::clone(&self.shared), GOODBYE_TIMEOUT);
        self.goodbyes.spawn(async move {
            for batch in goodbyes.chunks(rollcall_core::instance::limit::BATCH) {
                let items = batch.iter().map(|g| goodbye(&g.name, g.generation)).collect();
                let request = v1::DeregisterRequest {
                    items,
                    role: v1::Role::Owner.into(),
                    ..v1::DeregisterRequest::default()
                };
                if let Err(error) = client.deregister(request).await {
                    tracing::warn!(%error, "goodbye was not heard, the lease runs out by itself");
                }
            }
        });
    }
}

async fn receive(link: &mut Option<Link>) -> Result<v1::StreamHeartbeatsResponse, String> {
    match link {
        Some(link) => link.receive().await,
        None => pending().await,
    }
}

async fn finish<T>(work: &mut Option<BoxFuture<T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

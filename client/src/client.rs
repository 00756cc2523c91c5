//! The client: which nodes, which deadlines, and the one loop through which every unary call goes.

use crate::{
    connect::{Address, Connector},
    copies::Copies,
    dice::{Backoff, Dice},
    error::{Error, Refusal, Tried, Unreachable, Verdict, problem_of, verdict_of},
    nodes::{Lane, NodeChannel, Nodes},
    session::Session,
};
use rollcall_core::name::ServiceName;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

/// Metadata key under which a node names the leader's API address.
const LEADER_HINT: &str = "x-rollcall-leader";
/// First wait after all nodes failed once.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Longest wait between two rounds over the nodes.
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// A connection to the registry. Cheap to clone; all clones share connections, registrations and the revision of
/// their own writes.
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    timeout: Duration,
}

/// Settings of a [`Client`]. Everything has a default but the addresses.
#[derive(Debug, Clone)]
pub struct Builder {
    addresses: Vec<String>,
    connector: Connector,
    seed: Option<[u8; 32]>,
    timeout: Duration,
    attempt_timeout: Duration,
    connect_timeout: Duration,
    read_your_writes: bool,
    copies: Option<Copies>,
    fallbacks: BTreeMap<ServiceName, Vec<SocketAddr>>,
    stand_in_after: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) nodes: Nodes,
    pub(crate) dice: Dice,
    pub(crate) session: Session,
    pub(crate) attempt_timeout: Duration,
    pub(crate) copies: Option<Copies>,
    pub(crate) fallbacks: BTreeMap<ServiceName, Vec<SocketAddr>>,
    pub(crate) stand_in_after: Duration,
    read_your_writes: bool,
    written: AtomicU64,
}

/// Whether a call may be repeated when an attempt ended without a final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Read,
    /// Carries a request id: a repetition has no second effect.
    Write,
    /// Changes something and carries no request id: repeated only where nothing was done.
    Once,
}

/// A call: its name in messages, its kind, and when it must have ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) deadline: Instant,
    /// The revision of this client's own writes when the call began.
    pub(crate) written: u64,
}

/// What happened to a call so far.
struct Attempts<'a> {
    shared: &'a Shared,
    call: Call,
    begin: Instant,
    node: usize,
    /// Failures since the last wait: every node gets its turn before anybody waits.
    round: usize,
    backoff: Backoff,
    tried: BTreeMap<usize, Tried>,
    outcome_unknown: bool,
}

impl Builder {
    /// Settings for the nodes at these addresses (`host:port`); see [`Address::parse`].
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            connector: Connector::tcp(),
            seed: None,
            timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_millis(1500),
            connect_timeout: Duration::from_secs(1),
            read_your_writes: false,
            copies: None,
            fallbacks: BTreeMap::new(),
            stand_in_after: Duration::from_secs(1),
        }
    }

    /// How connections are opened; default: [`Connector::tcp`].
    #[must_use]
    pub fn connector(mut self, connector: Connector) -> Self {
        self.connector = connector;
        self
    }

    /// Seed of every random choice: nonces, request ids, jitter. Default: from the operating system. Two clients
    /// with equal seeds make equal nonces and are taken for each other: seed in simulations only.
    #[must_use]
    pub fn seed(mut self, seed: [u8; 32]) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Deadline of a call, all attempts together; default 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Longest wait for one node before the next one is asked; default 1.5 s.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Longest wait for a connection to open; default 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Whether reads that name no `min_revision` wait for this client's own writes; default: no. A node that is
    /// cut off from the others then fails them instead of answering with what it has.
    #[must_use]
    pub fn read_your_writes(mut self, on: bool) -> Self {
        self.read_your_writes = on;
        self
    }

    /// Where watches keep a copy of what they show, and start with it where no registry answers; default: nowhere.
    /// Usually [`Copies::directory`]. Written at most every 5 s.
    #[must_use]
    pub fn copies(mut self, copies: Copies) -> Self {
        self.copies = Some(copies);
        self
    }

    /// The instances of a service as long as no registry has answered and there is no copy: addresses that are known
    /// to be there, and healthy as far as anybody knows. They count for every endpoint name. Default: none.
    #[must_use]
    pub fn fallback(
        mut self,
        service: ServiceName,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        self.fallbacks.insert(service, addresses.into_iter().collect());
        self
    }

    /// How long a watch waits for a registry before it starts with the copy or the fallback; default 1 s, and less
    /// where every node has failed once.
    #[must_use]
    pub fn stand_in_after(mut self, wait: Duration) -> Self {
        self.stand_in_after = wait;
        self
    }

    /// Makes the client. Nothing is connected before the first call. Errors: an address that cannot be read, or
    /// none; no randomness.
    pub fn build(self) -> Result<Client, Error> {
        let addresses: Result<Vec<_>, _> =
            self.addresses.iter().map(|text| Address::parse(text)).collect();
        let addresses = addresses?;
        if addresses.is_empty() {
            let problem = "give at least one address of a registry node";
            return Err(rollcall_core::name::Invalid::new("address", problem).into());
        }
        let dice = match self.seed {
            Some(seed) => Dice::from_seed(seed),
            None => Dice::from_system().ok_or(Error::NoRandomness)?,
        };
        let shared = Shared {
            nodes: Nodes::new(addresses, self.connector, self.connect_timeout),
            dice,
            session: Session::default(),
            attempt_timeout: self.attempt_timeout,
            copies: self.copies,
            fallbacks: self.fallbacks,
            stand_in_after: self.stand_in_after,
            read_your_writes: self.read_your_writes,
            written: AtomicU64::new(0),
        };
        Ok(Client { shared: Arc::new(shared), timeout: self.timeout })
    }
}

impl Client {
    /// A client of the registry nodes at these addresses (`host:port`), with every default. Asked in order: the
    /// first one until it fails, then the next. Nothing is connected before the first call.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        Builder::new(addresses).build()
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { shared: Arc::clone(&self.shared), timeout }
    }

    /// Deadline of a call, all attempts together.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The highest revision that a write of this client made; 0 before the first. As `min_revision` of a read on
    /// any node it shows that write.
    pub fn written_revision(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// This side's IP address of the connection to the registry: what callers elsewhere can most likely reach.
    /// Asks the registry for its status, so that there is a connection. `None` where the connector has none.
    pub async fn local_ip(&self) -> Result<Option<IpAddr>, Error> {
        self.get_cluster_status().await?;
        Ok(self.shared.nodes.local(self.shared.nodes.current()).map(|address| address.ip()))
    }

    pub(crate) fn of(shared: Arc<Shared>, timeout: Duration) -> Self {
        Self { shared, timeout }
    }

    pub(crate) fn call(&self, name: &'static str, kind: Kind) -> Call {
        let written = self.written_revision();
        Call { name, kind, deadline: Instant::now() + self.timeout, written }
    }
}

impl Shared {
    /// A write made this revision. One below what was known when it began was made by a registry that was set up anew:
    /// reads must not wait for a revision of the old one.
    pub(crate) fn wrote(&self, call: Call, revision: u64) {
        if revision < call.written {
            self.written.store(revision, Ordering::Relaxed);
        } else {
            self.written.fetch_max(revision, Ordering::Relaxed);
        }
    }

    /// The revision that a read has to show, given what it asked for.
    pub(crate) fn floor(&self, asked: u64) -> u64 {
        if asked == 0 && self.read_your_writes {
            self.written.load(Ordering::Relaxed)
        } else {
            asked
        }
    }

    /// Fills an empty request id.
    pub(crate) fn identify(&self, request_id: &mut String) {
        if request_id.is_empty() {
            *request_id = self.dice.request_id();
        }
    }

    /// The error of a stream that broke after it had begun at the node in use.
    pub(crate) fn refusal(&self, call: &'static str, status: &Status) -> Error {
        let address = self.nodes.address(self.nodes.current());
        let refusal = Refusal::read(call, address, status);
        if verdict_of(status, &refusal) == Verdict::Final && refusal.code != Code::Internal {
            return Error::Refused(Box::new(refusal));
        }
        let (address, problem) = (refusal.address, problem_of(status));
        let tried = Tried { address, problem, reason: refusal.reason, retry_after: None };
        Error::Unreachable(Box::new(Unreachable {
            call,
            waited: Duration::ZERO,
            tried: vec![tried],
            outcome_unknown: false,
        }))
    }

    /// Calls the nodes one after the other until one answers or the deadline has passed. The request, and with it
    /// the request id, is the same for every attempt.
    pub(crate) async fn unary<Q: Clone, R, F>(
        &self,
        call: Call,
        request: Q,
        send: impl Fn(NodeChannel, Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut attempts = Attempts::new(self, call);
        loop {
            let Some(budget) = attempts.budget() else { return Err(attempts.give_up()) };
            let mut message = Request::new(request.clone());
            message.set_timeout(budget);
            let channel = self.nodes.channel(attempts.node, Lane::Calls);
            match tokio::time::timeout(budget, send(channel, message)).await {
                Ok(Ok(response)) => {
                    if let Some(leader) = leader_hint(response.metadata()) {
                        self.nodes.leader_is(leader);
                    }
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => attempts.failed(&status)?,
                Err(_) => attempts.fell_silent(budget)?,
            }
            attempts.pause().await;
        }
    }
}

impl<'a> Attempts<'a> {
    fn new(shared: &'a Shared, call: Call) -> Self {
        let node = match call.kind {
            Kind::Read => shared.nodes.current(),
            Kind::Write | Kind::Once => shared.nodes.for_writes(),
        };
        Self {
            shared,
            call,
            begin: Instant::now(),
            node,
            round: 0,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            tried: BTreeMap::new(),
            outcome_unknown: false,
        }
    }

    /// Time for the next attempt; `None` = there is none.
    fn budget(&self) -> Option<Duration> {
        let left = self.call.deadline.saturating_duration_since(Instant::now());
        match self.call.kind {
            _ if left.is_zero() => None,
            Kind::Read | Kind::Write => Some(left.min(self.shared.attempt_timeout)),
            // An attempt that is cut short could not be repeated.
            Kind::Once => Some(left),
        }
    }

    /// Takes note of a failed attempt. An error ends the call.
    fn failed(&mut self, status: &Status) -> Result<(), Error> {
        let refusal = Refusal::read(self.call.name, self.shared.nodes.address(self.node), status);
        let verdict = verdict_of(status, &refusal);
        if verdict == Verdict::Final {
            return Err(Error::Refused(Box::new(refusal)));
        }
        let tried = Tried {
            address: refusal.address.clone(),
            problem: problem_of(status),
            reason: refusal.reason,
            retry_after: refusal.retry_after,
        };
        self.note(verdict, tried)?;
        let hint = leader_hint(status.metadata());
        if let Some(leader) = hint.and_then(|hint| self.shared.nodes.leader_is(hint)) {
            self.node = leader;
        }
        Ok(())
    }

    /// Takes note of an attempt without an answer. An error ends the call.
    fn fell_silent(&mut self, waited: Duration) -> Result<(), Error> {
        self.shared.nodes.forget(self.node, Lane::Calls);
        let tried = Tried {
            address: self.shared.nodes.address(self.node).clone(),
            problem: format!("no answer within {waited:?}"),
            reason: None,
            retry_after: None,
        };
        self.note(Verdict::Unknown, tried)
    }

    fn note(&mut self, verdict: Verdict, tried: Tried) -> Result<(), Error> {
        tracing::debug!(
            call = self.call.name, address = %tried.address, problem = %tried.problem,
            "attempt failed"
        );
        self.tried.insert(self.node, tried);
        self.outcome_unknown |= verdict == Verdict::Unknown && self.call.kind != Kind::Read;
        self.shared.nodes.failed(self.node);
        self.node = self.shared.nodes.after(self.node);
        self.round += 1;
        let repeatable = self.call.kind != Kind::Once || verdict == Verdict::NotDone;
        if repeatable { Ok(()) } else { Err(self.give_up()) }
    }

    /// Waits once every node has had its turn: as long as the registry asked, within the bounds of the backoff.
    async fn pause(&mut self) {
        if self.round < self.shared.nodes.count() {
            return;
        }
        self.round = 0;
        let asked = self.tried.values().filter_map(|tried| tried.retry_after).max();
        let asked = asked.unwrap_or_default().min(LONGEST_WAIT);
        let wait = self.backoff.next(&self.shared.dice).max(asked);
        tokio::time::sleep_until(self.call.deadline.min(Instant::now() + wait)).await;
    }

    fn give_up(&mut self) -> Error {
        Error::Unreachable(Box::new(Unreachable {
            call: self.call.name,
            waited: self.begin.elapsed(),
            tried: std::mem::take(&mut self.tried).into_values().collect(),
            outcome_unknown: self.outcome_unknown,
        }))
    }
}

fn leader_hint(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(LEADER_HINT)?.to_str().ok()
}

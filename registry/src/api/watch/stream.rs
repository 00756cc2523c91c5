//! One watcher: a snapshot of each service, then deltas, with bookmarks; tokens where it is safe to resume.
//!
//! Work is done when the transport asks for the next message, and no sooner: a connection that does not read holds
//! one message, what it watches as it was sent and is to be sent, and a set of names. Within a round, which shows one
//! state, the lowest revision is sent first, so the revision of a stream goes back only where cluster-wide protection
//! begins or ends, which touches services without changing their revision.

use super::{
    busy::Figures,
    delta::{Messenger, SeenService, missed},
    hub::{Dirty, Subscription, Target},
};
use crate::{
    api::{Api, codec::Encoded, read::by_prefix, status},
    view::Seen,
};
use bytes::Bytes;
use rollcall_core::{
    State,
    name::{InstanceId, ServiceName},
    query::{Filter, HealthFilter},
    record::{Event, Scope, Subject},
};
use rollcall_proto::{
    convert::{self, Token},
    v1,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

/// After a change a bookmark comes at the latest after this, so that a watcher soon knows that it has everything.
const SETTLED: Duration = Duration::from_millis(250);

/// What is sent of a service in this round.
#[derive(Debug)]
enum Form {
    /// The whole of it.
    Snapshot,
    /// The difference to what was sent last.
    Delta,
    /// The difference by the instances that were touched since the resume token.
    Missed(BTreeSet<InstanceId>),
}

/// A service to be sent.
#[derive(Debug)]
struct Item {
    name: ServiceName,
    now: SeenService,
    form: Form,
}

/// One look at one state.
#[derive(Debug)]
struct Round {
    revision: u64,
    epoch: u32,
    /// As of when the node was in step, by its monotonic clock.
    fresh: Option<Duration>,
    /// Still to be sent, lowest revision first.
    items: VecDeque<Item>,
    /// The first one ends with a bookmark, others where one is due.
    first: bool,
    /// Whether anything was sent.
    told: bool,
}

/// What happened to a service since a resume token.
#[derive(Debug, Default)]
struct Touched {
    instances: BTreeSet<InstanceId>,
    policy: bool,
}

/// One running watch.
#[derive(Debug)]
pub struct Watcher {
    api: Api,
    messenger: Arc<Messenger>,
    subscription: Subscription,
    filter: Filter,
    bookmark_every: Duration,
    /// When the next bookmark is due at the latest.
    bookmark: Pin<Box<Sleep>>,
    /// Until this node begins to shut down. As that for the bookmark kept from message to message: to begin to wait, and
    /// to give it up, takes locks that all watchers share.
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// How each watched service was last sent. Of a pattern only those that exist.
    sent: BTreeMap<ServiceName, SeenService>,
    round: Option<Round>,
    figures: Figures,
    /// Messages of the service at hand.
    outbox: VecDeque<Bytes>,
}

impl Watcher {
    /// Begins a watch, from `resume` where the journal covers it, else with snapshots. `fresh`: as of when this node
    /// was in step, asked before the subscription.
    pub fn start(
        api: Api,
        fresh: Option<Duration>,
        (subscription, seen): (Subscription, Arc<Seen>),
        filter: Filter,
        bookmark_every: Duration,
        resume: Option<Token>,
    ) -> Self {
        let mut watcher = Self {
            messenger: api.messenger().clone(),
            draining: Box::pin(api.draining_owned()),
            api,
            subscription,
            filter,
            bookmark_every,
            bookmark: Box::pin(sleep_until(Instant::now() + bookmark_every)),
            sent: BTreeMap::new(),
            round: None,
            figures: Figures::default(),
            outbox: VecDeque::new(),
        };
        let state = &seen.state;
        let touched = resume.as_ref().and_then(|token| watcher.touched(state, token));
        let items = match touched {
            Some(touched) => watcher.resumed(state, touched),
            None => watcher.afresh(state),
        };
        watcher.plan(&seen, fresh, items, true);
        watcher
    }

    fn is_pattern(&self) -> bool {
        matches!(self.subscription.target(), Target::Pattern { .. })
    }

    fn afresh(&self, state: &State) -> Vec<Item> {
        let item = |name: ServiceName| Item {
            now: SeenService::now(state, &name),
            name,
            form: Form::Snapshot,
        };
        watched(self.subscription.target(), state).into_iter().map(item).collect()
    }

    /// What happened since the token, by service; `None` where the journal does not tell.
    fn touched(&self, state: &State, token: &Token) -> Option<BTreeMap<ServiceName, Touched>> {
        if token.epoch != state.epoch() || token.revision > state.revision() {
            return None;
        }
        let target = self.subscription.target();
        let mut touched: BTreeMap<ServiceName, Touched> = BTreeMap::new();
        for event in state.events_after(token.revision)? {
            let event: &Event = event;
            if event.subject == Subject::Protection(Scope::Cluster) {
                for name in watched(target, state) {
                    touched.entry(name).or_default();
                }
                continue;
            }
            let Some(name) = event.subject.service().filter(|name| target.covers(name)) else {
                continue;
            };
            let service = touched.entry(name.clone()).or_default();
            match &event.subject {
                Subject::Instance(instance) => {
                    service.instances.insert(instance.id.clone());
                }
                Subject::Policy(_) => service.policy = true,
                Subject::Protection(_) => {}
            }
        }
        Some(touched)
    }

    fn resumed(&mut self, state: &State, touched: BTreeMap<ServiceName, Touched>) -> Vec<Item> {
        for name in watched(self.subscription.target(), state) {
            if !touched.contains_key(&name) {
                let now = SeenService::now(state, &name);
                self.sent.insert(name, now);
            }
        }
        let item = |(name, touched): (ServiceName, Touched)| {
            let now = SeenService::now(state, &name);
            // Where it may have failed open, the list held instances that nothing has happened to since.
            let opens =
                self.filter.health != HealthFilter::Any && (touched.policy || now.may_fail_open());
            let form = if opens { Form::Snapshot } else { Form::Missed(touched.instances) };
            Item { name, now, form }
        };
        touched.into_iter().map(item).collect()
    }

    fn plan(&mut self, seen: &Seen, fresh: Option<Duration>, mut items: Vec<Item>, first: bool) {
        items.sort_by(|a, b| (a.now.revision, &a.name).cmp(&(b.now.revision, &b.name)));
        let (revision, epoch) = (seen.state.revision(), seen.state.epoch());
        self.round =
            Some(Round { revision, epoch, fresh, items: items.into(), first, told: false });
    }

    /// The next message; it may be long in coming.
    pub async fn next(&mut self) -> Result<Encoded, Status> {
        loop {
            if self.api.is_draining() {
                return Err(status::draining());
            }
            if let Some(message) = self.pop() {
                return Ok(message);
            }
            if let Some(bookmark) = self.end_round() {
                return Ok(bookmark);
            }
            poll_fn(|cx| self.poll_due(cx)).await;
            if !self.api.is_draining() {
                // A look without a change ends with the bookmark that is due.
                self.look().await;
            }
        }
    }

    /// Ready where something has changed, a bookmark is due, or this node shuts down.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.subscription.mark.poll_changed(cx).is_ready()
            || self.draining.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(());
        }
        self.bookmark.as_mut().poll(cx)
    }

    /// The next message of the round. The last one carries the token, except in the first round: what is known from
    /// before it is whole only with the bookmark.
    fn pop(&mut self) -> Option<Encoded> {
        // One more than is sent tells which is the last.
        while self.outbox.len() < 2
            && let Some(item) = self.round.as_mut().and_then(|round| round.items.pop_front())
        {
            self.send(item);
        }
        let shared = self.outbox.pop_front()?;
        let last = self.outbox.is_empty();
        let own = match self.round.as_ref().filter(|round| last && !round.first) {
            Some(round) => {
                let place = (self.api.replica().cluster_id(), round.epoch, round.revision);
                self.messenger.resumable(place, || self.token(round))
            }
            None => Bytes::new(),
        };
        Some(Encoded { own, shared })
    }

    fn token(&self, round: &Round) -> Vec<u8> {
        let cluster_id = self.api.cluster_id();
        Token { cluster_id, epoch: round.epoch, revision: round.revision }.encode()
    }

    /// Begins a round with everything that changed up to a settled state.
    async fn look(&mut self) {
        let hub = self.api.hub().clone();
        let mut dirty = Dirty::default();
        let (seen, fresh) = loop {
            let fresh = self.api.replica().fresh_as_of();
            let seen = hub.settled();
            // All marks up to the settled state are taken, and perhaps later ones: then with a later state.
            dirty.merge(self.subscription.mark.take());
            if dirty.until <= seen.state.revision() {
                break (seen, fresh);
            }
            hub.reached(dirty.until).await;
        };
        let mut names = dirty.services;
        if dirty.all {
            names.extend(watched(self.subscription.target(), &seen.state));
            names.extend(self.sent.keys().cloned());
        }
        let item = |name: ServiceName| {
            let now = SeenService::now(&seen.state, &name);
            let form = match self.sent.get(&name) {
                Some(before) if before.is_same(&now) => return None,
                Some(_) => Form::Delta,
                // It came and went between two looks.
                None if self.is_pattern() && !now.exists() => return None,
                None => Form::Snapshot,
            };
            Some(Item { name, now, form })
        };
        let items = names.into_iter().filter_map(item).collect();
        self.plan(&seen, fresh, items, false);
    }

    fn send(&mut self, Item { name, now, form }: Item) {
        let (messenger, filter) = (&self.messenger, &self.filter);
        let messages = match (form, self.sent.get(&name)) {
            (Form::Delta, Some(before)) => {
                let state = &self.api.view().load().state;
                messenger.delta(&name, before, &now, state, filter)
            }
            (Form::Delta | Form::Snapshot, _) => messenger.snapshot(&name, &now, filter),
            (Form::Missed(touched), _) => {
                let state = &self.api.view().load().state;
                vec![missed(&name, &now, state, filter, &touched)].into()
            }
        };
        self.outbox.extend(messages.iter().cloned());
        if let Some(round) = &mut self.round {
            round.told |= !messages.is_empty();
        }
        if !messages.is_empty() {
            self.figures.touch(&name);
        }
        if self.is_pattern() && !now.exists() {
            self.sent.remove(&name);
        } else {
            self.sent.insert(name, now);
        }
    }

    /// All of the round was sent: a bookmark, where one is due.
    fn end_round(&mut self) -> Option<Encoded> {
        let round = self.round.take()?;
        let now = Instant::now();
        let due = self.bookmark.deadline();
        if round.first || due <= now {
            self.bookmark.as_mut().reset(now + self.bookmark_every);
            return Some(self.tell_bookmark(&round));
        }
        if round.told && due > now + SETTLED {
            self.bookmark.as_mut().reset(now + SETTLED);
        }
        None
    }

    fn tell_bookmark(&mut self, round: &Round) -> Encoded {
        let target = self.subscription.target();
        let state = &self.api.view().load().state;
        let watched = |name: &ServiceName| target.covers(name);
        let utilization = self.figures.due(state, watched, &self.filter, Instant::now());
        let now = self.api.host().clock.monotonic();
        let staleness = round.fresh.map(|at| now.saturating_sub(at));
        let bookmark = v1::watch_response::Bookmark {
            staleness: staleness.map(convert::duration),
            leader_known: self.api.freshness().leader_known,
            initial_state_complete: true,
            utilization,
        };
        let message = v1::WatchResponse {
            revision: round.revision,
            service: None,
            resume_token: self.token(round),
            event: Some(v1::watch_response::Event::Bookmark(bookmark)),
        };
        Encoded::of(&message)
    }
}

/// The services to tell of: those that are named, existing or not; of a pattern those that exist.
fn watched(target: &Target, state: &State) -> BTreeSet<ServiceName> {
    match target {
        Target::Services(names) => names.clone(),
        Target::Pattern { namespace, prefix } => {
            let found = by_prefix(state, namespace, prefix, None);
            found.filter(|(_, service)| !service.is_idle()).map(|(name, _)| name.clone()).collect()
        }
    }
}

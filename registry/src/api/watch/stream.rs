//! One watcher: a snapshot of each service, then deltas, with bookmarks where it is safe to resume.
//!
//! Work is done when the transport asks for the next message, and no sooner: a connection that does not read holds
//! one message and a set of names.

use super::{
    delta::{Messenger, SeenService, missed},
    hub::{Subscription, Target},
};
use crate::{
    api::{Api, codec::Encoded, status},
    view::Seen,
};
use bytes::Bytes;
use prost::Message;
use rollcall_core::{
    State,
    name::ServiceName,
    query::Filter,
    record::{Event, Scope, Subject},
};
use rollcall_proto::{
    convert::{self, Token},
    v1,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// What is sent of a service in this round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The whole of it.
    Snapshot,
    /// The difference to what was sent last.
    Delta,
    /// The difference by the events since the resume token.
    Missed,
}

/// One running watch.
#[derive(Debug)]
pub struct Watcher {
    api: Api,
    messenger: Arc<Messenger>,
    subscription: Subscription,
    filter: Filter,
    bookmark_every: Duration,
    bookmark_at: Instant,
    /// How each watched service was last sent.
    sent: BTreeMap<ServiceName, SeenService>,
    /// The round at hand: one state, and the services still to be sent from it, lowest revision first.
    round: Option<Arc<Seen>>,
    pending: VecDeque<(ServiceName, Form)>,
    /// Events since the resume token, while a resumed watch begins.
    since: Vec<Arc<Event>>,
    /// Messages of the service at hand.
    outbox: VecDeque<Bytes>,
}

impl Watcher {
    /// Begins a watch, from `resume` where the journal covers it, else with snapshots.
    pub fn start(
        api: Api,
        subscription: Subscription,
        filter: Filter,
        bookmark_every: Duration,
        resume: Option<Token>,
    ) -> Self {
        let mut watcher = Self {
            messenger: api.messenger().clone(),
            api,
            subscription,
            filter,
            bookmark_every,
            bookmark_at: Instant::now() + bookmark_every,
            sent: BTreeMap::new(),
            round: None,
            pending: VecDeque::new(),
            since: Vec::new(),
            outbox: VecDeque::new(),
        };
        watcher.begin(resume);
        watcher
    }

    fn begin(&mut self, resume: Option<Token>) {
        // Subscribed before this look: what comes later marks the watcher.
        let seen = self.api.view().seen();
        let state = &seen.state;
        let names = self.watched(state);
        let events = resume.filter(|token| token.epoch == state.epoch()).and_then(|token| {
            let events = state.events_after(token.revision)?;
            Some(events.cloned().collect::<Vec<_>>())
        });
        let forms: Vec<(ServiceName, Form)> = match &events {
            None => names.into_iter().map(|name| (name, Form::Snapshot)).collect(),
            Some(events) => {
                let touched = self.touched(state, events);
                for name in names.difference(&touched) {
                    self.sent.insert(name.clone(), SeenService::now(state, name));
                }
                touched.into_iter().map(|name| (name, Form::Missed)).collect()
            }
        };
        self.since = events.unwrap_or_default();
        self.plan(&seen, forms);
    }

    fn watched(&self, state: &State) -> BTreeSet<ServiceName> {
        match self.subscription.target() {
            Target::Services(names) => names.clone(),
            Target::Pattern { namespace, prefix } => {
                let covered = state.services().keys().filter(|name| {
                    name.namespace == *namespace && name.service.as_str().starts_with(&**prefix)
                });
                covered.cloned().collect()
            }
        }
    }

    fn touched(&self, state: &State, events: &[Arc<Event>]) -> BTreeSet<ServiceName> {
        let all = events.iter().any(|e| e.subject == Subject::Protection(Scope::Cluster));
        if all {
            return self.watched(state);
        }
        let names = events.iter().filter_map(|event| event.subject.service());
        names.filter(|name| self.subscription.target().covers(name)).cloned().collect()
    }

    /// Lowest revision first, so that the revision of a stream never goes back.
    fn plan(&mut self, seen: &Arc<Seen>, mut forms: Vec<(ServiceName, Form)>) {
        forms.sort_by_cached_key(|(name, _)| (seen.state.service_revision(name), name.clone()));
        self.pending = forms.into();
        self.round = Some(seen.clone());
    }

    /// The next message; it may be long in coming.
    pub async fn next(&mut self) -> Result<Encoded, Status> {
        loop {
            if let Some(message) = self.outbox.pop_front() {
                return Ok(message.into());
            }
            if let Some(seen) = self.round.clone() {
                match self.pending.pop_front() {
                    Some((name, form)) => self.send(&seen.state, name, form),
                    None => {
                        self.round = None;
                        self.since.clear();
                        return Ok(self.bookmark(seen.state.revision(), seen.state.epoch()));
                    }
                }
                continue;
            }
            let mark = self.subscription.mark.clone();
            tokio::select! {
                biased;
                () = self.api.draining() => return Err(status::draining()),
                () = mark.changed() => self.look(),
                () = sleep_until(self.bookmark_at) => {
                    // Nothing is marked, or the mark would have been taken first: all of this state was sent.
                    let seen = self.api.view().seen();
                    if self.is_current(&seen.state) {
                        return Ok(self.bookmark(seen.state.revision(), seen.state.epoch()));
                    }
                    self.look();
                }
            }
        }
    }

    /// Whether everything of this state was sent: the state is loaded before the mark is asked.
    fn is_current(&self, state: &State) -> bool {
        self.sent.iter().all(|(name, sent)| sent.is_same(&SeenService::now(state, name)))
            && self.watched(state).iter().all(|name| self.sent.contains_key(name))
    }

    fn look(&mut self) {
        let dirty = self.subscription.mark.take();
        let seen = self.api.view().seen();
        let names = if dirty.all {
            let mut names = self.watched(&seen.state);
            names.extend(self.sent.keys().cloned());
            names
        } else {
            dirty.services
        };
        let forms = names.into_iter().map(|name| {
            let form = if self.sent.contains_key(&name) { Form::Delta } else { Form::Snapshot };
            (name, form)
        });
        let forms = forms.collect();
        self.plan(&seen, forms);
    }

    fn send(&mut self, state: &State, name: ServiceName, form: Form) {
        let now = SeenService::now(state, &name);
        match form {
            Form::Snapshot => {
                self.outbox
                    .extend(self.messenger.snapshot(&name, &now, &self.filter).iter().cloned());
            }
            Form::Delta => {
                let before = &self.sent[&name];
                let messages = self.messenger.delta(&name, before, &now, state, &self.filter);
                self.outbox.extend(messages.iter().cloned());
            }
            Form::Missed => {
                self.outbox.extend(missed(&name, &now, state, &self.filter, &self.since));
            }
        }
        let gone =
            now.service.is_none() && matches!(self.subscription.target(), Target::Pattern { .. });
        if gone {
            self.sent.remove(&name);
        } else {
            self.sent.insert(name, now);
        }
    }

    fn bookmark(&mut self, revision: u64, epoch: u32) -> Encoded {
        self.bookmark_at = Instant::now() + self.bookmark_every;
        let freshness = self.api.freshness();
        let bookmark = v1::watch_response::Bookmark {
            staleness: freshness.staleness.map(convert::duration),
            leader_known: freshness.leader_known,
            initial_state_complete: true,
        };
        let token = Token { cluster_id: self.api.cluster_id(), epoch, revision };
        let message = v1::WatchResponse {
            revision,
            service: None,
            resume_token: token.encode(),
            event: Some(v1::watch_response::Event::Bookmark(bookmark)),
        };
        Encoded { own: message.encode_to_vec().into(), shared: Bytes::new() }
    }
}

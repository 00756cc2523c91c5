//! JournalService: every event, in order, once, or an explicit COMPACTED.

use super::{Api, Place, read::STALE, status};
use rollcall_core::{
    name::ServiceName,
    record::{Event, Subject},
};
use rollcall_proto::{
    convert::{self, HistorySubject, TailStart, Token},
    error, v1,
    v1::journal_service_server as service,
};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Events in one message of a tail.
const PAGE_MAX: usize = 256;
/// Events that a tail looks through before it lets others run.
const BURST_MAX: usize = 4_096;
/// A tail that has nothing to tell tells how far it is this often, so that its token does not grow old.
const QUIET: Duration = Duration::from_secs(30);

impl Api {
    async fn history(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Status> {
        let query = convert::history_query(request).map_err(error::of_invalid)?;
        let freshness = convert::Freshness { min_revision: query.min_revision, ..STALE };
        let read = self.read(freshness).await?;
        let state = &read.seen.state;
        let before = query.before.unwrap_or(u64::MAX);
        // One more than asked for tells whether there are older ones.
        let wanted = query.limit + 1;
        let journal = state.journal().iter();
        let (service, mut events) = match query.subject {
            HistorySubject::All => (None, newest(journal, before, wanted, |_| true)),
            HistorySubject::Service(name) => {
                let of = |event: &Event| event.subject.service() == Some(&name);
                let events = newest(journal, before, wanted, of);
                (Some(name), events)
            }
            HistorySubject::Instance(name) => {
                let kept = state.instance(&name).map(|record| &record.history);
                let kept = kept.or_else(|| state.tombstone(&name).map(|t| &t.history));
                let Some(kept) = kept else { return Err(status::instance_not_found(&name)) };
                // The eight events that an instance keeps, and older ones as far as the journal reaches back.
                let first = kept.events().first().map_or(0, |event| event.revision);
                let mut events = newest(journal, before.min(first), wanted, |e| is_about(e, &name));
                let newer = kept.events().iter().filter(|event| event.revision < before);
                events.extend(newer.cloned());
                (Some(name.service), events)
            }
        };
        let surplus = events.len().saturating_sub(query.limit);
        events.drain(..surplus);
        let older = events.first().filter(|_| surplus > 0);
        Ok(v1::HistoryResponse {
            read_metadata: Some(self.metadata(&read, service.as_ref())),
            next_before_revision: older.map_or(0, |event| event.revision),
            events: events.iter().rev().map(|event| convert::event(event)).collect(),
            floor_revision: state.journal_floor(),
        })
    }

    async fn start_tail(&self, request: v1::TailRequest) -> Result<Tail, Status> {
        let query = convert::tail_query(request).map_err(error::of_invalid)?;
        let epoch = self.read(STALE).await?.seen.state.epoch();
        let token = match query.start {
            TailStart::Now => None,
            TailStart::After(revision) => {
                Some(Token { cluster_id: self.cluster_id(), epoch, revision })
            }
            TailStart::Token(token) => Some(token),
        };
        if let Some(token) = &token {
            self.catch_up(token, |revision| self.view().reached(revision)).await?;
        }
        let limit = self.settings().watches;
        let place = Place::take(&self.0.tails, limit)
            .ok_or_else(|| status::too_many("limits.watches", limit))?;
        let revisions = self.view().revisions();
        let seen = self.view().seen();
        let (cursor, epoch) = match token {
            None => (seen.state.revision(), seen.state.epoch()),
            Some(token) => (token.revision, token.epoch),
        };
        let (api, service) = (self.clone(), query.service);
        Ok(Tail { api, cursor, epoch, service, revisions, _place: place })
    }
}

fn is_about(event: &Event, name: &rollcall_core::name::InstanceName) -> bool {
    matches!(&event.subject, Subject::Instance(instance) if **instance == *name)
}

/// The newest `count` events before a revision, oldest first.
fn newest<'a>(
    journal: impl DoubleEndedIterator<Item = &'a Arc<Event>>,
    before: u64,
    count: usize,
    wanted: impl Fn(&Event) -> bool,
) -> Vec<Arc<Event>> {
    let events = journal.rev().filter(|event| event.revision < before && wanted(event));
    let mut events: Vec<_> = events.take(count).cloned().collect();
    events.reverse();
    events
}

/// One running tail: a cursor, no queue. One that reads too slowly is told so.
struct Tail {
    api: Api,
    cursor: u64,
    /// Of which history the cursor speaks.
    epoch: u32,
    service: Option<ServiceName>,
    revisions: watch::Receiver<u64>,
    _place: Place,
}

impl Tail {
    async fn next(&mut self) -> Result<v1::TailResponse, Status> {
        let quiet_until = Instant::now() + QUIET;
        loop {
            if self.api.is_draining() {
                return Err(status::draining());
            }
            self.revisions.borrow_and_update();
            let (events, more) = self.collect()?;
            if !events.is_empty() {
                return Ok(self.message(events));
            }
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                biased;
                () = self.api.draining() => {}
                changed = self.revisions.changed() => if changed.is_err() {
                    return Err(status::draining());
                },
                () = sleep_until(quiet_until) => return Ok(self.message(Vec::new())),
            }
        }
    }

    /// The events after the cursor that are wanted, which moves on; and whether there may be more.
    fn collect(&mut self) -> Result<(Vec<v1::Event>, bool), Status> {
        let seen = self.api.view().seen();
        let state = &seen.state;
        let compacted = || status::compacted(self.cursor, state.journal_floor());
        if state.epoch() != self.epoch {
            return Err(compacted());
        }
        let events = state.events_after(self.cursor).ok_or_else(compacted)?;
        let (mut found, mut looked) = (Vec::new(), 0);
        let mut cursor = self.cursor;
        for event in events.take(BURST_MAX) {
            (cursor, looked) = (event.revision, looked + 1);
            if self.service.is_none() || event.subject.service() == self.service.as_ref() {
                found.push(convert::event(event));
                if found.len() >= PAGE_MAX {
                    break;
                }
            }
        }
        self.cursor = cursor;
        Ok((found, looked == BURST_MAX))
    }

    fn message(&self, events: Vec<v1::Event>) -> v1::TailResponse {
        let (cluster_id, epoch) = (self.api.cluster_id(), self.epoch);
        let token = Token { cluster_id, epoch, revision: self.cursor };
        let resume_token = token.encode();
        v1::TailResponse { events, revision: self.cursor, resume_token }
    }
}

#[tonic::async_trait]
impl service::JournalService for Api {
    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        Self::history(self, request.into_inner()).await.map(Response::new)
    }

    type TailStream = Pin<Box<dyn Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        let tail = self.start_tail(request.into_inner()).await?;
        let stream = futures_util::stream::unfold(Some(tail), |tail| async move {
            let mut tail = tail?;
            let message = tail.next().await;
            let rest = message.is_ok().then_some(tail);
            Some((message, rest))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

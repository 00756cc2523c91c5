//! JournalService: every event, in order, once, or an explicit COMPACTED.

use super::{Api, Place, read::Mode, status, token::Token};
use rollcall_core::{
    name::ServiceName,
    record::{Event, Subject},
};
use rollcall_proto::{convert, error, v1, v1::journal_service_server as service};
use std::{pin::Pin, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Events in one message of a tail, and on one page of a history.
const PAGE_MAX: usize = 1_000;
const PAGE_DEFAULT: usize = 100;
/// A tail that has nothing to tell tells how far it is this often, so that its token does not grow old.
const QUIET: Duration = Duration::from_secs(30);

impl Api {
    async fn history(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Status> {
        use v1::history_request::Subject as Asked;
        let read = self.read(Mode::Stale, request.min_revision).await?;
        let state = &read.seen.state;
        let limit = match request.limit as usize {
            0 => PAGE_DEFAULT,
            limit => limit.min(PAGE_MAX),
        };
        let before = match request.before_revision {
            0 => u64::MAX,
            before => before,
        };
        let (service, events): (Option<ServiceName>, Vec<Arc<Event>>) = match request.subject {
            Some(Asked::Instance(name)) => {
                let name = convert::instance_name(Some(name)).map_err(error::of_invalid)?;
                let kept = state.instance(&name).map(|record| &record.history);
                let kept = kept.or_else(|| state.tombstone(&name).map(|t| &t.history));
                let Some(kept) = kept else { return Err(status::instance_not_found(&name)) };
                let mut events: Vec<_> = kept.events().to_vec();
                // The journal may reach further back than the eight events that an instance keeps.
                let first = events.first().map_or(0, |event| event.revision);
                let older = state.journal().iter().take_while(|event| event.revision < first);
                let older = older.filter(|event| is_about(event, &name)).cloned();
                events = older.chain(events).collect();
                (Some(name.service), events)
            }
            Some(Asked::Service(name)) => {
                let name = convert::service_name(Some(name)).map_err(error::of_invalid)?;
                let events = newest(state.journal().iter(), before, limit + 1, |event| {
                    event.subject.service() == Some(&name)
                });
                (Some(name), events)
            }
            None => (None, newest(state.journal().iter(), before, limit + 1, |_| true)),
        };
        let mut events: Vec<_> = events.into_iter().filter(|e| e.revision < before).collect();
        let surplus = events.len().saturating_sub(limit);
        events.drain(..surplus);
        let next_before_revision = match events.first() {
            Some(first) if surplus > 0 => first.revision,
            _ => 0,
        };
        Ok(v1::HistoryResponse {
            read_metadata: Some(self.metadata(&read, service.as_ref())),
            events: events.iter().map(|event| convert::event(event)).collect(),
            next_before_revision,
            floor_revision: state.journal_floor(),
        })
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
        loop {
            self.revisions.borrow_and_update();
            let seen = self.api.view().seen();
            let state = &seen.state;
            if state.epoch() != self.epoch {
                return Err(status::compacted(self.cursor, state.journal_floor()));
            }
            let Some(events) = state.events_after(self.cursor) else {
                return Err(status::compacted(self.cursor, state.journal_floor()));
            };
            let events: Vec<&Arc<Event>> = events.take(PAGE_MAX).collect();
            if let Some(last) = events.last() {
                self.cursor = last.revision;
                let service = self.service.as_ref();
                let wanted = events
                    .iter()
                    .filter(|event| service.is_none() || event.subject.service() == service);
                let events: Vec<v1::Event> = wanted.map(|event| convert::event(event)).collect();
                if !events.is_empty() {
                    return Ok(self.message(events));
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.api.draining() => return Err(status::draining()),
                changed = tokio::time::timeout(QUIET, self.revisions.changed()) => match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(status::draining()),
                    Err(_) => return Ok(self.message(Vec::new())),
                },
            }
        }
    }

    fn message(&self, events: Vec<v1::Event>) -> v1::TailResponse {
        let (cluster_id, epoch) = (self.api.cluster_id(), self.epoch);
        let token = Token { cluster_id, epoch, revision: self.cursor };
        let resume_token = token.to_bytes().into();
        v1::TailResponse { events, revision: self.cursor, resume_token }
    }
}

#[tonic::async_trait]
impl service::JournalService for Api {
    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        self.within(Self::history(self, request.into_inner())).await.map(Response::new)
    }

    type TailStream = Pin<Box<dyn Stream<Item = Result<v1::TailResponse, Status>> + Send>>;

    async fn tail(
        &self,
        request: Request<v1::TailRequest>,
    ) -> Result<Response<Self::TailStream>, Status> {
        use v1::tail_request::Start;
        let request = request.into_inner();
        let service = request.service.map(|name| convert::service_name(Some(name)));
        let service = service.transpose().map_err(error::of_invalid)?;
        let resume = match &request.start {
            Some(Start::ResumeToken(token)) => self.resume(token).await?,
            Some(Start::AfterRevision(_)) | None => None,
        };
        let limit = self.settings().watches;
        let place = Place::take(&self.0.tails, limit)
            .ok_or_else(|| status::too_many("limits.watches", limit))?;
        let revisions = self.view().revisions();
        let seen = self.view().seen();
        let (cursor, epoch) = match (request.start, resume) {
            (_, Some(token)) => (token.revision, token.epoch),
            (Some(Start::AfterRevision(revision)), None) => (revision, seen.state.epoch()),
            // From now on.
            (Some(Start::ResumeToken(_)) | None, None) => {
                (seen.state.revision(), seen.state.epoch())
            }
        };
        let tail = Tail { api: self.clone(), cursor, epoch, service, revisions, _place: place };
        let stream = futures_util::stream::unfold(Some(tail), |tail| async move {
            let mut tail = tail?;
            let message = tail.next().await;
            let rest = message.is_ok().then_some(tail);
            Some((message, rest))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

//! DiscoveryService: callers ask. Replies of `Resolve` and `Watch` are bytes that callers share, so the service is
//! routed by hand instead of by generated code; the paths are those of the `.proto` file, which a test checks.

use super::{
    Api,
    answer::Key,
    codec::{Encoded, EncodedCodec},
    read::{Read, STALE, by_prefix},
    status,
    watch::{hub::Target, stream::Watcher},
};
use crate::check::peer::Reports;
use prost::{
    Message,
    encoding::{self, WireType},
};
use rollcall_proto::{
    convert::{self, ResolveQuery, Token, WatchTarget},
    error, v1,
};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio_stream::Stream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService},
};
use tower::Service;

/// Answers above this name Watch, which sends parts.
const ANSWER_BYTES_MAX: usize = 3 << 20;
/// Field number of `BatchResolveResponse.responses`.
const BATCH_RESPONSES: u32 = 1;
/// A watch that resumes ahead of this node waits so long for it to catch up.
const CATCH_UP: Duration = Duration::from_secs(5);

/// DiscoveryService as a tower service.
#[derive(Debug, Clone)]
pub struct DiscoveryServer(pub Api);

impl NamedService for DiscoveryServer {
    const NAME: &'static str = "rollcall.v1.DiscoveryService";
}

type Reply = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl Service<http::Request<Body>> for DiscoveryServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Reply;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Reply {
        let api = self.0.clone();
        match request.uri().path() {
            "/rollcall.v1.DiscoveryService/Resolve" => {
                unary(api, request, |api, query| Box::pin(async move { api.resolve(query).await }))
            }
            "/rollcall.v1.DiscoveryService/BatchResolve" => {
                unary(api, request, |api, query| Box::pin(async move { api.batch(query).await }))
            }
            "/rollcall.v1.DiscoveryService/GetInstance" => {
                unary(api, request, |api, query| Box::pin(async move { api.instance(query).await }))
            }
            "/rollcall.v1.DiscoveryService/ListServices" => {
                unary(api, request, |api, query| Box::pin(async move { api.list(query).await }))
            }
            "/rollcall.v1.DiscoveryService/Watch" => watch(api, request),
            other => {
                let status = Status::unimplemented(format!("{other} is not a method here"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    }
}

type Call = Pin<Box<dyn Future<Output = Result<Encoded, Status>> + Send>>;

fn unary<Q: Message + Default + 'static>(
    api: Api,
    request: http::Request<Body>,
    method: fn(Api, Q) -> Call,
) -> Reply {
    Box::pin(async move {
        let limit = api.settings().message_bytes;
        let call = tower::service_fn(move |request: Request<Q>| {
            let api = api.clone();
            async move { method(api, request.into_inner()).await.map(Response::new) }
        });
        let codec = EncodedCodec::<Q>::unary();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(limit);
        Ok(grpc.unary(call, request).await)
    })
}

type Watching = Pin<Box<dyn Stream<Item = Result<Encoded, Status>> + Send>>;

fn watch(api: Api, request: http::Request<Body>) -> Reply {
    Box::pin(async move {
        let limit = api.settings().message_bytes;
        let call = tower::service_fn(move |request: Request<v1::WatchRequest>| {
            let api = api.clone();
            async move {
                let watcher = api.watch(request.into_inner()).await?;
                let stream = futures_util::stream::unfold(Some(watcher), |watcher| async move {
                    let mut watcher = watcher?;
                    let message = watcher.next().await;
                    // A stream ends with its first error.
                    let rest = message.is_ok().then_some(watcher);
                    Some((message, rest))
                });
                Ok::<_, Status>(Response::new(Box::pin(stream) as Watching))
            }
        });
        let codec = EncodedCodec::<v1::WatchRequest>::streaming();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(limit);
        Ok(grpc.server_streaming(call, request).await)
    })
}

impl Api {
    async fn resolve(&self, request: v1::ResolveRequest) -> Result<Encoded, Status> {
        let query = convert::resolve_query(request).map_err(error::of_invalid)?;
        let read = self.read(query.freshness).await?;
        let answer = self.answer(&read, &query);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(status::answer_too_large(&query.service, answer.len(), ANSWER_BYTES_MAX));
        }
        Ok(answer)
    }

    fn answer(&self, read: &Read, query: &ResolveQuery) -> Encoded {
        let state = &read.seen.state;
        let mut head = v1::ResolveResponse {
            read_metadata: Some(self.metadata(read, Some(&query.service))),
            ..Default::default()
        };
        let known = query.known_service_revision == Some(state.service_revision(&query.service));
        head.not_modified = known;
        let figures = state.utilizations().get(&query.service);
        if known && figures.is_none() {
            return Encoded::of(&head);
        }
        // An unknown service has no instances; that it is unknown is told by ListServices.
        let Some(service) = state.service(&query.service) else { return Encoded::of(&head) };
        let caller = query.locality.clone().unwrap_or_default();
        let answer = self.0.answers.of(service, Key { filter: query.filter.clone(), caller });
        if let Some(figures) = figures {
            // A figure has no revision: it is looked up with each call, and the instances stay shared.
            let busy = answer.records.iter().filter_map(|record| {
                let percent = Some(figures.get(&record.generation)?.percent());
                Some(v1::InstanceUtilization { instance_id: record.name.id.to_string(), percent })
            });
            head.utilization = busy.collect();
        }
        if known {
            return Encoded::of(&head);
        }
        head.fail_open = answer.fail_open;
        Encoded { own: head.encode_to_vec().into(), shared: answer.instances }
    }

    async fn batch(&self, request: v1::BatchResolveRequest) -> Result<Encoded, Status> {
        let batch = convert::batch_query(request).map_err(error::of_invalid)?;
        let read = self.read(batch.freshness).await?;
        let mut bytes = Vec::new();
        for query in &batch.queries {
            let answer = self.answer(&read, query);
            encoding::encode_key(BATCH_RESPONSES, WireType::LengthDelimited, &mut bytes);
            encoding::encode_varint(answer.len() as u64, &mut bytes);
            bytes.extend_from_slice(&answer.own);
            bytes.extend_from_slice(&answer.shared);
            if bytes.len() > ANSWER_BYTES_MAX {
                let size = bytes.len();
                return Err(status::answer_too_large(&query.service, size, ANSWER_BYTES_MAX));
            }
        }
        Ok(Encoded { own: bytes.into(), ..Default::default() })
    }

    async fn instance(&self, request: v1::GetInstanceRequest) -> Result<Encoded, Status> {
        let with_outputs = request.with_outputs;
        let query = convert::instance_query(request).map_err(error::of_invalid)?;
        let read = self.read(query.freshness).await?;
        let (state, name) = (&read.seen.state, &query.name);
        let record = state.instance(name);
        let history = record.map(|record| &record.history);
        let history = history.or_else(|| state.tombstone(name).map(|t| &t.history));
        let Some(history) = history else { return Err(status::instance_not_found(name)) };
        let until = record.and_then(|record| record.admin.as_ref()?.until);
        let left = until.map(|until| until.saturating_sub(state.cluster_ms()));
        let reports = match record {
            Some(record) => self.checks().reports(state, record, with_outputs).await,
            None => Reports::default(),
        };
        let response = v1::GetInstanceResponse {
            read_metadata: Some(self.metadata(&read, Some(&name.service))),
            instance: record.map(|record| convert::instance(record)),
            events: history.events().iter().map(|event| convert::event(event)).collect(),
            admin_expires_in: left.map(|ms| convert::duration(Duration::from_millis(ms))),
            checks: reports.checks,
            checker_node_id: reports.checker,
            outputs_problem: reports.problem,
            utilization_percent: record
                .and_then(|record| Some(state.utilization(record)?.percent())),
        };
        Ok(Encoded::of(&response))
    }

    async fn list(&self, request: v1::ListServicesRequest) -> Result<Encoded, Status> {
        let query = convert::list_query(&request).map_err(error::of_invalid)?;
        let read = self.read(query.freshness).await?;
        // The token is the last name of the page: a page stays right when services come and go between two calls.
        let state = &read.seen.state;
        let found = by_prefix(state, &query.namespace, &query.prefix, query.after);
        let mut found = found.filter(|(_, service)| !service.is_idle());
        let page: Vec<_> = found.by_ref().take(query.limit).collect();
        let last = page.last().filter(|_| found.next().is_some());
        let response = v1::ListServicesResponse {
            read_metadata: Some(self.metadata(&read, None)),
            next_page_token: last.map(|(n, _)| convert::page_token(&n.service)).unwrap_or_default(),
            services: page.iter().map(|(_, service)| convert::service_summary(service)).collect(),
        };
        Ok(Encoded::of(&response))
    }

    async fn watch(&self, request: v1::WatchRequest) -> Result<Watcher, Status> {
        let query = convert::watch_query(request).map_err(error::of_invalid)?;
        let target = match query.target {
            WatchTarget::Services(names) => Target::Services(names.into_iter().collect()),
            WatchTarget::Pattern { namespace, prefix } => {
                Target::Pattern { namespace, prefix: prefix.into() }
            }
        };
        let hub = self.hub();
        match &query.resume {
            Some(token) => self.catch_up(token, |revision| hub.reached(revision)).await?,
            // A node that has never had any state must not tell that there is nothing.
            None => drop(self.read(STALE).await?),
        }
        let fresh = self.replica().fresh_as_of();
        let place = hub.subscribe(target);
        let place = place.ok_or_else(|| status::too_many("limits.watches", hub.limit()))?;
        let every = query.bookmark_interval;
        Ok(Watcher::start(self.clone(), fresh, place, query.filter, every, query.resume))
    }

    /// Refuses the token of another cluster, and waits until this node is as far as the token.
    pub(super) async fn catch_up<F: Future<Output = ()>>(
        &self,
        token: &Token,
        reached: impl FnOnce(u64) -> F,
    ) -> Result<(), Status> {
        let ours = self.cluster_id();
        if ours.is_empty() {
            return Err(status::no_state());
        }
        if token.cluster_id != ours {
            return Err(status::other_cluster(&token.cluster_id, &ours));
        }
        let epoch = self.view().load().state.epoch();
        // What was before the epoch began is not waited for: it is told as a whole.
        let ahead = token.epoch > epoch
            || (token.epoch == epoch
                && tokio::time::timeout(CATCH_UP, reached(token.revision)).await.is_err());
        if ahead {
            let reached = self.view().load().state.revision();
            return Err(status::behind(token.revision, reached));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use rollcall_proto::FILE_DESCRIPTOR_SET;

    #[test]
    fn every_method_of_the_service_is_routed() {
        let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let services = set.file.iter().flat_map(|file| &file.service);
        let service = services.into_iter().find(|s| s.name() == "DiscoveryService").unwrap();
        let source = include_str!("discovery.rs");
        assert!(service.method.len() >= 5);
        for method in &service.method {
            let path = format!("\"/rollcall.v1.DiscoveryService/{}\" =>", method.name());
            assert!(source.contains(&path), "{path} is missing");
        }
    }
}

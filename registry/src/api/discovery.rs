//! DiscoveryService: callers ask. Replies of `Resolve` and `Watch` are bytes that callers share, so the service is
//! routed by hand instead of by generated code; the paths are those of the `.proto` file, which a test checks.

use super::{
    Api,
    answer::Key,
    codec::{Encoded, EncodedCodec},
    read::{Mode, Read},
    status,
    token::Token,
    watch::{hub::Target, stream::Watcher},
};
use prost::Message;
use rollcall_core::{
    instance::Locality,
    name::{Label, ServiceName, parse_namespace},
    query::Filter,
};
use rollcall_proto::{convert, error, v1};
use std::{
    collections::BTreeSet,
    convert::Infallible,
    ops::Bound,
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
/// Queries in one BatchResolve.
const QUERIES_MAX: usize = 1_000;
/// Services on one Watch.
const WATCHED_MAX: usize = 1_000;
/// Services on one page.
const PAGE_MAX: u32 = 1_000;
const PAGE_DEFAULT: u32 = 100;
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
            async move {
                let call = method(api.clone(), request.into_inner());
                api.within(call).await.map(Response::new)
            }
        });
        let codec = EncodedCodec::<Q>::default();
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
        let codec = EncodedCodec::<v1::WatchRequest>::default();
        let mut grpc = Grpc::new(codec).max_decoding_message_size(limit);
        Ok(grpc.server_streaming(call, request).await)
    })
}

/// One service as a caller asks for it.
struct Query {
    service: ServiceName,
    key: Key,
    known: Option<u64>,
}

fn query(
    service: Option<v1::ServiceName>,
    filter: Option<v1::ResolveFilter>,
    caller: Option<v1::Locality>,
    known: Option<u64>,
) -> Result<Query, Status> {
    let service = convert::service_name(service).map_err(error::of_invalid)?;
    let filter: Filter = convert::filter(filter).map_err(error::of_invalid)?;
    let caller: Locality =
        convert::locality("client_locality", caller).map_err(error::of_invalid)?;
    Ok(Query { service, key: Key { filter, caller }, known })
}

fn mode(consistency: i32, max_staleness: Option<prost_types::Duration>) -> Result<Mode, Status> {
    Mode::parse(consistency, max_staleness).map_err(error::of_invalid)
}

impl Api {
    async fn resolve(&self, request: v1::ResolveRequest) -> Result<Encoded, Status> {
        let mode = mode(request.consistency, request.max_staleness)?;
        let query = query(
            request.service,
            request.filter,
            request.client_locality,
            request.known_service_revision,
        )?;
        let read = self.read(mode, request.min_revision).await?;
        let answer = self.answer(&read, &query);
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(status::answer_too_large(&query.service, answer.len(), ANSWER_BYTES_MAX));
        }
        Ok(answer)
    }

    fn answer(&self, read: &Read, query: &Query) -> Encoded {
        let state = &read.seen.state;
        let mut head = v1::ResolveResponse {
            read_metadata: Some(self.metadata(read, Some(&query.service))),
            ..Default::default()
        };
        if query.known == Some(state.service_revision(&query.service)) {
            head.not_modified = true;
            return Encoded::of(&head);
        }
        // An unknown service has no instances; that it is unknown is told by ListServices.
        let Some(service) = state.service(&query.service) else { return Encoded::of(&head) };
        let answer = self.0.answers.of(service, &query.key);
        head.fail_open = answer.fail_open;
        Encoded { own: head.encode_to_vec().into(), shared: answer.instances }
    }

    async fn batch(&self, request: v1::BatchResolveRequest) -> Result<Encoded, Status> {
        let mode = mode(request.consistency, request.max_staleness)?;
        if request.queries.is_empty() || request.queries.len() > QUERIES_MAX {
            let count = request.queries.len();
            return Err(status::out_of_range("queries", count, 1, QUERIES_MAX));
        }
        let caller = request.client_locality;
        let queries = request
            .queries
            .into_iter()
            .map(|q| query(q.service, q.filter, caller.clone(), q.known_service_revision));
        let queries = queries.collect::<Result<Vec<_>, Status>>()?;
        let read = self.read(mode, request.min_revision).await?;
        let mut bytes = Vec::new();
        for query in &queries {
            let answer = self.answer(&read, query);
            // Field 1 of BatchResolveResponse.
            prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut bytes);
            prost::encoding::encode_varint(answer.len() as u64, &mut bytes);
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
        let mode = mode(request.consistency, request.max_staleness)?;
        let name = convert::instance_name(request.name).map_err(error::of_invalid)?;
        let read = self.read(mode, request.min_revision).await?;
        let state = &read.seen.state;
        let record = state.instance(&name);
        let history = record.map(|record| &record.history);
        let history = history.or_else(|| state.tombstone(&name).map(|t| &t.history));
        let Some(history) = history else { return Err(status::instance_not_found(&name)) };
        let until = record.and_then(|record| record.admin.as_ref()?.until);
        let left = until.map(|until| until.saturating_sub(state.cluster_ms()));
        let response = v1::GetInstanceResponse {
            read_metadata: Some(self.metadata(&read, Some(&name.service))),
            instance: record.map(|record| convert::instance(record)),
            events: history.events().iter().map(|event| convert::event(event)).collect(),
            admin_expires_in: left.map(|ms| convert::duration(Duration::from_millis(ms))),
        };
        Ok(Encoded::of(&response))
    }

    async fn list(&self, request: v1::ListServicesRequest) -> Result<Encoded, Status> {
        let mode = mode(request.consistency, request.max_staleness)?;
        let namespace = parse_namespace(&request.namespace).map_err(error::of_invalid)?;
        let prefix = name_prefix(&request.name_prefix)?;
        let size = match request.page_size {
            0 => PAGE_DEFAULT,
            size => size.min(PAGE_MAX),
        };
        let after = match request.page_token.as_str() {
            "" => Bound::Unbounded,
            token => {
                let service = Label::parse("page_token", token).map_err(error::of_invalid)?;
                Bound::Excluded(ServiceName { namespace: namespace.clone(), service })
            }
        };
        let read = self.read(mode, request.min_revision).await?;
        let state = &read.seen.state;
        let mut services = Vec::new();
        let mut next_page_token = String::new();
        // The token is the last name of the page: a page stays right when services come and go between two calls.
        for (name, service) in state.services().range((after, Bound::Unbounded)) {
            let covered = name.namespace == namespace
                && name.service.as_str().starts_with(&*prefix)
                && !service.is_idle();
            if !covered {
                continue;
            }
            if services.len() == size as usize {
                next_page_token =
                    services.last().map_or_else(String::new, |last: &v1::ServiceSummary| {
                        last.name.as_ref().map(|name| name.service.clone()).unwrap_or_default()
                    });
                break;
            }
            services.push(convert::service_summary(service));
        }
        let read_metadata = Some(self.metadata(&read, None));
        Ok(Encoded::of(&v1::ListServicesResponse { read_metadata, services, next_page_token }))
    }

    async fn watch(&self, request: v1::WatchRequest) -> Result<Watcher, Status> {
        let target = target(request.target)?;
        let filter = convert::filter(request.filter).map_err(error::of_invalid)?;
        let every = request.bookmark_interval;
        let every = every.map(|every| convert::parse_duration("bookmark_interval", every));
        let every = every.transpose().map_err(error::of_invalid)?;
        let resume = self.resume(&request.resume_token).await?;
        let hub = self.hub();
        let subscription =
            hub.subscribe(target).ok_or_else(|| status::too_many("limits.watches", hub.limit()))?;
        Ok(Watcher::start(self.clone(), subscription, filter, every, resume))
    }

    /// Reads a resume token and waits until this node is as far.
    pub(super) async fn resume(&self, token: &[u8]) -> Result<Option<Token>, Status> {
        if token.is_empty() {
            return Ok(None);
        }
        let token = Token::parse(token).map_err(error::of_invalid)?;
        if token.cluster_id != self.cluster_id() {
            return Err(status::other_cluster(token.cluster_id, self.cluster_id()));
        }
        let epoch = self.view().load().state.epoch();
        if token.epoch == epoch
            && tokio::time::timeout(CATCH_UP, self.view().reached(token.revision)).await.is_err()
        {
            let reached = self.view().load().state.revision();
            return Err(status::behind(token.revision, reached));
        }
        Ok(Some(token))
    }
}

fn name_prefix(text: &str) -> Result<String, Status> {
    let prefix = text.to_ascii_lowercase();
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if prefix.len() > Label::MAX || !prefix.bytes().all(allowed) {
        let problem = "at most 63 letters, digits and hyphens are allowed";
        let invalid = rollcall_core::name::Invalid::new("name_prefix", problem);
        return Err(error::of_invalid(invalid));
    }
    Ok(prefix)
}

fn target(target: Option<v1::watch_request::Target>) -> Result<Target, Status> {
    use v1::watch_request::Target as Wire;
    match target {
        Some(Wire::Services(list)) => {
            let count = list.names.len();
            let names = list.names.into_iter().map(|name| convert::service_name(Some(name)));
            let names = names.collect::<Result<BTreeSet<_>, _>>().map_err(error::of_invalid)?;
            if names.is_empty() || count > WATCHED_MAX {
                return Err(status::out_of_range("services.names", count, 1, WATCHED_MAX));
            }
            Ok(Target::Services(names))
        }
        Some(Wire::Pattern(pattern)) => {
            let namespace = parse_namespace(&pattern.namespace).map_err(error::of_invalid)?;
            let prefix = name_prefix(&pattern.name_prefix)?.into();
            Ok(Target::Pattern { namespace, prefix })
        }
        None => {
            let problem = "name services or a pattern";
            Err(error::of_invalid(rollcall_core::name::Invalid::new("target", problem)))
        }
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

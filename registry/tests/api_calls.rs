//! Calls on one node: reads, limits and refusals, deadlines, health, metrics, the start of a node.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message as _;
use rollcall_proto::{
    error::{Details, reason},
    v1::{self, AdminState, Consistency},
};
use rollcall_registry::{
    host::Host,
    node::{Entry, Node},
};
use std::time::Duration;
use support::{
    Running, Settings, batch, instance_name, options_in, padded, persistent, registration, single,
    tcp_check, within,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::{Code, Request, Status};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tower::Service as _;

async fn unprotected() -> Running {
    let mut settings = Settings::default();
    settings.lease.protection = false;
    single(&settings).await
}

async fn one() -> Running {
    single(&Settings::default()).await
}

fn fields(status: &Status) -> Vec<String> {
    Details::of(status).violations.into_iter().map(|violation| violation.field).collect()
}

fn reason_of(status: &Status) -> String {
    Details::of(status).reason.unwrap_or_default()
}

fn resolve(service: &str) -> v1::ResolveRequest {
    v1::ResolveRequest { service: Some(support::service_name(service)), ..Default::default() }
}

async fn answer(node: &Running, request: v1::ResolveRequest) -> v1::ResolveResponse {
    node.discovery().resolve(request).await.expect("resolve").into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_knows_already_is_not_sent_again_also_of_what_is_gone() {
    let node = one().await;
    node.enlist(vec![persistent("web", "a"), persistent("api", "b")]).await;
    let known = async |service: &str, known: Option<u64>| {
        let request = v1::ResolveRequest { known_service_revision: known, ..resolve(service) };
        let answer = answer(&node, request).await;
        (answer.not_modified, answer.instances.len(), answer.read_metadata.unwrap())
    };
    let (modified, count, metadata) = known("web", None).await;
    assert_eq!((modified, count, metadata.service_revision), (false, 1, 1));
    assert_eq!((metadata.revision, metadata.leader_known), (2, true));
    assert!(metadata.staleness.is_some());
    let (modified, count, _) = known("web", Some(1)).await;
    assert_eq!((modified, count), (true, 0));
    node.enlist(vec![persistent("api", "c")]).await;
    assert!(known("web", Some(1)).await.0, "the change of another service changes nothing");
    let gone = node.deregister("web", "a").await;
    let (modified, count, metadata) = known("web", Some(1)).await;
    assert_eq!((modified, count, metadata.service_revision), (false, 0, gone));
    assert!(known("web", Some(gone)).await.0);
    assert!(known("never", Some(0)).await.0);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_kept_for_callers_follow_every_change() {
    let node = unprotected().await;
    node.enlist(vec![persistent("web", "a"), persistent("web", "b")]).await;
    let far = |zone: &str| v1::Locality { zone: zone.into(), ..Default::default() };
    let mut near = persistent("web", "z");
    near.spec.as_mut().unwrap().locality = Some(far("z1"));
    node.enlist(vec![near]).await;
    let ids = async |zone: &str| {
        let client_locality = (!zone.is_empty()).then(|| far(zone));
        let answer = answer(&node, v1::ResolveRequest { client_locality, ..resolve("web") }).await;
        let ids: Vec<String> = answer.instances.into_iter().map(|i| i.instance_id).collect();
        (ids.join(" "), answer.fail_open)
    };
    for _ in 0..2 {
        assert_eq!(ids("").await, ("a b z".into(), false));
        assert_eq!(ids("z1").await, ("z a b".into(), false));
    }
    node.admin_state("web", "z", AdminState::Draining).await;
    assert_eq!(ids("z1").await, ("a b".into(), false));
    node.admin_state("web", "z", AdminState::Maintenance).await;
    node.enlist((0..3).map(|n| registration("web", &format!("l{n}"), 1)).collect()).await;
    node.fail_open_below("web", 1.0).await;
    support::eventually("they expire", || {
        node.node.api().view().load().state.lease_counts().expired == 3
    })
    .await;
    assert_eq!(ids("").await, ("a b l0 l1 l2".into(), true));
    node.delete_policy("web").await;
    assert_eq!(ids("").await, ("a b".into(), false));
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_wait_for_a_revision_and_say_when_it_does_not_come() {
    let mut settings = Settings::default();
    settings.api.request_deadline = Duration::from_secs(1);
    let node = single(&settings).await;
    let wait = |min_revision| v1::ResolveRequest { min_revision, ..resolve("web") };
    let status = node.discovery().resolve(wait(5)).await.unwrap_err();
    let expected = (Code::DeadlineExceeded, reason::REVISION_NOT_REACHED.to_owned());
    assert_eq!((status.code(), reason_of(&status)), expected);
    let (read, _) = tokio::join!(answer(&node, wait(1)), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.enlist(vec![persistent("web", "a")]).await
    });
    assert_eq!(read.instances.len(), 1);
    for consistency in [Consistency::Linearizable, Consistency::Bounded] {
        let bounded = consistency == Consistency::Bounded;
        let max_staleness = if bounded { support::seconds(1) } else { None };
        let consistency = consistency.into();
        let read = v1::ResolveRequest { consistency, max_staleness, ..resolve("web") };
        assert_eq!(answer(&node, read).await.instances.len(), 1);
    }
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_pages_by_name_within_its_namespace() {
    let node = one().await;
    let names = ["web", "web-1", "web-2", "webs", "we", "x"];
    let mut items: Vec<_> = names.iter().map(|name| persistent(name, "a")).collect();
    items.push(persistent("web-3", "b"));
    items[6].name.as_mut().unwrap().namespace = "other".into();
    node.enlist(items).await;
    node.deregister("web-2", "a").await;
    let list = async |prefix: &str, page_size: u32| {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let name_prefix = prefix.to_owned();
            let request = v1::ListServicesRequest {
                name_prefix,
                page_size,
                page_token,
                ..Default::default()
            };
            let page = node.discovery().list_services(request).await.unwrap().into_inner();
            let names = page.services.into_iter().map(|s| s.name.unwrap().service);
            found.extend(names);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break found.join(" ");
            }
        }
    };
    for page_size in [1, 2, 100] {
        assert_eq!(list("", page_size).await, "we web web-1 webs x");
        assert_eq!(list("web", page_size).await, "web web-1 webs");
        assert_eq!(list("web-", page_size).await, "web-1");
        assert_eq!(list("y", page_size).await, "");
    }
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_limit_names_its_field_and_a_batch_is_all_or_nothing() {
    type Break = fn(&mut v1::Registration);
    fn spec(item: &mut v1::Registration) -> &mut v1::InstanceSpec {
        item.spec.as_mut().unwrap()
    }
    fn endpoint(item: &mut v1::Registration) -> &mut v1::Endpoint {
        &mut spec(item).endpoints[0]
    }
    let cases: [(&str, Break); 20] = [
        ("name", |i| i.name = None),
        ("name.service", |i| i.name.as_mut().unwrap().service = "a".repeat(64)),
        ("name.namespace", |i| i.name.as_mut().unwrap().namespace = "no_such".into()),
        ("name.instance_id", |i| i.name.as_mut().unwrap().instance_id = "a b".into()),
        ("owner_nonce", |i| i.owner_nonce = vec![1; 15]),
        ("spec", |i| i.spec = None),
        ("spec.endpoints", |i| spec(i).endpoints.clear()),
        ("spec.endpoints", |i| {
            let first = spec(i).endpoints[0].clone();
            spec(i).endpoints = vec![first; 17];
        }),
        ("spec.endpoints[0].host", |i| endpoint(i).host = "localhost".into()),
        ("spec.endpoints[0].host", |i| endpoint(i).host = "0.0.0.0".into()),
        ("spec.endpoints[0].port", |i| endpoint(i).port = 70_000),
        ("spec.endpoints[0].port", |i| endpoint(i).port = 0),
        ("spec.endpoints[0].name", |i| endpoint(i).name = "a\nb".into()),
        ("spec.weight", |i| spec(i).weight = Some(65_536)),
        ("spec.tags", |i| spec(i).tags = (0..33).map(|n| format!("t{n}")).collect()),
        ("spec.tags[0]", |i| spec(i).tags = vec!["\u{1b}[31m".into()]),
        ("spec.metadata", |i| {
            spec(i).metadata = (0..65).map(|n| (format!("k{n}"), String::new())).collect();
        }),
        ("spec.ttl", |i| spec(i).ttl = support::seconds(0)),
        ("spec.ttl", |i| spec(i).ttl = support::seconds(25 * 3600)),
        ("spec", |i| *i = padded(i.clone(), 9_000)),
    ];
    let node = one().await;
    for (field, break_it) in cases {
        let mut items = vec![registration("web", "good", 1), registration("web", "bad", 2)];
        break_it(&mut items[1]);
        let status = node.registration().register(batch(items)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        let found = fields(&status);
        let begins = format!("items[1].{field}");
        assert!(found.iter().any(|found| found.starts_with(&begins)), "{begins}: {found:?}");
        assert_eq!(reason_of(&status), reason::INVALID_REQUEST);
        assert!(!status.message().contains(['\n', '\u{1b}']), "{:?}", status.message());
    }
    let many = (0..1_001).map(|n| persistent("web", &format!("i{n}"))).collect();
    let twice = vec![persistent("web", "a"), persistent("web", "a")];
    for items in [many, twice, vec![]] {
        let status = node.registration().register(batch(items)).await.unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["items".into()]));
    }
    // There are no scripts to check with: what is none of the known kinds says nothing.
    let mut checked = registration("web", "good", 1);
    let script = v1::HealthCheck { probe: None, ..tcp_check("c") };
    checked.spec.as_mut().unwrap().health_checks = vec![script];
    let status = node.registration().register(batch(vec![checked])).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(fields(&status)[0].starts_with("items[0].spec.health_checks[0]"), "{status:?}");
    assert_eq!(node.resolve("web").await, [""; 0], "nothing of all that was registered");
    assert_eq!(node.node.api().view().load().state.revision(), 0);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_instance_is_where_no_probe_may_go() {
    let node = one().await;
    // The registry is no instance of anything, and what a caller may not reach no check may reach for it.
    let listen = node.node.listen;
    let own = [listen.grpc, listen.http, listen.dns, listen.peer].map(|address| address.port());
    let own = own.into_iter().flat_map(|port| {
        ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"].map(|host| (host, port))
    });
    let metadata = [
        "169.254.169.254",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "fd00:ec2::254",
        "0xA9FEA9FE",
        "2852039166",
    ];
    for (host, port) in own.chain(metadata.map(|host| (host, 80))) {
        let mut reaching = registration("web", "good", 1);
        let endpoint = &mut reaching.spec.as_mut().unwrap().endpoints[0];
        (endpoint.host, endpoint.port) = (host.into(), u32::from(port));
        let status = node.registration().register(batch(vec![reaching])).await.unwrap_err();
        assert_eq!(fields(&status), ["items[0].spec.endpoints[0].host"], "{host}:{port}");
    }
    assert_eq!(node.resolve("web").await, [""; 0], "nothing of all that was registered");
    assert_eq!(node.node.api().view().load().state.revision(), 0);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_catalogue_have_their_codes() {
    let node = one().await;
    node.enlist(vec![persistent("web", "a")]).await;
    let mut request = batch(vec![persistent("web", "b")]);
    request.request_id = "once".into();
    let first = node.registration().register(request.clone()).await.unwrap().into_inner();
    let again = node.registration().register(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, again);
    request.items[0].name = Some(instance_name("web", "c"));
    let status = node.registration().register(request).await.unwrap_err();
    let expected = (Code::AlreadyExists, reason::REQUEST_ID_REUSED.to_owned());
    assert_eq!((status.code(), reason_of(&status)), expected);
    let mut item = persistent("web", "a");
    item.expected_revision = Some(99);
    item.spec.as_mut().unwrap().weight = Some(7);
    let status = node.registration().register(batch(vec![item])).await.unwrap_err();
    assert_eq!((status.code(), &*reason_of(&status)), (Code::Aborted, reason::REVISION_MISMATCH));
    assert_eq!(Details::of(&status).metadata["current"], "1");
    let missing =
        v1::GetInstanceRequest { name: Some(instance_name("web", "never")), ..Default::default() };
    let status = node.discovery().get_instance(missing).await.unwrap_err();
    assert_eq!((status.code(), &*reason_of(&status)), (Code::NotFound, reason::INSTANCE_NOT_FOUND));
    node.node.shutdown().await;
}

/// One call with any bytes as its body; the status of the answer.
async fn raw(node: &Running, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Status {
    let request = || {
        let mut request = http::Request::post(path.to_owned()).header("te", "trailers");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/grpc");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = tonic::body::Body::new(Full::new(Bytes::from(body.clone())));
        request.body(body).unwrap()
    };
    let mut channel = node.channel();
    let call = async {
        loop {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
            // A deadline in the headers also ends tonic's own side, sometimes before the server's answer is here.
            if let Ok(answer) = channel.call(request()).await {
                return answer;
            }
        }
    };
    let (parts, body) = within("an answer", call).await.into_parts();
    if let Some(status) = Status::from_header_map(&parts.headers) {
        return status;
    }
    let trailers = body.collect().await.ok().and_then(|body| body.trailers().cloned());
    let status = trailers.and_then(|trailers| Status::from_header_map(&trailers));
    status.unwrap_or_else(|| Status::unknown(parts.status.to_string()))
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap());
    bytes.put_slice(message);
    bytes.to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_with_a_reason_and_harms_nobody() {
    const RESOLVE: &str = "/rollcall.v1.DiscoveryService/Resolve";
    const REGISTER: &str = "/rollcall.v1.RegistrationService/Register";
    let node = one().await;
    let good = framed(&resolve("web").encode_to_vec());
    for path in [RESOLVE, REGISTER] {
        // Bad wire types, a length beyond the end, text that is no UTF-8, and an empty field number.
        let bad_text = [0x0a, 0x04, 0x0a, 0x02, 0xff, 0xfe];
        for garbage in [&[0xff; 40][..], &[0x0a, 0x7f, 1, 2], &bad_text, &[0x00, 0x01]] {
            let status = raw(&node, path, &[], framed(garbage)).await;
            let expected = (Code::InvalidArgument, reason::INVALID_REQUEST.to_owned());
            assert_eq!((status.code(), reason_of(&status)), expected, "{path} {garbage:?}");
        }
        let cut = framed(&[1; 100])[..50].to_vec();
        let status = raw(&node, path, &[], cut).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let status = raw(&node, path, &[], vec![]).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let status = raw(&node, path, &[], framed(&vec![0; (4 << 20) + 1])).await;
        let expected = (Code::ResourceExhausted, reason::TOO_LARGE.to_owned());
        assert_eq!((status.code(), reason_of(&status)), expected);
        let mut compressed = good.clone();
        compressed[0] = 1;
        let status = raw(&node, path, &[], compressed.clone()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let status = raw(&node, path, &[("grpc-encoding", "snappy")], compressed).await;
        assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    }
    let deep = (0..200).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(inner.len() as u64, &mut outer);
        outer.extend(inner);
        outer
    });
    raw(&node, REGISTER, &[], framed(&deep)).await;
    let status = raw(&node, "/rollcall.v1.DiscoveryService/Nothing", &[], good.clone()).await;
    assert_eq!((status.code(), &*reason_of(&status)), (Code::Unimplemented, reason::UNIMPLEMENTED));
    let status = raw(&node, "/rollcall.internal.v1.PeerService/Submit", &[], good.clone()).await;
    assert_eq!(status.code(), Code::Unimplemented, "the peers have a port of their own");
    let status = raw(&node, RESOLVE, &[("content-type", "text/html")], good.clone()).await;
    assert!(status.message().starts_with("415"), "{status:?}");
    let huge = "x".repeat(17 * 1024);
    let mut channel = node.discovery();
    let mut request = Request::new(resolve("web"));
    request.metadata_mut().insert("x-huge", huge.parse().unwrap());
    assert!(channel.resolve(request).await.is_err(), "a header list above 16 KiB");
    assert_eq!(raw(&node, RESOLVE, &[], good).await.code(), Code::Ok);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_of_the_caller_is_deadline_exceeded() {
    let node = one().await;
    let wait = v1::ResolveRequest { min_revision: 99, ..resolve("web") };
    let body = framed(&wait.encode_to_vec());
    let path = "/rollcall.v1.DiscoveryService/Resolve";
    let began = tokio::time::Instant::now();
    let status = raw(&node, path, &[("grpc-timeout", "200m")], body).await;
    assert_eq!((status.code(), &*reason_of(&status)), (Code::DeadlineExceeded, "DEADLINE"));
    assert!(Details::of(&status).retry_after.is_some());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_the_truth_and_reflection_what_is_public() {
    let node = one().await;
    let mut health = HealthClient::new(node.channel());
    let service = |service: &str| HealthCheckRequest { service: service.into() };
    let services = ["Discovery", "Registration", "Journal", "Admin"];
    let mut names = services.map(|name| format!("rollcall.v1.{name}Service")).to_vec();
    names.push(String::new());
    for name in &names {
        within("it serves", async {
            loop {
                let answer = health.check(service(name)).await.map(|a| a.into_inner().status());
                if answer.is_ok_and(|status| status == ServingStatus::Serving) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    use tonic_reflection::pb::v1 as reflection;
    let mut client =
        reflection::server_reflection_client::ServerReflectionClient::new(node.channel());
    let ask = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answer = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap();
    let answer = answer.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    let reflection::server_reflection_response::MessageResponse::ListServicesResponse(list) =
        answer
    else {
        panic!("{answer:?}");
    };
    let listed: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(listed.iter().all(|name| !name.contains("internal")), "{listed:?}");
    let public = |name: &&String| name.starts_with("rollcall.v1.");
    assert_eq!(listed.iter().filter(public).count(), 4, "{listed:?}");
    assert!(listed.contains(&"grpc.health.v1.Health".to_owned()), "{listed:?}");

    let watched = health.watch(service("")).await.unwrap();
    let mut watched = watched.into_inner();
    let next = async |stream: &mut tonic::Streaming<_>| {
        let next = within("a status", stream.message()).await.ok().flatten();
        next.map(|answer: tonic_health::pb::HealthCheckResponse| answer.status())
    };
    assert_eq!(next(&mut watched).await, Some(ServingStatus::Serving));
    let began = tokio::time::Instant::now();
    node.node.shutdown().await;
    assert_eq!(next(&mut watched).await, Some(ServingStatus::NotServing));
    assert_eq!(next(&mut watched).await, None);
    assert!(began.elapsed() < Duration::from_secs(4), "who watches the health holds nobody up");
}

async fn get(node: &Running, path: &str) -> String {
    let mut stream = TcpStream::connect(node.node.listen.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    within("an answer", stream.read_to_string(&mut text)).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn http_tells_of_health_and_counts_calls_without_unbounded_labels() {
    let node = one().await;
    assert!(get(&node, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&node, "/readyz").await.starts_with("HTTP/1.1 200"));
    node.enlist(vec![persistent("web", "a")]).await;
    for n in 0..50 {
        raw(&node, &format!("/made.up.Service{n}/Method"), &[], vec![]).await;
    }
    node.registration().register(batch(vec![])).await.unwrap_err();
    let text = get(&node, "/metrics").await;
    let has = |line: &str| assert!(text.contains(line), "{line} is missing in\n{text}");
    has("rollcall_instances 1");
    has("rollcall_calls_total{method=\"RegistrationService/Register\",code=\"OK\"} 1");
    let refused = "{method=\"RegistrationService/Register\",code=\"INVALID_ARGUMENT\"} 1";
    has(&format!("rollcall_calls_total{refused}"));
    has("rollcall_calls_total{method=\"other\",code=\"UNIMPLEMENTED\"} 50");
    has("rollcall_call_seconds_count{method=\"RegistrationService/Register\"} 2");
    assert!(!text.contains("made.up"), "a label for whatever a caller makes up");
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_had_a_state_does_not_claim_that_there_is_nothing() {
    let entry = Entry::default();
    let lonely = support::start_in(TempDir::new().unwrap(), &Settings::default(), entry, 9).await;
    let status = lonely.discovery().resolve(resolve("web")).await.unwrap_err();
    let stale = (Code::Unavailable, reason::STALE_REPLICA.to_owned());
    assert_eq!((status.code(), reason_of(&status)), stale);
    let request = support::model::services(&["web"]);
    let status = lonely.discovery().watch(request).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), stale);
    let write = batch(vec![persistent("web", "a")]);
    let status = lonely.registration().register(write).await.unwrap_err();
    assert_eq!((status.code(), &*reason_of(&status)), (Code::Unavailable, reason::NO_LEADER));
    assert!(get(&lonely, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get(&lonely, "/readyz").await.starts_with("HTTP/1.1 503"));
    lonely.admin().get_cluster_status(v1::GetClusterStatusRequest {}).await.expect("status");
    lonely.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_fails_says_what_to_do() {
    let node = one().await;
    let fails = async |dir: &TempDir, taken: bool| {
        let mut options = options_in(dir, &Settings::default(), Entry::default(), 5);
        if taken {
            options.listen.grpc = node.node.listen.grpc;
        }
        Node::start(options, Host::system(5)).await.expect_err("it cannot start").to_string()
    };
    let error = fails(&TempDir::new().unwrap(), true).await;
    assert!(error.contains(&node.node.listen.grpc.to_string()), "{error}");
    assert!(error.contains("choose another port"), "{error}");
    let error = fails(&node.dir, false).await;
    assert!(error.contains(&node.dir.path().display().to_string()), "{error}");
    assert!(error.contains("another") || error.contains("lock"), "{error}");
    // What is there after a stop is found again, and the directory is free at once.
    node.enlist(vec![persistent("web", "a")]).await;
    let Running { node: stopped, dir } = node;
    stopped.shutdown().await;
    let again = support::start_in(dir, &Settings::default(), Entry::default(), 1).await;
    within("it is ready", again.node.ready()).await;
    assert_eq!(again.resolve("web").await, ["a"]);
    let watch = support::model::Model::complete(&again, support::model::services(&["web"])).await;
    assert_eq!((watch.of("web").ids(), watch.snapshots), (vec!["a"], 1));
    again.node.shutdown().await;
}

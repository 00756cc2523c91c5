//! A registry that answers whatever it likes: every form of nonsense on the wire is survived without a panic, calls end
//! by their deadline, and the last good list stays.
#![expect(clippy::unwrap_used, reason = "all of this file is a test")]

mod fake;

use bytes::Bytes;
use fake::Registry;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proptest::prelude::*;
use rollcall_client::{
    Address, Builder, Client, Connection, Connector, Picture, Registration, Selection, Update,
    Watch, v1,
};
use std::{
    convert::Infallible,
    io,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, sleep},
};
use v1::watch_response::{Bookmark, Delta, Event, Snapshot};

type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, io::Error>> + Send>>;

/// One answer to one request.
#[derive(Debug, Clone)]
struct Answer {
    code: u16,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<Vec<u8>>,
    trailers: Vec<(&'static str, Vec<u8>)>,
    end: End,
}

/// How an answer ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// In good order.
    Close,
    /// With a reset.
    Reset,
    /// Never.
    Hang,
    /// Never, and it does not stop sending.
    Repeat,
}

/// What a connection meets.
#[derive(Debug, Clone)]
enum Attack {
    /// HTTP/2, with these answers in turn.
    Answers(Vec<Answer>),
    /// These bytes instead of HTTP/2; then an end, or silence.
    Bytes(Vec<u8>, bool),
}

/// Panics of this process, also of those that the library caught.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // A failed assertion of a test is no panic of the library.
            let here = info.location().is_some_and(|at| at.file().ends_with("tests/hostile.rs"));
            PANICS.fetch_add(usize::from(!here), Relaxed);
            before(info);
        }));
    });
}

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    frame.extend(body);
    frame
}

fn web() -> Option<v1::ServiceName> {
    Some(v1::ServiceName { namespace: String::new(), service: "web".to_owned() })
}

/// Of services that were asked for, that were not, and that cannot be; of instances that are there or not.
fn figures() -> impl Strategy<Value = Vec<v1::ServiceUtilization>> {
    let name = prop_oneof![4 => Just("web"), 1 => Just("other"), 1 => Just("no name")];
    let service = name
        .prop_map(|name| Some(v1::ServiceName { service: name.to_owned(), ..Default::default() }));
    let service = prop_oneof![4 => service, 1 => Just(None)];
    let figure = (0..9_u8, prop::option::of(any::<u32>())).prop_map(|(id, percent)| {
        v1::InstanceUtilization { instance_id: format!("lie-{id}"), percent }
    });
    let told = (service, prop::collection::vec(figure, 0..3))
        .prop_map(|(service, instances)| v1::ServiceUtilization { service, instances });
    prop::collection::vec(told, 0..3)
}

/// What a node may say in a watch: the words of one that is behind, or lies that no revision gives away.
fn watch_message(lies: bool) -> impl Strategy<Value = Vec<u8>> {
    let ids = prop::collection::vec(0..9_u8, 0..5).prop_map(|ids| {
        let instance = |id| v1::Instance { instance_id: format!("lie-{id}"), ..Default::default() };
        ids.into_iter().map(instance).collect::<Vec<_>>()
    });
    let event = prop_oneof![
        (any::<bool>(), ids.clone()).prop_map(|(more, instances)| Event::Snapshot(Snapshot {
            more,
            instances,
            ..Default::default()
        })),
        ids.prop_map(|upserted| Event::Delta(Delta { upserted, ..Default::default() })),
        (any::<bool>(), any::<i64>(), any::<bool>(), figures()).prop_map(
            move |(leader_known, seconds, whole, utilization)| {
                let staleness = Some(prost_types::Duration { seconds, nanos: 0 });
                let initial_state_complete = lies && whole;
                Event::Bookmark(Bookmark {
                    staleness,
                    leader_known,
                    initial_state_complete,
                    utilization,
                })
            }
        ),
    ];
    let tokens = prop::collection::vec(any::<u8>(), 0..9);
    (0..5_u64, any::<u64>(), event, any::<bool>(), tokens).prop_map(
        move |(below, anything, event, named, token)| {
            let service = if named { web() } else { None };
            // Below the revision of the true list, or anywhere.
            let revision = if lies { anything } else { below };
            let resume_token = if lies { token } else { Vec::new() };
            framed(&v1::WatchResponse { revision, service, resume_token, event: Some(event) })
        },
    )
}

fn answer(lies: bool) -> impl Strategy<Value = Answer> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let text = || prop::collection::vec(33..127_u8, 0..60);
    let status = || {
        prop_oneof![
            3 => (0..20_u8).prop_map(|code| code.to_string().into_bytes()),
            1 => bytes(),
        ]
    };
    let details = prop_oneof![text(), bytes(), Just(b"!!! not base64".to_vec())];
    let field = prop_oneof![
        4 => status().prop_map(|value| ("grpc-status", value)),
        2 => details.prop_map(|value| ("grpc-status-details-bin", value)),
        1 => bytes().prop_map(|value| ("grpc-message", value)),
        1 => text().prop_map(|value| ("grpc-encoding", value)),
        1 => Just(("content-type", b"text/html".to_vec())),
        1 => text().prop_map(|value| ("x-rollcall-leader", value)),
        1 => Just(("x-rollcall-leader", b"n2:8502".to_vec())),
    ];
    let chunk = prop_oneof![
        4 => watch_message(lies),
        2 => bytes(),
        1 => Just(vec![0; 5]),
        1 => Just(vec![0, 0xff, 0xff, 0xff, 0xff, 1]),
        1 => Just(vec![1, 0, 0, 0, 1, 7]),
        1 => Just(framed(&v1::RegisterResponse { items: vec![], revision: u64::MAX })),
        1 => Just(framed(&v1::StreamHeartbeatsResponse {
            ack_sequence: u64::MAX,
            reregister_handles: vec![0, 1, u64::MAX],
            heartbeat_interval: Some(prost_types::Duration { seconds: -1, nanos: i32::MAX }),
            go_away_after: Some(prost_types::Duration { seconds: i64::MAX, nanos: -1 }),
            ..Default::default()
        })),
    ];
    let end = prop_oneof![Just(End::Close), Just(End::Reset), Just(End::Hang), Just(End::Repeat)];
    let code = prop_oneof![6 => Just(200_u16), 1 => Just(404), 1 => Just(503), 1 => Just(204)];
    let fields = || prop::collection::vec(field.clone(), 0..3);
    (code, fields(), prop::collection::vec(chunk, 0..5), fields(), end).prop_map(
        |(code, headers, body, trailers, end)| Answer { code, headers, body, trailers, end },
    )
}

fn attack(lies: bool) -> impl Strategy<Value = Attack> {
    prop_oneof![
        8 => prop::collection::vec(answer(lies), 1..6).prop_map(Attack::Answers),
        1 => (prop::collection::vec(any::<u8>(), 0..200), any::<bool>())
            .prop_map(|(bytes, ends)| Attack::Bytes(bytes, ends)),
    ]
}

fn fields(fields: &[(&'static str, Vec<u8>)]) -> HeaderMap {
    let value = |(name, value): &(&'static str, Vec<u8>)| {
        Some((HeaderName::from_static(name), HeaderValue::from_bytes(value).ok()?))
    };
    fields.iter().filter_map(value).collect()
}

fn body(answer: &Answer) -> Frames {
    let chunks: Vec<Bytes> = answer.body.iter().cloned().map(Bytes::from).collect();
    let data = |chunk: Bytes| Ok(Frame::data(chunk));
    let once = stream::iter(chunks.clone()).map(data);
    match answer.end {
        End::Close => {
            let trailers = fields(&answer.trailers);
            let last = stream::iter((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))));
            Box::pin(once.chain(last))
        }
        End::Reset => Box::pin(once.chain(stream::iter([Err(io::Error::other("reset"))]))),
        End::Hang => Box::pin(once.chain(stream::pending())),
        End::Repeat => {
            let again = stream::iter(chunks).cycle().then(move |chunk| async move {
                sleep(Duration::from_millis(5)).await;
                data(chunk)
            });
            Box::pin(again)
        }
    }
}

async fn serve(io: tokio::io::DuplexStream, attack: Attack, served: Arc<AtomicUsize>) {
    match attack {
        Attack::Bytes(bytes, ends) => {
            let mut io = io;
            let _ = io.write_all(&bytes).await;
            if !ends {
                std::future::pending::<()>().await;
            }
        }
        Attack::Answers(answers) => {
            let service = service_fn(move |_: Request<Incoming>| {
                let number = served.fetch_add(1, Relaxed);
                let answer = &answers[number % answers.len()];
                let mut response = Response::new(StreamBody::new(body(answer)));
                *response.status_mut() = answer.code.try_into().unwrap();
                response.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
                response.headers_mut().extend(fields(&answer.headers));
                async move { Ok::<_, Infallible>(response) }
            });
            let served = http2::Builder::new(TokioExecutor::new());
            let _ = served.serve_connection(TokioIo::new(io), service).await;
        }
    }
}

/// Connections go to the honest registry or meet the attack, as the switch says.
struct Switch {
    attack: Arc<Mutex<Option<Attack>>>,
    serving: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
    connector: Connector,
}

impl Switch {
    fn new(honest: Connector) -> Self {
        let attack = Arc::<Mutex<Option<Attack>>>::default();
        let serving = Arc::<Mutex<Vec<_>>>::default();
        let (current, served) = (Arc::clone(&attack), Arc::<AtomicUsize>::default());
        let tasks = Arc::clone(&serving);
        let connector = Connector::new(move |address: Address| {
            let Some(attack) = current.lock().unwrap().clone() else {
                return honest.connect(address);
            };
            let (ours, theirs) = tokio::io::duplex(1 << 16);
            let task = tokio::spawn(serve(theirs, attack, Arc::clone(&served)));
            tasks.lock().unwrap().push(task.abort_handle());
            Box::pin(async move { Ok(Connection::new(ours, None)) })
        });
        Self { attack, serving, connector }
    }

    /// The attack is over, and so are its connections.
    fn end(&self) {
        *self.attack.lock().unwrap() = None;
        self.serving.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

fn ids(picture: &Picture) -> Vec<String> {
    picture.services.values().flat_map(|web| web.instances.keys().cloned()).collect()
}

/// Streams on which the truth was told; they stay open.
#[derive(Default)]
struct Told(Vec<tokio::sync::mpsc::Sender<Result<v1::WatchResponse, tonic::Status>>>);

async fn tell_truth(registry: &Registry, told: &mut Told) {
    let revision = 10;
    for node in &registry.nodes {
        let watches = std::mem::take(&mut node.state().watches);
        for (_, to) in watches {
            let instances = ["a", "b"]
                .map(|id| v1::Instance { instance_id: id.to_owned(), ..Default::default() });
            let snapshot = Snapshot {
                service_exists: true,
                instances: instances.into(),
                ..Default::default()
            };
            let message = |service, event| v1::WatchResponse {
                revision,
                service,
                resume_token: Vec::new(),
                event: Some(event),
            };
            let bookmark = Bookmark {
                initial_state_complete: true,
                leader_known: true,
                staleness: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
                ..Default::default()
            };
            let _ = to.send(Ok(message(web(), Event::Snapshot(snapshot)))).await;
            let _ = to.send(Ok(message(None, Event::Bookmark(bookmark)))).await;
            told.0.push(to);
        }
    }
}

async fn until(
    registry: &Registry,
    told: &mut Told,
    watch: &Watch,
    wanted: impl Fn(&Picture) -> bool,
) {
    let end = Instant::now() + Duration::from_secs(120);
    while !wanted(&watch.current()) {
        assert!(Instant::now() < end, "waited in vain: {:?}", watch.current().problem);
        tell_truth(registry, told).await;
        sleep(Duration::from_millis(20)).await;
    }
}

/// Every kind of call against whatever answers; each ends in time, however it ends.
async fn call_everything(client: &Client) {
    let limit = client.timeout() + Duration::from_millis(50);
    in_time("resolve", limit, client.resolve(v1::ResolveRequest::default())).await;
    in_time("deregister", limit, client.deregister(v1::DeregisterRequest::default())).await;
    in_time("transfer", limit, client.transfer_leader(v1::TransferLeaderRequest::default())).await;
    in_time("status", limit, client.get_cluster_status()).await;
    // Each page, snapshot and tail has a deadline; how many there are is up to the node.
    let one = client.with_timeout(Duration::from_millis(500));
    let _ = tokio::time::timeout(limit, one.list_all_services(Default::default())).await;
    let _ = tokio::time::timeout(limit, async {
        if let Ok(mut export) = client.export_snapshot().await {
            while let Ok(Some(_)) = export.next().await {}
        }
        let mut tail = client.tail(v1::TailRequest::default());
        while tail.next().await.is_ok() {}
    })
    .await;
}

/// Each call by itself: eight that take the time of one each are no eight that take it together.
async fn in_time<T>(what: &str, limit: Duration, call: impl Future<Output = T>) {
    let begin = Instant::now();
    let _ = call.await;
    assert!(begin.elapsed() <= limit, "{what} took {:?}", begin.elapsed());
}

/// An honest start, an attack, and an honest end. Lies are believed while nobody tells the truth.
async fn survive(attack: Attack, lies: bool) {
    let registry = Registry::start(2);
    let switch = Switch::new(registry.connector());
    let client = Builder::new(["n1", "n2"])
        .seed([3; 32])
        .connector(switch.connector.clone())
        .timeout(Duration::from_secs(2))
        .attempt_timeout(Duration::from_millis(500))
        .build()
        .unwrap();
    let mut told = Told::default();
    let mut watch = client.watch(Selection::service("web").unwrap()).unwrap();
    until(&registry, &mut told, &watch, |picture| picture.complete).await;
    // From the first one on updates are kept.
    assert!(matches!(watch.next().now_or_never(), Some(Update::Reset(_))));
    let here = "10.0.0.1:80".parse().unwrap();
    let kept = Registration::new("web").endpoint("http", here).ttl(Duration::from_secs(3));
    let guard = client.register(kept.clone()).await.unwrap();

    *switch.attack.lock().unwrap() = Some(attack.clone());
    registry.nodes.iter().for_each(fake::Node::cut);
    let attacked = async {
        call_everything(&client).await;
        let other = client.register(kept.clone().id("other")).await;
        sleep(Duration::from_secs(20)).await;
        drop(other);
    };
    // The list that is shown meanwhile never holds a lie.
    let mut pictures = watch.pictures();
    let look = async {
        while pictures.changed().await.is_ok() {
            let picture = Arc::clone(&pictures.borrow_and_update());
            assert!(lies || ids(&picture) == ["a", "b"], "{attack:?}: {:?}", ids(&picture));
        }
    };
    tokio::select! {
        biased;
        () = look => unreachable!("the watch lives"),
        () = attacked => {}
    }

    switch.end();
    let now = Instant::now();
    until(&registry, &mut told, &watch, |picture| {
        let heard = picture.connected && picture.heard.is_some_and(|at| at > now);
        heard && (!lies || ids(picture) == ["a", "b"])
    })
    .await;
    assert_eq!(ids(&watch.current()), ["a", "b"]);
    let end = Instant::now() + Duration::from_secs(120);
    while guard.acknowledged().is_none_or(|beat| beat.sent < now) {
        assert!(Instant::now() < end, "no beat: {:?} after {attack:?}", guard.state());
        tell_truth(&registry, &mut told).await;
        sleep(Duration::from_millis(20)).await;
    }
    while let Some(update) = watch.next().now_or_never() {
        match update {
            _ if lies => {}
            Update::Snapshot(service) | Update::Delta { service, .. } => {
                assert!(service.instances.keys().all(|id| ["a", "b"].contains(&id.as_str())));
            }
            Update::Reset(picture) => assert_eq!(ids(&picture), ["a", "b"]),
            Update::Bookmark { .. } => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_answer_of_a_registry_harms_its_clients(attack in attack(false)) {
        endure(&attack, false)?;
    }

    #[test]
    fn after_lies_of_any_revision_the_truth_is_shown_again(attack in attack(true)) {
        endure(&attack, true)?;
    }
}

fn endure(attack: &Attack, lies: bool) -> Result<(), TestCaseError> {
    count_panics();
    let before = PANICS.load(Relaxed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    let survived = AssertUnwindSafe(|| runtime.block_on(survive(attack.clone(), lies)));
    let result = std::panic::catch_unwind(survived);
    prop_assert!(result.is_ok(), "{:?}", attack);
    prop_assert_eq!(PANICS.load(Relaxed), before, "a panic inside, at {:?}", attack);
    Ok(())
}

#[test]
fn details_that_are_not_base64_end_no_task() {
    count_panics();
    let before = PANICS.load(Relaxed);
    let fields = || {
        vec![
            ("grpc-status", b"14".to_vec()),
            ("grpc-message", b"gone".to_vec()),
            ("grpc-status-details-bin", b"***".to_vec()),
        ]
    };
    let in_headers =
        Answer { code: 200, headers: fields(), body: vec![], trailers: vec![], end: End::Close };
    let in_trailers = Answer { headers: vec![], trailers: fields(), ..in_headers.clone() };
    let late = Answer { body: vec![framed(&v1::WatchResponse::default())], ..in_trailers.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    for answer in [in_headers, in_trailers, late] {
        runtime.block_on(survive(Attack::Answers(vec![answer]), false));
    }
    assert_eq!(PANICS.load(Relaxed), before);
}

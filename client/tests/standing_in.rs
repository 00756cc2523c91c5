//! What a watch shows where the registry does not answer, or seems to have lost its mind: the copy on disk, the
//! fallback, and instances that are held.

mod fake;

use fake::{Node, Registry};
use rollcall_client::{
    Client, Copies, Origin, Picture, Selection, ServiceName, StoredCopy, Update, Watch, v1,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tonic::Status;
use v1::watch_response::{Bookmark, Delta, Event, Removal, Snapshot};

type Sender = mpsc::Sender<Result<v1::WatchResponse, Status>>;

const WAIT: Duration = Duration::from_secs(60);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A disk in memory.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl Disk {
    fn copies(&self) -> Copies {
        let (from, to) = (self.clone(), self.clone());
        Copies::new(
            move |name| {
                let bytes = from.files().get(&name).cloned();
                let copy = bytes.map(|bytes| StoredCopy { bytes, age: Some(ms(5_000)) });
                Box::pin(async move { Ok(copy) })
            },
            move |name, bytes| {
                to.files().insert(name, bytes);
                Box::pin(async { Ok(()) })
            },
        )
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().expect("no test panics while it holds this")
    }

    async fn until_saved(&self, what: impl Fn(&[u8]) -> bool) {
        let end = Instant::now() + WAIT;
        while !self.files().values().any(|bytes| what(bytes)) {
            assert!(Instant::now() < end, "nothing was saved");
            sleep(ms(50)).await;
        }
    }
}

fn name() -> ServiceName {
    ServiceName::parse("", "web").expect("a name")
}

fn selection() -> Selection {
    Selection::services([name()])
}

fn wire() -> Option<v1::ServiceName> {
    Some(v1::ServiceName { namespace: "default".to_owned(), service: "web".to_owned() })
}

fn snapshot(revision: u64, ids: &[&str]) -> v1::WatchResponse {
    let instance = |id: &&str| v1::Instance { instance_id: (*id).to_owned(), ..Default::default() };
    let instances = ids.iter().map(instance).collect();
    let event = Snapshot { service_exists: true, instances, ..Default::default() };
    let event = Some(Event::Snapshot(event));
    v1::WatchResponse { revision, service: wire(), event, ..Default::default() }
}

fn removal(revision: u64, ids: &[&str], reason: v1::EventReason) -> v1::WatchResponse {
    let removal = |id: &&str| Removal {
        instance_id: (*id).to_owned(),
        reason: reason.into(),
        ..Default::default()
    };
    let event = Delta {
        service_exists: true,
        removed: ids.iter().map(removal).collect(),
        ..Default::default()
    };
    let event = Some(Event::Delta(event));
    v1::WatchResponse { revision, service: wire(), event, ..Default::default() }
}

fn bookmark(revision: u64) -> v1::WatchResponse {
    let event = Bookmark { leader_known: true, initial_state_complete: true, ..Default::default() };
    let resume_token = revision.to_be_bytes().to_vec();
    let event = Some(Event::Bookmark(event));
    v1::WatchResponse { revision, service: None, resume_token, event }
}

async fn stream(node: &Node) -> (v1::WatchRequest, Sender) {
    node.until("a watch", |state| (!state.watches.is_empty()).then(|| state.watches.remove(0)))
        .await
}

async fn send(to: &Sender, messages: impl IntoIterator<Item = v1::WatchResponse>) {
    for message in messages {
        to.send(Ok(message)).await.expect("the stream is read");
    }
}

fn ids(picture: &Picture) -> Vec<&str> {
    let web = picture.services.get(&name());
    web.map(|web| web.instances.keys().map(String::as_str).collect()).unwrap_or_default()
}

fn held(picture: &Picture) -> usize {
    picture.services.get(&name()).map_or(0, |web| web.held.len())
}

async fn until(watch: &Watch, wanted: impl Fn(&Picture) -> bool) -> Arc<Picture> {
    let mut pictures = watch.pictures();
    let found = tokio::time::timeout(WAIT, pictures.wait_for(|picture| wanted(picture))).await;
    Arc::clone(&found.expect("within a minute").expect("the watch lives"))
}

/// A registry, and a disk with a copy of `a` and `b` at revision 9.
async fn with_copy() -> (Registry, Disk) {
    let (registry, disk) = (Registry::start(2), Disk::default());
    let client = registry.builder().copies(disk.copies()).build().expect("it works");
    let watch = client.watch(selection()).expect("it works");
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot(5, &["a", "b"]), bookmark(9)]).await;
    watch.ready(WAIT).await.expect("it works");
    disk.until_saved(|_| true).await;
    registry.nodes.iter().for_each(Node::cut);
    (registry, disk)
}

fn client(registry: &Registry, disk: &Disk) -> Client {
    registry.builder().copies(disk.copies()).build().expect("it works")
}

#[tokio::test(start_paused = true)]
async fn a_fresh_process_starts_with_the_copy_where_no_registry_answers() {
    let (registry, disk) = with_copy().await;
    registry.nodes.iter().for_each(Node::kill);
    let watch = client(&registry, &disk).watch(selection()).unwrap();
    let begin = Instant::now();
    let picture = watch.ready(WAIT).await.unwrap();
    assert!(begin.elapsed() < ms(100), "both nodes failed at once: {:?}", begin.elapsed());
    assert_eq!(ids(&picture), ["a", "b"]);
    assert_eq!(picture.origin, Origin::DiskCopy { age: Some(ms(5_000)) });
    assert!(picture.complete && !picture.connected);
    sleep(ms(600_000)).await;
    assert_eq!(ids(&watch.current()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_is_waited_for_a_second_and_not_longer() {
    let (registry, disk) = with_copy().await;
    for node in &registry.nodes {
        node.state().dial = fake::Dial::Hangs;
    }
    let mut watch = client(&registry, &disk).watch(selection()).unwrap();
    let begin = Instant::now();
    let picture = watch.ready(WAIT).await.unwrap();
    let took = begin.elapsed();
    assert!(took >= ms(990) && took <= ms(1_050), "{took:?}");
    assert_eq!(ids(&picture), ["a", "b"]);
    assert!(matches!(watch.next().await, Update::Reset(picture) if picture.services.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_answers_goes_on_behind_the_copy_and_nobody_sees_the_copy() {
    let (registry, disk) = with_copy().await;
    let watch = client(&registry, &disk).watch(selection()).unwrap();
    let (request, to) = stream(&registry.nodes[0]).await;
    assert_eq!(request.resume_token, 9_u64.to_be_bytes());
    sleep(ms(500)).await;
    assert!(watch.current().services.is_empty() && !watch.current().complete);
    send(&to, [removal(12, &["a"], v1::EventReason::Deregistered), bookmark(12)]).await;
    let picture = watch.ready(WAIT).await.unwrap();
    assert_eq!(ids(&picture), ["b"]);
    assert_eq!((picture.origin, picture.revision), (Origin::Registry, 12));
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_the_whole_state_where_a_registry_only_confirms_the_copy() {
    let (registry, disk) = with_copy().await;
    let mut watch = client(&registry, &disk).watch(selection()).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [bookmark(9)]).await;
    let update = tokio::time::timeout(WAIT, watch.next()).await.expect("an update");
    let Update::Reset(picture) = update else { panic!("{update:?}") };
    assert_eq!((ids(&picture), picture.origin), (vec!["a", "b"], Origin::Registry));
}

#[tokio::test(start_paused = true)]
async fn a_reader_never_goes_back_to_the_copy() {
    let (registry, disk) = with_copy().await;
    let mut watch = client(&registry, &disk).watch(selection()).unwrap();
    let reader = tokio::spawn(async move {
        let mut seen = Vec::new();
        while let Ok(update) = tokio::time::timeout(ms(5_000), watch.next()).await {
            match update {
                Update::Snapshot(web) | Update::Delta { service: web, .. } => {
                    seen.push(web.instances.keys().cloned().collect::<Vec<_>>());
                }
                Update::Reset(picture) => {
                    seen.push(ids(&picture).into_iter().map(str::to_owned).collect());
                }
                Update::Bookmark { .. } => {}
            }
        }
        (seen, watch)
    });
    let (_, to) = stream(&registry.nodes[0]).await;
    // It changes a service, and hangs before it says that this is all.
    send(&to, [removal(12, &["a"], v1::EventReason::Deregistered)]).await;
    let (seen, watch) = reader.await.expect("no panic");
    assert!(!seen.is_empty() && seen.iter().all(|ids| ids == &["b"]), "{seen:?}");
    assert_eq!(ids(&watch.current()), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_of_another_life_replaces_the_copy_even_at_a_lower_revision() {
    let (registry, disk) = with_copy().await;
    let refused = fake::reason(tonic::Code::FailedPrecondition, "OTHER_CLUSTER");
    registry.nodes[0].state().script.push_back(fake::Answer::Refuse(refused));
    let watch = client(&registry, &disk).watch(selection()).unwrap();
    let (request, to) = stream(&registry.nodes[1]).await;
    assert!(request.resume_token.is_empty());
    send(&to, [snapshot(2, &["x", "y"]), bookmark(3)]).await;
    let picture = until(&watch, |picture| picture.origin == Origin::Registry && picture.complete);
    assert_eq!(ids(&*picture.await), ["x", "y"]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_was_tampered_with_is_no_copy() {
    let (registry, disk) = with_copy().await;
    registry.nodes.iter().for_each(Node::kill);
    let whole = disk.files().values().next().unwrap().clone();
    // Half of it; another last bit; another version; nothing; another start.
    let mut damaged = vec![whole[..whole.len() / 2].to_vec(), whole.clone(), whole.clone()];
    *damaged[1].last_mut().unwrap() ^= 1;
    damaged[2][8] += 1;
    damaged.extend([Vec::new(), [&[0], &whole[1..]].concat()]);
    for bytes in damaged {
        disk.files().values_mut().for_each(|stored| stored.clone_from(&bytes));
        let watch = client(&registry, &disk).watch(selection()).unwrap();
        let error = watch.ready(ms(3_000)).await.unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(watch.current().services.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_belongs_to_one_selection() {
    let (registry, disk) = with_copy().await;
    registry.nodes.iter().for_each(Node::kill);
    let filter = v1::ResolveFilter { tags: vec!["blue".to_owned()], ..Default::default() };
    let blue = client(&registry, &disk).watch(selection().filter(filter)).unwrap();
    assert!(blue.ready(ms(3_000)).await.is_err());
    // Even where its file has the name of the other one's.
    let bytes = disk.files().values().next().unwrap().clone();
    let everywhere = Copies::new(
        move |_| {
            let copy = StoredCopy { bytes: bytes.clone(), age: None };
            Box::pin(async move { Ok(Some(copy)) })
        },
        |_, _| Box::pin(async { Ok(()) }),
    );
    let client = registry.builder().copies(everywhere).build().unwrap();
    let other = client.watch(Selection::service("other").unwrap()).unwrap();
    assert!(other.ready(ms(3_000)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_or_fails_delays_nothing_for_long() {
    for hangs in [true, false] {
        let registry = Registry::start(1);
        let copies = Copies::new(
            move |_| {
                Box::pin(async move {
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    Err(std::io::Error::other("broken"))
                })
            },
            |_, _| Box::pin(async { Err(std::io::Error::other("broken")) }),
        );
        let client = registry.builder().copies(copies).build().unwrap();
        let watch = client.watch(selection()).unwrap();
        let begin = Instant::now();
        let (request, to) = stream(&registry.nodes[0]).await;
        assert!(request.resume_token.is_empty() && begin.elapsed() < ms(600));
        send(&to, [snapshot(5, &["a"]), bookmark(9)]).await;
        watch.ready(WAIT).await.unwrap();
        sleep(ms(30_000)).await;
        assert_eq!(ids(&watch.current()), ["a"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_copy_is_written_at_most_every_five_seconds_and_follows_the_list() {
    let registry = Registry::start(1);
    let saved = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&saved);
    let copies = Copies::new(
        |_| Box::pin(async { Ok(None) }),
        move |_, bytes| {
            log.lock().unwrap().push((Instant::now(), bytes));
            Box::pin(async { Ok(()) })
        },
    );
    let client = registry.builder().copies(copies).build().unwrap();
    let _watch = client.watch(selection()).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [snapshot(1, &["a"]), bookmark(1)]).await;
    for revision in 2..200_u64 {
        send(&to, [snapshot(revision, &["a", &format!("i{revision}")])]).await;
        sleep(ms(100)).await;
    }
    sleep(ms(6_000)).await;
    let saved = std::mem::take(&mut *saved.lock().unwrap());
    assert!((4..=6).contains(&saved.len()), "{} times in 26 s", saved.len());
    assert!(saved.windows(2).all(|pair| pair[1].0 - pair[0].0 >= ms(5_000)));
    let last = &saved.last().unwrap().1;
    assert!(last.windows(4).any(|bytes| bytes == b"i199"), "the last one has the last list");
}

#[tokio::test(start_paused = true)]
async fn the_fallback_is_the_last_resort() {
    let (registry, disk) = with_copy().await;
    registry.nodes.iter().for_each(Node::kill);
    let addresses = ["10.0.0.9:80", "[::1]:81", "10.0.0.9:82"].map(|text| text.parse().unwrap());
    let builder = registry.builder().fallback(name(), addresses);
    let filter = v1::ResolveFilter { endpoint_name: "http".to_owned(), ..Default::default() };
    let with_copy = builder.clone().copies(disk.copies()).build().unwrap();
    let watch = with_copy.watch(selection()).unwrap();
    assert_eq!(ids(&watch.ready(WAIT).await.unwrap()), ["a", "b"], "the copy comes first");
    drop(watch);

    let watch = builder.build().unwrap().watch(selection().filter(filter)).unwrap();
    let picture = watch.ready(WAIT).await.unwrap();
    assert_eq!(picture.origin, Origin::Fallback);
    let web = &picture.services[&name()];
    let endpoints: Vec<_> = web
        .instances
        .values()
        .map(|instance| instance.spec.as_ref().unwrap().endpoints[0].clone())
        .map(|endpoint| (endpoint.name, endpoint.host, endpoint.port))
        .collect();
    let http = || "http".to_owned();
    assert_eq!(endpoints.len(), 3);
    assert!(endpoints.contains(&(http(), "::1".into(), 81)), "{endpoints:?}");

    registry.nodes[1].state().dial = fake::Dial::Open;
    let (_, to) = stream(&registry.nodes[1]).await;
    send(&to, [snapshot(5, &["a"]), bookmark(9)]).await;
    let live = until(&watch, |picture| picture.origin == Origin::Registry).await;
    assert_eq!(
        (ids(&live).len(), held(&live)),
        (4, 3),
        "more than half of what was shown is gone without a reason"
    );
    let live = until(&watch, |picture| held(picture) == 0).await;
    assert_eq!(ids(&live), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_lost_its_data_takes_nothing_away_for_ten_seconds() {
    let registry = Registry::start(1);
    let client = registry.builder().build().unwrap();
    let mut watch = client.watch(selection()).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    let ten = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    send(&to, [snapshot(5, &ten), bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    send(&to, [snapshot(10, &["a"]), bookmark(10)]).await;
    let begin = Instant::now();
    let picture = until(&watch, |picture| picture.revision == 10).await;
    assert_eq!((ids(&picture).len(), held(&picture)), (10, 9));
    assert!(picture.services[&name()].lists("a") && !picture.services[&name()].lists("b"));
    // Most of them come back, as after a restart: they are not held any more.
    send(&to, [snapshot(12, &["a", "b", "c", "d"])]).await;
    until(&watch, |picture| held(picture) == 6).await;
    let picture = until(&watch, |picture| held(picture) == 0).await;
    assert_eq!(ids(&picture), ["a", "b", "c", "d"]);
    let took = begin.elapsed();
    assert!(took >= ms(9_900) && took <= ms(10_200), "{took:?}");
    let mut known = 10;
    while known != 4 {
        known = match watch.next().await {
            Update::Snapshot(service) | Update::Delta { service, .. } => service.instances.len(),
            Update::Reset(picture) => ids(&picture).len(),
            Update::Bookmark { .. } => known,
        };
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_never_written_to_the_copy() {
    let (registry, disk) = with_copy().await;
    let watch = client(&registry, &disk).watch(selection()).unwrap();
    let (_, to) = stream(&registry.nodes[0]).await;
    send(&to, [bookmark(9)]).await;
    watch.ready(WAIT).await.unwrap();
    let before = disk.files().clone();
    send(&to, [snapshot(10, &[]), bookmark(10)]).await;
    until(&watch, |picture| held(picture) == 2).await;
    sleep(ms(9_000)).await;
    assert_eq!(*disk.files(), before, "a doubtful list does not replace a good one");
    until(&watch, |picture| ids(picture).is_empty()).await;
    disk.until_saved(|bytes| !before.values().any(|old| old == bytes)).await;
}

//! Publishing in a closed loop: the next change is made as soon as the slowest watcher is near enough. How many changes
//! reach all watchers then, and how many deliveries those are.

use super::{SHARED, Side, change, prepare, service};
use crate::{
    load::{self, Counted, etcd, rollcall},
    outcome::{Doing, Outcome},
    report::Of,
    work::Bench,
};
use futures_util::{StreamExt, stream};
use rollcall_proto::v1;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

const WATCHERS: usize = 1_000;
/// Changes that the slowest watcher may be behind when the next one is made.
const BEHIND: usize = 4;
/// Watchers that may be opened at once.
const OPENING: usize = 50;
const WATCH: &str = "/rollcall.v1.DiscoveryService/Watch";
const WATCH_ETCD: &str = "/etcdserverpb.Watch/Watch";

pub(super) fn case() -> String {
    format!(
        "{WATCHERS} watchers of 1 service on {} connections, closed loop, {BEHIND} changes ahead",
        WATCHERS / SHARED
    )
}

pub(super) async fn measure(bench: &mut Bench, side: Side, pids: &[u32], subject: &str) -> Outcome {
    let writer = rollcall::channel(side.api())?;
    let lease = prepare(&writer, 1, side).await?;
    let front = Arc::new(Front::new(WATCHERS));
    let mut watching = open(side, &front).await.doing("open the watches")?;
    let (window, events) = (bench.window(), &front.events);
    let begun = front.all.load(Relaxed);
    let counted = tokio::select! {
        counted = load::counted(window, pids, events) => counted?,
        outcome = write(&writer, side, lease, &front) => return outcome.doing("make changes"),
        Some(ended) = watching.join_next() => return ended?.doing("watch"),
    };
    let whole = (window.warm_up + window.length).as_secs_f64();
    let changes = (front.all.load(Relaxed) - begun) as f64 / whole;
    tell(bench, subject, counted, changes)
}

fn tell(bench: &mut Bench, subject: &str, counted: Counted, changes: f64) -> Outcome {
    if changes == 0.0 {
        return Err("no change has reached every watcher".into());
    }
    let case = case();
    let of = Of(super::WORKLOAD, &case, subject);
    bench.report.counted(of, counted);
    bench.report.add(of, "changes seen by all", "1/s", changes);
    Ok(())
}

/// How far all watchers are.
struct Front {
    /// Deliveries so far.
    events: AtomicU64,
    watchers: usize,
    /// How many watchers have got to a change, by its number in turn; those of at most [`BEHIND`] changes differ from zero.
    got_to: [AtomicUsize; 2 * BEHIND],
    /// Every watcher has got to this change.
    all: AtomicUsize,
    moved: Notify,
}

impl Front {
    fn new(watchers: usize) -> Self {
        let got_to = std::array::from_fn(|_| AtomicUsize::new(0));
        let (events, all, moved) = (AtomicU64::new(0), AtomicUsize::new(0), Notify::new());
        Self { events, watchers, got_to, all, moved }
    }

    /// A watcher that was at `at` has been told of a change. One that is told of a later change only has got to those
    /// between as well.
    fn told(&self, at: &mut usize, number: usize) {
        while *at < number {
            *at += 1;
            let got_to = &self.got_to[*at % self.got_to.len()];
            if got_to.fetch_add(1, Relaxed) + 1 == self.watchers {
                got_to.store(0, Relaxed);
                self.all.store(*at, Relaxed);
                self.moved.notify_one();
            }
        }
    }
}

/// Makes changes one after the other, and waits where the slowest watcher is too far behind.
async fn write(writer: &Channel, side: Side, lease: i64, front: &Front) -> Outcome {
    for number in 1.. {
        while number > front.all.load(Relaxed) + BEHIND {
            front.moved.notified().await;
        }
        change(writer, side, 0, number, lease).await?;
    }
    Ok(())
}

async fn open(side: Side, front: &Arc<Front>) -> Outcome<JoinSet<Outcome>> {
    let channels = rollcall::channels(side.api(), WATCHERS / SHARED)?;
    let mut opening = stream::iter(0..WATCHERS)
        .map(|watcher| {
            let (channel, front) = (channels[watcher / SHARED].clone(), front.clone());
            async move {
                Outcome::Ok(match side {
                    Side::Ours(_) => ours(&channel, front).await?,
                    Side::Etcd(_) => theirs(&channel, front).await?,
                })
            }
        })
        .buffer_unordered(OPENING);
    let mut watching = JoinSet::new();
    while let Some(watch) = opening.next().await {
        watching.spawn(watch?);
    }
    Ok(watching)
}

type Watching = std::pin::Pin<Box<dyn Future<Output = Outcome> + Send>>;

async fn ours(channel: &Channel, front: Arc<Front>) -> Outcome<Watching> {
    let list = v1::watch_request::ServiceList { names: vec![rollcall::service(&service(0))] };
    let target = Some(v1::watch_request::Target::Services(list));
    let request = v1::WatchRequest { target, ..v1::WatchRequest::default() };
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let codec = ProstCodec::<v1::WatchRequest, partly::Answer>::default();
    let answer = grpc.server_streaming(Request::new(request), path(WATCH), codec).await?;
    let mut answers: Streaming<partly::Answer> = answer.into_inner();
    Ok(Box::pin(async move {
        let mut at = 0;
        while let Some(answer) = answers.message().await? {
            // What was there already, or a change that came while the watch was opened: no delivery.
            for weight in answer.snapshot.iter().flat_map(partly::List::weights) {
                front.told(&mut at, weight - 1);
            }
            for weight in answer.delta.iter().flat_map(partly::List::weights) {
                front.events.fetch_add(1, Relaxed);
                front.told(&mut at, weight - 1);
            }
        }
        Err("a watch ended".into())
    }))
}

async fn theirs(channel: &Channel, front: Arc<Front>) -> Outcome<Watching> {
    let (keep, outbound) = mpsc::channel(1);
    keep.send(etcd::create_watch(&format!("{}/", service(0)))).await?;
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await?;
    let codec = ProstCodec::<etcd::api::WatchRequest, partly::EtcdAnswer>::default();
    let request = Request::new(ReceiverStream::new(outbound));
    let answer = grpc.streaming(request, path(WATCH_ETCD), codec).await?;
    let mut answers: Streaming<partly::EtcdAnswer> = answer.into_inner();
    answers.message().await?.filter(|first| first.created).ok_or("etcd made no watch")?;
    Ok(Box::pin(async move {
        let (_keep, mut at) = (keep, 0);
        while let Some(answer) = answers.message().await? {
            for version in answer.events.into_iter().filter_map(|event| event.kv) {
                front.events.fetch_add(1, Relaxed);
                front.told(&mut at, usize::try_from(version.version)? - 1);
            }
        }
        Err("a watch of etcd ended".into())
    }))
}

fn path(of: &'static str) -> http::uri::PathAndQuery {
    http::uri::PathAndQuery::from_static(of)
}

/// Of each message what tells the number of the change: a watcher that took all of it apart would measure itself.
mod partly {
    use prost::Message;

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Answer {
        #[prost(message, optional, tag = "4")]
        pub(super) snapshot: Option<List>,
        #[prost(message, optional, tag = "5")]
        pub(super) delta: Option<List>,
    }

    /// The list of instances has the same number in a snapshot and in a delta.
    #[derive(Clone, PartialEq, Message)]
    pub(super) struct List {
        #[prost(message, repeated, tag = "5")]
        instances: Vec<Instance>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Instance {
        #[prost(message, optional, tag = "2")]
        spec: Option<Spec>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Spec {
        #[prost(uint32, optional, tag = "3")]
        weight: Option<u32>,
    }

    impl List {
        /// Of each instance; 1 where none is set.
        pub(super) fn weights(&self) -> impl Iterator<Item = usize> {
            self.instances.iter().map(|instance| {
                let weight = instance.spec.as_ref().and_then(|spec| spec.weight);
                weight.and_then(|weight| usize::try_from(weight).ok()).unwrap_or(1).max(1)
            })
        }
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct EtcdAnswer {
        #[prost(bool, tag = "3")]
        pub(super) created: bool,
        #[prost(message, repeated, tag = "11")]
        pub(super) events: Vec<EtcdEvent>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct EtcdEvent {
        #[prost(message, optional, tag = "2")]
        pub(super) kv: Option<EtcdVersion>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct EtcdVersion {
        #[prost(int64, tag = "4")]
        pub(super) version: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::time::Duration;

    #[test]
    fn a_change_counts_when_the_slowest_watcher_has_got_to_it() {
        let (front, mut quick, mut slow) = (Front::new(2), 0, 0);
        for number in 1..=3 {
            front.told(&mut quick, number);
        }
        assert_eq!(front.all.load(Relaxed), 0);
        // It was told of the newest only.
        front.told(&mut slow, 3);
        assert_eq!(front.all.load(Relaxed), 3);
        front.told(&mut slow, 4);
        front.told(&mut slow, 2);
        assert_eq!((front.all.load(Relaxed), slow), (3, 4));
    }

    #[test]
    fn the_number_of_a_change_is_found_in_what_the_registry_sends() {
        let item = rollcall::registration("watched-00", 0, Duration::from_secs(9), 41);
        let instance = v1::Instance { spec: item.spec, ..v1::Instance::default() };
        let snapshot = v1::watch_response::Snapshot {
            instances: vec![instance.clone()],
            ..v1::watch_response::Snapshot::default()
        };
        let delta = v1::watch_response::Delta {
            upserted: vec![instance],
            ..v1::watch_response::Delta::default()
        };
        for event in
            [v1::watch_response::Event::Snapshot(snapshot), v1::watch_response::Event::Delta(delta)]
        {
            let whole = v1::WatchResponse { event: Some(event), ..v1::WatchResponse::default() };
            let part = partly::Answer::decode(&*whole.encode_to_vec()).unwrap();
            let list = part.snapshot.or(part.delta).unwrap();
            assert_eq!(list.weights().collect::<Vec<_>>(), [42]);
        }
    }

    #[test]
    fn the_version_of_a_key_is_found_in_what_etcd_sends() {
        let kv = etcd::api::KeyValue { version: 7, value: vec![1; 99], ..Default::default() };
        let event = etcd::api::Event { kv: Some(kv), ..Default::default() };
        let whole = etcd::api::WatchResponse { events: vec![event], ..Default::default() };
        let part = partly::EtcdAnswer::decode(&*whole.encode_to_vec()).unwrap();
        let versions = part.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.version);
        assert_eq!(versions.collect::<Vec<_>>(), [7]);
    }
}

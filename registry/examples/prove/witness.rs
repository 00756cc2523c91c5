//! Those who look on while nodes die: a journal tail, a watch, stale readers, the ledger of what was acknowledged.

use crate::{
    load,
    nodes::Server,
    report::{Outcome, Report, Spread},
};
use rollcall_client::{Picture, Update, Watch};
use rollcall_proto::v1::{self, journal_service_client::JournalServiceClient, tail_request::Start};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// Service and id, with the generation that was acknowledged and the number of its last acknowledged change.
pub(crate) type Entries = BTreeMap<(String, String), (u64, u64)>;

/// What was acknowledged.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Entries>>);

impl Ledger {
    pub(crate) fn write(&self, service: &str, id: &str, generation: u64, change: u64) {
        self.lock().insert((service.to_owned(), id.to_owned()), (generation, change));
    }

    pub(crate) fn copy(&self) -> Entries {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of the change that an instance shows, 0 where it shows none.
fn change_of(instance: &v1::Instance) -> u64 {
    let spec = instance.spec.as_ref();
    let started = spec.and_then(|spec| spec.metadata.get("started"));
    let digits = started.and_then(|text| text.get(20..26));
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Everything that a node knows, by service; linearizable.
pub(crate) async fn catalogue(
    api: &SocketAddr,
    services: &[String],
) -> Outcome<BTreeMap<String, Vec<v1::Instance>>> {
    let channel = load::channel(api)?;
    let mut discovery = load::discovery(&channel);
    let mut found = BTreeMap::new();
    for service in services {
        let request = load::everything(service, v1::Consistency::Linearizable);
        found.insert(service.clone(), discovery.resolve(request).await?.into_inner().instances);
    }
    Ok(found)
}

/// How many entries of the ledger a node lacks, or has in an older state.
pub(crate) async fn missing(api: &SocketAddr, entries: &Entries) -> Outcome<usize> {
    let mut services: Vec<String> = entries.keys().map(|(service, _)| service.clone()).collect();
    services.dedup();
    let mut known = BTreeMap::new();
    for (service, instances) in catalogue(api, &services).await? {
        for instance in instances {
            let state = (instance.generation, change_of(&instance));
            known.insert((service.clone(), instance.instance_id), state);
        }
    }
    let lacks = |(name, (generation, change)): &(&(String, String), &(u64, u64))| {
        !known.get(*name).is_some_and(|(g, c)| g == generation && c >= change)
    };
    Ok(entries.iter().filter(lacks).count())
}

/// What the journal told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) events: u64,
    pub(crate) revision: u64,
    /// Events that did not follow the one before.
    pub(crate) disordered: u64,
    pub(crate) streams: u64,
    /// Events by reason.
    pub(crate) reasons: BTreeMap<String, u64>,
}

/// Follows the journal from its beginning, on one node after the other, with nothing but the resume token.
pub(crate) async fn tail(nodes: Vec<SocketAddr>, told: Arc<Mutex<Told>>) {
    let mut start = Start::AfterRevision(0);
    for node in nodes.iter().cycle() {
        // A node that is down is left for the next one.
        let _ = tail_on(node, &mut start, &told).await;
        sleep(Duration::from_millis(20)).await;
    }
}

async fn tail_on(node: &SocketAddr, start: &mut Start, told: &Mutex<Told>) -> Outcome {
    let request = v1::TailRequest { start: Some(start.clone()), service: None };
    // Without the deadline of a call: it ends with the node.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{node}"))?;
    let mut journal = JournalServiceClient::new(endpoint.connect().await?);
    let mut stream = journal.tail(request).await?.into_inner();
    told.lock().unwrap_or_else(PoisonError::into_inner).streams += 1;
    loop {
        let Some(message) = timeout(Duration::from_secs(35), stream.message()).await?? else {
            return Ok(());
        };
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        for event in message.events {
            // Each revision has exactly one event.
            told.disordered += u64::from(event.revision != told.revision + 1);
            told.revision = event.revision;
            told.events += 1;
            let reason = event.reason().as_str_name().trim_start_matches("EVENT_REASON_");
            *told.reasons.entry(reason.to_owned()).or_default() += 1;
        }
        if !message.resume_token.is_empty() {
            *start = Start::ResumeToken(message.resume_token);
        }
    }
}

/// Waits until the tail has everything up to a revision.
pub(crate) async fn told_until(told: &Mutex<Told>, revision: u64) -> Outcome {
    let until = Instant::now() + Duration::from_secs(20);
    while told.lock().unwrap_or_else(PoisonError::into_inner).revision < revision {
        if Instant::now() > until {
            return Err(format!("the journal tail did not come to revision {revision}").into());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What a watch did.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    pub(crate) updates: AtomicU64,
    /// Revisions that went back, of a service or of the whole.
    pub(crate) backwards: AtomicU64,
}

/// Follows a watch and looks whether anything goes back.
pub(crate) async fn follow(
    mut watch: Watch,
    watched: Arc<Watched>,
    shown: watch::Sender<Arc<Picture>>,
) {
    let mut revisions = BTreeMap::new();
    let mut whole = 0;
    loop {
        let update = watch.next().await;
        watched.updates.fetch_add(1, Ordering::Relaxed);
        let went_back = match update {
            Update::Snapshot(service) | Update::Delta { service, .. } => {
                let before = revisions.insert(service.name.clone(), service.revision);
                before.is_some_and(|before| before > service.revision)
            }
            Update::Bookmark { revision } => {
                let before = std::mem::replace(&mut whole, revision);
                before > revision
            }
            Update::Reset(picture) => {
                let before = std::mem::replace(&mut whole, picture.revision);
                before > picture.revision
            }
        };
        watched.backwards.fetch_add(u64::from(went_back), Ordering::Relaxed);
        shown.send_replace(watch.current());
    }
}

/// In how many services a watch differs from what a node answers, once it has come to that node's revision.
pub(crate) async fn differences(
    shown: &watch::Receiver<Arc<Picture>>,
    api: &SocketAddr,
    services: &[String],
    revision: u64,
) -> Outcome<usize> {
    let mut shown = shown.clone();
    let there = shown.wait_for(|picture| picture.connected && picture.revision >= revision);
    let picture = Arc::clone(&*timeout(Duration::from_secs(40), there).await??);
    let mut different = 0;
    for (service, instances) in catalogue(api, services).await? {
        let name = rollcall_client::ServiceName::parse("", &service)?;
        let watched = picture.services.get(&name).map(|service| &service.instances);
        let watched = watched.into_iter().flatten().map(|(_, instance)| instance.as_ref());
        different += usize::from(!watched.eq(instances.iter()));
    }
    Ok(different)
}

/// Stale look-ups of one node.
#[derive(Debug, Default)]
pub(crate) struct Stale {
    /// Set while the node is up.
    up: watch::Sender<bool>,
    pub(crate) answered: AtomicU64,
    pub(crate) failures: Mutex<Vec<String>>,
    times: Mutex<Vec<Duration>>,
}

impl Stale {
    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    pub(crate) fn times(&self) -> Vec<Duration> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks every few milliseconds while the node is up; what is not answered in a second has failed.
    pub(crate) async fn read(self: Arc<Self>, api: SocketAddr, service: String) {
        let mut tick = interval(Duration::from_millis(5));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut up = self.up.subscribe();
        let Ok(mut channel) = load::channel(&api) else { return };
        loop {
            tick.tick().await;
            if !*up.borrow_and_update() {
                if up.wait_for(|up| *up).await.is_err() {
                    return;
                }
                let Ok(anew) = load::channel(&api) else { return };
                channel = anew;
            }
            let begin = Instant::now();
            let mut discovery = load::discovery(&channel);
            let request = load::everything(&service, v1::Consistency::Stale);
            let answer = timeout(Duration::from_secs(1), discovery.resolve(request)).await;
            let problem = match answer {
                Ok(Ok(answer)) if !answer.get_ref().instances.is_empty() => None,
                Ok(Ok(_)) => Some("an empty answer".to_owned()),
                Ok(Err(status)) => Some(status.to_string()),
                Err(_) => Some("no answer within 1 s".to_owned()),
            };
            match problem {
                None => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
                    times.push(begin.elapsed());
                }
                // A read that was under way when its node was killed is no failure.
                Some(_) if !*self.up.borrow() => {}
                Some(problem) => {
                    let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(problem);
                }
            }
        }
    }
}

/// The first write that was sent after `begin` and succeeded, tried on every running node every 20 ms.
pub(crate) async fn until_written(
    servers: &[Server],
    begin: Instant,
    round: usize,
) -> Outcome<Duration> {
    let mut tries = JoinSet::new();
    let running = servers.iter().filter(|server| server.is_running());
    let channels = running.map(|server| load::channel(&server.api)).collect::<Outcome<Vec<_>>>()?;
    let mut tick = interval(Duration::from_millis(20));
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(20) {
        tokio::select! {
            biased;
            Some(done) = tries.join_next() => {
                if let Ok(Some(at)) = done {
                    return Ok(at);
                }
            }
            _ = tick.tick() => {
                for channel in &channels {
                    number += 1;
                    let item = load::persistent("probe", number % 32, number + round * 10_000);
                    let mut registry = load::registry(channel);
                    tries.spawn(async move {
                        let request = v1::RegisterRequest { items: vec![item], request_id: String::new() };
                        let answer = timeout(Duration::from_secs(2), registry.register(request)).await;
                        matches!(answer, Ok(Ok(_))).then(|| begin.elapsed())
                    });
                }
            }
        }
    }
    Err("no write succeeded within 20 s".into())
}

/// Tells what the stale readers saw.
pub(crate) fn tell_stale(report: &mut Report, readers: &[Arc<Stale>]) -> String {
    let problems: Vec<String> = readers.iter().flat_map(|reader| reader.problems()).collect();
    let answered: u64 = readers.iter().map(|reader| reader.answered.load(Ordering::Relaxed)).sum();
    let first = problems.first().map_or("", String::as_str);
    let text = format!(
        "stale reads never failed on a running node ({} of {answered} did) {first}",
        problems.len()
    );
    report.promise(problems.is_empty() && answered > 0, text.trim_end());
    Spread::of(readers.iter().flat_map(|reader| reader.times()).collect()).to_string()
}

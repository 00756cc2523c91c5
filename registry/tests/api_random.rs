//! Random changes against several watchers on three nodes: each ends with what a lookup answers, none goes back, and
//! what it knew at a revision is what a lookup answered at that revision.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rollcall_proto::v1::{self, AdminState, HealthFilter};
use rollcall_registry::host::Random;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use support::{
    Killable, Settings,
    model::{Model, filter, pattern, services},
    persistent, registration, three_killable, within,
};
use tokio::time::Instant;

const SERVICES: [&str; 4] = ["web-1", "web-2", "api", "api-x"];

/// Id and revision of each listed instance.
type List = BTreeMap<String, u64>;
/// What was listed, by service and its revision.
type Lists = BTreeMap<(String, u64), List>;

fn list<'a>(instances: impl Iterator<Item = &'a v1::Instance>) -> List {
    instances.map(|instance| (instance.instance_id.clone(), instance.revision)).collect()
}

async fn answer(
    node: &Killable,
    service: &str,
    filter: Option<v1::ResolveFilter>,
) -> v1::ResolveResponse {
    let service = Some(support::service_name(service));
    let request = v1::ResolveRequest { service, filter, ..Default::default() };
    node.discovery().resolve(request).await.expect("resolve").into_inner()
}

/// One random change, by any node.
async fn change(nodes: &[Killable], dice: &Random) {
    let pick = |count: usize| usize::try_from(dice.between(0, count as u64 - 1)).unwrap();
    let node = &nodes[pick(3)];
    let (service, id) = (SERVICES[pick(4)], format!("i{}", pick(6)));
    match pick(10) {
        0..=3 => {
            let items = (0..=pick(3)).map(|n| {
                let mut item = persistent(service, &format!("{id}{n}"));
                item.owner_nonce = dice.wide_bits().to_be_bytes().to_vec();
                let spec = item.spec.as_mut().unwrap();
                spec.weight = Some(u32::try_from(pick(100)).unwrap());
                if pick(2) == 0 {
                    spec.tags = vec!["blue".into()];
                }
                item
            });
            node.enlist(items.collect()).await;
        }
        4 => {
            let mut item = registration(service, &format!("l{id}"), 3);
            item.owner_nonce = dice.wide_bits().to_be_bytes().to_vec();
            item.spec.as_mut().unwrap().evict_after = support::seconds(0);
            node.enlist(vec![item]).await;
        }
        5 | 6 => {
            let items = (0..4).map(|n| v1::Deregistration {
                name: Some(support::instance_name(service, &format!("{id}{n}"))),
                allow_missing: true,
                ..Default::default()
            });
            let items = items.collect();
            let request = v1::DeregisterRequest { items, ..Default::default() };
            node.registration().deregister(request).await.expect("deregister");
        }
        7 | 8 => {
            let states = [AdminState::Draining, AdminState::Maintenance, AdminState::Enabled];
            let request = v1::SetAdminStateRequest {
                name: Some(support::instance_name(service, &format!("{id}0"))),
                state: states[pick(3)].into(),
                role: v1::Role::Operator.into(),
                ..Default::default()
            };
            // There may be no such instance.
            let _ = node.registration().set_admin_state(request).await;
        }
        _ if pick(2) == 0 => {
            node.fail_open_below(service, 0.7).await;
        }
        _ => {
            node.delete_policy(service).await;
        }
    }
}

struct Watching {
    name: &'static str,
    request: v1::WatchRequest,
    /// Waits so long between two messages.
    pause: Duration,
    /// Goes to another node after about so many messages; 0 = stays.
    moves: u64,
}

/// Watches until told to stop and everything of then was seen.
async fn watch(
    nodes: Arc<Vec<Killable>>,
    watching: Watching,
    dice: Random,
    stop: Arc<AtomicBool>,
) -> (Model, Lists) {
    let pick = |count: u64| usize::try_from(dice.between(0, count - 1)).unwrap();
    let mut model = Model::start(&nodes[pick(3)], watching.request).await;
    let mut lists = Lists::new();
    let mut target = None;
    let deadline = Instant::now() + 2 * support::DEADLINE;
    while target.is_none_or(|target| model.revision < target || !model.complete) {
        assert!(
            Instant::now() < deadline,
            "{}: at {} of {target:?}",
            watching.name,
            model.revision
        );
        if target.is_none() && stop.load(Ordering::SeqCst) {
            target = Some(nodes[0].node.api().view().load().state.revision());
            continue;
        }
        if watching.moves > 0 && model.complete && pick(watching.moves) == 0 {
            model.resume(&nodes[pick(3)]).await;
        }
        tokio::time::sleep(watching.pause).await;
        // A stream that has nothing to tell is asked again: perhaps it is over.
        let next = tokio::time::timeout(Duration::from_millis(200), model.next()).await;
        match next {
            Ok(message) => message.expect("the stream goes on"),
            Err(_) => continue,
        }
        if model.complete {
            for (service, known) in &model.services {
                let at = (service.clone(), known.revision);
                lists.insert(at, list(known.instances.values()));
            }
        }
    }
    (model, lists)
}

fn watchings() -> Vec<(Watching, Option<v1::ResolveFilter>)> {
    let none = Duration::ZERO;
    let blue = filter(HealthFilter::Routable, &["blue"]);
    let any = filter(HealthFilter::Any, &[]);
    let with = |mut request: v1::WatchRequest, filter: &Option<v1::ResolveFilter>| {
        request.filter.clone_from(filter);
        request
    };
    let slow = Duration::from_millis(40);
    vec![
        (Watching { name: "list", request: services(&SERVICES), pause: none, moves: 0 }, None),
        (Watching { name: "moving", request: services(&SERVICES), pause: none, moves: 8 }, None),
        (Watching { name: "web-", request: pattern("web-"), pause: none, moves: 0 }, None),
        (Watching { name: "all", request: pattern(""), pause: none, moves: 10 }, None),
        (
            Watching { name: "blue", request: with(pattern("a"), &blue), pause: none, moves: 9 },
            blue,
        ),
        (
            Watching {
                name: "any",
                request: with(services(&SERVICES), &any),
                pause: none,
                moves: 7,
            },
            any,
        ),
        (Watching { name: "slow", request: services(&SERVICES), pause: slow, moves: 0 }, None),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_of_every_kind_end_with_what_a_lookup_answers() {
    let seed = 20_261_120;
    let nodes = Arc::new(three_killable(&Settings::default()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = watchings()
        .into_iter()
        .zip(1..)
        .map(|((watching, filter), n)| {
            let name = watching.name;
            let dice = Random::new(seed + n);
            let task = tokio::spawn(watch(nodes.clone(), watching, dice, stop.clone()));
            (name, filter, task)
        })
        .collect();
    // What lookups answered meanwhile, by filter.
    let asked: Mutex<BTreeMap<&str, Lists>> = Mutex::default();
    let dice = Random::new(seed);
    for round in 0..250_usize {
        change(&nodes, &dice).await;
        let (name, filter, _) = &tasks[round % tasks.len()];
        for service in SERVICES {
            let answer = answer(&nodes[round % 3], service, filter.clone()).await;
            let at = (service.to_owned(), answer.read_metadata.unwrap().service_revision);
            let listed = list(answer.instances.iter());
            asked.lock().unwrap().entry(*name).or_default().insert(at, listed);
        }
    }
    // The leases that nobody renews run out, unless protection holds them; then nothing changes any more.
    let calm = || {
        let seen = nodes[0].node.api().view().seen();
        let counts = seen.state.lease_counts();
        counts.current == 0 && counts.expired == 0
    };
    support::eventually("it is calm", calm).await;
    stop.store(true, Ordering::SeqCst);
    let mut compared = 0;
    for (name, filter, task) in tasks {
        let (model, lists) = within(name, task).await.expect(name);
        let asked = asked.lock().unwrap().remove(name).unwrap_or_default();
        for (at, listed) in asked {
            if let Some(known) = lists.get(&at) {
                assert_eq!(*known, listed, "{name} at {at:?}");
                compared += 1;
            }
        }
        for service in SERVICES.iter().filter(|s| name != "web-" || s.starts_with("web-")) {
            if name == "blue" && !service.starts_with('a') {
                continue;
            }
            let answer = answer(&nodes[0], service, filter.clone()).await;
            let known = model.of(service);
            assert_eq!(
                list(known.instances.values()),
                list(answer.instances.iter()),
                "{name} {service}"
            );
            assert_eq!(known.fail_open, answer.fail_open, "{name} {service}");
        }
    }
    assert!(compared > 100, "only {compared} lists could be compared");
}

//! Leases across everything that can happen to their leader: it changes, is cut off, pauses, loses its quorum.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "cluster/freeze.rs"]
mod freeze;
mod support;

use freeze::FreezeNet;
use rollcall_core::{
    instance::Ttl,
    lease::expiry_bound,
    record::HealthStatus::{self, Expired},
};
use rollcall_registry::{
    clock::{Clock, SystemClock},
    host::Host,
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use support::{
    Running, Settings, eventually, leads, registration, seconds, single, start_on, stop, three,
    three_on, within,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// An instance with a lease of so many seconds.
async fn register(on: &Running, id: &str, nonce: u8, ttl: u64) -> u64 {
    let mut item = registration("web", id, nonce);
    item.spec.as_mut().unwrap().ttl = seconds(ttl);
    on.register(vec![item]).await[0]
}

/// Beats at whichever node acknowledges, until one does.
async fn beat_anywhere(nodes: &[Running], handle: u64) {
    within("an acknowledged beat", async {
        for node in nodes.iter().cycle() {
            let patience = Duration::from_millis(200);
            if let Ok(Ok(answer)) = timeout(patience, node.beat(&[handle])).await {
                assert_eq!(answer.reregister, [] as [u64; 0]);
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// Hands the lead to the next node; returns how long nobody led.
async fn change_leader(nodes: &[Running]) -> Duration {
    let old = leads(nodes).await;
    let next = (old + 1) % nodes.len();
    let id = nodes[next].node.replica().node_id();
    let start = Instant::now();
    nodes[old].node.replica().transfer_leader(Some(id)).await.expect("transfer");
    eventually("the next one leads", || {
        nodes[next].node.replica().leadership().borrow().reign.is_some()
    })
    .await;
    start.elapsed()
}

/// Watches until an instance is EXPIRED; returns when, and asserts that another one never is.
async fn expired(node: &Running, silent: &str, beating: &str) -> Instant {
    within("the silent one is expired", async {
        loop {
            let health = |id| node.health("web", id);
            assert!(health(beating).is_some_and(HealthStatus::serves), "{:?}", health(beating));
            match health(silent) {
                Some(Expired) | None => return Instant::now(),
                Some(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_one_is_expired_in_time_across_three_leader_changes_and_a_beating_one_never() {
    let ttl = Duration::from_secs(6);
    let nodes = three(&Settings::default()).await;
    let beating = register(&nodes[0], "beating", 1, 6).await;
    register(&nodes[0], "silent", 2, 6).await;
    let silent_since = Instant::now();
    let beats = async {
        loop {
            beat_anywhere(&nodes, beating).await;
            sleep(ttl / 3).await;
        }
    };
    let changes = async {
        let mut longest = Duration::ZERO;
        // Each just before its lease would be over under the leader of the time.
        sleep_until(silent_since + ttl - Duration::from_millis(500)).await;
        for _ in 0..3 {
            longest = longest.max(change_leader(&nodes).await);
            sleep(ttl * 2 / 3 - Duration::from_millis(500)).await;
        }
        longest
    };
    let rest = async { tokio::join!(changes, expired(&nodes[0], "silent", "beating")) };
    let (longest, at) = tokio::select! {
        biased;
        () = beats => unreachable!("beats never end"),
        done = rest => done,
    };
    let took = at - silent_since;
    let bound = expiry_bound(Ttl::parse(ttl).unwrap(), 3, longest);
    // Without checkpoints each leader would have given it a whole lease again.
    assert!(took > Duration::from_secs(15), "no leader change prolonged it: {took:?}");
    assert!(took <= bound, "{took:?}, but at most {bound:?}");
    println!("silent under three leader changes: EXPIRED after {took:?}, bound {bound:?}");
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_honoured_by_the_next_leader_and_cleared_before_a_beat_is_acknowledged() {
    let nodes = three(&Settings::default()).await;
    let silent = register(&nodes[0], "silent", 1, 6).await;
    let late = register(&nodes[0], "late", 2, 6).await;
    let named = |handle| {
        move |node: &Running| node.node.api().view().seen().state.checkpoint(handle).is_some()
    };
    eventually("both are named", || {
        nodes.iter().all(named(silent)) && nodes.iter().all(named(late))
    })
    .await;
    let leader = leads(&nodes).await;
    let answer = nodes[leader].beat(&[late]).await.expect("acknowledged");
    let acked = Instant::now();
    assert!(!named(late)(&nodes[leader]), "acknowledged before the clear was committed");
    assert_eq!(answer.reregister, [] as [u64; 0]);
    change_leader(&nodes).await;
    let reign = Instant::now();
    within("the silent one is expired", async {
        while nodes[0].health("web", "silent") != Some(Expired) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let granted = reign.elapsed();
    // Two beats of two seconds; the leader counts from a moment before this test saw it lead.
    assert!(granted > Duration::from_millis(3_500), "{granted:?}");
    assert!(granted < Duration::from_millis(4_700), "{granted:?}");
    within("the late one is expired", async {
        while nodes[0].health("web", "late") != Some(Expired) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(acked.elapsed() >= Duration::from_secs(6), "{:?}", acked.elapsed());
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_acknowledges_nothing_once_another_may_lead() {
    let nets: Vec<Arc<FreezeNet>> = (0..3).map(|_| Arc::new(FreezeNet::new())).collect();
    let hosts = |seed: u64| Host {
        net: nets[usize::try_from(seed).unwrap() - 1].clone(),
        ..Host::system(seed)
    };
    let nodes = three_on(&Settings::default(), hosts).await;
    let old = leads(&nodes).await;
    let handle = register(&nodes[old], "a", 1, 2).await;
    nodes[old].beat(&[handle]).await.expect("acknowledged while it leads");
    let last_ack = Mutex::new(Instant::now());
    nets[old].freeze();
    let cut = Instant::now();
    let others: Vec<&Running> =
        nodes.iter().enumerate().filter(|(n, _)| *n != old).map(|(_, node)| node).collect();
    let beats = async {
        loop {
            let beat = timeout(Duration::from_secs(3), nodes[old].beat(&[handle])).await;
            if matches!(beat, Ok(Ok(_))) {
                *last_ack.lock().unwrap() = Instant::now();
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let elected = eventually("another one leads", || {
        others.iter().any(|node| node.node.replica().leadership().borrow().reign.is_some())
    });
    let reign = tokio::select! {
        biased;
        () = beats => unreachable!("beats never end"),
        () = elected => Instant::now(),
    };
    let last_ack = *last_ack.lock().unwrap();
    assert!(last_ack < reign);
    let lease = nodes[old].node.replica().leader_lease();
    assert!(last_ack - cut <= lease + Duration::from_millis(50), "{:?}", last_ack - cut);
    for _ in 0..20 {
        let beat = timeout(Duration::from_secs(3), nodes[old].beat(&[handle])).await;
        assert!(!matches!(beat, Ok(Ok(_))), "acknowledged beside another leader");
        sleep(Duration::from_millis(10)).await;
    }
    // What it acknowledged last is kept by the new leader.
    eventually("it is expired", || others[0].health("web", "a") == Some(Expired)).await;
    assert!(last_ack.elapsed() >= Duration::from_secs(2));
    nets[old].thaw();
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_without_a_quorum_is_on_nobodys_account() {
    let nets: Vec<Arc<FreezeNet>> = (0..3).map(|_| Arc::new(FreezeNet::new())).collect();
    let hosts = |seed: u64| Host {
        net: nets[usize::try_from(seed).unwrap() - 1].clone(),
        ..Host::system(seed)
    };
    let nodes = three_on(&Settings::default(), hosts).await;
    let leader = leads(&nodes).await;
    let handle = register(&nodes[leader], "a", 1, 2).await;
    beat_anywhere(&nodes, handle).await;
    for (n, net) in nets.iter().enumerate() {
        if n != leader {
            net.freeze();
        }
    }
    // Nobody can take its beats. It is silent longer than its lease.
    eventually("the quorum is lost", || {
        nodes[leader].node.replica().leadership().borrow().leader.is_none()
    })
    .await;
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert!(nodes[leader].health("web", "a").is_some_and(HealthStatus::serves));
        sleep(Duration::from_millis(10)).await;
    }
    nets.iter().for_each(|net| net.thaw());
    // It comes back within a fraction of its lease, as a client does.
    let back = Instant::now();
    eventually("a node leads again", || {
        assert!(nodes[leader].health("web", "a").is_some_and(HealthStatus::serves));
        nodes.iter().any(|node| {
            let leadership = node.node.replica().leadership();
            let leadership = leadership.borrow();
            leadership.reign.is_some() && leadership.leader.is_some()
        })
    })
    .await;
    sleep(Duration::from_millis(300)).await;
    beat_anywhere(&nodes, handle).await;
    assert!(nodes[leader].health("web", "a").is_some_and(HealthStatus::serves));
    assert!(back.elapsed() < support::DEADLINE);
    let acked = Instant::now();
    eventually("then it is silent", || nodes[leader].health("web", "a") == Some(Expired)).await;
    assert!(acked.elapsed() >= Duration::from_secs(2) - Duration::from_millis(20));
    stop(nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_is_not_acknowledged_while_an_expiry_may_be_in_the_log() {
    let nets: Vec<Arc<FreezeNet>> = (0..3).map(|_| Arc::new(FreezeNet::new())).collect();
    let hosts = |seed: u64| Host {
        net: nets[usize::try_from(seed).unwrap() - 1].clone(),
        ..Host::system(seed)
    };
    let nodes = three_on(&Settings::default(), hosts).await;
    let leader = leads(&nodes).await;
    let handle = register(&nodes[leader], "a", 1, 2).await;
    let proposed =
        || nodes[leader].node.api().leases().stats().expiries.load(Ordering::Relaxed) > 0;
    sleep(Duration::from_millis(1_800)).await;
    for (n, net) in nets.iter().enumerate() {
        if n != leader {
            net.freeze();
        }
    }
    // Its lease ends while the leader still trusts its quorum, but nothing can be committed.
    eventually("an expiry is proposed", proposed).await;
    // Longer than the leader waits for the outcome.
    sleep(Duration::from_millis(2_500)).await;
    nets.iter().for_each(|net| net.thaw());
    let answer = within("an answer", async {
        for node in nodes.iter().cycle() {
            let patience = Duration::from_millis(300);
            if let Ok(Ok(answer)) = timeout(patience, node.beat(&[handle])).await {
                return answer;
            }
            sleep(Duration::from_millis(1)).await;
        }
        unreachable!("the nodes are tried for ever")
    })
    .await;
    let until = Instant::now() + Duration::from_millis(1_900);
    if answer.reregister.is_empty() {
        // The expiry was lost with a change of the leader: then the answer must hold.
        while Instant::now() < until {
            assert!(nodes[leader].health("web", "a").is_some_and(HealthStatus::serves));
            sleep(Duration::from_millis(5)).await;
        }
    } else {
        assert_eq!(answer.reregister, [handle]);
        eventually("it is expired", || nodes[leader].health("web", "a") == Some(Expired)).await;
    }
    stop(nodes).await;
}

/// A clock that can be moved forward, as it is for a process that was stopped.
#[derive(Debug)]
struct Jumping {
    system: SystemClock,
    jumped_ms: AtomicU64,
}

impl Clock for Jumping {
    fn monotonic(&self) -> Duration {
        self.system.monotonic() + Duration::from_millis(self.jumped_ms.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> u64 {
        self.system.wall_ms()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_the_leader_expires_nobody_alive_and_prolongs_by_no_more_than_itself() {
    let clock = Arc::new(Jumping { system: SystemClock::new(), jumped_ms: AtomicU64::new(0) });
    let host = Host { clock: clock.clone(), ..Host::system(1) };
    let entry = rollcall_registry::node::Entry { bootstrap: true, ..Default::default() };
    let dir = tempfile::TempDir::new().unwrap();
    let running = start_on(host, dir, &Settings::default(), entry, 1).await;
    within("the node leads", running.node.ready()).await;
    let alive = register(&running, "alive", 1, 2).await;
    register(&running, "silent", 2, 2).await;
    let start = Instant::now();
    for _ in 0..3 {
        sleep(Duration::from_millis(400)).await;
        running.beat(&[alive]).await.expect("acknowledged");
        // Longer than any lease, each time.
        clock.jumped_ms.fetch_add(60_000, Ordering::SeqCst);
    }
    let last = Instant::now();
    let at = expired(&running, "silent", "alive").await;
    assert!(at - start >= Duration::from_secs(2));
    assert!(at - start < Duration::from_millis(3_200), "{:?}", at - start);
    eventually("without beats it is expired", || running.health("web", "alive") == Some(Expired))
        .await;
    assert!(last.elapsed() >= Duration::from_secs(2) - Duration::from_millis(50));
    assert!(running.node.api().leases().table().paused() >= Duration::from_secs(180));
    running.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_again_gives_every_lease_whole() {
    let running = single(&Settings::default()).await;
    let handle = register(&running, "a", 1, 2).await;
    let Running { node, dir } = running;
    node.shutdown().await;
    sleep(Duration::from_millis(2_500)).await;
    let entry = rollcall_registry::node::Entry::default();
    let running = support::start_in(dir, &Settings::default(), entry, 1).await;
    eventually("it leads", || support::leader_of(std::slice::from_ref(&running)).is_some()).await;
    let reign = Instant::now();
    within("it is expired", async {
        while running.health("web", "a") != Some(Expired) {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let granted = reign.elapsed();
    assert!(granted > Duration::from_millis(1_900), "{granted:?}");
    assert_eq!(running.beat(&[handle]).await.unwrap().reregister, [handle]);
    running.node.shutdown().await;
}

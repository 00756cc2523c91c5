//! The registration guard: pace, fail over, healing, fencing, goodbye.

mod fake;

use fake::{Answer, Beats, Dial, Node, Registry, reason};
use rollcall_client::{Client, Error, Fence, Guard, Registration, State, v1};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn web(port: u16) -> Registration {
    Registration::new("web").endpoint("http", ([10, 0, 0, 1], port).into()).ttl(ms(6_000))
}

/// Instants at which a node heard a beat for this lease.
fn beats(node: &Node, handle: u64) -> Vec<Instant> {
    let state = node.state();
    let of = state.heard.iter().filter(|(_, _, beat)| beat.alive_handles.contains(&handle));
    of.map(|(at, _, _)| *at).collect()
}

async fn wait_for(guard: &Guard, wanted: impl Fn(&State) -> bool) -> State {
    let mut states = guard.states();
    let state = tokio::time::timeout(ms(120_000), states.wait_for(wanted)).await;
    state.expect("within two minutes").expect("the guard lives").clone()
}

async fn start(count: usize) -> (Registry, Client) {
    let registry = Registry::start(count);
    let client = registry.builder().build().expect("a client");
    (registry, client)
}

#[tokio::test(start_paused = true)]
async fn a_lease_beats_at_a_third_of_its_length_and_never_later() {
    let (registry, client) = start(1).await;
    let guard = client.register(web(80)).await.unwrap();
    assert_eq!(guard.state(), State::Registered { generation: 101 });
    assert_eq!(guard.name().to_string(), "web/10.0.0.1-80");
    sleep(ms(30_000)).await;
    let beats = beats(&registry.nodes[0], 101);
    assert!(beats.len() >= 14, "{} beats in 30 s", beats.len());
    for pair in beats.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= ms(1_790) && gap <= ms(2_010), "{gap:?}");
    }
    let acknowledged = guard.acknowledged().unwrap();
    assert!(acknowledged.sent.elapsed() < ms(2_010));
    assert!(acknowledged.received >= acknowledged.sent);
    assert_eq!(registry.nodes[0].state().registers.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn all_registrations_share_one_stream_and_a_dropped_guard_says_goodbye_on_it() {
    let (registry, client) = start(1).await;
    let first = client.register(web(80)).await.unwrap();
    let second = client.register(web(81)).await.unwrap();
    sleep(ms(5_000)).await;
    let node = &registry.nodes[0];
    assert_eq!(node.state().streams.len(), 1);
    let both = |beat: &v1::StreamHeartbeatsRequest| beat.alive_handles == [101, 102];
    assert!(node.state().heard.iter().any(|(_, _, beat)| both(beat)), "packed into one message");
    drop(first);
    node.until("the goodbye", |state| {
        state.heard.iter().any(|(_, _, beat)| beat.release_handles == [101]).then_some(())
    })
    .await;
    second.deregister().await.unwrap();
    let state = node.state();
    assert_eq!(state.deregisters.len(), 1, "a dropped guard needs no call");
    let item = &state.deregisters[0].items[0];
    assert_eq!((item.generation, item.allow_missing), (102, true));
    assert_eq!(item.name.as_ref().unwrap().instance_id, "10.0.0.1-81");
}

#[tokio::test(start_paused = true)]
async fn without_an_acknowledgement_the_next_node_hears_the_beat_within_a_sixth_of_the_lease() {
    for dial in [Dial::Open, Dial::Hangs] {
        let (registry, client) = start(2).await;
        let guard = client.register(web(80)).await.unwrap();
        let [first, second] = &registry.nodes[..] else { panic!("two nodes") };
        first.until("a beat", |state| (state.heard.len() > 1).then_some(())).await;
        let before = guard.acknowledged().unwrap();
        (first.state().beats, first.state().dial) = (Beats::Ignored, dial);
        let count = first.state().heard.len();
        let ignored =
            first.until("an ignored beat", |s| s.heard.get(count).map(|(at, ..)| *at)).await;
        assert!(guard.acknowledged().unwrap().sent <= before.sent + ms(2_010));
        let moved = second.until("a beat here", |s| s.heard.first().map(|(at, ..)| *at)).await;
        let took = moved - ignored;
        assert!(took >= ms(990) && took <= ms(1_020), "a sixth of 6 s, took {took:?}");
        sleep(ms(10)).await;
        assert!(guard.acknowledged().unwrap().sent >= moved - ms(10));
        assert_eq!(guard.state(), State::Registered { generation: 101 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_beat_that_is_not_acknowledged_itself_counts_for_nothing() {
    let (registry, client) = start(1).await;
    let short = client.register(web(80)).await.unwrap();
    let long = client.register(web(81).ttl(ms(9_000))).await.unwrap();
    sleep(ms(5_000)).await;
    let node = &registry.nodes[0];
    node.state().beats = Beats::Ignored;
    let begin = node.state().heard.len();
    let (before_short, before_long) = (short.acknowledged(), long.acknowledged());
    // Leases of different length beat in different messages: the later one is acknowledged, the earlier one is not.
    let (sequence, later) = node
        .until("beats of both", |state| {
            let [.., (_, _, earlier), (_, _, later)] = &state.heard[begin..] else { return None };
            let differ = earlier.alive_handles != later.alive_handles;
            differ.then(|| (later.sequence, later.alive_handles.clone()))
        })
        .await;
    let stream = node.state().streams.last().unwrap().clone();
    let message = v1::StreamHeartbeatsResponse { ack_sequence: sequence, ..Default::default() };
    stream.send(Ok(message)).await.unwrap();
    sleep(ms(5)).await;
    let later_is_short = later == [101];
    assert_eq!(short.acknowledged() == before_short, !later_is_short);
    assert_eq!(long.acknowledged() == before_long, later_is_short);
}

#[tokio::test(start_paused = true)]
async fn a_killed_node_costs_no_more_than_the_way_to_the_next_one() {
    let (registry, client) = start(3).await;
    let guard = client.register(web(80)).await.unwrap();
    let [first, second, third] = &registry.nodes[..] else { panic!("three nodes") };
    first.until("beats", |state| (state.heard.len() > 2).then_some(())).await;
    second.state().dial = Dial::Refused;
    let killed = Instant::now();
    first.kill();
    let at = third.until("a beat here", |s| s.heard.first().map(|(at, ..)| *at)).await;
    assert!(at - killed < ms(50), "took {:?}", at - killed);
    assert_eq!(guard.generation(), Some(101));
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_comes_back_hears_a_beat_within_a_sixth_of_the_lease() {
    let (registry, client) = start(2).await;
    let guard = client.register(web(80)).await.unwrap();
    sleep(ms(3_000)).await;
    registry.nodes.iter().for_each(Node::kill);
    sleep(ms(60_000)).await;
    let dials: usize = registry.nodes.iter().map(|node| node.state().dials).sum();
    assert!(dials < 400, "{dials} dials in a minute");
    let back = Instant::now();
    registry.nodes[1].state().dial = Dial::Open;
    let at = registry.nodes[1].until("a beat", |s| s.heard.first().map(|(at, ..)| *at)).await;
    assert!(at - back <= ms(1_020), "took {:?}", at - back);
    assert_eq!(guard.state(), State::Registered { generation: 101 });
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_leader_is_left_and_nothing_spins() {
    let (registry, client) = start(2).await;
    let guard = client.register(web(80)).await.unwrap();
    registry.nodes.iter().for_each(|node| node.state().beats = Beats::NoLeader);
    sleep(ms(10_000)).await;
    let streams: usize = registry.nodes.iter().map(|node| node.state().streams.len()).sum();
    assert!((10..100).contains(&streams), "{streams} streams in 10 s");
    registry.nodes.iter().for_each(|node| node.state().beats = Beats::Acknowledged);
    let since = Instant::now();
    sleep(ms(1_100)).await;
    assert!(guard.acknowledged().unwrap().sent >= since);
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_lease_is_registered_again_under_the_same_nonce() {
    let (registry, client) = start(1).await;
    let guard = client.register(web(80)).await.unwrap();
    let node = &registry.nodes[0];
    let stream = node.until("a stream", |state| state.streams.first().cloned()).await;
    node.state().script.push_back(fake::no_leader());
    let message =
        v1::StreamHeartbeatsResponse { reregister_handles: vec![101], ..Default::default() };
    stream.send(Ok(message)).await.unwrap();
    wait_for(&guard, |state| *state == State::Registered { generation: 102 }).await;
    sleep(ms(10_000)).await;
    assert!(beats(node, 102).len() >= 4, "the new lease beats");
    let last_of_old = *beats(node, 101).last().unwrap();
    assert!(beats(node, 102)[0] >= last_of_old);
    let state = node.state();
    let items: Vec<_> = state.registers.iter().map(|(_, r)| &r.items[0]).collect();
    assert_eq!(items.len(), 3, "the first one, one without a leader, and its repetition");
    assert_eq!(items[0].owner_nonce.len(), 16);
    assert!(items.iter().all(|item| item.owner_nonce == items[0].owner_nonce));
    let held: Vec<_> = items.iter().map(|item| item.held_generation).collect();
    assert_eq!(held, [0, 101, 101]);
}

#[tokio::test(start_paused = true)]
async fn a_fenced_registration_stops_and_says_so() {
    let (registry, client) = start(1).await;
    let guard = client.register(web(80)).await.unwrap();
    let other = client.register(web(81)).await.unwrap();
    let node = &registry.nodes[0];
    let stream = node.until("a stream", |state| state.streams.first().cloned()).await;
    let fenced = v1::FencedHandle {
        lease_handle: 101,
        reason: v1::fenced_handle::Reason::Superseded.into(),
        detail: "web/10.0.0.1-80 belongs to generation 103".to_owned(),
    };
    let message =
        v1::StreamHeartbeatsResponse { fenced_handles: vec![fenced], ..Default::default() };
    stream.send(Ok(message)).await.unwrap();
    let state = wait_for(&guard, |state| matches!(state, State::Fenced { .. })).await;
    let State::Fenced { cause, detail } = state else { panic!("{state:?}") };
    assert_eq!(cause, Fence::Superseded);
    assert!(detail.contains("generation 103"), "{detail}");
    let since = Instant::now();
    sleep(ms(60_000)).await;
    assert!(beats(node, 101).iter().all(|at| *at <= since));
    assert_eq!(node.state().registers.len(), 2, "never registered again by itself");
    guard.deregister().await.unwrap();
    assert!(node.state().deregisters.is_empty(), "it belongs to somebody else");
    assert_eq!(other.generation(), Some(102));
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_is_fenced_while_it_heals_stops_too() {
    let (registry, client) = start(1).await;
    let guard = client.register(web(80)).await.unwrap();
    let node = &registry.nodes[0];
    let stream = node.until("a stream", |state| state.streams.first().cloned()).await;
    let refused = Answer::Refuse(reason(Code::FailedPrecondition, "FENCED"));
    node.state().script.push_back(refused);
    let message =
        v1::StreamHeartbeatsResponse { reregister_handles: vec![101], ..Default::default() };
    stream.send(Ok(message)).await.unwrap();
    wait_for(&guard, |state| matches!(state, State::Fenced { .. })).await;
    sleep(ms(60_000)).await;
    assert_eq!(node.state().registers.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_away_is_left_without_losing_a_beat() {
    let (registry, client) = start(2).await;
    let guard = client.register(web(80)).await.unwrap();
    let [first, second] = &registry.nodes[..] else { panic!("two nodes") };
    // The next node is not there yet: until it is, the one that goes away keeps getting the beats.
    second.state().dial = Dial::Refused;
    first.state().beats = Beats::GoAway;
    sleep(ms(7_000)).await;
    second.state().dial = Dial::Open;
    sleep(ms(10_000)).await;
    let mut all = beats(first, 101);
    all.extend(beats(second, 101));
    all.sort();
    for pair in all.windows(2) {
        assert!(pair[1] - pair[0] <= ms(2_010), "a gap of {:?}", pair[1] - pair[0]);
    }
    assert!(!beats(second, 101).is_empty(), "it moved");
    assert_eq!(guard.generation(), Some(101));
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_panics_harms_nobody() {
    let (registry, client) = start(1).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let registration = web(80).on_change(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        panic!("a bug of the user");
    });
    let guard = client.register(registration).await.unwrap();
    let node = &registry.nodes[0];
    let stream = node.until("a stream", |state| state.streams.first().cloned()).await;
    let message =
        v1::StreamHeartbeatsResponse { reregister_handles: vec![101], ..Default::default() };
    stream.send(Ok(message)).await.unwrap();
    wait_for(&guard, |state| *state == State::Registered { generation: 102 }).await;
    sleep(ms(10_000)).await;
    assert!(calls.load(Ordering::Relaxed) >= 2);
    assert!(beats(node, 102).len() >= 4);
}

#[tokio::test(start_paused = true)]
async fn a_refused_registration_is_an_error_and_is_not_kept() {
    let (registry, client) = start(1).await;
    let refused = Answer::Refuse(Status::invalid_argument("spec.ttl: 1s to 24h are allowed"));
    registry.nodes[0].state().script.push_back(refused);
    let error = client.register_all(vec![web(80), web(81)]).await.unwrap_err();
    assert!(error.to_string().contains("spec.ttl"), "{error}");
    sleep(ms(60_000)).await;
    let state = registry.nodes[0].state();
    assert_eq!(state.registers.len(), 1);
    assert_eq!(state.registers[0].1.items.len(), 2, "one call for both");
    assert!(state.heard.is_empty());
}

#[tokio::test(start_paused = true)]
async fn registering_ends_at_its_deadline() {
    let (registry, client) = start(1).await;
    registry.nodes[0].state().dial = Dial::Hangs;
    let begin = Instant::now();
    let error = client.register(web(80)).await.unwrap_err();
    assert!(error.is_unreachable(), "{error}");
    assert!(begin.elapsed() < ms(5_050), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_process_may_start_before_its_registry() {
    let (registry, client) = start(1).await;
    registry.nodes[0].state().dial = Dial::Refused;
    let guard = client.keep_registered(web(80)).unwrap();
    let waiting = wait_for(&guard, |s| matches!(s, State::Registering { problem: Some(_) })).await;
    let State::Registering { problem: Some(problem) } = waiting else { panic!("{waiting:?}") };
    assert!(problem.contains("n1:8502"), "{problem}");
    sleep(ms(60_000)).await;
    registry.nodes[0].state().dial = Dial::Open;
    let back = Instant::now();
    wait_for(&guard, |state| matches!(state, State::Registered { .. })).await;
    assert!(back.elapsed() < ms(2_100), "{:?}", back.elapsed());
    let ids = registry.nodes[0].state().registers.len();
    assert_eq!(ids, 1);
}

#[tokio::test(start_paused = true)]
async fn a_persistent_instance_needs_no_beat_and_outlives_its_guard() {
    let (registry, client) = start(1).await;
    let guard = client.register(web(80).persistent()).await.unwrap();
    sleep(ms(20_000)).await;
    drop(guard);
    sleep(ms(20_000)).await;
    let state = registry.nodes[0].state();
    assert!(state.heard.is_empty() && state.deregisters.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_dropped_amid_its_registration_leaves_nothing_behind() {
    let (registry, client) = start(1).await;
    let node = &registry.nodes[0];
    node.state().script.push_back(Answer::Hang);
    let guard = client.keep_registered(web(80)).unwrap();
    node.until("the call", |state| (!state.registers.is_empty()).then_some(())).await;
    drop(guard);
    let item = node.until("a goodbye", |state| state.deregisters.pop()).await.items.remove(0);
    assert_eq!(item.generation, 101);
}

#[tokio::test(start_paused = true)]
async fn a_new_guard_waits_for_the_registration_that_a_dropped_one_left_on_its_way() {
    let (registry, client) = start(1).await;
    let node = &registry.nodes[0];
    node.state().script.push_back(Answer::Hang);
    let former = client.keep_registered(web(80)).unwrap();
    node.until("the call", |state| (!state.registers.is_empty()).then_some(())).await;
    drop(former);
    let guard = client.keep_registered(web(80)).unwrap();
    // Only what has the same name waits.
    let _other = client.register(web(81)).await.unwrap();
    assert_eq!(guard.state(), State::Registering { problem: None });
    wait_for(&guard, |state| matches!(state, State::Registered { .. })).await;
    let state = node.state();
    let items = state.registers.iter().map(|(_, request)| &request.items[0]);
    let nonces = items.filter(|item| item.name == state.registers[0].1.items[0].name);
    let nonces: Vec<_> = nonces.map(|item| &item.owner_nonce).collect();
    let changes = nonces.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(changes, 1, "all attempts of the dropped one come first: {nonces:?}");
}

#[tokio::test(start_paused = true)]
async fn a_goodbye_that_is_not_acknowledged_on_the_stream_is_repeated_by_a_call() {
    for beats in [Beats::Ignored, Beats::NoLeader] {
        let (registry, client) = start(1).await;
        let node = &registry.nodes[0];
        let first = client.register(web(80)).await.unwrap();
        let second = client.register(web(81)).await.unwrap();
        sleep(ms(5_000)).await;
        node.state().beats = beats;
        drop(first);
        let item = node.until("a call", |state| state.deregisters.pop()).await.items.remove(0);
        assert_eq!(item.generation, 101);
        drop(second);
        let item = node.until("a call", |state| state.deregisters.pop()).await.items.remove(0);
        assert_eq!(item.generation, 102);
    }
}

#[tokio::test(start_paused = true)]
async fn closing_a_client_deregisters_all_and_refuses_more() {
    let (registry, client) = start(1).await;
    let guards = client.register_all(vec![web(80), web(81), web(82)]).await.unwrap();
    client.close().await.unwrap();
    assert_eq!(registry.nodes[0].state().deregisters[0].items.len(), 3);
    assert!(guards.iter().all(|guard| guard.state() == State::Stopped));
    let error = client.register(web(83)).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    let since = Instant::now();
    sleep(ms(20_000)).await;
    assert!(registry.nodes[0].state().heard.iter().all(|(at, ..)| *at <= since));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_waits_for_the_goodbyes_of_guards_that_were_dropped_before() {
    // Not acknowledged on the stream; and by a call that is on its way.
    for wait in [ms(20), ms(0)] {
        let (registry, client) = start(1).await;
        let node = &registry.nodes[0];
        let first = client.register(web(80)).await.unwrap();
        let _second = client.register(web(81)).await.unwrap();
        sleep(ms(5_000)).await;
        node.state().beats = Beats::Ignored;
        drop(first);
        sleep(wait).await;
        client.close().await.unwrap();
        let state = node.state();
        let items = state.deregisters.iter().flat_map(|request| &request.items);
        let mut generations: Vec<_> = items.map(|item| item.generation).collect();
        generations.sort_unstable();
        assert_eq!(generations, [101, 102], "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_leases_need_two_messages_a_beat() {
    let (registry, client) = start(1).await;
    let mut guards = Vec::new();
    for batch in 0..11_u16 {
        let batch = (0..1_000).map(|i| web(1_000 + batch * 1_000 + i)).collect();
        guards.extend(client.register_all(batch).await.unwrap());
    }
    sleep(ms(5_000)).await;
    let node = &registry.nodes[0];
    let since = Instant::now();
    sleep(ms(2_000)).await;
    let state = node.state();
    let sizes: Vec<_> = state
        .heard
        .iter()
        .filter(|(at, ..)| *at >= since)
        .map(|(_, _, beat)| beat.alive_handles.len())
        .collect();
    assert!(sizes.iter().sum::<usize>() >= 11_000, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 10_000) && sizes.len() <= 4, "{sizes:?}");
}

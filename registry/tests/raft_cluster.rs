//! Consensus on real sockets and real disks: forming, failing, catching up, changing members.

mod cluster;

use std::sync::Arc;
use std::time::Duration;

use cluster::freeze::FreezeNet;
use cluster::{CALL, Node, PATIENCE, TightDisk, World, eventually, leader, put, three};
use rollcall_registry::raft::JoinOptions;
use rollcall_registry::raft::errors::{AdminError, SubmitError};
use rollcall_registry::raft::membership::Standing;
use rollcall_registry::raft::replica::Replica;
use rollcall_registry::raft::settings::RaftSettings;
use rollcall_registry::raft::status::Role;

fn settings() -> RaftSettings {
    RaftSettings::default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_begins_a_cluster_and_finds_everything_again_after_a_kill() {
    let node = Node::start(settings());
    node.bootstrap().await;
    for n in 0..10 {
        node.put(&format!("s{n}")).await.unwrap();
    }
    let (id, cluster) = (node.id(), node.replica.cluster_id());
    assert_eq!(node.seen().restored, 1, "published once at the start");
    let (dir, peer) = node.kill();

    let node = Node::open(dir, peer, settings());
    assert_eq!((node.id(), node.replica.cluster_id()), (id, cluster));
    eventually("all services are back", || (0..10).all(|n| node.has(&format!("s{n}")))).await;
    eventually("it leads again", || node.leads()).await;
    node.put("more").await.unwrap();
    assert!(!node.run(|r| async move { r.bootstrap().await.unwrap() }).await, "ignored");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_replicate_and_forward() {
    let nodes = three(&settings()).await;
    for (n, node) in nodes.iter().enumerate() {
        node.put(&format!("by-{n}")).await.unwrap();
    }
    for node in &nodes {
        eventually("every node has what every node wrote", || {
            (0..3).all(|n| node.has(&format!("by-{n}")))
        })
        .await;
    }
    let hashes: Vec<u128> = nodes.iter().map(|node| node.seen().state.hash()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:x?}");

    let leader = leader(&nodes).await;
    let status = nodes[leader].replica.status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.members.len(), 3);
    assert!(status.members.values().all(|member| member.standing == Standing::Voter));
    let follower = &nodes[(leader + 1) % 3];
    let refused = follower.run(|r| async move { r.propose_on_leader(put("x"), CALL).await }).await;
    let Err(SubmitError::NotLeader { leader: Some((known, _)), .. }) = refused else {
        panic!("a follower proposed: {refused:?}");
    };
    assert_eq!(known, nodes[leader].id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced_within_the_published_outage() {
    let settings = settings();
    let mut nodes = three(&settings).await;
    nodes[0].put("before").await.unwrap();
    let dead = leader(&nodes).await;
    let killed_at = tokio::time::Instant::now();
    let (dir, peer) = nodes.remove(dead).kill();
    eventually("another node leads", || nodes.iter().any(Node::leads)).await;
    let outage = killed_at.elapsed();
    // The bound, and what a loaded machine adds to it.
    let bound = settings.outage_max() + Duration::from_millis(1500);
    assert!(outage < bound, "no leader for {outage:?}, bound {:?}", settings.outage_max());
    for node in &nodes {
        node.put_surely("after").await;
        eventually("nothing is lost", || node.has("before") && node.has("after")).await;
    }
    let back = Node::open(dir, peer, settings.clone());
    eventually("the dead one comes back and catches up", || back.has("after")).await;
    assert!(!back.leads(), "a restarted leader must be elected anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_come_back_after_being_killed_at_once() {
    let nodes = three(&settings()).await;
    for n in 0..20 {
        nodes[n % 3].put(&format!("s{n}")).await.unwrap();
    }
    let left: Vec<_> = nodes.into_iter().map(Node::kill).collect();
    let nodes: Vec<Node> =
        left.into_iter().map(|(dir, peer)| Node::open(dir, peer, settings())).collect();
    leader(&nodes).await;
    for node in &nodes {
        eventually("everything that was acknowledged is back", || {
            (0..20).all(|n| node.has(&format!("s{n}")))
        })
        .await;
    }
    nodes[0].put_surely("more").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_past_the_purge_gets_a_snapshot() {
    let settings = RaftSettings { snapshot_entries: 50, kept_entries: 10, ..settings() };
    let mut nodes = three(&settings).await;
    let leads = leader(&nodes).await;
    let away = (leads + 1) % 3;
    let (dir, peer) = nodes.remove(away).kill();
    for n in 0..200 {
        nodes[0].put_surely(&format!("s{n}")).await;
    }
    for node in &nodes {
        eventually("the log is purged", || {
            node.replica.status().purged.is_some_and(|purged| purged.index > 100)
        })
        .await;
    }
    let back = Node::open(dir, peer, settings);
    eventually("it has everything", || (0..200).all(|n| back.has(&format!("s{n}")))).await;
    assert!(back.seen().restored >= 2, "by a snapshot, not by the log");
    let snapshot = back.replica.snapshot_handle().expect("it is kept");
    assert!(snapshot.meta().last_log_id.is_some_and(|last| last.index > 100));
    eventually("and the hash agrees", || {
        nodes.iter().all(|node| node.seen().state.hash() == back.seen().state.hash())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_linearizable_read_on_a_follower_sees_what_was_acknowledged() {
    let nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let (writer, reader) = (&nodes[leads], &nodes[(leads + 1) % 3]);
    for n in 0..100 {
        let name = format!("s{n}");
        writer.put(&name).await.unwrap();
        reader.run(|replica| async move { replica.read_index(CALL).await.unwrap() }).await;
        assert!(reader.has(&name), "the follower read before {name} was applied");
    }
    for node in &nodes {
        eventually("each node knows how fresh it is", || node.replica.fresh_as_of().is_some())
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_written_or_read_but_the_state_stays() {
    let mut nodes = three(&settings()).await;
    nodes[0].put("before").await.unwrap();
    eventually("everywhere", || nodes.iter().all(|node| node.has("before"))).await;
    let last = nodes.remove(0);
    drop(nodes);
    eventually("no leader is known", || last.replica.leadership().borrow().leader.is_none()).await;
    let short = Duration::from_secs(1);
    let read = last.run(|r| async move { r.read_index(short).await }).await;
    assert!(read.is_err(), "a linearizable read without a quorum");
    let write = last.run(|r| async move { r.submit(put("x"), short).await }).await;
    assert!(write.is_err(), "a write without a quorum");
    assert!(last.has("before") && !last.has("x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_shuts_down_hands_over_first() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let leaver = nodes.remove(leads);
    leaver.stop().await;
    let leads = leader(&nodes).await;
    nodes[leads].put("after").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_where_an_operator_wants_it() {
    let nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let (asked, to) = (&nodes[(leads + 1) % 3], nodes[(leads + 2) % 3].id());
    asked.run(move |replica| async move { replica.transfer_leader(Some(to)).await.unwrap() }).await;
    eventually("the chosen one leads", || nodes[(leads + 2) % 3].leads()).await;
    for node in &nodes {
        node.put_surely("after").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_member_is_forgotten_and_the_quorum_is_guarded() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let gone = nodes.remove((leads + 1) % 3);
    let (id, other) = (gone.id(), nodes.iter().position(|node| !node.leads()).unwrap());
    gone.kill();
    let survivor = &nodes[1 - other];
    // Only two of three answer: of the two that would stay, one is dead.
    let kept = nodes[other].id();
    eventually("the leader has noticed", || {
        let status = survivor.replica.status();
        let contact = status.members.get(&id).and_then(|member| member.last_contact);
        contact.is_none_or(|age| age > Duration::from_millis(1300))
    })
    .await;
    let refused = survivor.run(move |r| async move { r.remove_member(kept).await }).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("bring the others back first"), "{refused}");

    nodes[other].run(move |r| async move { r.remove_member(id).await.unwrap() }).await;
    for node in &nodes {
        eventually("two members are left", || node.replica.status().members.len() == 2).await;
        node.put_surely("after").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_comes_back_under_a_new_id_in_place_of_the_old_one() {
    let mut nodes = three(&settings()).await;
    nodes[0].put("before").await.unwrap();
    let leads = leader(&nodes).await;
    let wiped = nodes.remove((leads + 1) % 3);
    let old = wiped.id();
    let (dir, peer) = wiped.kill();
    drop(dir);
    let fresh = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::open(fresh, peer, settings());
    assert_ne!(node.id(), old);
    let seeds = vec![nodes[0].peer, nodes[1].peer];

    let options = JoinOptions { seeds: seeds.clone(), ..JoinOptions::default() };
    let plain =
        node.run(
            |r| async move { tokio::time::timeout(Duration::from_secs(1), r.join(options)).await },
        );
    assert!(plain.await.is_err(), "two members at one address");
    assert!(nodes[0].replica.status().members.contains_key(&old));

    let options = JoinOptions { seeds, replace: Some(old), ..JoinOptions::default() };
    let joined = node.run(|r| async move { r.join(options).await.unwrap() });
    let joined = tokio::time::timeout(PATIENCE, joined).await.unwrap();
    assert_eq!(joined, Standing::Voter);
    eventually("it has everything", || node.has("before")).await;
    // It may still see the joint membership of the change that took it in.
    eventually("the old node is no member any more", || {
        let members = node.replica.status().members;
        members.len() == 3 && !members.contains_key(&old)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_receives_everything_and_stays_a_learner() {
    let nodes = three(&settings()).await;
    let learner = Node::start(settings());
    let seeds = vec![nodes[1].peer];
    let options = JoinOptions { seeds, learner: true, ..JoinOptions::default() };
    let joined = learner.run(|r| async move { r.join(options).await.unwrap() }).await;
    assert_eq!(joined, Standing::Learner);
    nodes[0].put_surely("for-all").await;
    eventually("the learner has it", || learner.has("for-all")).await;
    let id = learner.id();
    assert_eq!(nodes[0].replica.status().members[&id].standing, Standing::Learner);
    learner.put("by-the-learner").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_does_not_answer_gets_no_vote() {
    let first = Node::start(settings());
    first.run(|r| async move { r.bootstrap().await.unwrap() }).await;
    eventually("it leads", || first.leads()).await;
    let learner = Node::start(settings());
    let seeds = vec![first.peer];
    let options = JoinOptions { seeds, learner: true, ..JoinOptions::default() };
    learner.run(|r| async move { r.join(options).await.unwrap() }).await;
    let id = learner.id();
    let (dir, peer) = learner.kill();
    eventually("the leader has noticed", || {
        let contact = first.replica.status().members[&id].last_contact;
        contact.is_none_or(|age| age > 2 * settings().election_timeout_max)
    })
    .await;
    let refused = first.run(move |r| async move { r.promote(id).await }).await.unwrap_err();
    assert!(refused.to_string().contains("does not answer"), "{refused}");
    first.put("after").await.unwrap();

    let learner = Node::open(dir, peer, settings());
    eventually("it has a vote once it answers", || {
        learner.replica.status().members.contains_key(&id)
    })
    .await;
    first
        .run(move |r| async move {
            while r.promote(id).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    assert_eq!(first.replica.status().members[&id].standing, Standing::Voter);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_learner_takes_the_place_of_the_old_one_and_stays_a_learner() {
    let nodes = three(&settings()).await;
    let seeds = vec![nodes[1].peer];
    let options = JoinOptions { seeds, learner: true, ..JoinOptions::default() };
    let wiped = Node::start(settings());
    let first = options.clone();
    wiped.run(|r| async move { r.join(first).await.unwrap() }).await;
    let old = wiped.id();
    let (dir, peer) = wiped.kill();
    drop(dir);

    let node = Node::open(Arc::new(tempfile::tempdir().unwrap()), peer, settings());
    let options = JoinOptions { replace: Some(old), ..options };
    let joined = node.run(|r| async move { r.join(options).await.unwrap() });
    assert_eq!(tokio::time::timeout(PATIENCE, joined).await.unwrap(), Standing::Learner);
    eventually("the old learner is no member any more, the new one is, without a vote", || {
        let members = nodes[0].replica.status().members;
        let standing = members.get(&node.id()).map(|member| member.standing);
        members.len() == 4 && !members.contains_key(&old) && standing == Some(Standing::Learner)
    })
    .await;
    nodes[0].put_surely("for-all").await;
    eventually("the new learner has it", || node.has("for-all")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_node_follows_an_invitation() {
    let nodes = three(&settings()).await;
    let empty = Node::start(settings());
    let address = empty.peer;
    let leads = leader(&nodes).await;
    let asked = &nodes[(leads + 1) % 3];
    let id = asked.run(move |r| async move { r.invite(address, None, false).await.unwrap() });
    assert_eq!(id.await, empty.id());
    asked.put_surely("for-all").await;
    eventually("the guest has it", || empty.has("for-all")).await;
    let stranger = Node::start(settings());
    stranger.bootstrap().await;
    let address = stranger.peer;
    let refused = asked.run(move |r| async move { r.invite(address, None, false).await }).await;
    assert!(refused.unwrap_err().to_string().contains("belongs to cluster"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused() {
    let (ours, theirs) = (Node::start(settings()), Node::start(settings()));
    ours.bootstrap().await;
    theirs.bootstrap().await;
    let options = JoinOptions { seeds: vec![ours.peer], ..JoinOptions::default() };
    let refused = theirs.run(|r| async move {
        tokio::time::timeout(Duration::from_secs(1), r.join(options)).await
    });
    assert!(refused.await.is_err(), "joined a second cluster");
    assert!(ours.replica.guard().refused() > 0, "and it was counted");
    assert_eq!(ours.replica.status().members.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_new_address_is_found_again() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let moved = nodes.remove((leads + 1) % 3);
    let (id, old) = (moved.id(), moved.peer);
    let (dir, _) = moved.kill();
    let moved = Node::open(dir, "127.0.0.1:0".parse().unwrap(), settings());
    assert_ne!(moved.peer, old);
    eventually("the others know the new address", || {
        let new = |node: &Node| node.replica.members().get(&id).map(|member| member.peer);
        nodes.iter().all(|node| new(node) == Some(moved.peer))
    })
    .await;
    nodes[0].put_surely("after").await;
    eventually("and reach it there", || moved.has("after")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_leaves_a_working_cluster() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let id = nodes[leads].id();
    nodes[leads].run(move |r| async move { r.remove_member(id).await.unwrap() }).await;
    let removed = nodes.remove(leads);
    leader(&nodes).await;
    for node in &nodes {
        node.put_surely("after").await;
        assert_eq!(node.replica.status().members.len(), 2);
    }
    eventually("the removed one leads no more", || !removed.leads()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_is_nearly_full_refuses_writes_and_hands_over() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let (dir, peer) = nodes.remove(leads).stop().await;
    let disk = Arc::new(TightDisk::default());
    let tight = Node::open_in(
        World { disk: Arc::clone(&disk) as _, ..World::default() },
        dir,
        peer,
        settings(),
    );
    let id = tight.id();
    nodes[0].put_surely("before").await;
    eventually("the tight one has caught up", || tight.has("before")).await;
    nodes[0].run(move |r| async move { r.transfer_leader(Some(id)).await.unwrap() }).await;
    eventually("the tight one leads", || tight.leads()).await;

    disk.set_full(true);
    // The log looks at the disk with each write.
    let _ = tight.put("notices").await;
    eventually("the lead is handed over", || nodes.iter().any(Node::leads)).await;
    nodes[0].put_surely("elsewhere").await;
    eventually("the tight one still follows", || tight.has("elsewhere")).await;
    let refused = tight.run(|r| async move { r.propose_on_leader(put("x"), CALL).await }).await;
    assert_eq!(refused.unwrap_err(), SubmitError::DiskFull);

    disk.set_full(false);
    let refused = tight.run(|r| async move { r.propose_on_leader(put("x"), CALL).await }).await;
    assert!(matches!(refused.unwrap_err(), SubmitError::NotLeader { .. }), "it takes part again");
    assert_eq!(tight.fatal.get(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_a_snapshot_waits_for_space_on_the_disk_without_spinning() {
    let disk = Arc::new(TightDisk::default());
    let world = World { disk: Arc::clone(&disk) as _, ..World::default() };
    let settings = RaftSettings { snapshot_timeout: Duration::from_secs(2), ..settings() };
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::open_in(world, dir, ([127, 0, 0, 1], 0).into(), settings);
    node.bootstrap().await;
    node.put_surely("first").await;
    disk.set_full(true);
    let ask = |r: Replica| async move {
        let metrics = tokio::runtime::Handle::current().metrics();
        let polls = || -> u64 {
            (0..metrics.num_workers()).map(|worker| metrics.worker_poll_count(worker)).sum()
        };
        let before = polls();
        (r.trigger_snapshot().await.map(|_| ()), polls() - before)
    };
    let (refused, polls) = node.run(ask).await;
    assert!(matches!(refused, Err(AdminError::Unknown(_))), "{refused:?}");
    assert!(polls < 5_000, "{polls} polls of tasks in two seconds");
    disk.set_full(false);
    eventually("it is made when there is space", || node.replica.snapshot_handle().is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_hands_over_promises_nothing_any_more() {
    let nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let (old, to) = (&nodes[leads], nodes[(leads + 1) % 3].id());
    assert!(old.replica.quorum_contact_age().is_some());
    old.run(move |r| async move { r.transfer_leader(Some(to)).await.unwrap() }).await;
    assert_eq!(old.replica.quorum_contact_age(), None);
    eventually("its reign is over", || !old.leads()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_is_replaced_and_catches_up_when_the_link_is_back() {
    let settings = settings();
    let mut nodes = three(&settings).await;
    let leads = leader(&nodes).await;
    let (dir, peer) = nodes.remove(leads).stop().await;
    let net = Arc::new(FreezeNet::new());
    let world = World { net: Arc::clone(&net) as _, ..World::default() };
    let cut = Node::open_in(world, dir, peer, settings.clone());
    let id = cut.id();
    eventually("it follows", || cut.replica.leadership().borrow().leader.is_some()).await;
    nodes[0].run(move |r| async move { r.transfer_leader(Some(id)).await.unwrap() }).await;
    eventually("it leads", || cut.leads()).await;
    cut.put("before").await.unwrap();

    for round in 0..2 {
        net.freeze();
        let cut_at = tokio::time::Instant::now();
        eventually("another one leads", || nodes.iter().any(Node::leads)).await;
        let outage = cut_at.elapsed();
        let bound = settings.outage_max() + Duration::from_millis(1500);
        assert!(outage < bound, "round {round}: no leader for {outage:?}");
        let lease = settings.leader_lease();
        eventually("the one that is cut off trusts itself no more", || {
            cut.replica.quorum_contact_age().is_none_or(|age| age >= lease)
        })
        .await;
        // What it knows of the members may be long over.
        let voter = nodes[0].id();
        let answer = cut.run(move |r| async move { r.promote(voter).await }).await;
        assert!(answer.is_err(), "it answered without a quorum");
        let during = format!("during-{round}");
        nodes[0].put_surely(&during).await;
        assert!(!cut.has(&during));
        // Long enough for pings and deadlines to give the connections up.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        net.thaw();
        eventually("it hears what it missed", || cut.has(&during)).await;
        eventually("it follows", || !cut.leads()).await;
        cut.put_surely(&format!("after-{round}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_value_of_a_shared_setting_is_refused_until_it_has_the_same() {
    let mut nodes = three(&settings()).await;
    let other = RaftSettings { allow_loopback: true, ..settings() };
    let newcomer = Node::start(other.clone());
    let seeds = [nodes[0].peer];
    tokio::select! {
        biased;
        standing = newcomer.join(&seeds) => panic!("it was taken in as a {standing:?}"),
        () = eventually("it is refused", || nodes[0].replica.guard().refused() > 2) => {}
    }
    assert_eq!((nodes[0].replica.status().members.len(), newcomer.replica.cluster_id()), (3, None));
    drop(newcomer);

    let follower = (leader(&nodes).await + 1) % 3;
    let (dir, peer) = nodes.remove(follower).kill();
    let back = Node::open(dir, peer, other);
    eventually("it refuses the leader", || back.replica.guard().refused() > 2).await;
    nodes[0].put_surely("meanwhile").await;
    assert!(!back.has("meanwhile"));
    let (dir, peer) = back.kill();
    let back = Node::open(dir, peer, settings());
    eventually("it follows again", || back.has("meanwhile")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_never_told_as_not_done() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    let alone = nodes.remove(leads);
    drop(nodes);
    let short = Duration::from_millis(300);
    let lost = alone.run(move |r| async move { r.submit(put("maybe"), short).await }).await;
    assert!(matches!(lost, Err(SubmitError::OutcomeUnknown { .. })), "{lost:?}");
    // Once the lease is over, it is certain that nothing is proposed any more.
    eventually("no leader is known", || alone.replica.leadership().borrow().leader.is_none()).await;
    let refused = alone.run(move |r| async move { r.submit(put("no"), short).await }).await;
    assert!(matches!(refused, Err(SubmitError::NoLeader { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_writes_do_not_wait_for_delayed_acknowledgements() {
    let nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    nodes[leads].put("warm-up").await.unwrap();
    let count = 200;
    let took = nodes[leads]
        .run(move |replica| async move {
            let start = tokio::time::Instant::now();
            for n in 0..count {
                replica.submit(put(&format!("s{n}")), CALL).await.unwrap();
            }
            start.elapsed()
        })
        .await;
    // With Nagle's algorithm on the accepting end most writes take 40 ms and more. (The test of the sockets
    // alone, in net.rs, is the sharp one: this one leaves room for a loaded machine.)
    assert!(took < Duration::from_millis(30) * count, "{count} writes took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_peer_is_not_dialled_in_a_loop() {
    let mut nodes = three(&settings()).await;
    let leads = leader(&nodes).await;
    nodes.remove((leads + 1) % 3).kill();
    let leads = leader(&nodes).await;
    // Work for the replication stream to the dead peer.
    for n in 0..10 {
        nodes[leads].put_surely(&format!("s{n}")).await;
    }
    let before = nodes[leads].replica.dials();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let dials = nodes[leads].replica.dials() - before;
    // Ten heartbeats and a few attempts to replicate; without the back-off it is thousands.
    assert!(dials < 60, "{dials} dials in one second");
    assert!(dials > 0, "the dead peer is not tried at all");
}

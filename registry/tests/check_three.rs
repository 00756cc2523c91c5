//! Three nodes share the checks: every one knows its own, any one shows all, and a dead one's are taken over.

mod support;

use rollcall_core::record::HealthStatus::{Healthy, Unhealthy};
use rollcall_proto::v1;
use rollcall_registry::check::CheckSettings;
use std::{collections::BTreeSet, time::Duration};
use support::{
    Killable, Running, Settings, eventually, leader_among, persistent, stop,
    target::{Target, at, checked, http},
    three, three_killable,
};

/// Nodes that come and go are noticed sooner than in production.
fn quick() -> Settings {
    let check = CheckSettings {
        leave_after: Duration::from_millis(1_500),
        return_after: Duration::from_secs(2),
        ..CheckSettings::default()
    };
    Settings { check, ..Settings::default() }
}

fn checkers(node: &Running) -> usize {
    node.node.api().view().load().state.checkers().nodes().len()
}

fn total(nodes: &[&Running]) -> usize {
    nodes.iter().map(|node| node.node.api().checks().len()).sum()
}

async fn register(node: &Running, targets: &[Target]) {
    let items = targets.iter().enumerate().map(|(number, target)| {
        at(checked(persistent("web", &format!("i{number}")), http()), target.address)
    });
    node.enlist(items.collect()).await;
}

async fn targets(count: usize) -> Vec<Target> {
    let mut targets = Vec::new();
    for _ in 0..count {
        targets.push(Target::new(200).await);
    }
    targets
}

#[tokio::test]
async fn every_check_has_one_checker_and_any_node_shows_its_outputs() {
    let nodes = three(&quick()).await;
    eventually("three checkers", || nodes.iter().all(|node| checkers(node) == 3)).await;
    for node in &nodes {
        let status = node.admin().get_cluster_status(v1::GetClusterStatusRequest {}).await;
        let members = status.expect("status").into_inner().members;
        assert_eq!(members.iter().filter(|member| member.probes).count(), 3, "{members:?}");
    }
    let targets = targets(24).await;
    register(&nodes[1], &targets).await;
    for number in 0..targets.len() {
        nodes[2].comes_to(&format!("i{number}"), Healthy).await;
    }
    let all: Vec<&Running> = nodes.iter().collect();
    eventually("one checker for each", || total(&all) == targets.len()).await;
    assert!(nodes.iter().all(|node| node.node.api().checks().len() >= 2), "they share");
    let mut checkers = BTreeSet::new();
    for number in 0..targets.len() {
        let mut told = Vec::new();
        for node in &nodes {
            let answer = node.instance(&format!("i{number}")).await;
            assert_eq!(answer.outputs_problem, "");
            assert!(!answer.checks[0].outputs.is_empty(), "{answer:?}");
            told.push(answer.checker_node_id);
        }
        assert!(told.iter().all(|id| *id == told[0]), "{told:?}");
        checkers.insert(told[0]);
    }
    assert_eq!(checkers.len(), 3);
    targets[7].says(500);
    for node in &nodes {
        node.comes_to("i7", Unhealthy).await;
    }
    stop(nodes).await;
}

async fn a_death_is_survived(of_the_leader: bool) {
    let mut nodes = three_killable(&quick()).await;
    let all_check = |nodes: &[Killable]| nodes.iter().all(|node| checkers(node) == 3);
    eventually("three checkers", || all_check(&nodes)).await;
    let targets = targets(12).await;
    register(&nodes[0], &targets).await;
    for number in 0..targets.len() {
        nodes[0].comes_to(&format!("i{number}"), Healthy).await;
    }
    let leader = leader_among(&nodes).await;
    let victim = if of_the_leader { leader } else { (leader + 1) % 3 };
    let lost = nodes[victim].node.api().checks().len();
    assert!(lost > 0, "it has something to lose");
    nodes[victim].kill();
    let alive: Vec<usize> = (0..3).filter(|at| *at != victim).collect();
    eventually("the others check all", || {
        let left: Vec<&Running> = alive.iter().map(|at| &*nodes[*at]).collect();
        left.iter().all(|node| checkers(node) == 2) && total(&left) == targets.len()
    })
    .await;
    // Nothing went meanwhile, and everything is probed.
    let witness = &nodes[alive[0]];
    assert_eq!(witness.routable("web"), targets.len());
    let before: Vec<usize> = targets.iter().map(Target::connections).collect();
    eventually("everything is probed again", || {
        targets.iter().zip(&before).all(|(target, before)| target.connections() > before + 1)
    })
    .await;
    targets.iter().for_each(|target| target.says(503));
    eventually("all are seen to fail", || witness.routable("web") == 0).await;
    let seen = witness.node.api().view().seen();
    let events = seen.state.journal().iter();
    let failed = events.filter(|event| event.reason.as_str() == "check_failed").count();
    assert_eq!(failed, targets.len(), "each exactly once");
}

#[tokio::test]
async fn the_checks_of_a_dead_follower_are_taken_over() {
    a_death_is_survived(false).await;
}

#[tokio::test]
async fn the_checks_of_a_dead_leader_are_taken_over() {
    a_death_is_survived(true).await;
}

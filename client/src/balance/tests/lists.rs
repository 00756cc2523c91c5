//! What a balancer makes of lists: who may be called, what is kept from one to the next, and how it ends.

use super::*;
use crate::balance::{Key, PickError, Policy, Standing};
use futures_util::StreamExt as _;
use tower::discover;

#[tokio::test(start_paused = true)]
async fn who_drains_or_is_in_maintenance_or_sick_is_not_called() {
    let mut list = instances(6);
    list[1].admin_state = v1::AdminState::Draining.into();
    list[2].admin_state = v1::AdminState::Maintenance.into();
    list[3].health_status = v1::HealthStatus::Unhealthy.into();
    list[4].health_status = v1::HealthStatus::Expired.into();
    list[5].health_status = v1::HealthStatus::Starting.into();
    let (_lists, balancer) = over(web(), list, 1).await;
    assert_close(&shares(&balancer, 100), &[(0, 1.0)]);
    assert_eq!(balancer.endpoints().unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_routable_what_is_enabled_is_called() {
    let mut list = instances(3);
    list[0].health_status = v1::HealthStatus::Unhealthy.into();
    list[1].health_status = v1::HealthStatus::Starting.into();
    list[2].admin_state = v1::AdminState::Draining.into();
    let (lists, balancer) = over(web(), list, 1).await;
    assert_eq!(shares(&balancer, 300).len(), 2);
    assert!(balancer.is_panicking());
    lists.send_replace(instances(3));
    settle().await;
    assert_eq!(shares(&balancer, 300).len(), 3);
    assert!(!balancer.is_panicking());
}

#[tokio::test(start_paused = true)]
async fn nothing_listed_and_nothing_known_are_told_apart() {
    let (lists, balancer) = over(web(), Vec::new(), 1).await;
    let error = balancer.pick().unwrap_err();
    assert!(matches!(error, PickError::Empty { listed: 0, .. }), "{error}");
    let draining = with(1, |i, _| i.admin_state = v1::AdminState::Draining.into());
    lists.send_replace(vec![draining]);
    settle().await;
    let error = balancer.pick().unwrap_err();
    assert!(matches!(error, PickError::Empty { listed: 1, .. }), "{error}");
    // The task has not run yet: there is no list.
    let (_lists, receiver) = watch::channel(instances(1));
    let early = Balancer::over(web(), receiver, 1).unwrap();
    let error = early.pick().unwrap_err();
    assert!(matches!(error, PickError::Unknown { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlives_a_list_but_not_its_owner() {
    let (lists, balancer) = over(web().policy(Policy::Random), instances(4), 1).await;
    fail(&balancer, 2, 5);
    settle().await;
    let mut list = instances(5);
    list[2].revision = 99;
    lists.send_replace(list.clone());
    settle().await;
    assert_eq!(balancer.endpoints().unwrap()[2].standing(), Standing::Ejected);
    assert!(!shares(&balancer, 500).contains_key(&2));
    list[2].generation = 2;
    lists.send_replace(list);
    settle().await;
    assert_eq!(balancer.endpoints().unwrap()[2].standing(), Standing::Active);
    assert!(shares(&balancer, 500).contains_key(&2));
}

#[tokio::test(start_paused = true)]
async fn a_call_outlives_the_entry_of_its_endpoint() {
    let (lists, balancer) = over(web(), instances(1), 1).await;
    let pick = balancer.pick().unwrap();
    lists.send_replace(Vec::new());
    settle().await;
    assert!(balancer.pick().is_err());
    pick.report(Outcome::Failure);
}

#[tokio::test(start_paused = true)]
async fn the_list_is_followed_until_the_last_clone_is_gone() {
    let (lists, balancer) = over(web(), instances(1), 1).await;
    let channel = balancer.channel();
    drop(balancer);
    settle().await;
    assert_eq!(lists.receiver_count(), 1);
    drop(channel);
    tokio::time::timeout(Duration::from_secs(1), lists.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn tower_is_told_who_comes_and_goes() {
    let mut list = instances(2);
    let (lists, balancer) = over(web(), list.clone(), 1).await;
    let mut changes = balancer.discover(|endpoint| endpoint.address());
    let told = |change: discover::Change<Key, std::net::SocketAddr>| match change {
        discover::Change::Insert(key, address) => {
            assert_eq!(key.address, address);
            format!("+{}", key.instance_id)
        }
        discover::Change::Remove(key) => format!("-{}", key.instance_id),
    };
    assert_eq!(told(changes.next().await.unwrap().unwrap()), "+i000");
    assert_eq!(told(changes.next().await.unwrap().unwrap()), "+i001");
    list[0].health_status = v1::HealthStatus::Unhealthy.into();
    list.push(instance(2));
    lists.send_replace(list);
    assert_eq!(told(changes.next().await.unwrap().unwrap()), "-i000");
    assert_eq!(told(changes.next().await.unwrap().unwrap()), "+i002");
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_pick_alike() {
    let picks = |seed| async move {
        let (_lists, balancer) = over(web(), instances(20), seed).await;
        let mut picked = Vec::new();
        for _ in 0..500 {
            let pick = balancer.pick().unwrap();
            picked.push(number(&pick));
            pick.report(Outcome::Success);
        }
        picked
    };
    assert_eq!(picks(7).await, picks(7).await);
    assert_ne!(picks(7).await, picks(8).await);
}

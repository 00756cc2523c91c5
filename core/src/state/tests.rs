//! Quotas that are too large to be filled through commands.

use super::*;
use crate::{
    command::{PutServicePolicy, Quota, SetAdminState},
    record::AdminState,
};

fn send(state: &mut State, command: Command) -> Result<Done, Rejection> {
    state.apply(&Stamped { wall_ms: 0, advance_ms: 0, command }).outcome.result
}

fn put_policy(name: &str) -> Command {
    Command::PutServicePolicy(PutServicePolicy {
        service: ServiceName::parse("", name).unwrap(),
        policy: Policy::default(),
        actor: Actor::Operator("".into()),
        request_id: None,
    })
}

#[test]
fn services_that_only_wait_to_be_forgotten_do_not_use_up_the_quota() {
    let mut state = State::new(10);
    for i in 0..limit::SERVICES {
        let mut service = Service::empty(ServiceName::parse("", &format!("s{i}")).unwrap());
        service.revision = i as u64 + 1;
        state.age_service(&service);
        state.services.insert(service.name.clone(), Arc::new(service));
    }
    state.revision = limit::SERVICES as u64;
    assert_eq!(state.service_count(), 0);
    send(&mut state, put_policy("new")).unwrap();
    // The new one is one too many in memory: the oldest idle one goes, and leaves its revision as a floor.
    assert_eq!(state.services.len(), limit::SERVICES + 1);
    send(&mut state, put_policy("s7")).unwrap();
    assert_eq!(state.service_count(), 2);

    state.aging.services.clear();
    let refused = send(&mut state, put_policy("another"));
    let quota = |refused| match refused {
        Err(Rejection::QuotaExceeded { quota, .. }) => Some(quota),
        Ok(_) | Err(_) => None,
    };
    assert_eq!(quota(refused), Some(Quota::Services));
}

#[test]
fn an_operator_can_still_clear_when_no_more_admin_states_can_be_kept() {
    let mut state = State::new(10);
    let actor = Actor::Operator("".into());
    let admin = Arc::new(Admin {
        state: AdminState::Draining,
        actor: actor.clone(),
        reason: "".into(),
        until: None,
    });
    for i in 0..limit::OVERRIDES {
        let name = InstanceName::parse("", "web", &format!("i{i}")).unwrap();
        state.overrides.insert(Arc::new(name), admin.clone());
    }
    let name = InstanceName::parse("", "web", "a").unwrap();
    let record = Record {
        name: Arc::new(name.clone()),
        spec: Arc::new(crate::instance::Spec::new(vec![endpoint()]).unwrap()),
        nonce: 1,
        generation: 1,
        lease: None,
        lease_epoch: 0,
        health: crate::record::HealthStatus::Healthy,
        reason: Reason::Registered,
        signals: Default::default(),
        admin: None,
        revision: 1,
        create_revision: 1,
        register_ms: 0,
        status_ms: 0,
        history: Default::default(),
    };
    state.put(None, Some(record));
    let set = |to| {
        Command::SetAdminState(SetAdminState {
            name: name.clone(),
            generation: 0,
            state: to,
            actor: actor.clone(),
            reason: "".into(),
            expire_after: None,
            request_id: None,
            expected_revision: None,
        })
    };
    let refused = send(&mut state, set(AdminState::Draining));
    assert!(matches!(refused, Err(Rejection::QuotaExceeded { quota: Quota::Overrides, .. })));
    send(&mut state, set(AdminState::Enabled)).unwrap();
}

fn endpoint() -> crate::instance::Endpoint {
    crate::instance::Endpoint {
        name: Label::parse("name", "http").unwrap(),
        address: "10.0.0.1:80".parse().unwrap(),
        transport: crate::instance::Transport::Tcp,
        app_protocol: "".into(),
    }
}

//! Admin states and service policies: what people settle.

use super::{Change, Service, State};
use crate::{
    check::Checks,
    command::{DeleteServicePolicy, Done, PutServicePolicy, Quota, Rejection, SetAdminState},
    instance::limit,
    name::InstanceName,
    policy::Policy,
    record::{Actor, Admin, AdminState, Reason, Record, Subject},
};
use std::sync::Arc;

impl State {
    pub(super) fn set_admin_state(&mut self, set: &SetAdminState) -> Result<Done, Rejection> {
        let live = self.instance(&set.name).cloned();
        self.check_admin(set, live.as_deref())?;
        let until = set.expire_after.map(|after| {
            self.cluster_ms.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
        });
        let name = live.as_ref().map_or_else(|| Arc::new(set.name.clone()), |r| r.name.clone());
        let admin = (set.state != AdminState::Enabled).then(|| {
            Arc::new(Admin {
                state: set.state,
                actor: set.actor.clone(),
                reason: set.reason.clone(),
                until,
            })
        });
        if let Some(record) = live {
            let why = set.reason.clone();
            self.change_admin(&record, admin.clone(), Reason::AdminSet, &set.actor, why);
        }
        if matches!(set.actor, Actor::Operator(_)) {
            self.set_override(&name, admin.as_ref());
        }
        Ok(Done::Applied)
    }

    fn check_admin(&self, set: &SetAdminState, live: Option<&Record>) -> Result<(), Rejection> {
        let name = || set.name.clone();
        let standing = self.overrides.get(&set.name);
        let clears = set.state == AdminState::Enabled;
        if live.is_none() && (standing.is_none() || !clears) {
            return Err(Rejection::InstanceNotFound { name: name() });
        }
        if let Some(record) = live
            && set.generation != 0
            && set.generation != record.generation
        {
            return Err(record.fences());
        }
        if let Some(expected) = set.expected_revision {
            let current = live.map_or(0, |record| record.revision);
            if current != expected {
                return Err(Rejection::RevisionMismatch { name: name(), expected, current });
            }
        }
        let by_operator = matches!(set.actor, Actor::Operator(_));
        match standing {
            Some(admin) if !by_operator => Err(Rejection::HeldByOperator {
                name: name(),
                state: admin.state.as_str().into(),
                actor: admin.actor.to_string().into(),
            }),
            None if by_operator && !clears && self.overrides.len() >= limit::OVERRIDES => {
                let limit = limit::OVERRIDES as u64;
                Err(Rejection::QuotaExceeded { quota: Quota::Overrides, limit, at: "".into() })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Makes the admin state of a record what it should be; no event where nothing changes.
    pub(super) fn change_admin(
        &mut self,
        record: &Arc<Record>,
        admin: Option<Arc<Admin>>,
        reason: Reason,
        actor: &Actor,
        evidence: Arc<str>,
    ) {
        if record.admin == admin {
            return;
        }
        let mut new = Record::clone(record);
        new.admin = admin;
        let event = self.event(Change {
            subject: Subject::Instance(record.name.clone()),
            generation: record.generation,
            from: Some(record.status()),
            to: Some(new.status()),
            reason,
            actor,
            evidence,
        });
        new.revision = event.revision;
        new.status_ms = self.wall_ms;
        new.history = record.history.and(event);
        self.put(Some(record), Some(new));
    }

    /// Ends an admin state whose time is over.
    pub(super) fn end_admin(&mut self, name: &Arc<InstanceName>) {
        let now = self.cluster_ms;
        let over = |admin: &Arc<Admin>| admin.until.is_some_and(|until| until <= now);
        if let Some(record) = self.instance(name).cloned()
            && record.admin.as_ref().is_some_and(over)
        {
            let actor = Actor::Registry("".into());
            self.change_admin(&record, None, Reason::AdminExpired, &actor, "".into());
        }
        if self.overrides.get(name).is_some_and(over) {
            self.set_override(name, None);
        }
    }

    pub(super) fn put_policy(&mut self, put: &PutServicePolicy) -> Result<Done, Rejection> {
        let old = self.service(&put.service).cloned();
        if old.as_ref().is_some_and(|service| service.policy.as_deref() == Some(&put.policy)) {
            return Ok(Done::Applied);
        }
        if old.as_ref().is_none_or(|service| service.is_idle())
            && self.service_count() >= limit::SERVICES
        {
            let limit = limit::SERVICES as u64;
            return Err(Rejection::QuotaExceeded { quota: Quota::Services, limit, at: "".into() });
        }
        let mut service = old.map_or_else(
            || Service::empty(put.service.clone()),
            |service| Service::clone(&service),
        );
        service.policy = Some(Arc::new(put.policy.clone()));
        self.change_policy(service, Reason::PolicyPut, &put.actor);
        Ok(Done::Applied)
    }

    pub(super) fn delete_policy(
        &mut self,
        delete: &DeleteServicePolicy,
    ) -> Result<Done, Rejection> {
        let old = self.service(&delete.service).filter(|service| service.policy.is_some());
        if let Some(service) = old.cloned() {
            let mut service = Service::clone(&service);
            service.policy = None;
            self.change_policy(service, Reason::PolicyDeleted, &delete.actor);
        }
        Ok(Done::Applied)
    }

    fn change_policy(&mut self, mut service: Service, reason: Reason, actor: &Actor) {
        let before = self.service(&service.name).and_then(|service| service.policy.clone());
        let event = self.event(Change {
            subject: Subject::Policy(service.name.clone()),
            generation: 0,
            from: None,
            to: None,
            reason,
            actor,
            evidence: "".into(),
        });
        let checks = |policy: &Option<Arc<Policy>>| match policy {
            Some(policy) => policy.checks.clone(),
            None => Checks::default(),
        };
        let changed = checks(&before) != checks(&service.policy);
        if changed {
            service.checks_since = event.revision;
        }
        let name = service.name.clone();
        self.put_service(service);
        if changed {
            self.follow_checks(&name, before.as_deref(), actor);
        }
    }
}

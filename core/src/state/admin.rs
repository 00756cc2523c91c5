//! Admin states and service policies: what people settle.

use super::{Change, Service, State};
use crate::{
    command::{DeleteServicePolicy, Done, PutServicePolicy, Quota, Rejection, SetAdminState},
    instance::limit,
    name::InstanceName,
    record::{Actor, Admin, AdminState, Reason, Record, Subject},
};
use std::sync::Arc;

impl State {
    pub(super) fn set_admin_state(&mut self, set: &SetAdminState) -> Result<Done, Rejection> {
        let live = self.instance(&set.name).cloned();
        let standing = self.override_of(&set.name).cloned();
        if live.is_none() && (standing.is_none() || set.state != AdminState::Enabled) {
            return Err(Rejection::InstanceNotFound { name: set.name.clone() });
        }
        if let Some(expected) = set.expected_revision {
            let current = live.as_ref().map_or(0, |record| record.revision);
            if current != expected {
                let name = set.name.clone();
                return Err(Rejection::RevisionMismatch { name, expected, current });
            }
        }
        let by_operator = matches!(set.actor, Actor::Operator(_));
        if let Some(admin) = &standing
            && !by_operator
        {
            return Err(Rejection::HeldByOperator {
                name: set.name.clone(),
                state: admin.state.as_str().into(),
                actor: admin.actor.to_string().into(),
            });
        }
        if by_operator && standing.is_none() && self.overrides.len() >= limit::OVERRIDES {
            let limit = limit::OVERRIDES as u64;
            return Err(Rejection::QuotaExceeded { quota: Quota::Overrides, limit, at: "".into() });
        }
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
        if by_operator {
            match &admin {
                Some(admin) => self.overrides.insert(name.clone(), admin.clone()),
                None => self.overrides.remove(&*name),
            };
        }
        if admin.is_some()
            && let Some(until) = until
        {
            self.age_admin(until, name);
        }
        if let Some(record) = live {
            self.change_admin(&record, admin, Reason::AdminSet, &set.actor, set.reason.clone());
        }
        Ok(Done::Applied)
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
    pub(super) fn end_admin(&mut self, name: &InstanceName, now: u64) {
        let over = |admin: &Arc<Admin>| admin.until.is_some_and(|until| until <= now);
        if self.overrides.get(name).is_some_and(over) {
            self.overrides.remove(name);
        }
        let Some(record) = self.instance(name).cloned() else { return };
        if record.admin.as_ref().is_some_and(over) {
            let actor = Actor::Registry("".into());
            let standing = self.override_of(name).cloned();
            self.change_admin(&record, standing, Reason::AdminExpired, &actor, "".into());
        }
    }

    pub(super) fn put_policy(&mut self, put: &PutServicePolicy) -> Result<Done, Rejection> {
        let old = self.service(&put.service).cloned();
        if old.as_ref().is_some_and(|service| service.policy.as_deref() == Some(&put.policy)) {
            return Ok(Done::Applied);
        }
        if old.is_none() && self.services.len() >= limit::SERVICES {
            let limit = limit::SERVICES as u64;
            return Err(Rejection::QuotaExceeded { quota: Quota::Services, limit, at: "".into() });
        }
        let mut service = old.map_or_else(
            || Service::empty(put.service.clone()),
            |service| Service::clone(&service),
        );
        service.policy = Some(Arc::new(put.policy.clone()));
        self.policy_event(service, Reason::PolicyPut, &put.actor);
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
            self.policy_event(service, Reason::PolicyDeleted, &delete.actor);
        }
        Ok(Done::Applied)
    }

    fn policy_event(&mut self, service: Service, reason: Reason, actor: &Actor) {
        self.event(Change {
            subject: Subject::Policy(service.name.clone()),
            generation: 0,
            from: None,
            to: None,
            reason,
            actor,
            evidence: "".into(),
        });
        self.put_service(service);
    }
}

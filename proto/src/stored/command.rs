//! Commands, one arm each: a new kind of command does not compile until it is written and read here.

use super::{
    Pool, StoredError,
    checks::{
        read_report, read_self_report, read_set_checkers, write_report, write_self_report,
        write_set_checkers,
    },
    values::{
        need, read_actor, read_admin_state, read_name, read_policy, read_reason, read_request_id,
        read_scope, read_service, read_span, read_spec, read_text, read_u128, write_actor,
        write_admin_state, write_name, write_policy, write_reason, write_request_id, write_scope,
        write_service, write_span, write_spec, write_text, write_u128,
    },
    wire::{self, command as kind, command::Kind},
};
use rollcall_core::{
    Command,
    command::{
        DeleteServicePolicy, Deregister, Deregistration, EvictInstances, Eviction, ExpireLeases,
        Expiry, LeaseCheckpoint, ProtectionChange, PutServicePolicy, Register, Registration,
        SetAdminState, SetProtection,
    },
    name::InstanceName,
};
use std::sync::Arc;

type Read<T> = Result<T, StoredError>;

pub(super) fn write(command: &Command) -> wire::Command {
    let kind = match command {
        Command::Register(c) => Kind::Register(write_register(c)),
        Command::Deregister(c) => Kind::Deregister(write_deregister(c)),
        Command::SetAdminState(c) => Kind::SetAdminState(kind::SetAdminState {
            name: Some(write_name(&c.name)),
            generation: c.generation,
            state: write_admin_state(c.state),
            actor: Some(write_actor(&c.actor)),
            reason: write_text(&c.reason),
            expire_after: c.expire_after.map(write_span),
            request_id: write_request_id(c.request_id.as_ref()),
            expected_revision: c.expected_revision,
        }),
        Command::PutServicePolicy(c) => Kind::PutServicePolicy(kind::PutServicePolicy {
            service: Some(write_service(&c.service)),
            policy: Some(write_policy(&c.policy)),
            actor: Some(write_actor(&c.actor)),
            request_id: write_request_id(c.request_id.as_ref()),
        }),
        Command::DeleteServicePolicy(c) => Kind::DeleteServicePolicy(kind::DeleteServicePolicy {
            service: Some(write_service(&c.service)),
            actor: Some(write_actor(&c.actor)),
            request_id: write_request_id(c.request_id.as_ref()),
        }),
        Command::CheckpointLeases(items) => Kind::CheckpointLeases(write_checkpoints(items)),
        Command::ExpireLeases(c) => {
            let item = |item: &Expiry| kind::expire_leases::Item {
                generation: item.generation,
                lease_epoch: item.lease_epoch,
                evidence: write_text(&item.evidence),
                overdue: item.overdue,
            };
            let items = c.items.iter().map(item).collect();
            Kind::ExpireLeases(kind::ExpireLeases { items, actor: Some(write_actor(&c.actor)) })
        }
        Command::EvictInstances(c) => {
            let item = |item: &Eviction| kind::evict_instances::Item {
                generation: item.generation,
                lease_epoch: item.lease_epoch,
                evidence: write_text(&item.evidence),
                unhealthy_since: item.unhealthy_since,
            };
            let items = c.items.iter().map(item).collect();
            Kind::EvictInstances(kind::EvictInstances { items, actor: Some(write_actor(&c.actor)) })
        }
        Command::SetProtection(c) => Kind::SetProtection(write_protection(c)),
        Command::ReportHealth(c) => Kind::ReportHealth(write_report(c)),
        Command::ReportSelf(c) => Kind::ReportSelf(write_self_report(c)),
        Command::SetCheckers(c) => Kind::SetCheckers(write_set_checkers(c)),
        Command::AdvanceTime => Kind::AdvanceTime(wire::Nothing {}),
    };
    wire::Command { kind: Some(kind) }
}

pub(super) fn read(command: wire::Command, pool: &mut Pool) -> Read<Command> {
    Ok(match need("kind of command", command.kind)? {
        Kind::Register(c) => Command::Register(read_register(c, pool)?),
        Kind::Deregister(c) => Command::Deregister(read_deregister(c, pool)?),
        Kind::SetAdminState(c) => Command::SetAdminState(SetAdminState {
            name: read_instance(c.name, pool)?,
            generation: c.generation,
            state: read_admin_state(c.state)?,
            actor: read_actor(c.actor, pool)?,
            reason: read_text("reason", &c.reason)?,
            expire_after: read_span("expire_after", c.expire_after)?,
            request_id: read_request_id(&c.request_id)?,
            expected_revision: c.expected_revision,
        }),
        Kind::PutServicePolicy(c) => Command::PutServicePolicy(PutServicePolicy {
            service: read_service("service", c.service, pool)?,
            policy: read_policy(need("policy", c.policy)?, pool)?,
            actor: read_actor(c.actor, pool)?,
            request_id: read_request_id(&c.request_id)?,
        }),
        Kind::DeleteServicePolicy(c) => Command::DeleteServicePolicy(DeleteServicePolicy {
            service: read_service("service", c.service, pool)?,
            actor: read_actor(c.actor, pool)?,
            request_id: read_request_id(&c.request_id)?,
        }),
        Kind::CheckpointLeases(c) => Command::CheckpointLeases(read_checkpoints(&c)),
        Kind::ExpireLeases(c) => Command::ExpireLeases(read_expiries(c, pool)?),
        Kind::EvictInstances(c) => Command::EvictInstances(read_evictions(c, pool)?),
        Kind::SetProtection(c) => Command::SetProtection(read_protection(c, pool)?),
        Kind::ReportHealth(c) => Command::ReportHealth(read_report(c, pool)?),
        Kind::ReportSelf(c) => Command::ReportSelf(read_self_report(c, pool)?),
        Kind::SetCheckers(c) => Command::SetCheckers(read_set_checkers(c, pool)?),
        Kind::AdvanceTime(wire::Nothing {}) => Command::AdvanceTime,
    })
}

fn read_instance(name: Option<wire::StoredName>, pool: &mut Pool) -> Read<InstanceName> {
    Ok(Arc::unwrap_or_clone(read_name("name", name, pool)?))
}

fn write_register(register: &Register) -> kind::Register {
    let item = |item: &Registration| kind::register::Item {
        name: Some(write_name(&item.name)),
        spec: Some(write_spec(&item.spec)),
        nonce: Some(write_u128(item.nonce)),
        held_generation: item.held_generation,
        expected_revision: item.expected_revision,
    };
    kind::Register {
        items: register.items.iter().map(item).collect(),
        actor: Some(write_actor(&register.actor)),
        request_id: write_request_id(register.request_id.as_ref()),
        address_limit: register.address_limit,
    }
}

fn read_register(register: kind::Register, pool: &mut Pool) -> Read<Register> {
    let mut item = |item: kind::register::Item| -> Read<Registration> {
        Ok(Registration {
            name: read_instance(item.name, pool)?,
            spec: Arc::new(read_spec(item.spec, pool)?),
            nonce: read_u128("nonce", item.nonce)?,
            held_generation: item.held_generation,
            expected_revision: item.expected_revision,
        })
    };
    Ok(Register {
        items: register.items.into_iter().map(&mut item).collect::<Read<_>>()?,
        actor: read_actor(register.actor, pool)?,
        request_id: read_request_id(&register.request_id)?,
        address_limit: register.address_limit,
    })
}

fn write_deregister(deregister: &Deregister) -> kind::Deregister {
    let item = |item: &Deregistration| kind::deregister::Item {
        name: Some(write_name(&item.name)),
        generation: item.generation,
        allow_missing: item.allow_missing,
        expected_revision: item.expected_revision,
    };
    kind::Deregister {
        items: deregister.items.iter().map(item).collect(),
        actor: Some(write_actor(&deregister.actor)),
        request_id: write_request_id(deregister.request_id.as_ref()),
        evidence: write_text(&deregister.evidence),
    }
}

fn read_deregister(deregister: kind::Deregister, pool: &mut Pool) -> Read<Deregister> {
    let mut item = |item: kind::deregister::Item| -> Read<Deregistration> {
        Ok(Deregistration {
            name: read_instance(item.name, pool)?,
            generation: item.generation,
            allow_missing: item.allow_missing,
            expected_revision: item.expected_revision,
        })
    };
    Ok(Deregister {
        items: deregister.items.into_iter().map(&mut item).collect::<Read<_>>()?,
        actor: read_actor(deregister.actor, pool)?,
        request_id: read_request_id(&deregister.request_id)?,
        evidence: read_text("evidence", &deregister.evidence)?,
    })
}

fn write_checkpoints(items: &[LeaseCheckpoint]) -> kind::CheckpointLeases {
    let item = |item: &LeaseCheckpoint| kind::checkpoint_leases::Item {
        generation: item.generation,
        lease_epoch: item.lease_epoch,
        remaining_ms: item.remaining_ms,
    };
    kind::CheckpointLeases { items: items.iter().map(item).collect() }
}

fn read_checkpoints(checkpoint: &kind::CheckpointLeases) -> Vec<LeaseCheckpoint> {
    let item = |item: &kind::checkpoint_leases::Item| LeaseCheckpoint {
        generation: item.generation,
        lease_epoch: item.lease_epoch,
        remaining_ms: item.remaining_ms,
    };
    checkpoint.items.iter().map(item).collect()
}

fn read_expiries(expire: kind::ExpireLeases, pool: &mut Pool) -> Read<ExpireLeases> {
    let item = |item: &kind::expire_leases::Item| -> Read<Expiry> {
        Ok(Expiry {
            generation: item.generation,
            lease_epoch: item.lease_epoch,
            overdue: item.overdue,
            evidence: read_text("evidence", &item.evidence)?,
        })
    };
    let items = expire.items.iter().map(item).collect::<Read<_>>()?;
    Ok(ExpireLeases { items, actor: read_actor(expire.actor, pool)? })
}

fn read_evictions(evict: kind::EvictInstances, pool: &mut Pool) -> Read<EvictInstances> {
    let item = |item: &kind::evict_instances::Item| -> Read<Eviction> {
        Ok(Eviction {
            generation: item.generation,
            lease_epoch: item.lease_epoch,
            unhealthy_since: item.unhealthy_since,
            evidence: read_text("evidence", &item.evidence)?,
        })
    };
    let items = evict.items.iter().map(item).collect::<Read<_>>()?;
    Ok(EvictInstances { items, actor: read_actor(evict.actor, pool)? })
}

fn write_protection(set: &SetProtection) -> kind::SetProtection {
    use kind::set_protection::{Change, Enter, LeaseRef};
    let change = match &set.change {
        ProtectionChange::Enter { restore } => {
            let lease = |(generation, lease_epoch): &(u64, u32)| LeaseRef {
                generation: *generation,
                lease_epoch: *lease_epoch,
            };
            Change::Enter(Enter { restore: restore.iter().map(lease).collect() })
        }
        ProtectionChange::Leave(reason) => Change::Leave(write_reason(*reason)),
    };
    kind::SetProtection {
        scope: Some(write_scope(&set.scope)),
        change: Some(change),
        actor: Some(write_actor(&set.actor)),
        evidence: write_text(&set.evidence),
        request_id: write_request_id(set.request_id.as_ref()),
    }
}

fn read_protection(set: kind::SetProtection, pool: &mut Pool) -> Read<SetProtection> {
    use kind::set_protection::Change;
    let change = match need("change", set.change)? {
        Change::Enter(enter) => ProtectionChange::Enter {
            restore: enter.restore.iter().map(|l| (l.generation, l.lease_epoch)).collect(),
        },
        Change::Leave(reason) => ProtectionChange::Leave(read_reason(reason)?),
    };
    Ok(SetProtection {
        scope: read_scope(set.scope, pool)?,
        change,
        actor: read_actor(set.actor, pool)?,
        evidence: read_text("evidence", &set.evidence)?,
        request_id: read_request_id(&set.request_id)?,
    })
}

//! The state in chunks of many parts, and back.

use super::{
    FORMAT, Pool, StoredError,
    checks::{read_signals, read_utilization, write_signals},
    open, outcome,
    values::{
        need, read_admin, read_event, read_health, read_name, read_policy, read_reason, read_scope,
        read_service, read_spec, read_text, read_u128, text, write_admin, write_event,
        write_health, write_name, write_policy, write_reason, write_scope, write_service,
        write_spec, write_text, write_u128,
    },
    wire::{self, state_part as part, state_part::Part as Wire},
};
use bytes::Bytes;
use prost::encoding::message;
use rollcall_core::{
    State,
    checkers::Checkers,
    command::RequestId,
    name::Label,
    record::{History, Lease, LeaseState, Record, Tombstone},
    secret::ClusterSecret,
    state::{Header, Loader, Part, Protection, Remembered, Retired},
};
use std::sync::Arc;

/// A chunk is closed when it has reached this size; a part is at most some 50 KiB.
const CHUNK: usize = 256 * 1024;

/// The state as chunks of about 256 KiB, equal for equal states. Costs memory only for the chunk at hand.
pub fn state_parts(state: &State) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut parts = state.parts().peekable();
    std::iter::from_fn(move || {
        parts.peek()?;
        let mut chunk = Vec::with_capacity(CHUNK + CHUNK / 8);
        chunk.push(FORMAT);
        while chunk.len() < CHUNK {
            let Some(part) = parts.next() else { break };
            // Field 1 of StateChunk.
            message::encode(1, &write(&part), &mut chunk);
        }
        Some(chunk)
    })
}

/// A chunk of [`state_parts`] taken apart, its content not yet understood: the first of three steps of loading, which
/// may run side by side. The second is [`StateReader`], the third [`rollcall_core::state::Loader`].
#[derive(Debug)]
pub struct StateChunk(wire::StateChunk);

impl StateChunk {
    /// Takes a chunk apart.
    pub fn decode(chunk: &[u8]) -> Result<Self, StoredError> {
        open(chunk).map(Self)
    }
}

/// Understands chunks, in their order; equal names and words are made once.
#[derive(Debug)]
pub struct StateReader(Pool);

impl Default for StateReader {
    fn default() -> Self {
        Self(Pool::large())
    }
}

impl StateReader {
    /// The parts of the next chunk.
    pub fn read(&mut self, chunk: StateChunk) -> Result<Vec<Part>, StoredError> {
        chunk.0.parts.into_iter().map(|part| read(part, &mut self.0)).collect()
    }
}

/// Builds a state from the chunks of [`state_parts`], in their order: all three steps, one after the other.
#[derive(Debug)]
pub struct StateLoader {
    loader: Loader,
    reader: StateReader,
}

impl StateLoader {
    /// A loader for a state whose journal keeps `journal_limit` events.
    pub fn new(journal_limit: usize) -> Self {
        Self { loader: Loader::new(journal_limit), reader: StateReader::default() }
    }

    /// Takes the next chunk.
    pub fn add(&mut self, chunk: &[u8]) -> Result<(), StoredError> {
        for part in self.reader.read(StateChunk::decode(chunk)?)? {
            self.loader.add(part)?;
        }
        Ok(())
    }

    /// The state, if its records are those that were saved.
    pub fn finish(self) -> Result<State, StoredError> {
        Ok(self.loader.finish()?)
    }
}

fn write(part: &Part) -> wire::StatePart {
    let part = match part {
        Part::Header(header) => Wire::Header(part::Header {
            epoch: header.epoch,
            revision: header.revision,
            generation: header.generation,
            cluster_ms: header.cluster_ms,
            hash: Some(write_u128(header.hash)),
            journal_floor: header.journal_floor,
        }),
        Part::Event(event) => Wire::Event(write_event(event)),
        Part::Service { name, revision, policy, checks_since, due_ms } => {
            Wire::Service(part::Service {
                name: Some(write_service(name)),
                revision: *revision,
                policy: policy.as_ref().map(|policy| write_policy(policy)),
                due_ms: *due_ms,
                checks_since: *checks_since,
            })
        }
        Part::Instance { record, history } => Wire::Instance(write_instance(record, history)),
        Part::Tombstone { tombstone, history, due_ms } => Wire::Tombstone(part::Tombstone {
            name: Some(write_name(&tombstone.name)),
            generation: tombstone.generation,
            nonce: Some(write_u128(tombstone.nonce)),
            reason: write_reason(tombstone.reason),
            revision: tombstone.revision,
            history: history.clone(),
            due_ms: *due_ms,
        }),
        Part::Retired { generation, retired, due_ms } => Wire::Retired(part::Retired {
            generation: *generation,
            retired: Some(write_retired(retired)),
            due_ms: *due_ms,
        }),
        Part::Override { name, admin } => Wire::Override(part::Override {
            name: Some(write_name(name)),
            admin: Some(write_admin(admin)),
        }),
        Part::Floor { namespace, revision } => Wire::Floor(part::Floor {
            namespace: namespace.as_ref().map(|name| write_text(name.as_str())).unwrap_or_default(),
            revision: *revision,
        }),
        Part::Request { id, remembered } => Wire::Request(part::Request {
            id: write_text(id.as_str()),
            content: Some(write_u128(remembered.content)),
            at_ms: remembered.at_ms,
            outcome: Some(outcome::write(&remembered.outcome)),
        }),
        Part::Secret(secret) => Wire::Secret(write_u128(secret.bits())),
        Part::Protection { scope, protection } => Wire::Protection(part::Protection {
            scope: Some(write_scope(scope)),
            since_ms: protection.since_ms,
            revision: protection.revision,
            evidence: write_text(&protection.evidence),
        }),
        Part::Checkers(checkers) => Wire::Checkers(part::Checkers {
            epoch: checkers.epoch(),
            nodes: checkers.nodes().to_vec(),
        }),
        Part::Lease { generation, remaining_ms, released } => Wire::Lease(part::Lease {
            generation: *generation,
            remaining_ms: *remaining_ms,
            released: *released,
        }),
        Part::Utilization { generation, utilization } => Wire::Utilization(part::Utilization {
            generation: *generation,
            percent: utilization.percent(),
        }),
    };
    wire::StatePart { part: Some(part) }
}

fn write_retired(retired: &Retired) -> part::retired::Retired {
    use part::retired::Retired as Kind;
    match retired {
        Retired::Superseded(name) => Kind::Superseded(write_name(name)),
        Retired::Deregistered(name) => Kind::Deregistered(write_name(name)),
    }
}

fn write_instance(record: &Record, history: &[u64]) -> part::Instance {
    use part::instance::LeaseState as Kind;
    let lease_state = match record.lease.map(|lease| lease.state) {
        None => Kind::Unspecified,
        Some(LeaseState::Current) => Kind::Current,
        Some(LeaseState::Held) => Kind::Held,
        Some(LeaseState::Expired) => Kind::Expired,
        Some(LeaseState::Lost) => Kind::Lost,
    };
    part::Instance {
        name: Some(write_name(&record.name)),
        spec: Some(write_spec(&record.spec)),
        nonce: Some(write_u128(record.nonce)),
        generation: record.generation,
        lease_state: lease_state.into(),
        lease_epoch: record.lease_epoch,
        health: write_health(record.health),
        reason: write_reason(record.reason),
        admin: record.admin.as_ref().map(|admin| write_admin(admin)),
        revision: record.revision,
        create_revision: record.create_revision,
        register_ms: record.register_ms,
        status_ms: record.status_ms,
        history: history.to_vec(),
        signals: write_signals(&record.signals),
    }
}

fn read(part: wire::StatePart, pool: &mut Pool) -> Result<Part, StoredError> {
    Ok(match need("part of the state", part.part)? {
        Wire::Header(header) => Part::Header(Header {
            epoch: header.epoch,
            revision: header.revision,
            generation: header.generation,
            cluster_ms: header.cluster_ms,
            hash: read_u128("hash", header.hash)?,
            journal_floor: header.journal_floor,
        }),
        Wire::Event(event) => Part::Event(Arc::new(read_event(event, pool)?)),
        Wire::Service(service) => Part::Service {
            name: read_service("service", service.name, pool)?,
            revision: service.revision,
            policy: match service.policy {
                Some(policy) => Some(Arc::new(read_policy(policy, pool)?)),
                None => None,
            },
            checks_since: service.checks_since,
            due_ms: service.due_ms,
        },
        Wire::Instance(instance) => read_instance(instance, pool)?,
        Wire::Tombstone(tombstone) => read_tombstone(tombstone, pool)?,
        Wire::Retired(retired) => {
            use part::retired::Retired as Kind;
            let kind = match need("retired", retired.retired)? {
                Kind::Superseded(name) => Retired::Superseded(pool.instance(&name)?),
                Kind::Deregistered(name) => Retired::Deregistered(pool.instance(&name)?),
            };
            let (generation, due_ms) = (retired.generation, retired.due_ms);
            Part::Retired { generation, retired: kind, due_ms }
        }
        Wire::Override(kept) => Part::Override {
            name: read_name("override", kept.name, pool)?,
            admin: Arc::new(read_admin(need("admin", kept.admin)?, pool)?),
        },
        Wire::Floor(floor) => Part::Floor {
            namespace: read_namespace(&floor.namespace, pool)?,
            revision: floor.revision,
        },
        Wire::Request(request) => Part::Request {
            id: RequestId::parse(text("id", &request.id)?)?,
            remembered: Arc::new(Remembered {
                content: read_u128("content", request.content)?,
                at_ms: request.at_ms,
                outcome: outcome::read(need("outcome", request.outcome)?)?,
            }),
        },
        Wire::Protection(protection) => Part::Protection {
            scope: read_scope(protection.scope, pool)?,
            protection: Arc::new(Protection {
                since_ms: protection.since_ms,
                revision: protection.revision,
                evidence: read_text("evidence", &protection.evidence)?,
            }),
        },
        Wire::Secret(bits) => Part::Secret(ClusterSecret::new(read_u128("secret", Some(bits))?)),
        Wire::Checkers(checkers) => {
            Part::Checkers(Arc::new(Checkers::new(checkers.epoch, checkers.nodes)))
        }
        Wire::Lease(lease) => Part::Lease {
            generation: lease.generation,
            remaining_ms: lease.remaining_ms,
            released: lease.released,
        },
        Wire::Utilization(figure) => Part::Utilization {
            generation: figure.generation,
            utilization: read_utilization(figure.percent)?,
        },
    })
}

fn read_tombstone(tombstone: part::Tombstone, pool: &mut Pool) -> Result<Part, StoredError> {
    let bare = Tombstone {
        name: read_name("tombstone", tombstone.name, pool)?,
        generation: tombstone.generation,
        nonce: read_u128("nonce", tombstone.nonce)?,
        reason: read_reason(tombstone.reason)?,
        revision: tombstone.revision,
        history: History::default(),
    };
    let (history, due_ms) = (tombstone.history, tombstone.due_ms);
    Ok(Part::Tombstone { tombstone: Arc::new(bare), history, due_ms })
}

fn read_namespace(name: &Bytes, pool: &mut Pool) -> Result<Option<Label>, StoredError> {
    if name.is_empty() { Ok(None) } else { Ok(Some(pool.label("namespace", name)?)) }
}

fn read_instance(instance: part::Instance, pool: &mut Pool) -> Result<Part, StoredError> {
    use part::instance::LeaseState as Kind;
    let epoch = instance.lease_epoch;
    let lease = |state| Some(Lease { epoch, state });
    let lease = match Kind::try_from(instance.lease_state) {
        Err(_) => return Err(StoredError::Unknown { field: "lease_state" }),
        Ok(Kind::Unspecified) => None,
        Ok(Kind::Current) => lease(LeaseState::Current),
        Ok(Kind::Held) => lease(LeaseState::Held),
        Ok(Kind::Expired) => lease(LeaseState::Expired),
        Ok(Kind::Lost) => lease(LeaseState::Lost),
    };
    let record = Record {
        name: read_name("instance", instance.name, pool)?,
        spec: Arc::new(read_spec(instance.spec, pool)?),
        nonce: read_u128("nonce", instance.nonce)?,
        generation: instance.generation,
        lease,
        lease_epoch: epoch,
        health: read_health(instance.health)?,
        reason: read_reason(instance.reason)?,
        signals: read_signals(instance.signals, pool)?,
        admin: match instance.admin {
            Some(admin) => Some(Arc::new(read_admin(admin, pool)?)),
            None => None,
        },
        revision: instance.revision,
        create_revision: instance.create_revision,
        register_ms: instance.register_ms,
        status_ms: instance.status_ms,
        history: History::default(),
    };
    Ok(Part::Instance { record: Arc::new(record), history: instance.history })
}

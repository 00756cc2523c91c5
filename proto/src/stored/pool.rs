//! Equal names and words are kept once: a hundred thousand instances have few services, tags and metadata keys, and
//! the journal names the same instances again.
//!
//! Found by the xxh3 of the text and compared in full: two texts of one hash are just not shared. Never iterated, so
//! the order of the maps reaches nothing.

use super::{
    StoredError,
    values::{DEFAULT_NAMESPACE, text},
    wire,
};
use bytes::Bytes;
use rollcall_core::name::{InstanceId, InstanceName, Label, ServiceName};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};
use xxhash_rust::xxh3::xxh3_64;

/// Most words and names that are remembered; beyond, equal ones are kept apart.
const MOST: usize = 1 << 20;
/// Longer words are hardly ever equal.
const WORD: usize = 64;
/// Below so many bytes there is hardly anything to share.
const WORTHWHILE: usize = 4096;

type Read<T> = Result<T, StoredError>;

/// By the hash of a text.
type Known<T> = HashMap<u64, T, BuildHasherDefault<Hashed>>;

/// The keys are hashes already.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// What has been read so far, and may be shared.
#[derive(Debug, Default)]
pub(super) struct Pool {
    limit: usize,
    words: Known<Arc<str>>,
    labels: Known<Label>,
    services: Known<ServiceName>,
    instances: Known<Arc<InstanceName>>,
    scratch: Vec<u8>,
}

impl Pool {
    /// A pool for a snapshot.
    pub(super) fn large() -> Self {
        Self { limit: MOST, ..Self::default() }
    }

    /// A pool for one message of so many bytes.
    pub(super) fn for_bytes(length: usize) -> Self {
        let limit = if length < WORTHWHILE { 0 } else { MOST };
        Self { limit, ..Self::default() }
    }

    pub(super) fn word(&mut self, field: &'static str, bytes: &Bytes) -> Read<Arc<str>> {
        if bytes.len() > WORD || self.limit == 0 {
            return Ok(text(field, bytes)?.into());
        }
        let hash = xxh3_64(bytes);
        if let Some(known) = self.words.get(&hash)
            && known.as_bytes() == bytes
        {
            return Ok(known.clone());
        }
        let word: Arc<str> = text(field, bytes)?.into();
        if self.words.len() < self.limit {
            self.words.insert(hash, word.clone());
        }
        Ok(word)
    }

    pub(super) fn label(&mut self, field: &'static str, bytes: &Bytes) -> Read<Label> {
        if self.limit == 0 {
            return Ok(Label::parse(field, text(field, bytes)?)?);
        }
        let hash = xxh3_64(bytes);
        if let Some(known) = self.labels.get(&hash)
            && known.as_str().as_bytes() == bytes
        {
            return Ok(known.clone());
        }
        let label = Label::parse(field, text(field, bytes)?)?;
        if self.labels.len() < self.limit {
            self.labels.insert(hash, label.clone());
        }
        Ok(label)
    }

    pub(super) fn service(&mut self, stored: &wire::StoredService) -> Read<ServiceName> {
        self.service_of(&stored.namespace, &stored.service)
    }

    fn service_of(&mut self, namespace: &Bytes, service: &Bytes) -> Read<ServiceName> {
        let hash = if self.limit == 0 { 0 } else { self.hash(&[namespace, service]) };
        if let Some(known) = self.services.get(&hash)
            && is_service(known, namespace, service)
        {
            return Ok(known.clone());
        }
        let namespace = text("namespace", namespace)?;
        let name = ServiceName::parse(namespace, text("service", service)?)?;
        if self.services.len() < self.limit {
            self.services.insert(hash, name.clone());
        }
        Ok(name)
    }

    pub(super) fn instance(&mut self, stored: &wire::StoredName) -> Read<Arc<InstanceName>> {
        let parts = [&stored.namespace, &stored.service, &stored.id];
        let hash = if self.limit == 0 { 0 } else { self.hash(&parts) };
        if let Some(known) = self.instances.get(&hash)
            && known.id.as_str().as_bytes() == stored.id
            && is_service(&known.service, &stored.namespace, &stored.service)
        {
            return Ok(known.clone());
        }
        let service = self.service_of(&stored.namespace, &stored.service)?;
        let id = InstanceId::parse(text("instance_id", &stored.id)?)?;
        let name = Arc::new(InstanceName { service, id });
        if self.instances.len() < self.limit {
            self.instances.insert(hash, name.clone());
        }
        Ok(name)
    }

    fn hash(&mut self, parts: &[&Bytes]) -> u64 {
        self.scratch.clear();
        for part in parts {
            self.scratch.extend_from_slice(part);
            self.scratch.push(b'/');
        }
        xxh3_64(&self.scratch)
    }
}

fn is_service(known: &ServiceName, namespace: &Bytes, service: &Bytes) -> bool {
    let same_namespace = if namespace.is_empty() {
        known.namespace.as_str() == DEFAULT_NAMESPACE
    } else {
        known.namespace.as_str().as_bytes() == namespace
    };
    same_namespace && known.service.as_str().as_bytes() == service
}

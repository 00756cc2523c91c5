//! Equal names and words are kept once: a hundred thousand instances have few services, tags and metadata keys.
//!
//! Looked up only, never iterated, so the order of its maps reaches nothing.

use super::{StoredError, values, wire};
use rollcall_core::name::{InstanceName, Invalid, Label, ServiceName};
use std::{collections::HashMap, sync::Arc};

/// Most words and names that are remembered; beyond, equal ones are kept apart.
const MOST: usize = 1 << 20;
/// Longer words are hardly ever equal.
const WORD: usize = 64;
/// Below so many bytes there is hardly anything to share.
const WORTHWHILE: usize = 4096;

/// What has been read so far, and may be shared.
#[derive(Debug, Default)]
pub(super) struct Pool {
    limit: usize,
    size: usize,
    words: HashMap<Arc<str>, ()>,
    labels: HashMap<String, Label>,
    names: HashMap<String, HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    name: ServiceName,
    instances: HashMap<String, Arc<InstanceName>>,
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

    fn has_room(&mut self) -> bool {
        let room = self.size < self.limit;
        self.size += usize::from(room);
        room
    }

    pub(super) fn word(&mut self, text: &str) -> Arc<str> {
        if text.len() > WORD || self.limit == 0 {
            return text.into();
        }
        if let Some((known, ())) = self.words.get_key_value(text) {
            return known.clone();
        }
        let word: Arc<str> = text.into();
        if self.has_room() {
            self.words.insert(word.clone(), ());
        }
        word
    }

    pub(super) fn label(&mut self, field: &str, text: &str) -> Result<Label, Invalid> {
        if let Some(known) = self.labels.get(text) {
            return Ok(known.clone());
        }
        let label = Label::parse(field, text)?;
        if self.has_room() {
            self.labels.insert(text.to_owned(), label.clone());
        }
        Ok(label)
    }

    fn known(&mut self, namespace: &str, service: &str) -> Result<&mut Known, StoredError> {
        // Looked up twice, because a borrow that is returned early would last for the whole function.
        let there =
            self.names.get(namespace).is_some_and(|services| services.contains_key(service));
        if !there {
            let name = values::service_of(namespace, service)?;
            let known = Known { name, instances: HashMap::new() };
            self.size += 1;
            self.names.entry(namespace.to_owned()).or_default().insert(service.to_owned(), known);
        }
        let known = self.names.get_mut(namespace).and_then(|services| services.get_mut(service));
        Ok(known.expect("it was there or has just been put there"))
    }

    pub(super) fn service(
        &mut self,
        stored: &wire::StoredService,
    ) -> Result<ServiceName, StoredError> {
        if self.size >= self.limit {
            return values::service_of(&stored.namespace, &stored.service);
        }
        Ok(self.known(&stored.namespace, &stored.service)?.name.clone())
    }

    pub(super) fn instance(
        &mut self,
        stored: &wire::StoredName,
    ) -> Result<Arc<InstanceName>, StoredError> {
        if self.limit == 0 {
            return Ok(Arc::new(values::name_of(stored)?));
        }
        let room = self.has_room();
        let known = self.known(&stored.namespace, &stored.service)?;
        if let Some(name) = known.instances.get(&stored.id) {
            return Ok(name.clone());
        }
        let name = Arc::new(InstanceName {
            service: known.name.clone(),
            id: rollcall_core::name::InstanceId::parse(&stored.id)?,
        });
        if room {
            known.instances.insert(stored.id.clone(), name.clone());
        }
        Ok(name)
    }
}

//! Encoded answers, shared between callers: per service, for at most 16 filters, for the current revision.

use super::kept::{Kept, Weigh};
use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding;
use rollcall_core::{
    Service,
    instance::Locality,
    query::{Filter, nearest_first, select},
    record::Record,
};
use rollcall_proto::{convert, v1};
use std::sync::Arc;

/// Field number of `ResolveResponse.instances`.
const RESOLVE_INSTANCES: u32 = 4;
/// Field number of `WatchResponse.Snapshot.instances` and of `WatchResponse.Delta.upserted`.
pub(super) const WATCH_INSTANCES: u32 = 5;

/// The shared part of an answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The instances, encoded as a repeated field of `ResolveResponse`.
    pub instances: Bytes,
    /// The same instances, for what is said of them with each call.
    pub records: Arc<[Arc<Record>]>,
    /// Too few were routable.
    pub fail_open: bool,
}

/// What a kept answer belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// What was asked for.
    pub filter: Filter,
    /// From where, which decides the order.
    pub caller: Locality,
}

impl Weigh for Answer {
    fn bytes(&self) -> usize {
        self.instances.len() + self.records.len() * size_of::<Arc<Record>>()
    }
}

/// The kept answers of a node.
#[derive(Debug, Default)]
pub struct Answers(Kept<Key, Answer>);

impl Answers {
    /// The answer for this state of the service.
    pub fn of(&self, service: &Service, key: Key) -> Answer {
        self.0.get(&service.name, service.revision, key, |key| encode(service, key))
    }
}

fn encode(service: &Service, key: &Key) -> Answer {
    let mut selection = select(service, &key.filter);
    if key.caller != Locality::default() {
        nearest_first(&mut selection.records, &key.caller);
    }
    Answer {
        instances: encode_instances(RESOLVE_INSTANCES, selection.records.iter()),
        records: selection.records.into(),
        fail_open: selection.fail_open,
    }
}

/// Instances as the repeated field `number` of some message.
pub(super) fn encode_instances<'a>(
    number: u32,
    records: impl Iterator<Item = &'a Arc<Record>>,
) -> Bytes {
    let mut bytes = BytesMut::new();
    for record in records {
        encode_instance(number, record, &mut bytes);
    }
    bytes.freeze()
}

/// One instance as field `number` of some message.
pub(super) fn encode_instance(number: u32, record: &Record, bytes: &mut impl BufMut) {
    let instance: v1::Instance = convert::instance(record);
    encoding::message::encode(number, &instance, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn a_concatenated_answer_decodes_as_one_message() {
        let head = v1::ResolveResponse { fail_open: true, ..Default::default() };
        let instance = v1::Instance { instance_id: "a".into(), ..Default::default() };
        let mut bytes = BytesMut::from(&head.encode_to_vec()[..]);
        encoding::message::encode(RESOLVE_INSTANCES, &instance, &mut bytes);
        let decoded = v1::ResolveResponse::decode(bytes).unwrap();
        assert!(decoded.fail_open);
        assert_eq!(decoded.instances, [instance]);
    }
}

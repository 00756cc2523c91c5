//! Messages of the API as JSON for programs.
//!
//! The descriptors that the API was built from decide: field names are those of the `.proto` files, in their order.
//! Ids (node ids, generations, lease handles) are hex strings of 16 digits, revisions and counts are numbers,
//! durations are seconds ("10s", "0.25s"), times RFC 3339, enum values lose their prefix ("HEALTHY"), bytes are hex.
//! Lists and fields without presence are always there; what is unset is null; of a choice only the chosen one shows.

use std::fmt::Write as _;
use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, EnumDescriptor, FieldDescriptor, Kind};
use prost_reflect::{MapKey, MessageDescriptor, ReflectMessage, Value as Field};
use rollcall_proto::{FILE_DESCRIPTOR_SET, v1};
use serde_json::{Map, Value, json};

use super::words;

/// `uint64` fields that name something instead of counting it.
const IDS: [&str; 2] = ["generation", "lease_handle"];

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build wrote them"));

/// A message that is printed, with its name in the `.proto` files.
pub(super) trait Shown: Message {
    /// Full name.
    const NAME: &'static str;
}

macro_rules! shown {
    ($($message:ident),* $(,)?) => {
        $(impl Shown for v1::$message {
            const NAME: &'static str = concat!("rollcall.v1.", stringify!($message));
        })*
        #[cfg(test)]
        const ALL: &[&str] = &[$(<v1::$message as Shown>::NAME),*];
    };
}

shown!(
    AddMemberResponse,
    DeregisterResponse,
    Event,
    GetClusterStatusResponse,
    GetInstanceResponse,
    GetProtectionResponse,
    GetServicePolicyResponse,
    HistoryResponse,
    ListServicesResponse,
    PromoteMemberResponse,
    PutServicePolicyResponse,
    DeleteServicePolicyResponse,
    ReleaseProtectionResponse,
    RemoveMemberResponse,
    ResolveResponse,
    SetAdminStateResponse,
    TransferLeaderResponse,
    TriggerSnapshotResponse,
    WatchResponse,
);

/// The message as JSON.
pub(super) fn of<M: Shown>(value: &M) -> Value {
    let descriptor: MessageDescriptor =
        POOL.get_message_by_name(M::NAME).expect("a test looks all of them up");
    let bytes = value.encode_to_vec();
    let dynamic = DynamicMessage::decode(descriptor, bytes.as_slice());
    message(&dynamic.expect("what prost wrote is read with its own descriptor"))
}

fn message(value: &DynamicMessage) -> Value {
    let descriptor = value.descriptor();
    match descriptor.full_name() {
        "google.protobuf.Duration" => {
            let length = value.transcode_to::<prost_types::Duration>().unwrap_or_default();
            return json!(words::seconds(&length));
        }
        "google.protobuf.Timestamp" => {
            let time = value.transcode_to::<prost_types::Timestamp>().unwrap_or_default();
            return json!(words::time(Some(&time)));
        }
        _ => {}
    }
    let mut object = Map::new();
    for at in descriptor.fields() {
        let chosen = at.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic());
        if at.supports_presence() && !value.has_field(&at) {
            if !chosen {
                object.insert(at.name().to_owned(), Value::Null);
            }
            continue;
        }
        object.insert(at.name().to_owned(), field(&value.get_field(&at), &at));
    }
    Value::Object(object)
}

fn field(value: &Field, at: &FieldDescriptor) -> Value {
    match value {
        Field::List(items) => items.iter().map(|item| field(item, at)).collect(),
        Field::Map(entries) => {
            let Kind::Message(entry) = at.kind() else { return Value::Null };
            let value_field = entry.map_entry_value_field();
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let text =
                entries.into_iter().map(|(key, value)| (name(key), field(value, &value_field)));
            Value::Object(text.collect())
        }
        Field::Message(inner) => message(inner),
        Field::EnumNumber(number) => match at.kind() {
            Kind::Enum(descriptor) => json!(enum_value(&descriptor, *number)),
            _ => json!(number),
        },
        Field::U64(id) if at.kind() == Kind::Fixed64 || IDS.contains(&at.name()) => {
            json!(words::id(*id))
        }
        Field::Bool(value) => json!(value),
        Field::I32(value) => json!(value),
        Field::I64(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::U64(value) => json!(value),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::String(value) => json!(value),
        Field::Bytes(value) => json!(hex(value)),
    }
}

fn name(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

/// The short name: every enum has a first value `PREFIX_UNSPECIFIED`. A number of a newer release stays one.
fn enum_value(descriptor: &EnumDescriptor, number: i32) -> String {
    let zero = descriptor.default_value();
    let prefix = zero.name().strip_suffix("UNSPECIFIED").unwrap_or_default();
    match descriptor.get_value(number) {
        Some(value) => value.name().strip_prefix(prefix).unwrap_or_else(|| value.name()).to_owned(),
        None => number.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_printed_message_is_in_the_descriptors() {
        for name in ALL {
            assert!(POOL.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_message_keeps_its_field_names_and_every_list_is_there() {
        let answer = of(&v1::ResolveResponse {
            read_metadata: Some(v1::ReadMetadata {
                revision: 7,
                node_id: 0xabc,
                staleness: Some(prost_types::Duration { seconds: 0, nanos: 12_000_000 }),
                ..v1::ReadMetadata::default()
            }),
            instances: vec![v1::Instance {
                instance_id: "web-1".into(),
                generation: 16,
                health_status: v1::HealthStatus::Healthy.into(),
                register_time: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
                spec: Some(v1::InstanceSpec {
                    ttl: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
                    metadata: [("b".into(), "2".into()), ("a".into(), "1".into())].into(),
                    ..v1::InstanceSpec::default()
                }),
                ..v1::Instance::default()
            }],
            ..v1::ResolveResponse::default()
        });
        assert_eq!(answer["read_metadata"]["node_id"], "0000000000000abc");
        assert_eq!(answer["read_metadata"]["revision"], 7);
        assert_eq!(answer["read_metadata"]["staleness"], "0.012s");
        let instance = &answer["instances"][0];
        assert_eq!(instance["generation"], "0000000000000010");
        assert_eq!(instance["health_status"], "HEALTHY");
        assert_eq!(instance["admin_state"], "UNSPECIFIED");
        assert_eq!(instance["register_time"], "1970-01-01T00:00:01.500Z");
        assert_eq!(instance["status_time"], Value::Null);
        assert_eq!(instance["spec"]["ttl"], "90s");
        assert_eq!(instance["spec"]["weight"], Value::Null);
        assert_eq!(instance["spec"]["metadata"].to_string(), r#"{"a":"1","b":"2"}"#);
        assert_eq!(instance["spec"]["health_checks"], json!([]));
        assert_eq!(answer["fail_open"], false);
    }

    #[test]
    fn of_a_choice_only_the_chosen_one_shows() {
        let event = of(&v1::Event {
            subject: Some(v1::event::Subject::Policy(v1::ServiceName::default())),
            reason: v1::EventReason::PolicyPut.into(),
            ..v1::Event::default()
        });
        let names = event.as_object().unwrap();
        assert!(names.contains_key("policy") && !names.contains_key("instance"), "{event}");
        assert_eq!(event["reason"], "POLICY_PUT");
        assert_eq!(event["from_status"], Value::Null);
    }
}

//! Parts of requests, for calls that take the rest apart themselves.

use super::{
    problems::{Problems, Refused},
    read::{read_filter, read_place},
    spec::{read_name, read_service},
    write::{read_policy, read_scope},
};
use crate::v1;
use rollcall_core::{
    instance::Locality,
    name::{InstanceName, Invalid, ServiceName},
    policy::Policy,
    query::Filter,
    record::Scope,
};
use std::time::Duration;

fn read<T>(one: impl FnOnce(&mut Problems) -> Option<T>) -> Result<T, Refused> {
    let mut problems = Problems::default();
    let value = one(&mut problems);
    problems.finish(value)
}

/// The service that a request must name. Errors name `service`.
pub fn service_name(name: Option<v1::ServiceName>) -> Result<ServiceName, Refused> {
    read(|problems| read_service("service", name, problems))
}

/// The instance that a request must name. Errors name `name`.
pub fn instance_name(name: Option<v1::InstanceName>) -> Result<InstanceName, Refused> {
    read(|problems| read_name(name, problems))
}

/// A filter; without one, all that is routable. Errors name `filter`.
pub fn filter(filter: Option<v1::ResolveFilter>) -> Result<Filter, Refused> {
    read(|problems| read_filter(filter, problems))
}

/// A place in the field `field`; unset is unknown in every part.
pub fn locality(field: &str, place: Option<v1::Locality>) -> Result<Locality, Refused> {
    Ok(read(|problems| read_place(field, place, problems))?.unwrap_or_default())
}

/// A policy. Errors name `policy`.
pub fn policy(policy: v1::ServicePolicy) -> Result<Policy, Refused> {
    read(|problems| problems.within(|| "policy".into(), |inner| read_policy(policy, inner)))
}

/// The scope that a request must name. Errors name `scope`.
pub fn scope(scope: Option<v1::Scope>) -> Result<Scope, Refused> {
    read(|problems| read_scope(scope, problems))
}

/// A duration from 0 on in the field `field`.
pub fn parse_duration(field: &str, value: prost_types::Duration) -> Result<Duration, Invalid> {
    let parts = (u64::try_from(value.seconds), u32::try_from(value.nanos));
    match parts {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => Err(Invalid::new(
            field,
            format!(
                "{}s and {}ns: neither may be negative, and nanos are below 1000000000",
                value.seconds, value.nanos
            ),
        )),
    }
}

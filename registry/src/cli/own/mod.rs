//! `register` and `run`: instances that this process keeps listed, through the client library.

mod child;
mod register;
mod run;

pub(super) use register::register;
pub(super) use run::run;

use rollcall_client::{Check, Fence, Registration, State};
use rollcall_core::check as core;
use rollcall_core::name::{Label, ServiceName};

use super::args::SpecArgs;
use super::values::{CheckArg, ServiceArg};

/// The name that service argument and `--namespace` give together.
fn service_name(service: &ServiceArg, spec: &SpecArgs) -> ServiceName {
    service.name(spec.namespace.as_ref())
}

/// A registration with what both commands can say about an instance.
fn registration(service: &ServiceName, spec: &SpecArgs) -> Registration {
    let mut registration = Registration::new(service.service.as_str())
        .namespace(service.namespace.as_str())
        .weight(spec.weight);
    if let Some(zone) = spec.zone.as_ref().map(Label::as_str) {
        registration = registration.zone(zone);
    }
    for tag in &spec.tags {
        registration = registration.tag(&**tag);
    }
    for pair in &spec.metadata {
        registration = registration.metadata(&*pair.key, &*pair.value);
    }
    for CheckArg(check) in &spec.checks {
        registration = registration.check(wire_check(check));
    }
    registration
}

/// A check as the client library takes it.
fn wire_check(check: &core::Check) -> Check {
    let mut wire = match &check.probe {
        core::Probe::Tcp { .. } => Check::tcp(),
        core::Probe::Http(http) => Check::http(&*http.path),
        core::Probe::Grpc { service, .. } => Check::grpc(&**service),
    };
    // One that says nothing is named by the library: two of a kind need two names.
    if check.id.as_str() != check.probe.as_str() {
        wire = wire.id(check.id.as_str());
    }
    if check.probe.tls() {
        wire = wire.tls();
    }
    if check.advisory {
        wire = wire.advisory();
    }
    if let Some(endpoint) = &check.endpoint {
        wire = wire.endpoint(endpoint.as_str());
    }
    wire.interval(check.interval)
        .timeout(check.timeout)
        .rise(check.rise.into())
        .fall(check.fall.into())
}

/// What a change of a registration means, for the person who started it; `None` where nothing has to be said.
fn news(name: &str, state: &State) -> Option<String> {
    match state {
        State::Registering { problem: Some(problem) } => {
            Some(format!("{name} is not registered: {problem}; trying on"))
        }
        State::Registering { problem: None } => None,
        State::Registered { .. } => Some(format!("{name} is registered")),
        State::Fenced { cause: Fence::Superseded, detail } => Some(format!(
            "{name} belongs to somebody else now: {detail}; it is not registered again"
        )),
        State::Fenced { cause: Fence::Deregistered, detail } => Some(format!(
            "{name} was deregistered by somebody else: {detail}; it is not registered again"
        )),
        State::Stopped => None,
    }
}

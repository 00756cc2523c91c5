//! `rollcall resolve`: the instances of a service that can be called now.

use rollcall_client::v1;
use rollcall_core::name::ServiceName;

use super::super::args::ResolveArgs;
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::values::Consistency;
use super::super::{Exit, Failure, Outcome, json, stdout, words};
use super::{filter, is_known, print_instances};

/// Prints the instances; tells an unknown service from one that has none to offer.
pub(crate) async fn resolve(context: &Context, args: ResolveArgs) -> Outcome {
    let service = args.service.name(args.namespace.as_ref());
    let endpoint = args.endpoint.as_ref().map(|name| name.as_str());
    let (consistency, max_staleness) = consistency(args.consistency);
    let locality = args
        .zone
        .as_ref()
        .map(|zone| v1::Locality { zone: zone.to_string(), ..Default::default() });
    let request = v1::ResolveRequest {
        service: Some(words::wire_service(&service)),
        filter: Some(filter(&args.selector, endpoint)),
        consistency: consistency.into(),
        max_staleness,
        min_revision: args.min_revision,
        client_locality: locality,
        ..v1::ResolveRequest::default()
    };
    let mut answer = context.client.resolve(request).await?;
    if let Some(name) = endpoint {
        for spec in answer.instances.iter_mut().filter_map(|instance| instance.spec.as_mut()) {
            spec.endpoints.retain(|endpoint| endpoint.name == name);
        }
    }
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else if !answer.instances.is_empty() {
        print_instances(&answer.instances)?;
    }
    remark(&answer);
    if answer.instances.is_empty() {
        return Err(nobody(context, &service).await?);
    }
    Ok(Exit::Ok)
}

fn consistency(asked: Consistency) -> (v1::Consistency, Option<prost_types::Duration>) {
    match asked {
        Consistency::Stale => (v1::Consistency::Stale, None),
        Consistency::Bounded(bound) => {
            (v1::Consistency::Bounded, Some(words::wire_duration(bound)))
        }
        Consistency::Linearizable => (v1::Consistency::Linearizable, None),
    }
}

/// What a reader of the list should know.
fn remark(answer: &v1::ResolveResponse) {
    let read = answer.read_metadata.unwrap_or_default();
    if answer.fail_open {
        complain(
            "note: fewer instances are routable than the policy of the service wants, so all are \
             listed with their true status (fail_open)",
        );
    }
    if read.protected {
        complain(
            "note: many instances fell silent at once, so none is expired for the moment; see \
             `rollcall protection show`",
        );
    }
    if !read.leader_known {
        let behind = words::length(read.staleness.as_ref());
        let behind = if behind.is_empty() {
            "at an unknown time".to_owned()
        } else {
            format!("{behind} ago")
        };
        complain(&format!(
            "note: node {} hears no leader; it was last in step {behind}",
            words::id(read.node_id)
        ));
    }
}

/// Why the answer is empty.
async fn nobody(context: &Context, service: &ServiceName) -> Result<Failure, Failure> {
    if !is_known(&context.client, service).await? {
        let text = format!("service {service} is unknown; `rollcall ls` lists the services");
        return Ok(Failure::with(Exit::Unknown, text));
    }
    let text = format!(
        "service {service} is known, but none of its instances is routable and matches; \
         `rollcall ls {service}` lists all of them, `rollcall why {service}/ID` says why"
    );
    Ok(Failure::with(Exit::NoneRoutable, text))
}

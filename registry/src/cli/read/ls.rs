//! `rollcall ls`: the services of a namespace, or all instances of one service.

use rollcall_client::v1;
use rollcall_core::name::{Label, ServiceName};

use super::super::args::LsArgs;
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, stdout, words};
use super::{is_known, print_instances};

/// Lists services, or instances whatever their state.
pub(crate) async fn ls(context: &Context, args: LsArgs) -> Outcome {
    match &args.service {
        Some(service) => instances(context, &service.name(args.namespace.as_ref())).await,
        None => {
            let namespace = args.namespace.unwrap_or_else(Label::default_namespace);
            services(context, &namespace).await
        }
    }
}

async fn services(context: &Context, namespace: &Label) -> Outcome {
    let request = v1::ListServicesRequest {
        namespace: namespace.as_str().to_owned(),
        page_size: 1_000,
        ..v1::ListServicesRequest::default()
    };
    let services = context.client.list_all_services(request).await?;
    if context.is_json() {
        let all = v1::ListServicesResponse { services, ..v1::ListServicesResponse::default() };
        stdout::json(&json::of(&all))?;
        return Ok(Exit::Ok);
    }
    if services.is_empty() {
        complain(&format!("the namespace {namespace} has no services"));
        return Ok(Exit::Ok);
    }
    let header = ["SERVICE", "INSTANCES", "ROUTABLE", "POLICY", "REVISION"];
    let rows = services.iter().map(|service| {
        [
            words::service(service.name.as_ref()),
            service.instance_count.to_string(),
            service.routable_count.to_string(),
            if service.has_policy { "yes".to_owned() } else { String::new() },
            service.service_revision.to_string(),
        ]
    });
    stdout::table(header, rows)?;
    Ok(Exit::Ok)
}

async fn instances(context: &Context, service: &ServiceName) -> Outcome {
    let any =
        v1::ResolveFilter { health: v1::HealthFilter::Any.into(), ..v1::ResolveFilter::default() };
    let request = v1::ResolveRequest {
        service: Some(words::wire_service(service)),
        filter: Some(any),
        ..v1::ResolveRequest::default()
    };
    let answer = context.client.resolve(request).await?;
    if answer.instances.is_empty() && !is_known(&context.client, service).await? {
        let text = format!("service {service} is unknown; `rollcall ls` lists the services");
        return Err(Failure::with(Exit::Unknown, text));
    }
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else if answer.instances.is_empty() {
        complain(&format!("service {service} has a policy, but no instances"));
    } else {
        print_instances(&answer.instances)?;
    }
    Ok(Exit::Ok)
}

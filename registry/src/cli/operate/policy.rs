//! `policy get` and `policy set`: how a service is treated.

use rollcall_client::v1;
use rollcall_core::name::ServiceName;

use super::super::args::{PolicyCommand, PolicySetArgs};
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, stdout, words};

/// Shows or changes a policy.
pub(crate) async fn policy(context: &Context, command: PolicyCommand) -> Outcome {
    match command {
        PolicyCommand::Get { service } => get(context, &service.name(None)).await,
        PolicyCommand::Set(args) if args.clear => clear(context, &args.service.name(None)).await,
        PolicyCommand::Set(args) => set(context, args).await,
    }
}

async fn stored(
    context: &Context,
    service: &ServiceName,
) -> Result<v1::GetServicePolicyResponse, Failure> {
    let service = Some(words::wire_service(service));
    Ok(context.client.get_service_policy(v1::GetServicePolicyRequest { service }).await?)
}

async fn get(context: &Context, service: &ServiceName) -> Outcome {
    let answer = stored(context, service).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
        return Ok(Exit::Ok);
    }
    if answer.policy.is_none() {
        complain(&format!("service {service} has no policy: these are the registry's defaults"));
    }
    let policy = answer.policy.unwrap_or_default();
    let share = |share: Option<f64>, default: &str| {
        share.map_or_else(|| format!("{default} (default)"), |share| share.to_string())
    };
    let length = |length: Option<&prost_types::Duration>, default: &str| match length {
        Some(_) => words::length(length),
        None => format!("{default} (default)"),
    };
    let rows = [
        ["dns-ttl".to_owned(), length(policy.dns_ttl.as_ref(), "the node's")],
        ["fail-open-below".to_owned(), share(policy.fail_open_below, "0, off")],
        ["evict-after".to_owned(), length(policy.evict_after.as_ref(), "30s")],
        [
            "evict-unhealthy-after".to_owned(),
            length(policy.evict_unhealthy_after.as_ref(), "never"),
        ],
        ["protection-threshold".to_owned(), share(policy.protection_threshold, "the node's")],
    ];
    stdout::table(["SETTING", "VALUE"], rows)?;
    Ok(Exit::Ok)
}

async fn set(context: &Context, args: PolicySetArgs) -> Outcome {
    let service = args.service.name(None);
    // The registry replaces a policy as a whole: what was not named is taken over from the stored one.
    let mut policy = stored(context, &service).await?.policy.unwrap_or_default();
    let replace = |old: &mut Option<prost_types::Duration>, new: Option<std::time::Duration>| {
        if let Some(new) = new {
            *old = Some(words::wire_duration(new));
        }
    };
    replace(&mut policy.dns_ttl, args.dns_ttl);
    replace(&mut policy.evict_after, args.evict_after);
    replace(&mut policy.evict_unhealthy_after, args.evict_unhealthy_after);
    policy.fail_open_below = args.fail_open_below.or(policy.fail_open_below);
    policy.protection_threshold = args.protection_threshold.or(policy.protection_threshold);
    let request = v1::PutServicePolicyRequest {
        service: Some(words::wire_service(&service)),
        policy: Some(policy),
        ..v1::PutServicePolicyRequest::default()
    };
    let answer = context.client.put_service_policy(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        complain(&format!("policy of {service} stored (revision {})", answer.revision));
    }
    Ok(Exit::Ok)
}

async fn clear(context: &Context, service: &ServiceName) -> Outcome {
    let request = v1::DeleteServicePolicyRequest {
        service: Some(words::wire_service(service)),
        ..v1::DeleteServicePolicyRequest::default()
    };
    let answer = context.client.delete_service_policy(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        complain(&format!(
            "service {service} has no policy any more (revision {})",
            answer.revision
        ));
    }
    Ok(Exit::Ok)
}

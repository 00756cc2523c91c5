//! `deregister`, `drain`, `maintenance`, `enable`: on behalf of an operator, so that they outlast the owner.

use std::sync::Arc;
use std::time::Duration;

use rollcall_client::v1::{self, AdminState};
use rollcall_core::name::InstanceName;

use super::super::args::{AdminArgs, EnableArgs};
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::values::InstanceArg;
use super::super::{Exit, Outcome, json, lookup, stdout, words};

/// Removes an instance.
pub(crate) async fn deregister(context: &Context, instance: InstanceArg) -> Outcome {
    let name = lookup::instance(&context.client, &instance).await?;
    let item = v1::Deregistration {
        name: Some(words::wire_instance(&name)),
        ..v1::Deregistration::default()
    };
    let request = v1::DeregisterRequest {
        items: vec![item],
        reason: "rollcall deregister".to_owned(),
        role: v1::Role::Operator.into(),
        ..v1::DeregisterRequest::default()
    };
    let answer = context.client.deregister(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        complain(&format!("deregistered {name} (revision {})", answer.revision));
    }
    Ok(Exit::Ok)
}

/// Gives an instance no new work.
pub(crate) async fn drain(context: &Context, args: AdminArgs) -> Outcome {
    let name = lookup::instance(&context.client, &args.instance).await?;
    set(context, &name, AdminState::Draining, args.reason, args.duration).await
}

/// Takes an instance out on purpose.
pub(crate) async fn maintenance(context: &Context, args: AdminArgs) -> Outcome {
    let name = lookup::instance(&context.client, &args.instance).await?;
    set(context, &name, AdminState::Maintenance, args.reason, args.duration).await
}

/// Ends draining or maintenance.
pub(crate) async fn enable(context: &Context, args: EnableArgs) -> Outcome {
    let name = lookup::instance(&context.client, &args.instance).await?;
    set(context, &name, AdminState::Enabled, args.reason, None).await
}

async fn set(
    context: &Context,
    name: &InstanceName,
    state: AdminState,
    reason: Option<Arc<str>>,
    duration: Option<Duration>,
) -> Outcome {
    let request = v1::SetAdminStateRequest {
        name: Some(words::wire_instance(name)),
        state: state.into(),
        reason: reason.as_deref().unwrap_or_default().to_owned(),
        expire_after: duration.map(words::wire_duration),
        role: v1::Role::Operator.into(),
        ..v1::SetAdminStateRequest::default()
    };
    let answer = context.client.set_admin_state(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
        return Ok(Exit::Ok);
    }
    let now = match &answer.instance {
        Some(instance) => words::status(instance.health_status, instance.admin_state),
        None => "gone".to_owned(),
    };
    complain(&format!("{name} is {now} (revision {})", answer.revision));
    Ok(Exit::Ok)
}

//! `protection show` and `protection release`: the gate that holds back mass expiry.

use rollcall_client::v1;
use rollcall_client::v1::scope::Scope;

use super::super::args::ProtectionCommand;
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::values::ServiceArg;
use super::super::{Exit, Outcome, json, stdout, words};

/// Shows what is held back, or lets it go.
pub(crate) async fn protection(context: &Context, command: ProtectionCommand) -> Outcome {
    match command {
        ProtectionCommand::Show => show(context).await,
        ProtectionCommand::Release { service } => release(context, service).await,
    }
}

async fn show(context: &Context) -> Outcome {
    let answer = context.client.get_protection().await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
        return Ok(Exit::Ok);
    }
    if answer.protections.is_empty() {
        complain("nothing is held back");
    } else {
        let header = ["SCOPE", "HELD", "AGE", "SINCE REVISION", "EVIDENCE"];
        let rows = answer.protections.iter().map(|protection| {
            [
                words::scope(protection.scope.as_ref()),
                protection.held_count.to_string(),
                words::length(protection.age.as_ref()),
                protection.since_revision.to_string(),
                protection.evidence.clone(),
            ]
        });
        stdout::table(header, rows)?;
    }
    if answer.released_count > 0 {
        complain(&format!("{} released leases are still to expire", answer.released_count));
    }
    Ok(Exit::Ok)
}

async fn release(context: &Context, service: Option<ServiceArg>) -> Outcome {
    let scope = match service {
        Some(service) => Scope::Service(words::wire_service(&service.name(None))),
        None => Scope::Cluster(true),
    };
    let scope = v1::Scope { scope: Some(scope) };
    let of = words::scope(Some(&scope));
    let request = v1::ReleaseProtectionRequest {
        scope: Some(scope),
        reason: "rollcall protection release".to_owned(),
        ..v1::ReleaseProtectionRequest::default()
    };
    let answer = context.client.release_protection(request).await?;
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
    } else {
        complain(&format!("nothing is held back for {of} any more (revision {})", answer.revision));
    }
    Ok(Exit::Ok)
}

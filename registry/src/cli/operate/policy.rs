//! `policy get` and `policy set`: how a service is treated, and what is tested of its instances.

use std::time::Duration;

use rollcall_client::v1::{self, health_check::Probe};
use rollcall_core::check::{Check, Checks};
use rollcall_core::name::{Invalid, Label, ServiceName};
use rollcall_proto::convert;

use super::super::args::{PolicyCommand, PolicySetArgs};
use super::super::context::Context;
use super::super::stdout::complain;
use super::super::values::CheckArg;
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
    let checks = match policy.health_checks.len() {
        0 => vec!["none (default)".to_owned()],
        _ => policy.health_checks.iter().map(check).collect(),
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
    let rows = rows.into_iter().chain(checks.into_iter().map(|check| ["check".to_owned(), check]));
    stdout::table(["SETTING", "VALUE"], rows)?;
    Ok(Exit::Ok)
}

async fn set(context: &Context, args: PolicySetArgs) -> Outcome {
    let service = args.service.name(None);
    // The registry replaces a policy as a whole: what was not named is taken over from the stored one.
    let mut policy = stored(context, &service).await?.policy.unwrap_or_default();
    let replace = |old: &mut Option<prost_types::Duration>, new: Option<Duration>| {
        if let Some(new) = new {
            *old = Some(words::wire_duration(new));
        }
    };
    replace(&mut policy.dns_ttl, args.dns_ttl);
    replace(&mut policy.evict_after, args.evict_after);
    replace(&mut policy.evict_unhealthy_after, args.evict_unhealthy_after);
    policy.fail_open_below = args.fail_open_below.or(policy.fail_open_below);
    policy.protection_threshold = args.protection_threshold.or(policy.protection_threshold);
    if args.no_checks || !args.checks.is_empty() {
        let checks = named(args.checks).map_err(|refused| Failure::new(refused.to_string()))?;
        policy.health_checks = convert::health_checks(&checks);
    }
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

/// The checks as a policy holds them. One that says no id has its kind, with a number from the second one on, as in a
/// registration.
fn named(args: Vec<CheckArg>) -> Result<Checks, Invalid> {
    let mut checks = Vec::new();
    for CheckArg(mut check) in args {
        let kind = check.probe.as_str();
        if check.id.as_str() == kind {
            let numbered = (2..).map(|number| format!("{kind}-{number}"));
            let mut ids = std::iter::once(kind.to_owned()).chain(numbered);
            let is_free = |id: &String| checks.iter().all(|other: &Check| other.id.as_str() != id);
            check.id = Label::parse("check", &ids.find(is_free).unwrap_or_default())?;
        }
        checks.push(check);
    }
    Checks::parse(checks)
}

/// A check in the words of `--check`.
fn check(check: &v1::HealthCheck) -> String {
    let (kind, tls, more) = match &check.probe {
        Some(Probe::Http(http)) => {
            let plain = v1::health_check::HttpProbe {
                path: http.path.clone(),
                tls: http.tls,
                method: http.method.clone(),
                ..Default::default()
            };
            let more = plain != *http || !["", "GET"].contains(&http.method.as_str());
            (format!("http:{}", http.path), http.tls, more)
        }
        Some(Probe::Grpc(grpc)) if grpc.service.is_empty() => ("grpc".to_owned(), grpc.tls, false),
        Some(Probe::Grpc(grpc)) => (format!("grpc:{}", grpc.service), grpc.tls, false),
        Some(Probe::Tcp(tcp)) => ("tcp".to_owned(), tcp.tls, false),
        None => ("unknown".to_owned(), false, true),
    };
    let mut text = kind;
    for (key, length) in [("interval", &check.interval), ("timeout", &check.timeout)] {
        let length = length.as_ref().and_then(words::std_duration).unwrap_or_default();
        text.push_str(&format!(",{key}={}", short(length)));
    }
    text.push_str(&format!(",rise={},fall={}", check.rise, check.fall));
    if !check.endpoint_name.is_empty() {
        text.push_str(&format!(",endpoint={}", check.endpoint_name));
    }
    text.push_str(&format!(",id={}", check.check_id));
    for (is, word) in [(tls, ",tls"), (check.advisory, ",advisory"), (more, " (more with -o json)")]
    {
        text.push_str(if is { word } else { "" });
    }
    text
}

/// One number and one unit, without a space.
fn short(length: Duration) -> String {
    match length.subsec_millis() {
        0 => format!("{}s", length.as_secs()),
        _ => format!("{}ms", length.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::values;
    use super::*;

    fn stored(texts: &[&str]) -> Result<Vec<v1::HealthCheck>, Invalid> {
        let args = texts.iter().map(|text| values::check(text).unwrap()).collect();
        named(args).map(|checks| convert::health_checks(&checks))
    }

    #[test]
    fn a_check_is_shown_in_the_words_that_set_it() {
        for text in [
            "tcp,interval=10s,timeout=2s,rise=2,fall=3,id=tcp",
            "http:/health?a=b,interval=1s,timeout=500ms,rise=1,fall=2,endpoint=admin,id=deep,tls,advisory",
            "grpc:shop.v1.Cart,interval=5s,timeout=2s,rise=2,fall=3,id=grpc",
        ] {
            assert_eq!(check(&stored(&[text]).unwrap()[0]), text);
        }
        let mut more = stored(&["http:/"]).unwrap().remove(0);
        if let Some(Probe::Http(http)) = &mut more.probe {
            http.body_contains = "up".into();
        }
        assert!(check(&more).ends_with("id=http (more with -o json)"), "{}", check(&more));
    }

    #[test]
    fn checks_of_one_kind_get_different_ids_and_two_of_one_id_are_refused() {
        let checks = stored(&["tcp", "tcp,id=tcp-2", "tcp", "grpc"]).unwrap();
        let ids: Vec<&str> = checks.iter().map(|check| check.check_id.as_str()).collect();
        assert_eq!(ids, ["tcp", "tcp-2", "tcp-3", "grpc"]);
        let refused = stored(&["tcp,id=a", "grpc,id=a"]).expect_err("twice");
        assert_eq!(refused.field, "health_checks[1].check_id");
        let many: Vec<String> = (0..9).map(|i| format!("tcp,id=c{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(stored(&many).expect_err("nine").field, "health_checks");
    }
}

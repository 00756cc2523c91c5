//! `rollcall check show`: how the checks of an instance stand, and what their last probes saw.

use rollcall_client::v1;

use super::super::args::CheckCommand;
use super::super::context::Context;
use super::super::{Exit, Failure, Outcome, json, lookup, stdout, words};

/// Shows the checks of one instance.
pub(crate) async fn check(context: &Context, command: CheckCommand) -> Outcome {
    let CheckCommand::Show { instance } = command;
    let name = lookup::instance(&context.client, &instance).await?;
    let request = v1::GetInstanceRequest {
        name: Some(words::wire_instance(&name)),
        with_outputs: true,
        ..v1::GetInstanceRequest::default()
    };
    let answer = context.client.get_instance(request).await?;
    let Some(instance) = &answer.instance else {
        let text = format!("{name} is not registered any more; `rollcall why {name}` tells more");
        return Err(Failure::with(Exit::Unknown, text));
    };
    if context.is_json() {
        stdout::json(&json::of(&answer))?;
        return Ok(Exit::Ok);
    }
    let status = words::status(instance.health_status, instance.admin_state);
    let mut told = vec![format!("{name} is {status}.")];
    if answer.checks.is_empty() {
        told.push("It has no checks: its lease alone decides.".to_owned());
    }
    told.extend(lines(&answer));
    stdout::line(&told.join("\n"))?;
    Ok(Exit::Ok)
}

/// Each check with its verdict and outputs, and who probes; nothing where there are no checks.
pub(super) fn lines(answer: &v1::GetInstanceResponse) -> Vec<String> {
    let mut lines = Vec::new();
    for check in &answer.checks {
        lines.push(headline(check));
        lines.extend(check.outputs.iter().map(|output| format!("  {}", outcome(output))));
    }
    if !answer.checks.is_empty() {
        lines.push(match answer.checker_node_id {
            0 => "No node probes it yet.".to_owned(),
            id => format!("The checker is node {}.", words::id(id)),
        });
    }
    if !answer.outputs_problem.is_empty() {
        lines.push(format!("Its outputs are not known: {}.", answer.outputs_problem));
    }
    lines
}

fn headline(check: &v1::CheckReport) -> String {
    let status = check.status.clone().unwrap_or_default();
    let verdict = status.verdict().as_str_name().trim_start_matches("CHECK_VERDICT_");
    let kind = if check.advisory { " (advisory)" } else { "" };
    let flaps = if status.flapping { ", flapping" } else { "" };
    let hasty = if status.hasty { " by quick probes" } else { "" };
    let every = words::length(check.interval.as_ref());
    let next = match &check.next_probe_in {
        Some(next) => format!(", the next probe in {}", words::length(Some(next))),
        None => String::new(),
    };
    let (id, how, target) = (&status.check_id, &check.kind, &check.target);
    format!("Check {id}{kind}: {verdict}{hasty}{flaps}; {how} {target} every {every}{next}.")
}

fn outcome(output: &v1::ProbeOutput) -> String {
    let word = match output.failure.as_str() {
        "" => "passed".to_owned(),
        failure => format!("failed ({failure})"),
    };
    let (time, took) = (words::time(output.time.as_ref()), words::length(output.latency.as_ref()));
    format!("{time} {word} in {took}: {}", output.output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_told_with_its_verdict_its_outputs_and_its_checker() {
        let output = v1::ProbeOutput {
            time: Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }),
            failure: "code".into(),
            latency: Some(prost_types::Duration { seconds: 0, nanos: 3_000_000 }),
            output: "code not accepted: HTTP 503 Service Unavailable".into(),
        };
        let status = v1::CheckStatus {
            check_id: "http".into(),
            verdict: v1::CheckVerdict::Failing.into(),
            flapping: true,
            hasty: true,
        };
        let check = v1::CheckReport {
            status: Some(status),
            kind: "http".into(),
            target: "10.0.0.1:80".into(),
            interval: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
            outputs: vec![output],
            ..v1::CheckReport::default()
        };
        let mut answer = v1::GetInstanceResponse {
            checks: vec![check],
            checker_node_id: 7,
            ..v1::GetInstanceResponse::default()
        };
        assert_eq!(
            lines(&answer),
            [
                "Check http: FAILING by quick probes, flapping; http 10.0.0.1:80 every 10s.",
                "  2027-01-15T08:00:00.000Z failed (code) in 3ms: code not accepted: HTTP 503 Service \
                 Unavailable",
                "The checker is node 0000000000000007.",
            ]
        );
        answer.outputs_problem = "the checker did not answer".into();
        let last = lines(&answer).pop();
        assert_eq!(last.as_deref(), Some("Its outputs are not known: the checker did not answer."));
        assert_eq!(lines(&v1::GetInstanceResponse::default()), [""; 0]);
    }
}

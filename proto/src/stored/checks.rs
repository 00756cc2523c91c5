//! Checks, what came of them, and the commands about them.

use super::{
    Pool, StoredError,
    values::{need, read_actor, read_text, write_actor, write_text},
    wire::{self, command as kind, stored_check as check},
};
use bytes::Bytes;
use rollcall_core::{
    check::{Check, Checks, CodeRange, HttpProbe, Method, Opinion, Probe, Verdict},
    command::{Figure, Finding, ReportHealth, ReportSelf, SelfReport, SetCheckers, Source},
    signals::{Heard, Signals, Standing, Utilization},
};
use std::{sync::Arc, time::Duration};

type Read<T> = Result<T, StoredError>;

// === Checks ===

pub(super) fn write_checks(checks: &Checks) -> Vec<wire::StoredCheck> {
    checks.iter().map(write_check).collect()
}

pub(super) fn read_checks(checks: Vec<wire::StoredCheck>, pool: &mut Pool) -> Read<Checks> {
    let mut read = Vec::with_capacity(checks.len());
    for check in checks {
        read.push(read_check(check, pool)?);
    }
    Ok(Checks::accepted(read))
}

fn write_check(check: &Check) -> wire::StoredCheck {
    use check::Probe as Wire;
    let probe = match &check.probe {
        Probe::Tcp { tls } => Wire::Tcp(check::Tcp { tls: *tls }),
        Probe::Http(http) => Wire::Http(write_http(http)),
        Probe::Grpc { service, tls } => {
            Wire::Grpc(check::Grpc { service: write_text(service), tls: *tls })
        }
    };
    let endpoint = check.endpoint.as_ref().map(|name| write_text(name.as_str()));
    wire::StoredCheck {
        id: write_text(check.id.as_str()),
        interval_ms: millis(check.interval),
        timeout_ms: millis(check.timeout),
        rise: u32::from(check.rise),
        fall: u32::from(check.fall),
        endpoint: endpoint.unwrap_or_default(),
        advisory: check.advisory,
        startup_grace_ms: millis(check.startup_grace),
        probe: Some(probe),
    }
}

fn read_check(check: wire::StoredCheck, pool: &mut Pool) -> Read<Check> {
    use check::Probe as Wire;
    let count =
        |field, count: u32| u8::try_from(count).map_err(|_| StoredError::value(field, count));
    let time = |ms: u32| Duration::from_millis(u64::from(ms));
    let probe = match need("probe", check.probe)? {
        Wire::Tcp(tcp) => Probe::Tcp { tls: tcp.tls },
        Wire::Http(http) => Probe::Http(read_http(http, pool)?),
        Wire::Grpc(grpc) => {
            Probe::Grpc { service: pool.word("service", &grpc.service)?, tls: grpc.tls }
        }
    };
    Ok(Check {
        id: pool.label("check_id", &check.id)?,
        interval: time(check.interval_ms),
        timeout: time(check.timeout_ms),
        rise: count("rise", check.rise)?,
        fall: count("fall", check.fall)?,
        endpoint: match check.endpoint.is_empty() {
            true => None,
            false => Some(pool.label("endpoint", &check.endpoint)?),
        },
        advisory: check.advisory,
        startup_grace: time(check.startup_grace_ms),
        probe,
    })
}

fn write_http(http: &HttpProbe) -> check::Http {
    use check::http::Method as Wire;
    let method = match http.method {
        Method::Get => Wire::Get,
        Method::Head => Wire::Head,
        Method::Options => Wire::Options,
    };
    let pair = |(key, value): &(Arc<str>, Arc<str>)| wire::StoredPair {
        key: write_text(key),
        value: write_text(value),
    };
    let codes = |range: &CodeRange| wire::StoredCodes {
        first: u32::from(range.first),
        last: u32::from(range.last),
    };
    check::Http {
        method: method.into(),
        path: write_text(&http.path),
        headers: http.headers.iter().map(pair).collect(),
        accepted: http.accepted.iter().map(codes).collect(),
        body_contains: write_text(&http.body_contains),
        tls: http.tls,
    }
}

fn read_http(http: check::Http, pool: &mut Pool) -> Read<HttpProbe> {
    use check::http::Method as Wire;
    let method = match http.method() {
        Wire::Unspecified => return Err(StoredError::Unknown { field: "method" }),
        Wire::Get => Method::Get,
        Wire::Head => Method::Head,
        Wire::Options => Method::Options,
    };
    let code = |code: u32| u16::try_from(code).map_err(|_| StoredError::value("accepted", code));
    let mut headers = Vec::with_capacity(http.headers.len());
    for pair in &http.headers {
        headers.push((pool.word("key", &pair.key)?, pool.word("value", &pair.value)?));
    }
    let mut accepted = Vec::with_capacity(http.accepted.len());
    for range in &http.accepted {
        accepted.push(CodeRange { first: code(range.first)?, last: code(range.last)? });
    }
    Ok(HttpProbe {
        method,
        path: pool.word("path", &http.path)?,
        headers,
        accepted,
        body_contains: pool.word("body_contains", &http.body_contains)?,
        tls: http.tls,
    })
}

/// The times of a check are whole milliseconds, an hour at most.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

// === What came of them ===

pub(super) fn write_signals(signals: &Signals) -> Option<wire::StoredSignals> {
    let heard = signals.heard()?;
    let standing = |standing: &Standing| wire::stored_signals::Standing {
        check: write_text(standing.check.as_str()),
        opinion: Some(write_opinion(standing.opinion)),
    };
    Some(wire::StoredSignals {
        basis: heard.basis,
        since_ms: heard.since_ms,
        standings: heard.standings.iter().map(standing).collect(),
        self_report: heard.self_report.as_ref().map(|why| write_text(why)),
        lost_ms: heard.lost_ms,
        unhealthy_since: heard.unhealthy_since,
    })
}

pub(super) fn read_signals(signals: Option<wire::StoredSignals>, pool: &mut Pool) -> Read<Signals> {
    let Some(signals) = signals else { return Ok(Signals::default()) };
    let mut standings = Vec::with_capacity(signals.standings.len());
    for standing in signals.standings {
        standings.push(Standing {
            check: pool.label("check_id", &standing.check)?,
            opinion: read_opinion(standing.opinion)?,
        });
    }
    Ok(Signals::of(Heard {
        basis: signals.basis,
        since_ms: signals.since_ms,
        standings,
        self_report: read_optional("self_report", signals.self_report.as_ref())?,
        lost_ms: signals.lost_ms,
        unhealthy_since: signals.unhealthy_since,
    }))
}

fn write_opinion(opinion: Opinion) -> wire::StoredOpinion {
    use wire::stored_opinion::Verdict as Wire;
    let verdict = match opinion.verdict {
        Verdict::Starting => Wire::Starting,
        Verdict::Passing => Wire::Passing,
        Verdict::Failing => Wire::Failing,
    };
    wire::StoredOpinion {
        verdict: verdict.into(),
        flapping: opinion.flapping,
        hasty: opinion.hasty,
    }
}

fn read_opinion(opinion: Option<wire::StoredOpinion>) -> Read<Opinion> {
    use wire::stored_opinion::Verdict as Wire;
    let opinion = need("opinion", opinion)?;
    let verdict = match opinion.verdict() {
        Wire::Unspecified => return Err(StoredError::Unknown { field: "verdict" }),
        Wire::Starting => Verdict::Starting,
        Wire::Passing => Verdict::Passing,
        Wire::Failing => Verdict::Failing,
    };
    Ok(Opinion { verdict, flapping: opinion.flapping, hasty: opinion.hasty })
}

fn read_optional(field: &'static str, bytes: Option<&Bytes>) -> Read<Option<Arc<str>>> {
    bytes.map(|bytes| read_text(field, bytes)).transpose()
}

// === Commands ===

pub(super) fn write_report(report: &ReportHealth) -> kind::ReportHealth {
    use kind::report_health::{Checker, Item, Source as Wire};
    let source = match report.source {
        Source::Checker { node, epoch } => Wire::Checker(Checker { node, epoch }),
        Source::Quick => Wire::Quick(wire::Nothing {}),
    };
    let item = |item: &Finding| Item {
        generation: item.generation,
        basis: item.basis,
        check: write_text(item.check.as_str()),
        opinion: Some(write_opinion(item.opinion)),
        evidence: write_text(&item.evidence),
    };
    kind::ReportHealth {
        source: Some(source),
        items: report.items.iter().map(item).collect(),
        actor: Some(write_actor(&report.actor)),
    }
}

pub(super) fn read_report(report: kind::ReportHealth, pool: &mut Pool) -> Read<ReportHealth> {
    use kind::report_health::{Item, Source as Wire};
    let source = match need("source", report.source)? {
        Wire::Checker(it) => Source::Checker { node: it.node, epoch: it.epoch },
        Wire::Quick(wire::Nothing {}) => Source::Quick,
    };
    let mut item = |item: Item| -> Read<Finding> {
        Ok(Finding {
            generation: item.generation,
            basis: item.basis,
            check: pool.label("check_id", &item.check)?,
            opinion: read_opinion(item.opinion)?,
            evidence: read_text("evidence", &item.evidence)?,
        })
    };
    let items = report.items.into_iter().map(&mut item).collect::<Read<_>>()?;
    Ok(ReportHealth { source, items, actor: read_actor(report.actor, pool)? })
}

pub(super) fn write_self_report(report: &ReportSelf) -> kind::ReportSelf {
    let item = |item: &SelfReport| kind::report_self::Item {
        generation: item.generation,
        degraded: item.degraded.as_ref().map(|why| write_text(why)),
    };
    let figure = |figure: &Figure| kind::report_self::Figure {
        generation: figure.generation,
        utilization_percent: figure.utilization.map(Utilization::percent),
    };
    kind::ReportSelf {
        items: report.items.iter().map(item).collect(),
        actor: Some(write_actor(&report.actor)),
        figures: report.figures.iter().map(figure).collect(),
    }
}

pub(super) fn read_self_report(report: kind::ReportSelf, pool: &mut Pool) -> Read<ReportSelf> {
    let item = |item: &kind::report_self::Item| -> Read<SelfReport> {
        let degraded = read_optional("degraded", item.degraded.as_ref())?;
        Ok(SelfReport { generation: item.generation, degraded })
    };
    let figure = |figure: &kind::report_self::Figure| -> Read<Figure> {
        let utilization = figure.utilization_percent.map(read_utilization).transpose()?;
        Ok(Figure { generation: figure.generation, utilization })
    };
    let items = report.items.iter().map(item).collect::<Read<_>>()?;
    let figures = report.figures.iter().map(figure).collect::<Read<_>>()?;
    Ok(ReportSelf { items, figures, actor: read_actor(report.actor, pool)? })
}

pub(super) fn read_utilization(percent: u32) -> Read<Utilization> {
    Utilization::new(percent).ok_or(StoredError::Unknown { field: "utilization" })
}

pub(super) fn write_set_checkers(set: &SetCheckers) -> kind::SetCheckers {
    kind::SetCheckers {
        epoch: set.epoch,
        nodes: set.nodes.clone(),
        actor: Some(write_actor(&set.actor)),
    }
}

pub(super) fn read_set_checkers(set: kind::SetCheckers, pool: &mut Pool) -> Read<SetCheckers> {
    Ok(SetCheckers { epoch: set.epoch, nodes: set.nodes, actor: read_actor(set.actor, pool)? })
}

//! `rollcall events`: the journal, oldest first, and what is added to it.

use rollcall_client::v1;
use rollcall_client::v1::event::Subject;
use rollcall_core::name::{Label, ServiceName};

use super::super::args::EventsArgs;
use super::super::context::Context;
use super::super::signals::Stop;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, stdout, words};

/// Events on one page.
const PAGE: u32 = 1_000;

/// Prints past events; with `--follow` goes on with every new one until interrupted.
pub(crate) async fn events(context: &Context, args: EventsArgs) -> Outcome {
    let mut stop = Stop::catch()?;
    tokio::select! {
        biased;
        number = stop.wait() => {
            Ok(if args.follow { Exit::Ok } else { Exit::Signal(number) })
        }
        outcome = print(context, &args) => outcome,
    }
}

async fn print(context: &Context, args: &EventsArgs) -> Outcome {
    let service = args.service.as_ref().map(|service| service.name(args.namespace.as_ref()));
    let past = past(context, args, service.as_ref()).await?;
    if !args.follow {
        if context.is_json() {
            stdout::json(&json::of(&past))?;
        } else if past.events.is_empty() {
            complain("no events");
        } else {
            let header = ["REVISION", "TIME", "WHAT", "CHANGE", "REASON", "BY", "EVIDENCE"];
            stdout::table(header, past.events.iter().map(row))?;
        }
        return Ok(Exit::Ok);
    }
    past.events.iter().try_for_each(|event| print_line(context, event))?;
    let revision = past.read_metadata.map_or(0, |read| read.revision);
    let mut tail = context.client.tail(v1::TailRequest {
        start: Some(v1::tail_request::Start::AfterRevision(revision)),
        service: service.as_ref().map(words::wire_service),
    });
    loop {
        let event = tail.next().await?;
        if covers(args.namespace.as_ref(), service.as_ref(), &event) {
            print_line(context, &event)?;
        }
    }
}

/// Past events, oldest first: the newest ones, or with `--since` those that follow it.
async fn past(
    context: &Context,
    args: &EventsArgs,
    service: Option<&ServiceName>,
) -> Result<v1::HistoryResponse, Failure> {
    use v1::history_request::Subject as Asked;
    let limit = args.limit as usize;
    let mut whole: Option<v1::HistoryResponse> = None;
    let mut before_revision = 0;
    loop {
        let request = v1::HistoryRequest {
            subject: service.map(|name| Asked::Service(words::wire_service(name))),
            limit: PAGE,
            before_revision,
            min_revision: 0,
        };
        let page = context.client.history(request).await?;
        let since = args.since.unwrap_or(0);
        let reached = page.events.iter().any(|event| event.revision <= since);
        before_revision = page.next_before_revision;
        let events = page.events.iter().filter(|event| event.revision > since);
        let events = events.filter(|event| covers(args.namespace.as_ref(), service, event));
        let events: Vec<_> = events.cloned().collect();
        let whole =
            whole.get_or_insert_with(|| v1::HistoryResponse { events: Vec::new(), ..page.clone() });
        whole.events.extend(events);
        whole.floor_revision = page.floor_revision;
        let enough = args.since.is_none() && whole.events.len() >= limit;
        if before_revision == 0 || reached || enough {
            break;
        }
    }
    let mut whole = whole.unwrap_or_default();
    whole.next_before_revision = 0;
    whole.events.sort_by_key(|event| event.revision);
    let Some(since) = args.since else {
        let surplus = whole.events.len().saturating_sub(limit);
        whole.events.drain(..surplus);
        return Ok(whole);
    };
    if since < whole.floor_revision {
        let text = format!(
            "events after revision {since} are not all kept, only those after {floor}; ask with \
             --since {floor}",
            floor = whole.floor_revision
        );
        return Err(Failure::new(text));
    }
    if whole.events.len() > limit && !args.follow {
        whole.events.truncate(limit);
        let last = whole.events.last().map_or(0, |event| event.revision);
        complain(&format!("note: more events follow; go on with --since {last}"));
    }
    Ok(whole)
}

/// Whether an event belongs to what was asked for.
fn covers(namespace: Option<&Label>, service: Option<&ServiceName>, event: &v1::Event) -> bool {
    if let (Some(namespace), None) = (namespace, service) {
        return namespace_of(event).is_some_and(|of| of == namespace.as_str());
    }
    true
}

fn namespace_of(event: &v1::Event) -> Option<&str> {
    let namespace = match event.subject.as_ref()? {
        Subject::Instance(name) => &name.namespace,
        Subject::Policy(name) => &name.namespace,
        Subject::Protection(scope) => match scope.scope.as_ref()? {
            v1::scope::Scope::Service(name) => &name.namespace,
            v1::scope::Scope::Cluster(_) => return None,
        },
    };
    Some(if namespace.is_empty() { "default" } else { namespace })
}

fn subject(event: &v1::Event) -> String {
    match &event.subject {
        Some(Subject::Instance(name)) => words::instance(Some(name)),
        Some(Subject::Policy(name)) => format!("policy of {}", words::service(Some(name))),
        Some(Subject::Protection(scope)) => format!("protection of {}", words::scope(Some(scope))),
        None => String::new(),
    }
}

fn row(event: &v1::Event) -> [String; 7] {
    let change = match &event.subject {
        Some(Subject::Instance(_)) => {
            let (from, to) = (event.from_status.as_ref(), event.to_status.as_ref());
            format!("{} -> {}", words::end(from), words::end(to))
        }
        _ => String::new(),
    };
    [
        event.revision.to_string(),
        words::time(event.time.as_ref()),
        subject(event),
        change,
        words::reason(event.reason).to_owned(),
        words::actor(event.actor.as_ref()),
        event.evidence.clone(),
    ]
}

fn print_line(context: &Context, event: &v1::Event) -> Result<(), Failure> {
    if context.is_json() {
        return stdout::json_line(&json::of(event));
    }
    let [revision, time, what, change, reason, by, evidence] = row(event);
    let text = format!("{revision:>6}  {time}  {what}  {change}  {reason}  {by}  {evidence}");
    stdout::line(text.trim_end())
}

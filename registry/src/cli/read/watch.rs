//! `rollcall watch`: services now, and every change of them, until interrupted.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rollcall_client::v1::watch_response::{Bookmark, Delta, Event, Removal, Snapshot};
use rollcall_client::{Picture, Selection, Service, Update, v1};
use rollcall_core::name::{Label, ServiceName};

use super::super::args::WatchArgs;
use super::super::context::Context;
use super::super::signals::Stop;
use super::super::stdout::complain;
use super::super::{Exit, Failure, Outcome, json, stdout, words};
use super::filter;

/// Longest wait for the first complete state.
const FIRST: Duration = Duration::from_secs(5);

/// Follows services. JSON: a `WatchResponse` on each line.
pub(crate) async fn watch(context: &Context, args: WatchArgs) -> Outcome {
    let mut stop = Stop::catch()?;
    let selection = if args.services.is_empty() {
        let namespace = args.namespace.unwrap_or_else(Label::default_namespace);
        Selection::pattern(namespace.as_str(), args.prefix.as_deref().unwrap_or_default())?
    } else {
        // The same service twice is one service.
        let names: BTreeSet<ServiceName> =
            args.services.iter().map(|service| service.name(args.namespace.as_ref())).collect();
        Selection::services(names)
    };
    // Who looks wants to see what the registry says, also where it is mad.
    let selection = selection.filter(filter(&args.selector, None)).shrink_grace(Duration::ZERO);
    let mut watch = context.client.watch(selection)?;
    tokio::select! {
        biased;
        _ = stop.wait() => return Ok(Exit::Ok),
        ready = watch.ready(FIRST) => drop(ready?),
    }
    let mut printer = Printer { json: context.is_json(), shown: BTreeSet::new() };
    let mut connected = true;
    loop {
        let update = tokio::select! {
            biased;
            _ = stop.wait() => return Ok(Exit::Ok),
            update = watch.next() => update,
        };
        let picture = watch.current();
        if let (true, Some(problem)) = (connected && !picture.connected, &picture.problem) {
            complain(&format!("note: {problem}; what was shown may be old until this comes back"));
        }
        connected = picture.connected;
        printer.print(update, &picture)?;
    }
}

struct Printer {
    json: bool,
    /// Services that were printed: one that vanishes in a reset must be printed as gone.
    shown: BTreeSet<ServiceName>,
}

impl Printer {
    fn print(&mut self, update: Update, now: &Picture) -> Result<(), Failure> {
        match update {
            Update::Snapshot(service) => self.snapshot(&service),
            Update::Delta { service, upserted, removed } => {
                self.shown.insert(service.name.clone());
                self.delta(&service, &upserted, removed)
            }
            Update::Bookmark { revision } => self.bookmark(revision, now),
            Update::Reset(picture) => self.reset(&picture),
        }
    }

    fn reset(&mut self, picture: &Picture) -> Result<(), Failure> {
        let gone = self.shown.iter().filter(|name| !picture.services.contains_key(*name));
        for name in gone.cloned().collect::<Vec<_>>() {
            let gone = Service {
                name,
                revision: picture.revision,
                exists: false,
                fail_open: false,
                protected: false,
                instances: Default::default(),
                held: Default::default(),
            };
            self.snapshot(&gone)?;
        }
        picture.services.values().try_for_each(|service| self.snapshot(service))
    }

    fn snapshot(&mut self, service: &Service) -> Result<(), Failure> {
        self.shown.insert(service.name.clone());
        let instances: Vec<_> = service.instances.values().map(|i| (**i).clone()).collect();
        if self.json {
            let snapshot = Snapshot {
                more: false,
                service_exists: service.exists,
                fail_open: service.fail_open,
                protected: service.protected,
                instances,
            };
            return message(service.revision, Some(&service.name), Event::Snapshot(snapshot));
        }
        let exists = if service.exists { "" } else { ", unknown" };
        let count = instances.len();
        change(service, &format!("has {count} matching instances{exists}"))?;
        instances.iter().try_for_each(|instance| change(service, &line('=', instance)))
    }

    fn delta(
        &self,
        service: &Service,
        upserted: &[Arc<v1::Instance>],
        removed: Vec<Removal>,
    ) -> Result<(), Failure> {
        if self.json {
            let delta = Delta {
                service_exists: service.exists,
                fail_open: service.fail_open,
                protected: service.protected,
                removed,
                upserted: upserted.iter().map(|instance| (**instance).clone()).collect(),
            };
            return message(service.revision, Some(&service.name), Event::Delta(delta));
        }
        for removal in &removed {
            let reason = match removal.reason() {
                v1::EventReason::Unspecified => String::new(),
                reason => format!("  {}", words::reason(reason.into())),
            };
            change(service, &format!("- {}{reason}", removal.instance_id))?;
        }
        upserted.iter().try_for_each(|instance| change(service, &line('+', instance)))
    }

    fn bookmark(&self, revision: u64, now: &Picture) -> Result<(), Failure> {
        if !self.json {
            return Ok(());
        }
        let bookmark = Bookmark {
            staleness: now.staleness.map(words::wire_duration),
            leader_known: now.leader_known,
            initial_state_complete: now.complete,
            ..Bookmark::default()
        };
        message(revision, None, Event::Bookmark(bookmark))
    }
}

fn message(revision: u64, name: Option<&ServiceName>, event: Event) -> Result<(), Failure> {
    let message = v1::WatchResponse {
        revision,
        service: name.map(words::wire_service),
        event: Some(event),
        ..v1::WatchResponse::default()
    };
    stdout::json_line(&json::of(&message))
}

fn line(sign: char, instance: &v1::Instance) -> String {
    let status = words::status(instance.health_status, instance.admin_state);
    format!(
        "{sign} {}  {}  {status}",
        instance.instance_id,
        words::endpoints(instance.spec.as_ref())
    )
}

fn change(service: &Service, text: &str) -> Result<(), Failure> {
    stdout::line(&format!("{:>6}  {}  {text}", service.revision, service.name))
}

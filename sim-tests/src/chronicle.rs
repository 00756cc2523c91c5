//! The one history of a run, put together from what the nodes show: the event of each revision, and what each service
//! held at each of its revisions. Nodes that tell it differently are found here.

use crate::cluster::NodeNow;
use crate::invariants::Violation;
use rollcall_core::{
    name::ServiceName,
    record::{Event, Reason, Subject},
    state::Service,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Ids and revisions of the instances of a service.
pub type Content = Vec<(String, u64)>;

/// An event, and when the first node showed it.
#[derive(Debug, Clone)]
pub struct Happened {
    /// The event.
    pub event: Arc<Event>,
    /// When it was first seen on any node.
    pub at: Duration,
}

/// A change of the instances of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Its revision.
    pub revision: u64,
    /// Which instance.
    pub id: String,
    /// It is gone from the list.
    pub removes: bool,
}

/// What is remembered of one boot of one node.
#[derive(Debug, Default)]
struct Told {
    boot: u64,
    revision: u64,
    services: BTreeMap<ServiceName, u64>,
}

/// The history so far.
#[derive(Debug, Default)]
pub struct Chronicle {
    events: BTreeMap<u64, Happened>,
    contents: BTreeMap<(ServiceName, u64), Content>,
    changes: BTreeMap<ServiceName, Vec<Moved>>,
    told: BTreeMap<usize, Told>,
}

impl Chronicle {
    /// Highest revision that any node has shown.
    pub fn revision(&self) -> u64 {
        self.events.keys().next_back().copied().unwrap_or_default()
    }

    /// Every event, by revision.
    pub fn events(&self) -> &BTreeMap<u64, Happened> {
        &self.events
    }

    /// What a service held at one of its revisions, where a node was seen to show it.
    pub fn content(&self, service: &ServiceName, revision: u64) -> Option<&Content> {
        self.contents.get(&(service.clone(), revision))
    }

    /// Takes in what a node shows.
    pub fn read(&mut self, now: Duration, node: &NodeNow, out: &mut Vec<Violation>) {
        let state = &node.seen.state;
        let told = self.told.entry(node.index).or_default();
        if told.boot != node.boot {
            *told = Told { boot: node.boot, ..Told::default() };
        }
        if told.revision == state.revision() && told.revision > 0 {
            return;
        }
        let mut expected = told.revision;
        match state.events_after(told.revision) {
            Some(events) => {
                for event in events {
                    expected += 1;
                    if event.revision != expected {
                        let seen = format!(
                            "n{} shows revision {} after {}",
                            node.index + 1,
                            event.revision,
                            expected - 1
                        );
                        out.push(Violation::new(
                            "the journal has one event for each revision",
                            seen,
                        ));
                        expected = event.revision;
                    }
                    if note(&mut self.events, now, node, event, out)
                        && let Subject::Instance(name) = &event.subject
                    {
                        let change = Moved {
                            revision: event.revision,
                            id: name.id.as_str().to_owned(),
                            removes: event.to.is_none(),
                        };
                        self.changes.entry(name.service.clone()).or_default().push(change);
                    }
                }
                if expected != state.revision() {
                    let seen = format!(
                        "n{} is at revision {} and its journal ends at {expected}",
                        node.index + 1,
                        state.revision()
                    );
                    out.push(Violation::new("the journal has one event for each revision", seen));
                }
            }
            None => {
                let (from, floor) = (told.revision, state.journal_floor());
                let seen =
                    format!("n{} lost its journal after {from}: floor {floor}", node.index + 1);
                out.push(Violation::new("the journal has one event for each revision", seen));
            }
        }
        told.revision = state.revision();
        for (name, service) in state.services() {
            if told.services.get(name) == Some(&service.revision) {
                continue;
            }
            told.services.insert(name.clone(), service.revision);
            note_content(&mut self.contents, node, service, out);
        }
    }

    /// The last event of an instance up to a revision.
    pub fn last_of(&self, subject: &Subject, upto: u64) -> Option<&Happened> {
        self.events.range(..=upto).rev().map(|(_, h)| h).find(|h| h.event.subject == *subject)
    }

    /// Changes of instances by service, in order.
    pub fn changes(&self) -> &BTreeMap<ServiceName, Vec<Moved>> {
        &self.changes
    }

    /// What a service held at a revision, by its events: also where no node was seen to show just that one.
    pub fn held(&self, service: &ServiceName, revision: u64) -> BTreeMap<&str, u64> {
        let mut held = BTreeMap::new();
        let changes = self.changes.get(service).map(Vec::as_slice).unwrap_or_default();
        for change in changes.iter().take_while(|change| change.revision <= revision) {
            if change.removes {
                held.remove(change.id.as_str());
            } else {
                held.insert(change.id.as_str(), change.revision);
            }
        }
        held
    }

    /// Revision of the last change of an instance of a service, up to a revision; 0 = none.
    pub fn service_revision(&self, service: &ServiceName, upto: u64) -> u64 {
        let changes = self.changes.get(service).map(Vec::as_slice).unwrap_or_default();
        let until = changes.partition_point(|change| change.revision <= upto);
        until.checked_sub(1).map_or(0, |last| changes[last].revision)
    }

    /// How often this reason occurred.
    pub fn count(&self, reason: Reason) -> usize {
        self.events.values().filter(|happened| happened.event.reason == reason).count()
    }
}

fn note(
    events: &mut BTreeMap<u64, Happened>,
    now: Duration,
    node: &NodeNow,
    event: &Arc<Event>,
    out: &mut Vec<Violation>,
) -> bool {
    let Some(known) = events.get(&event.revision) else {
        events.insert(event.revision, Happened { event: event.clone(), at: now });
        return true;
    };
    if known.event != *event {
        let seen = format!(
            "revision {}: n{} has {:?}, another node had {:?}",
            event.revision,
            node.index + 1,
            event,
            known.event
        );
        out.push(Violation::new("all nodes tell one history", seen));
    }
    false
}

fn note_content(
    contents: &mut BTreeMap<(ServiceName, u64), Content>,
    node: &NodeNow,
    service: &Service,
    out: &mut Vec<Violation>,
) {
    let content: Content = service
        .instances
        .values()
        .map(|record| (record.name.id.as_str().to_owned(), record.revision))
        .collect();
    let key = (service.name.clone(), service.revision);
    let known = contents.entry(key).or_insert_with(|| content.clone());
    if *known != content {
        let seen = format!(
            "{} at {}: n{} has {content:?}, another node had {known:?}",
            service.name,
            service.revision,
            node.index + 1
        );
        out.push(Violation::new("all nodes tell one history", seen));
    }
}

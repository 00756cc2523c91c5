//! A watcher as the API promises it to be: applies what it is told, and checks what must hold of each message.

use super::{Running, within};
use rollcall_proto::v1::{self, watch_request::Target, watch_response::Event};
use std::collections::BTreeMap;
use tonic::{Status, Streaming};

/// What is known of a service.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Known {
    pub revision: u64,
    pub exists: bool,
    pub fail_open: bool,
    pub protected: bool,
    pub instances: BTreeMap<String, v1::Instance>,
}

impl Known {
    pub fn ids(&self) -> Vec<&str> {
        self.instances.keys().map(String::as_str).collect()
    }
}

/// A watcher and what it knows.
pub struct Model {
    request: v1::WatchRequest,
    stream: Streaming<v1::WatchResponse>,
    pub services: BTreeMap<String, Known>,
    partial: Option<(String, Known)>,
    /// Of the newest bookmark.
    pub revision: u64,
    pub token: Vec<u8>,
    pub complete: bool,
    pub leader_known: bool,
    /// What bookmarks told last of each instance.
    pub busy: BTreeMap<(String, String), Option<u32>>,
    pub snapshots: usize,
    pub deltas: usize,
    pub bookmarks: usize,
    /// Newest revision of this stream, and of each service in it.
    stream_revision: u64,
    stream_services: BTreeMap<String, u64>,
    /// Messages that told of less than was known from an earlier stream.
    pub outdated: usize,
    /// Removals of all deltas: instance id, reason, whether it is registered still.
    pub removals: Vec<(String, v1::EventReason, bool)>,
}

pub fn services(names: &[&str]) -> v1::WatchRequest {
    let names = names.iter().map(|name| super::service_name(name)).collect();
    let target = Target::Services(v1::watch_request::ServiceList { names });
    watch_of(target)
}

pub fn pattern(prefix: &str) -> v1::WatchRequest {
    let pattern =
        v1::watch_request::ServicePattern { name_prefix: prefix.into(), ..Default::default() };
    watch_of(Target::Pattern(pattern))
}

fn watch_of(target: Target) -> v1::WatchRequest {
    v1::WatchRequest {
        target: Some(target),
        bookmark_interval: super::seconds(1),
        ..Default::default()
    }
}

pub fn filter(health: v1::HealthFilter, tags: &[&str]) -> Option<v1::ResolveFilter> {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    Some(v1::ResolveFilter { health: health.into(), tags, ..Default::default() })
}

impl Model {
    pub async fn start(node: &Running, request: v1::WatchRequest) -> Self {
        Self::try_start(node, request).await.expect("the watch begins")
    }

    pub async fn try_start(node: &Running, request: v1::WatchRequest) -> Result<Self, Status> {
        let stream = within("the watch", node.discovery().watch(request.clone())).await?;
        Ok(Self {
            request,
            stream: stream.into_inner(),
            services: BTreeMap::new(),
            partial: None,
            revision: 0,
            token: Vec::new(),
            complete: false,
            leader_known: false,
            busy: BTreeMap::new(),
            snapshots: 0,
            deltas: 0,
            bookmarks: 0,
            stream_revision: 0,
            stream_services: BTreeMap::new(),
            outdated: 0,
            removals: Vec::new(),
        })
    }

    /// A watch that has its whole first state.
    pub async fn complete(node: &Running, request: v1::WatchRequest) -> Self {
        let mut model = Self::start(node, request).await;
        model.until("the first state", |model| model.complete).await;
        model
    }

    /// Goes on at another node, or the same.
    pub async fn resume(&mut self, node: &Running) {
        self.try_resume(node).await.expect("the watch goes on");
    }

    pub async fn try_resume(&mut self, node: &Running) -> Result<(), Status> {
        let mut request = self.request.clone();
        request.resume_token.clone_from(&self.token);
        let stream = within("the watch", node.discovery().watch(request)).await?;
        self.stream = stream.into_inner();
        (self.partial, self.complete, self.stream_revision) = (None, false, 0);
        self.stream_services.clear();
        Ok(())
    }

    pub fn of(&self, service: &str) -> Known {
        self.services.get(service).cloned().unwrap_or_default()
    }

    /// Reads on until something holds.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        within(what, async {
            while !holds(self) {
                self.next().await.expect("the stream goes on");
            }
        })
        .await;
    }

    /// Reads to the end, and says how it ended.
    pub async fn end(&mut self) -> Status {
        within("the end of the stream", async {
            loop {
                if let Err(status) = self.next().await {
                    return status;
                }
            }
        })
        .await
    }

    /// Reads and applies one message.
    pub async fn next(&mut self) -> Result<(), Status> {
        let message = self.stream.message().await?;
        let message = message.ok_or_else(|| Status::ok("the stream ended"))?;
        let (revision, event) = (message.revision, message.event.expect("an event"));
        let name = message.service.map(|name| name.service);
        if let Event::Bookmark(bookmark) = event {
            assert!(self.partial.is_none(), "a bookmark amid a snapshot");
            assert!(revision >= self.revision, "bookmark {revision} after {}", self.revision);
            assert!(revision >= self.stream_revision, "{revision} < {}", self.stream_revision);
            assert!(!message.resume_token.is_empty(), "a bookmark without a token");
            (self.revision, self.token) = (revision, message.resume_token);
            self.stream_revision = revision;
            self.bookmarks += 1;
            self.complete |= bookmark.initial_state_complete;
            self.leader_known = bookmark.leader_known;
            for service in bookmark.utilization {
                let name = service.service.expect("a service").service;
                for figure in service.instances {
                    self.busy.insert((name.clone(), figure.instance_id), figure.percent);
                }
            }
            return Ok(());
        }
        let name = name.expect("a service");
        let known = self.of(&name);
        let before = self.stream_services.insert(name.clone(), revision).unwrap_or(0);
        assert!(revision >= before, "{name}: {revision} after {before}");
        if !message.resume_token.is_empty() {
            self.token = message.resume_token;
        }
        if revision < known.revision {
            // Another node may be behind what was seen after the token.
            self.outdated += 1;
            return Ok(());
        }
        match event {
            Event::Snapshot(snapshot) => self.snapshot(name, revision, snapshot),
            Event::Delta(delta) => self.delta(&name, known, revision, delta),
            Event::Bookmark(_) => {}
        }
        Ok(())
    }

    fn note(&mut self, revision: u64, flips: bool) {
        assert!(flips || revision >= self.stream_revision, "{revision}: the stream goes back");
        self.stream_revision = self.stream_revision.max(revision);
    }

    fn snapshot(&mut self, name: String, revision: u64, part: v1::watch_response::Snapshot) {
        self.note(revision, false);
        let (of, mut known) = self.partial.take().unwrap_or_else(|| {
            self.snapshots += 1;
            (name.clone(), Known { revision, ..Known::default() })
        });
        assert_eq!((&of, known.revision), (&name, revision), "parts follow each other");
        (known.exists, known.fail_open) = (part.service_exists, part.fail_open);
        known.protected = part.protected;
        for instance in part.instances {
            let id = instance.instance_id.clone();
            assert!(known.instances.insert(id.clone(), instance).is_none(), "{id} comes twice");
        }
        if part.more {
            self.partial = Some((name, known));
        } else {
            self.services.insert(name, known);
        }
    }

    fn delta(
        &mut self,
        name: &str,
        mut known: Known,
        revision: u64,
        delta: v1::watch_response::Delta,
    ) {
        assert!(self.partial.is_none(), "a delta amid a snapshot");
        assert!(self.services.contains_key(name), "a delta of {name}, which was never shown");
        self.note(revision, known.protected != delta.protected);
        self.deltas += 1;
        known.revision = revision;
        (known.exists, known.fail_open) = (delta.service_exists, delta.fail_open);
        known.protected = delta.protected;
        for removal in delta.removed {
            known.instances.remove(&removal.instance_id);
            let reason = removal.reason();
            self.removals.push((removal.instance_id, reason, removal.still_registered));
        }
        for instance in delta.upserted {
            known.instances.insert(instance.instance_id.clone(), instance);
        }
        self.services.insert(name.to_owned(), known);
    }

    /// Holds what is known of a service against a lookup with the same filter.
    pub async fn check(&self, node: &Running, service: &str) {
        let request = v1::ResolveRequest {
            service: Some(super::service_name(service)),
            filter: self.request.filter.clone(),
            min_revision: self.revision,
            ..Default::default()
        };
        let answer = node.discovery().resolve(request).await.expect("resolve").into_inner();
        let known = self.of(service);
        let listed: BTreeMap<String, v1::Instance> =
            answer.instances.into_iter().map(|i| (i.instance_id.clone(), i)).collect();
        assert_eq!(known.instances, listed, "{service}");
        assert_eq!(known.fail_open, answer.fail_open, "{service}");
        assert_eq!(known.protected, answer.read_metadata.unwrap().protected, "{service}");
    }
}

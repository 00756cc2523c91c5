//! What instances have in common is in memory once, however it came: from the log or from a snapshot.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::{Registry, name, owner, registration, spec};
use rollcall_core::{
    State,
    instance::Spec,
    name::{InstanceName, Label},
    record::{Event, Record, Subject},
    state::{Loader, Part},
};
use std::sync::Arc;

fn rich(address: &str, build: &str) -> Spec {
    let zone = Some(Label::parse("zone", "a").unwrap());
    let mut spec = spec(address, 10);
    spec.locality.zone = zone;
    spec.version = "1.4.2".into();
    spec.tags = vec!["canary".into(), "production".into()];
    spec.metadata = vec![("build".into(), build.into()), ("team".into(), "payments".into())];
    spec
}

fn shares(state: &State) {
    let record = |text| state.instance(&name(text)).unwrap();
    let (a, b) = (record("web/a"), record("web/b"));
    assert_eq!(b.spec.metadata[0].1.as_ref(), "2", "what differs is kept");
    assert_eq!(b.spec.endpoints[0].address, "10.0.0.2:80".parse().unwrap());
    for i in 0..2 {
        assert!(Arc::ptr_eq(&a.spec.tags[i], &b.spec.tags[i]));
        assert!(Arc::ptr_eq(&a.spec.metadata[i].0, &b.spec.metadata[i].0));
    }
    assert!(Arc::ptr_eq(&a.spec.metadata[1].1, &b.spec.metadata[1].1));
    assert!(Arc::ptr_eq(&a.spec.version, &b.spec.version));
    let text = |label: &Label| label.as_str().as_ptr();
    assert_eq!(text(&a.name.service.service), text(&b.name.service.service));
    assert_eq!(text(&a.spec.endpoints[0].name), text(&b.spec.endpoints[0].name));
    let zone = |record: &Record| text(record.spec.locality.zone.as_ref().unwrap());
    assert_eq!(zone(a), zone(b));
    let Subject::Instance(subject) = &a.history.events()[0].subject else { panic!("an instance") };
    assert!(Arc::ptr_eq(subject, &a.name));
}

/// A part as it comes out of a decoder: with memory of its own.
fn decoded(part: Part) -> Part {
    let name = |name: &InstanceName| {
        let (namespace, service) = (&name.service.namespace, &name.service.service);
        let parsed = InstanceName::parse(namespace.as_str(), service.as_str(), name.id.as_str());
        Arc::new(parsed.unwrap())
    };
    match part {
        Part::Event(event) => {
            let Subject::Instance(subject) = &event.subject else { return Part::Event(event) };
            let subject = Subject::Instance(name(subject));
            Part::Event(Arc::new(Event { subject, ..Event::clone(&event) }))
        }
        Part::Instance { record, history } => {
            let build = record.spec.metadata("build").unwrap();
            let spec = Arc::new(rich(&record.spec.endpoints[0].address.to_string(), build));
            let name = name(&record.name);
            Part::Instance {
                record: Arc::new(Record { name, spec, ..Record::clone(&record) }),
                history,
            }
        }
        other => other,
    }
}

#[test]
fn instances_of_a_service_share_the_words_they_have_in_common() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, rich("10.0.0.1:80", "1")));
    registry.register(registration("web/b", 1, rich("10.0.0.2:80", "2")));
    shares(&registry.state);
    assert_eq!(*registry.get("web/b").unwrap().spec, rich("10.0.0.2:80", "2"));
}

#[test]
fn instances_that_come_from_a_snapshot_share_them_too() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, rich("10.0.0.1:80", "1")));
    registry.register(registration("web/b", 1, rich("10.0.0.2:80", "2")));
    let mut loader = Loader::new(1_000);
    for part in registry.state.parts() {
        loader.add(decoded(part)).unwrap();
    }
    let loaded = loader.finish().unwrap();
    shares(&loaded);
    assert_eq!(given::parts(&loaded), given::parts(&registry.state));
}

#[test]
fn an_owner_that_declares_the_same_again_keeps_the_same_spec() {
    let mut registry = Registry::new();
    registry.register(registration("web/a", 1, rich("10.0.0.1:80", "1")));
    let before = registry.get("web/a").unwrap().spec.clone();
    registry.register(registration("web/a", 2, rich("10.0.0.1:80", "1")));
    assert!(Arc::ptr_eq(&before, &registry.get("web/a").unwrap().spec));
    registry.deregister("web/a", owner()).unwrap();
}

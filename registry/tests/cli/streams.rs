//! `watch` and `events --follow`: one line for each change, until interrupted.

use rustix::process::Signal;
use serde_json::Value;

use super::harness::{Registry, Running, start};

fn next(process: &mut Running) -> Value {
    let line = process.line();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// The next message that is no bookmark.
fn change(process: &mut Running) -> Value {
    loop {
        let message = next(process);
        if message.get("bookmark").is_none() {
            return message;
        }
    }
}

#[test]
fn a_watch_prints_the_state_and_every_change_of_it() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let mut json = start(registry.command(&["watch", "web", "-o", "json"]));
    let mut table = start(registry.command(&["watch", "web"]));
    let first = change(&mut json);
    assert_eq!(first["service"]["service"], "web");
    assert_eq!(first["snapshot"]["instances"][0]["instance_id"], "web-1");
    let complete = next(&mut json);
    assert_eq!(complete["bookmark"]["initial_state_complete"], true);
    assert_eq!(complete["bookmark"]["leader_known"], true);
    assert!(table.line().ends_with("web  has 1 matching instances"));
    assert!(table.line().ends_with("= web-1  http=127.0.0.1:8080  HEALTHY"));

    registry.list("web", "web-2", &[]);
    let added = change(&mut json);
    assert_eq!(added["delta"]["upserted"][0]["instance_id"], "web-2");
    assert!(table.line().ends_with("+ web-2  http=127.0.0.1:8080  HEALTHY"));
    registry.ask(&["deregister", "web/web-1"]).exits(0);
    let removed = change(&mut json);
    assert_eq!(removed["delta"]["removed"][0]["instance_id"], "web-1");
    assert_eq!(removed["delta"]["removed"][0]["reason"], "REMOVED");
    assert!(table.line().ends_with("- web-1  REMOVED"));
    for process in [json, table] {
        process.signal(Signal::INT);
        process.end().exits(0);
    }
}

#[test]
fn a_watch_by_prefix_shows_services_that_come_later() {
    let registry = Registry::start();
    let mut process = start(registry.command(&["watch", "--prefix", "pay-", "-o", "json"]));
    assert!(next(&mut process).get("bookmark").is_some());
    registry.list("web", "web-1", &[]);
    registry.list("pay-card", "card-1", &[]);
    let added = change(&mut process);
    assert_eq!(added["service"]["service"], "pay-card");
    process.signal(Signal::TERM);
    process.end().exits(0);
}

#[test]
fn events_are_followed_from_the_past_into_the_future() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let mut all = start(registry.command(&["events", "--follow", "-o", "json"]));
    let mut web = start(registry.command(&["events", "web", "--follow"]));
    assert_eq!(next(&mut all)["revision"], 1);
    assert!(web.line().contains("web/web-1  absent -> HEALTHY  REGISTERED  owner"));
    registry.list("api", "api-1", &[]);
    registry.ask(&["drain", "web/web-1", "--reason", "kernel"]).exits(0);
    let event = next(&mut all);
    assert_eq!((&event["revision"], &event["reason"]), (&2.into(), &"REGISTERED".into()));
    let event = next(&mut all);
    assert_eq!((&event["revision"], &event["evidence"]), (&3.into(), &"kernel".into()));
    assert!(web.line().contains("HEALTHY -> HEALTHY,DRAINING  ADMIN_SET  operator"));
    for process in [all, web] {
        process.signal(Signal::INT);
        process.end().exits(0);
    }
}

//! What operators do: admin states, policies, protection, snapshots.

use serde_json::{Value, json};

use super::harness::Registry;

#[test]
fn admin_states_are_set_and_lifted_on_behalf_of_an_operator() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let drained = registry.json(&["drain", "web/web-1", "--reason", "kernel"]);
    assert_eq!(drained["instance"]["admin_state"], "DRAINING");
    assert_eq!(drained["instance"]["admin_detail"]["actor"]["kind"], "OPERATOR");
    assert_eq!(drained["instance"]["admin_detail"]["reason"], "kernel");
    assert_eq!(drained["revision"], 2);
    registry.ask(&["resolve", "web"]).exits(4);
    registry.ask(&["maintenance", "web/web-1", "--for", "2h"]).exits(0).says(&["MAINTENANCE"]);
    registry.ask(&["enable", "web/web-1", "--reason", "done"]).exits(0).says(&["is HEALTHY ("]);
    registry.ask(&["resolve", "web"]).exits(0);
    registry.ask(&["drain", "web/web-1", "--for", "1ms"]).exits(1).says(&["expire_after"]);
    let gone = registry.json(&["deregister", "web/web-1"]);
    assert_eq!(gone["items"], json!([{"removed": true}]));
    registry.ask(&["resolve", "web"]).exits(3);
    registry.ask(&["deregister", "web/web-1"]).exits(3);
    registry.ask(&["enable", "web/web-1"]).exits(3);
}

#[test]
fn a_policy_keeps_what_was_not_named() {
    let registry = Registry::start();
    let none = registry.ask(&["policy", "get", "web"]).exits(0);
    none.says(&["has no policy"]).shows(&["SETTING", "evict-after", "30s (default)"]);
    assert_eq!(registry.json(&["policy", "get", "web"])["policy"], Value::Null);
    registry.ask(&["policy", "set", "web", "--evict-after", "1m"]).exits(0).says(&["stored"]);
    let set = ["policy", "set", "web", "--fail-open-below", "0.3", "--dns-ttl", "2s"];
    assert_eq!(registry.json(&set)["revision"], 2);
    let policy = registry.json(&["policy", "get", "web"])["policy"].clone();
    let expected = json!({
        "dns_ttl": "2s",
        "fail_open_below": 0.3,
        "evict_after": "60s",
        "evict_unhealthy_after": null,
        "protection_threshold": null,
        "health_checks": [],
    });
    assert_eq!(policy, expected);
    registry.ask(&["policy", "get", "web"]).exits(0).shows(&["1m", "0.3", "never (default)"]);
    let checked =
        ["policy", "set", "web", "--check", "http:/up,interval=5s", "--check", "tcp,advisory"];
    registry.ask(&checked).exits(0);
    let policy = registry.json(&["policy", "get", "web"])["policy"].clone();
    assert_eq!((&policy["evict_after"], &policy["dns_ttl"]), (&json!("60s"), &json!("2s")));
    assert_eq!(policy["health_checks"][0]["check_id"], "http");
    assert_eq!(policy["health_checks"][1]["advisory"], true);
    registry.ask(&["policy", "get", "web"]).exits(0).shows(&[
        "http:/up,interval=5s,timeout=2s,rise=2,fall=3,id=http",
        "tcp,interval=10s,timeout=2s,rise=2,fall=3,id=tcp,advisory",
    ]);
    let twice = ["policy", "set", "web", "--check", "tcp,id=a", "--check", "grpc,id=a"];
    registry.ask(&twice).exits(1).says(&["health_checks[1].check_id"]);
    registry.ask(&["policy", "set", "web", "--no-checks"]).exits(0);
    assert_eq!(registry.json(&["policy", "get", "web"])["policy"]["health_checks"], json!([]));
    registry.ask(&["policy", "get", "web"]).exits(0).shows(&["none (default)"]);
    // A service with a policy alone is known.
    registry.ask(&["resolve", "web"]).exits(4);
    registry.ask(&["policy", "set", "web", "--dns-ttl", "2h"]).exits(1).says(&["dns_ttl"]);
    registry.ask(&["policy", "set", "web", "--clear"]).exits(0).says(&["no policy any more"]);
    registry.ask(&["resolve", "web"]).exits(3);
}

#[test]
fn protection_is_shown_and_releasing_none_is_told() {
    let registry = Registry::start();
    registry.ask(&["protection", "show"]).exits(0).says(&["nothing is held back"]);
    let shown = registry.json(&["protection", "show"]);
    assert_eq!(shown["protections"], json!([]));
    assert_eq!(shown["released_count"], 0);
    let released = registry.ask(&["protection", "release", "web"]);
    assert!([0, 1].contains(&released.code), "{released:?}");
}

#[test]
fn a_snapshot_is_saved_whole_or_not_at_all() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    registry.ask(&["snapshot", "trigger"]).exits(0).says(&["log index"]);
    assert!(registry.json(&["snapshot", "trigger"])["last_included_index"].as_u64().unwrap() > 0);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("state.snap");
    let path = file.to_str().unwrap();
    let saved = registry.json(&["snapshot", "export", path]);
    assert_eq!(saved["bytes"], std::fs::metadata(&file).unwrap().len());
    registry.ask(&["snapshot", "export", path]).exits(1).says(&["create", "does not exist yet"]);

    // Needs no registry.
    let inspect = |more: &[&str]| {
        let arguments = [&["snapshot", "inspect", path, "--addr", "127.0.0.1:1"], more].concat();
        super::harness::finish(super::harness::program(arguments))
    };
    let status = registry.json(&["status"]);
    inspect(&[]).exits(0).shows(&[status["cluster_id"].as_str().unwrap(), "undamaged", "n1 (peer"]);
    let told = inspect(&["-o", "json"]).exits(0).json();
    assert_eq!(told["cluster_id"], status["cluster_id"]);
    assert_eq!(told["file_bytes"], saved["bytes"]);
    assert_eq!(told["members"][0]["node_id"], status["node_id"]);

    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    inspect(&[]).exits(1).says(&[path, "damaged"]);
    std::fs::remove_file(&file).unwrap();
    inspect(&[]).exits(1).says(&["open", path]);
    let nowhere = directory.path().join("missing/state.snap");
    registry.ask(&["snapshot", "export", nowhere.to_str().unwrap()]).exits(1);
}

#[test]
fn status_shows_the_cluster_in_words_and_as_a_message() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let told = registry.ask(&["status"]).exits(0);
    let told = told.shows(&["cluster     ", "leader      n1 (", "revision    1", "state hash  "]);
    let words =
        ["instances   1 in 1 services", "NAME", "LAST CONTACT", "PROBES", registry.address(0)];
    told.shows(&words);
    let status = registry.json(&["status"]);
    assert_eq!(status["node_id"], registry.ready["nodes"][0]["node_id"]);
    assert_eq!(status["leader_node_id"], status["node_id"]);
    assert_eq!(status["cluster_id"].as_str().unwrap().len(), 32);
    assert_eq!(status["state_hash"].as_str().unwrap().len(), 32);
    assert_eq!((&status["role"], &status["instance_count"]), (&json!("LEADER"), &json!(1)));
    assert_eq!(status["members"][0]["api_address"], registry.address(0));
    assert_eq!(status["leases"], json!({"current": 0, "held": 0, "expired": 0, "lost": 0}));
}

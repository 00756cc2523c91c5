//! Questions: `resolve`, `ls`, `why`, `events`, bare ids.

use serde_json::{Value, json};

use super::harness::Registry;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap().split_whitespace().collect()
}

fn ids(answer: &Value) -> Vec<&str> {
    let instances = answer["instances"].as_array().unwrap();
    instances.iter().map(|instance| instance["instance_id"].as_str().unwrap()).collect()
}

#[test]
fn resolve_prints_instances_as_a_table_and_as_the_message_of_the_api() {
    let registry = Registry::start();
    let spec = ["--tag", "blue", "--meta", "role=a", "--zone", "z1", "--weight", "7"];
    registry.list("web", "web-1", &spec);
    registry.list("web", "web-2", &["--endpoint", "grpc=[::1]:9000", "--zone", "z2"]);
    let table = registry.ask(&["resolve", "web"]).exits(0);
    let header = ["ID", "ADDRESS", "STATUS", "WEIGHT", "ZONE", "TAGS", "METADATA"];
    assert_eq!(columns(&table.out), header);
    let row: Vec<_> = table.out.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["web-1", "http=127.0.0.1:8080", "HEALTHY", "7", "z1", "blue", "role=a"]);
    assert!(table.err.is_empty() && !table.out.contains('\u{1b}'), "{table:?}");

    let answer = registry.json(&["resolve", "web"]);
    let expected = ["read_metadata", "not_modified", "fail_open", "instances", "utilization"];
    assert_eq!(keys(&answer), expected);
    let read = &answer["read_metadata"];
    assert_eq!(read["node_id"], registry.ready["nodes"][0]["node_id"]);
    assert_eq!((&read["revision"], &read["leader_known"]), (&json!(2), &json!(true)));
    let web = &answer["instances"][0];
    assert_eq!(web["spec"]["endpoints"][0]["port"], 8080);
    assert_eq!(web["spec"]["metadata"], json!({"role": "a"}));
    assert_eq!(web["spec"]["health_checks"], json!([]));
    assert_eq!(
        (&web["health_status"], &web["admin_state"]),
        (&json!("HEALTHY"), &json!("ENABLED"))
    );
    assert_eq!(web["generation"].as_str().unwrap().len(), 16);
    assert!(web["register_time"].as_str().unwrap().ends_with('Z'));

    for (arguments, expected) in [
        (&["--tag", "blue"][..], &["web-1"][..]),
        (&["--meta", "role=a"], &["web-1"]),
        (&["--endpoint", "grpc"], &["web-2"]),
        (&["--zone", "z2"], &["web-2", "web-1"]),
        (&["--health", "healthy"], &["web-1", "web-2"]),
        (&["--consistency", "linearizable"], &["web-1", "web-2"]),
        (&["--consistency", "bounded=5s", "--min-revision", "2"], &["web-1", "web-2"]),
    ] {
        let arguments: Vec<_> = ["resolve", "web"].iter().chain(arguments).copied().collect();
        let answer = registry.json(&arguments);
        assert_eq!(ids(&answer), expected, "{arguments:?}");
    }
    let grpc = registry.json(&["resolve", "web", "--endpoint", "grpc"]);
    assert_eq!(grpc["instances"][0]["spec"]["endpoints"].as_array().unwrap().len(), 1);
    registry.ask(&["resolve", "web", "--endpoint", "grpc"]).exits(0).shows(&["grpc=[::1]:9000"]);
}

#[test]
fn ls_prints_services_of_a_namespace_and_every_instance_of_one() {
    let registry = Registry::start();
    registry.ask(&["ls"]).exits(0).says(&["namespace default has no services"]);
    registry.list("web", "web-1", &[]);
    registry.list("shop/cart", "cart-1", &[]);
    let table = registry.ask(&["ls"]).exits(0);
    assert_eq!(columns(&table.out), ["SERVICE", "INSTANCES", "ROUTABLE", "POLICY", "REVISION"]);
    assert!(!table.out.contains("cart"), "{table:?}");
    registry.ask(&["ls", "--namespace", "shop"]).exits(0).shows(&["shop/cart"]);
    let all = registry.json(&["ls"]);
    assert_eq!(all["services"][0]["name"], json!({"namespace": "default", "service": "web"}));
    assert_eq!(all["services"][0]["routable_count"], 1);

    registry.ask(&["maintenance", "web/web-1"]).exits(0);
    registry.ask(&["ls", "web"]).exits(0).shows(&["web-1", "HEALTHY,MAINTENANCE"]);
    assert_eq!(ids(&registry.json(&["ls", "web"])), ["web-1"]);
    registry.ask(&["ls", "cart", "--namespace", "shop"]).exits(0).shows(&["cart-1"]);
    registry.ask(&["ls", "nobody"]).exits(3).says(&["service nobody is unknown"]);
}

#[test]
fn why_tells_who_did_what_also_after_the_end() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let told = registry.ask(&["why", "web-1"]).exits(0);
    told.shows(&["web/web-1 is HEALTHY", "absent -> HEALTHY (REGISTERED, by owner 127.0.0.1:"]);
    registry.ask(&["drain", "web-1", "--reason", "new kernel", "--for", "30m"]).exits(0);
    let told = registry.ask(&["why", "web-1"]).exits(0);
    let told = told.shows(&["is HEALTHY,DRAINING: set by operator 127.0.0.1:", "(new kernel)"]);
    // Cluster time goes on with every command of the cluster itself.
    told.shows(&["ends by itself in ", "What to do: `rollcall enable web/web-1`"]);
    let answer = registry.json(&["why", "web/web-1"]);
    let expected = ["read_metadata", "instance", "events", "admin_expires_in"];
    let of_checks = ["checks", "checker_node_id", "outputs_problem", "utilization_percent"];
    assert_eq!(keys(&answer), [&expected[..], &of_checks].concat());
    assert_eq!(answer["events"][1]["reason"], "ADMIN_SET");
    assert_eq!(answer["events"][1]["instance"]["instance_id"], "web-1");

    registry.ask(&["deregister", "web-1"]).exits(0);
    // By its id alone as well: the journal remembers it.
    for name in ["web/web-1", "web-1"] {
        let told = registry.ask(&["why", name]).exits(0);
        told.shows(&[
            "is not registered any more: an operator removed it",
            "(REMOVED, by operator",
        ]);
    }
    let gone = registry.json(&["why", "web-1"]);
    assert_eq!(gone["instance"], Value::Null);
    registry.ask(&["why", "web/web-9"]).exits(3).says(&["web/web-9", "not registered"]);
}

#[test]
fn events_are_told_oldest_first_and_can_be_continued() {
    let registry = Registry::start();
    registry.ask(&["events"]).exits(0).says(&["no events"]);
    for id in ["web-1", "web-2", "web-3"] {
        registry.list("web", id, &[]);
    }
    registry.list("shop/cart", "cart-1", &[]);
    let table = registry.ask(&["events"]).exits(0);
    let header = ["REVISION", "TIME", "WHAT", "CHANGE", "REASON", "BY", "EVIDENCE"];
    assert_eq!(columns(&table.out), header);
    assert!(table.out.lines().nth(1).unwrap().contains("web/web-1"), "{table:?}");
    let revisions = |arguments: &[&str]| {
        let answer = registry.json(&[&["events"], arguments].concat());
        let events = answer["events"].as_array().unwrap().clone();
        events.iter().map(|event| event["revision"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(revisions(&[]), [1, 2, 3, 4]);
    assert_eq!(revisions(&["--limit", "2"]), [3, 4]);
    assert_eq!(revisions(&["--since", "1", "--limit", "2"]), [2, 3]);
    assert_eq!(revisions(&["--since", "99"]), [0; 0]);
    assert_eq!(revisions(&["web"]), [1, 2, 3]);
    assert_eq!(revisions(&["--namespace", "shop"]), [4]);
    assert_eq!(revisions(&["cart", "--namespace", "shop", "--since", "0"]), [4]);
    let more = registry.ask(&["events", "--since", "1", "--limit", "2"]).exits(0);
    more.says(&["go on with --since 3"]);
}

#[test]
fn an_instance_is_found_by_its_id_where_only_one_has_it() {
    let registry = Registry::start();
    registry.list("web", "a-1", &[]);
    registry.list("api", "a-1", &[]);
    registry.list("web", "web-1", &[]);
    registry.list("shop/cart", "cart-1", &[]);
    registry.ask(&["drain", "web-1"]).exits(0).says(&["web/web-1 is HEALTHY,DRAINING"]);
    let both = registry.ask(&["drain", "a-1"]).exits(1);
    both.says(&["several instances are called a-1", "  api/a-1\n  web/a-1"]);
    registry.ask(&["why", "a-1"]).exits(1).says(&["several instances"]);
    registry
        .ask(&["drain", "cart-1"])
        .exits(3)
        .says(&["namespace default", "NAMESPACE/SERVICE/ID"]);
    registry.ask(&["drain", "shop/cart/cart-1"]).exits(0);
    registry.ask(&["drain", "nobody"]).exits(3);
}

//! `register` and `run`: instances that a process keeps, their ends, signals and exit codes.

use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::time::Instant;

use super::harness::{Registry, finish, free_port, program, start, until};

/// A program that says when it is ready, and ends with 7 when it is told to.
const TRAPS: &str = "trap 'echo told; exit 7' TERM; echo ready; while :; do sleep 0.05; done";

fn run<'a>(service: &'a str, port: &'a str, command: &[&'a str]) -> Vec<&'a str> {
    let own = ["run", "--service", service, "--port", port, "--ttl", "1s", "--"];
    own.iter().chain(command).copied().collect()
}

#[test]
fn a_registration_beats_until_it_is_interrupted_and_is_gone_then() {
    let registry = Registry::start();
    for signal in [Signal::INT, Signal::TERM] {
        let arguments = ["register", "web", "--id", "web-1", "--endpoint", "http=127.0.0.1:80"];
        let arguments = [&arguments[..], &["--ttl", "1s", "-o", "json"]].concat();
        let mut process = start(registry.command(&arguments));
        let registered: Value = serde_json::from_str(&process.line()).unwrap();
        assert_eq!(
            (&registered["service"], &registered["instance_id"]),
            (&"web".into(), &"web-1".into())
        );
        assert_eq!(registered["generation"].as_str().unwrap().len(), 16);
        // Longer than the lease: the beats keep it.
        let end = Instant::now() + Duration::from_millis(2_500);
        while Instant::now() < end {
            assert_eq!(registry.resolves("web"), ["web-1"]);
            thread::sleep(Duration::from_millis(50));
        }
        process.signal(signal);
        process.end().exits(0).says(&["web/web-1 is deregistered"]);
        registry.ask(&["resolve", "web"]).exits(3);
        registry.ask(&["why", "web/web-1"]).exits(0).shows(&["(DEREGISTERED, by owner"]);
    }
}

#[test]
fn a_registration_that_somebody_else_takes_ends_with_an_error() {
    let registry = Registry::start();
    let arguments =
        ["register", "web", "--id", "web-1", "--endpoint", "http=127.0.0.1:80", "--ttl", "1s"];
    let mut removed = start(registry.command(&arguments));
    removed.message("web/web-1 is registered");
    registry.ask(&["deregister", "web/web-1"]).exits(0);
    removed.end().exits(1).says(&["was deregistered by somebody else"]);
    let mut first = start(registry.command(&arguments));
    first.message("web/web-1 is registered");
    let mut second = start(registry.command(&arguments));
    second.message("web/web-1 is registered");
    first.end().exits(1).says(&["belongs to somebody else now"]);
    assert_eq!(registry.resolves("web"), ["web-1"]);
}

#[test]
fn what_the_registry_refuses_is_told_with_its_field() {
    let registry = Registry::start();
    let endpoint = ["--endpoint", "a=127.0.0.1:80", "--endpoint", "a=127.0.0.1:81"];
    let arguments = [&["register", "web", "--id", "w", "--persistent"], &endpoint[..]].concat();
    let ended = registry.ask(&arguments);
    assert!([1, 2].contains(&ended.code) && ended.err.contains("endpoints"), "{ended:?}");
}

#[test]
fn run_ends_with_the_code_of_its_program_and_deregisters_it() {
    let registry = Registry::start();
    let port = free_port().to_string();
    let mut process = start(registry.command(&run("web", &port, &["sh", "-c", TRAPS])));
    assert_eq!(process.line(), "ready");
    until("it is registered", || registry.resolves("web").len() == 1);
    let instance = registry.json(&["resolve", "web"])["instances"][0].clone();
    let id = instance["instance_id"].as_str().unwrap();
    assert!(id.ends_with(&format!("-{port}")), "{id}");
    let endpoint = &instance["spec"]["endpoints"][0];
    assert_eq!(
        (&endpoint["host"], endpoint["port"].to_string()),
        (&"127.0.0.1".into(), port.clone())
    );
    process.signal(Signal::TERM);
    assert_eq!(process.line(), "told");
    process.end().exits(7);
    registry.ask(&["resolve", "web"]).exits(3);

    for (script, code) in [("exit 0", 0), ("exit 200", 200), ("kill -9 $$", 137), ("kill $$", 143)]
    {
        finish(registry.command(&run("web", &port, &["sh", "-c", script]))).exits(code);
    }
    let missing = finish(registry.command(&run("web", &port, &["/nonexistent/program"])));
    missing.exits(127).says(&["/nonexistent/program", "nothing was registered"]);
    finish(registry.command(&run("web", &port, &["/"]))).exits(126);
}

#[test]
fn run_passes_every_signal_on() {
    let registry = Registry::start();
    let script = "trap 'echo HUP' HUP; trap 'echo USR1' USR1; trap 'echo USR2' USR2; \
                  trap 'echo INT; exit 0' INT; echo ready; while :; do sleep 0.05; done";
    let mut process = start(registry.command(&run("web", "8080", &["sh", "-c", script])));
    assert_eq!(process.line(), "ready");
    let signals = [
        (Signal::HUP, "HUP"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::INT, "INT"),
    ];
    for (signal, name) in signals {
        process.signal(signal);
        assert_eq!(process.line(), name);
    }
    process.end().exits(0);
}

#[test]
fn a_killed_runner_is_hidden_when_its_lease_has_run_out() {
    let registry = Registry::start();
    let port = free_port().to_string();
    let script = "echo $$; while :; do sleep 0.05; done";
    let mut process = start(registry.command(&run("web", &port, &["sh", "-c", script])));
    let child: i32 = process.line().parse().unwrap();
    until("it is registered", || registry.resolves("web").len() == 1);
    assert!(process.pid() > 0);
    process.signal(Signal::KILL);
    let killed = Instant::now();
    until("it is hidden", || registry.ask(&["resolve", "web"]).code == 4);
    // From its last beat, which was up to a third of the lease ago; and resolving takes its time.
    assert!(killed.elapsed() > Duration::from_millis(600), "{:?}", killed.elapsed());
    let id = registry.json(&["ls", "web"])["instances"][0]["instance_id"].clone();
    let told = registry.ask(&["why", id.as_str().unwrap()]).exits(0);
    let told = told.shows(&[
        "is EXPIRED: its lease ran out",
        "HEALTHY -> EXPIRED (LEASE_EXPIRED, by registry",
    ]);
    told.shows(&["no beat for 1.", "What to do: its process is dead"]);
    let pid = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
}

#[test]
fn run_tries_on_while_the_registry_is_away() {
    let port = free_port().to_string();
    let address = format!("127.0.0.1:{port}");
    let mut command = program(run("web", "8080", &["sh", "-c", TRAPS]));
    command.env("ROLLCALL_ADDR", &address);
    let mut process = start(command);
    assert_eq!(process.line(), "ready");
    process.message("is not registered");
    let data = tempfile::tempdir().unwrap();
    let mut server = program(["server", "--bootstrap", "--listen-grpc", &address]);
    server.args(["--listen-http", "127.0.0.1:0", "--listen-peer", "127.0.0.1:0", "--listen-dns"]);
    server.arg("127.0.0.1:0").arg("--data-dir").arg(data.path().join("data"));
    let server = start(server);
    process.message("is registered");
    finish(program(["resolve", "web", "--addr", &address])).exits(0).shows(&["127.0.0.1:8080"]);
    server.signal(Signal::TERM);
    let stopped = server.end().exits(0);
    assert!(stopped.out.is_empty(), "{stopped:?}");
    // Without a registry the goodbye cannot be said, but the program's end counts.
    process.signal(Signal::TERM);
    process.end().exits(7);
}

#[test]
fn a_check_is_shown_with_its_verdict_its_outputs_and_its_checker() {
    let registry = Registry::start();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp={}", listener.local_addr().unwrap());
    let check = ["--check", "tcp,interval=1s,timeout=500ms,rise=1,fall=2"];
    let arguments = ["register", "web", "--id", "web-1", "--endpoint", &endpoint];
    let _kept = start(registry.command(&[&arguments[..], &check].concat()));
    until("it passes", || registry.resolves("web") == ["web-1"]);
    let told = registry.ask(&["check", "show", "web/web-1"]).exits(0);
    let told = told.shows(&["web/web-1 is HEALTHY.", "Check tcp: PASSING; tcp 127.0.0.1:"]);
    let node = registry.ready["nodes"][0]["node_id"].as_str().unwrap();
    told.shows(&["every 1s, the next probe in", "passed in", "The checker is node", node]);
    let shown = registry.json(&["check", "show", "web-1"])["checks"][0].clone();
    assert_eq!((&shown["status"]["verdict"], &shown["kind"]), (&"PASSING".into(), &"tcp".into()));
    drop(listener);
    until("it fails", || registry.resolves("web").is_empty());
    registry.ask(&["why", "web-1"]).exits(0).shows(&["UNHEALTHY", "failed (refused)"]);
    registry.ask(&["check", "show", "web/nobody"]).exits(3);
}

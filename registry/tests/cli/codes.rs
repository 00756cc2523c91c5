//! Exit codes, wrong words, registries that are not there, readers that go away.

use std::net::TcpListener;
use std::process::Stdio;

use tokio::time::Instant;

use super::harness::{DEADLINE, Registry, finish, free_port, program};

#[test]
fn an_unknown_service_and_one_without_routable_instances_are_told_apart() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    registry.list("web-admin", "admin-1", &[]);
    registry.ask(&["resolve", "web"]).exits(0);
    // A name that only begins another one is unknown.
    registry
        .ask(&["resolve", "web-adm"])
        .exits(3)
        .says(&["service web-adm is unknown", "`rollcall ls`"]);
    registry.ask(&["resolve", "shop/web"]).exits(3).says(&["service shop/web is unknown"]);
    let none = registry.ask(&["resolve", "web", "--tag", "blue"]).exits(4);
    assert!(none.out.is_empty());
    none.says(&["service web is known", "`rollcall ls web`", "`rollcall why web/ID`"]);
    let none = registry.ask(&["resolve", "web", "--tag", "blue", "-o", "json"]).exits(4);
    assert_eq!(none.json()["instances"].as_array().unwrap().len(), 0);
    let none = registry.ask(&["resolve", "nobody", "-o", "json"]).exits(3);
    assert_eq!(none.json()["instances"].as_array().unwrap().len(), 0);
}

#[test]
fn wrong_words_are_usage_errors_and_nothing_is_printed_as_data() {
    for arguments in [
        &["resolve"][..],
        &["resolve", "Not_A_Name"],
        &["resolve", "web", "--consistency", "soon"],
        &["resolve", "web", "--addr", "a:b:c"],
        &["resolve", "web", "--addr", "127.0.0.1:0"],
        &["resolve", "web", "--addr", ""],
        &["resolve", "web", "-o", "xml"],
        &["register", "web", "--id", "w"],
        &["run", "--service", "web", "--port", "1"],
        &["policy", "set", "web"],
        &["nonsense"],
    ] {
        let ended = finish(program(arguments)).exits(2);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{arguments:?}: {ended:?}");
    }
    let mut garbage = program(["ls"]);
    garbage.env("ROLLCALL_ADDR", "http://a/b");
    finish(garbage).exits(2).says(&["http://a/b", "HOST:PORT"]);
    finish(program(["--help"])).exits(0).shows(&["Exit codes:"]);
    finish(program(["completion", "bash"])).exits(0).shows(&["_rollcall", "protection"]);
}

#[test]
fn without_a_registry_every_command_ends_with_5_in_bounded_time() {
    // One that refuses connections, one that takes them and stays silent.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let addresses = [
        format!("127.0.0.1:{}", free_port()),
        silent.local_addr().unwrap().to_string(),
        "host.invalid:8502".to_owned(),
    ];
    let commands = [
        &["resolve", "web"][..],
        &["ls"],
        &["why", "web/web-1"],
        &["why", "web-1"],
        &["events", "--follow"],
        &["watch", "web"],
        &["drain", "web/web-1"],
        &["register", "web", "--id", "w", "--endpoint", "http=127.0.0.1:80"],
        &["status"],
        &["snapshot", "trigger"],
    ];
    // At once: each takes its whole time.
    let begin = Instant::now();
    let mut running = Vec::new();
    for address in &addresses {
        for arguments in commands {
            let command = program(arguments.iter().copied().chain(["--addr", address]));
            running.push((format!("{arguments:?} at {address}"), super::harness::start(command)));
        }
    }
    for (what, process) in running {
        let ended = process.end();
        assert_eq!(ended.code, 5, "{what}: {ended:?}");
        assert!(ended.err.contains("ROLLCALL_ADDR") && ended.out.is_empty(), "{what}: {ended:?}");
    }
    assert!(begin.elapsed() < DEADLINE);
}

#[test]
fn the_next_address_is_asked_where_the_first_is_dead() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    let dead = format!("127.0.0.1:{}", free_port());
    let both = format!("{dead},{}", registry.address(0));
    finish(program(["resolve", "web", "--addr", &both])).exits(0).shows(&["web-1"]);
    let twice = ["drain", "web-1", "--addr", &dead, "--addr", registry.address(0)];
    finish(program(twice)).exits(0);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let registry = Registry::start();
    registry.list("web", "web-1", &[]);
    for arguments in [&["resolve", "web"][..], &["events"], &["status"], &["completion", "zsh"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = registry.command(arguments);
        command.stdout(Stdio::from(writer)).stderr(Stdio::piped());
        let ended = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.is_empty(), "{arguments:?}: {ended:?}");
    }
}

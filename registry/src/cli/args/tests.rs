//! Every example parses, every command explains itself, bad words are refused with their field.

use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Command as ClapCommand, CommandFactory, Parser};
use clap_complete::Shell;
use rollcall_core::check::{HttpProbe, Probe};
use rollcall_core::name::{InstanceId, InstanceName, Label, ServiceName};

use super::super::values::{CheckArg, Consistency, HealthArg, InstanceArg, NodeArg};
use super::{Cli, Command, ConfigCommand, MemberCommand, Output, PolicyCommand, completion};
use crate::config::{Config, load};

fn parse(line: &str) -> Command {
    Cli::try_parse_from(words(line)).unwrap_or_else(|error| panic!("{line}: {error}")).command
}

/// Splits at spaces, keeping what stands in single quotes together.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words
}

fn leaves(command: &ClapCommand, path: &str, found: &mut Vec<(String, ClapCommand)>) {
    if !command.has_subcommands() {
        found.push((path.to_owned(), command.clone()));
    }
    for inner in command.get_subcommands() {
        leaves(inner, &format!("{path} {}", inner.get_name()), found);
    }
}

fn all_leaves() -> Vec<(String, ClapCommand)> {
    let mut found = Vec::new();
    leaves(&Cli::command(), "rollcall", &mut found);
    found
}

fn examples(help: &str) -> impl Iterator<Item = &str> {
    help.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with("rollcall "))
}

#[test]
fn the_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_tree_holds_every_published_command() {
    let mut names: Vec<String> = all_leaves().into_iter().map(|(path, _)| path).collect();
    names.sort();
    let published = "check show|completion|config check|config show|deregister|dev|drain|enable|events|\
                     leader transfer|ls|maintenance|member add|member promote|member remove|\
                     policy get|policy set|protection release|protection show|register|resolve|\
                     run|server|snapshot export|snapshot inspect|snapshot trigger|status|watch|why";
    let expected: Vec<String> =
        published.split('|').map(|name| format!("rollcall {name}")).collect();
    assert_eq!(names, expected);
}

#[test]
fn every_command_and_argument_is_explained() {
    for (path, command) in all_leaves() {
        assert!(command.get_about().is_some(), "{path} has no description");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{path}: {} has no help", argument.get_id());
        }
    }
}

#[test]
fn every_example_in_the_help_parses_as_its_command() {
    for (path, command) in all_leaves() {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(examples(&help).next().is_some(), "{path} has no example");
        for example in examples(&help) {
            parse(example);
        }
        assert!(examples(&help).any(|example| example.starts_with(&path)), "{path}: other command");
    }
    let help = Cli::command().get_after_help().unwrap().to_string();
    assert!(examples(&help).map(parse).count() >= 4);
}

#[test]
fn a_check_is_read_with_all_its_options() {
    let check = |text: &str| {
        let line = format!("rollcall run --service w --port 1 --check {text} -- x");
        let Command::Run(args) = parse(&line) else { panic!("{line}") };
        let CheckArg(check) = args.spec.checks[0].clone();
        check
    };
    let plain = check("tcp");
    assert_eq!((plain.probe, plain.rise, plain.fall), (Probe::Tcp { tls: false }, 2, 3));
    let all = check(
        "http:/health?a=b:c,interval=1s,timeout=500ms,rise=1,fall=2,endpoint=admin,id=deep,tls,advisory",
    );
    let http = HttpProbe { path: "/health?a=b:c".into(), tls: true, ..HttpProbe::default() };
    assert_eq!((all.probe, all.rise, all.fall), (Probe::Http(http), 1, 2));
    assert_eq!((all.interval, all.timeout), (Duration::from_secs(1), Duration::from_millis(500)));
    assert_eq!(
        (all.endpoint.unwrap().as_str(), all.id.as_str(), all.advisory),
        ("admin", "deep", true)
    );
    let grpc = check("grpc:shop.v1.Cart,interval=1s");
    assert_eq!(grpc.timeout, Duration::from_secs(1), "not longer than the interval");
    assert_eq!(grpc.probe, Probe::Grpc { service: "shop.v1.Cart".into(), tls: false });
}

#[test]
fn bad_words_are_usage_errors_that_name_their_field() {
    let cases = [
        ("rollcall resolve We_b", "service: \"We_b\" is not a DNS label"),
        ("rollcall resolve -- -web", "service: \"-web\""),
        ("rollcall resolve a/b/c", "service: \"b/c\""),
        ("rollcall resolve web --namespace a.b", "namespace: \"a.b\""),
        ("rollcall resolve web --tag ''", "tag: \"\" has 0 bytes"),
        ("rollcall resolve web --meta role", "metadata: \"role\" must be KEY=VALUE"),
        ("rollcall resolve web --meta =x", "metadata key: \"\""),
        ("rollcall register w --id i --endpoint a=10.0.0.1:1 --check udp", "check: \"udp\" must"),
        ("rollcall register w --id i --endpoint a=10.0.0.1:1 --check tcp:1", "check: \"tcp:1\""),
        ("rollcall run --service w --port 1 --check http:/,every=1s -- x", "check: \"every=1s\""),
        ("rollcall run --service w --port 1 --check tcp,fall=0 -- x", "check.fall: 0"),
        ("rollcall run --service w --port 1 --check tcp,rise=x -- x", "check rise: \"x\""),
        ("rollcall run --service w --port 1 --check tcp,interval=9ms -- x", "check.interval: 9ms"),
        ("rollcall run --service w --port 1 --check http:x -- x", "check.http.path: \"x\""),
        ("rollcall resolve web --consistency soon", "consistency \"soon\" must be stale, bounded"),
        ("rollcall resolve web --consistency bounded=2", "duration \"2\""),
        ("rollcall resolve web --min-revision -1", "--min-revision"),
        ("rollcall resolve web --min-revision 18446744073709551616", "--min-revision"),
        ("rollcall resolve web --health ill", "--health"),
        ("rollcall resolve web --addr 10.0.0.1:0", "address \"10.0.0.1:0\" must be HOST"),
        ("rollcall resolve web --addr http://a/b", "address \"http://a/b\""),
        ("rollcall resolve web -o yaml", "--output"),
        ("rollcall register web --id w", "--endpoint"),
        ("rollcall register web --id w/1 --endpoint a=127.0.0.1:1", "instance_id: \"w/1\""),
        ("rollcall register web --id w --endpoint 127.0.0.1:80", "must be NAME=IP:PORT"),
        ("rollcall register web --id w --endpoint a=host:80", "must be an IP literal and a port"),
        (
            "rollcall register web --id w --endpoint a=127.0.0.1:0",
            "endpoint address: 127.0.0.1:0: port 0",
        ),
        ("rollcall register web --id w --endpoint a_b=127.0.0.1:1", "endpoint name: \"a_b\""),
        (
            "rollcall register web --id w --endpoint a=127.0.0.1:1 --ttl 500ms",
            "ttl: 500ms: 1s to 24h",
        ),
        (
            "rollcall register web --id w --endpoint a=127.0.0.1:1 --ttl 25h",
            "1s to 24h are allowed",
        ),
        ("rollcall register web --id w --endpoint a=127.0.0.1:1 --weight 65536", "--weight"),
        ("rollcall register web --id w --endpoint a=[::1]:1 --ttl 5s --persistent", "--persistent"),
        ("rollcall run --service web --port 0 -- true", "--port"),
        ("rollcall run --service web --port 80", "CMD"),
        ("rollcall why a/b/c/d", "instance: \"a/b/c/d\" must be"),
        ("rollcall drain web/w --for long", "duration \"long\""),
        ("rollcall policy set web", "--evict-after"),
        ("rollcall policy set web --clear --evict-after 1s", "--clear"),
        ("rollcall policy set web --clear --check tcp", "--clear"),
        ("rollcall policy set web --no-checks --check tcp", "--no-checks"),
        ("rollcall policy set web --check udp", "check: \"udp\" must"),
        ("rollcall policy set web --fail-open-below 1.5", "fraction \"1.5\" must be from 0 to 1"),
        ("rollcall policy set web --protection-threshold NaN", "fraction \"NaN\""),
        ("rollcall member add 10.0.0.1", "peer address \"10.0.0.1\" must be HOST:PORT"),
        ("rollcall member remove 'a b'", "node \"a b\""),
        ("rollcall server --listen-grpc 8502", "--listen-grpc"),
        ("rollcall server --set heartbeat", "must be SECTION.KEY=VALUE"),
        ("rollcall dev --nodes 10", "--nodes"),
        ("rollcall dev --port-base 65156", "--port-base"),
        ("rollcall watch web --prefix w", "--prefix"),
        ("rollcall completion cmd", "cmd"),
        ("rollcall rseolve web", "rseolve"),
    ];
    for (line, expected) in cases {
        let error = Cli::try_parse_from(words(line)).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(expected), "{line}: {error}");
    }
}

#[test]
fn help_and_version_are_not_errors() {
    for (line, kind) in [
        ("rollcall --help", ErrorKind::DisplayHelp),
        ("rollcall resolve -h", ErrorKind::DisplayHelp),
        ("rollcall --version", ErrorKind::DisplayVersion),
    ] {
        let shown = Cli::try_parse_from(words(line)).expect_err(line);
        assert_eq!((shown.kind(), shown.exit_code()), (kind, 0), "{line}");
    }
}

#[test]
fn global_options_may_stand_anywhere_and_hold_several_nodes() {
    let line = "rollcall resolve web --addr 10.0.0.1,n2:9000,[::1] -o json";
    let cli = Cli::try_parse_from(words(line)).unwrap();
    let nodes: Vec<&str> = cli.addr.iter().map(|address| address.as_str()).collect();
    assert_eq!(nodes, ["10.0.0.1:8502", "n2:9000", "[::1]:8502"]);
    assert_eq!(cli.addr[2].uri(), "http://[::1]:8502");
    assert_eq!(cli.output, Output::Json);
    let line = "rollcall --addr a:1 --addr http://b:2/ status";
    let cli = Cli::try_parse_from(words(line)).unwrap();
    assert_eq!(cli.addr.iter().map(|address| address.as_str()).collect::<Vec<_>>(), ["a:1", "b:2"]);
}

#[test]
fn resolve_reads_all_its_words() {
    let line = "rollcall resolve Shop/WEB --tag a --tag b --meta k=v=w --zone z1 --endpoint grpc \
                --health any --consistency bounded=1500ms --min-revision 18446744073709551615";
    let Command::Resolve(args) = parse(line) else { panic!("not resolve") };
    let flag = Label::parse("namespace", "flag").unwrap();
    assert_eq!(args.service.name(Some(&flag)).to_string(), "shop/web");
    assert_eq!(args.selector.tags, ["a".into(), "b".into()]);
    assert_eq!(&*args.selector.metadata[0].key, "k");
    assert_eq!(&*args.selector.metadata[0].value, "v=w");
    assert_eq!(args.selector.health, HealthArg::Any);
    assert_eq!(args.consistency, Consistency::Bounded(Duration::from_millis(1500)));
    assert_eq!(args.min_revision, u64::MAX);
    let Command::Resolve(args) = parse("rollcall resolve web") else { panic!("not resolve") };
    assert_eq!(args.service.name(None), ServiceName::parse("", "web").unwrap());
    assert_eq!(args.service.name(Some(&flag)).to_string(), "flag/web");
    assert_eq!((args.consistency, args.min_revision), (Consistency::Stale, 0));
    assert_eq!(args.selector.health, HealthArg::Routable);
}

#[test]
fn instances_and_nodes_are_told_apart_by_their_form() {
    let cases = [
        ("web-1", InstanceArg::Id(InstanceId::parse("web-1").unwrap())),
        ("web/W:1", InstanceArg::Full(InstanceName::parse("", "web", "W:1").unwrap())),
        ("ns/web/1", InstanceArg::Full(InstanceName::parse("ns", "web", "1").unwrap())),
    ];
    for (text, expected) in cases {
        let Command::Deregister { instance } = parse(&format!("rollcall deregister {text}")) else {
            panic!("not deregister")
        };
        assert_eq!(instance, expected);
    }
    for (text, expected) in [
        ("00c0ffee00c0ffee", NodeArg::Id(0x00c0_ffee_00c0_ffee)),
        ("0xffffffffffffffff", NodeArg::Id(u64::MAX)),
        ("ada", NodeArg::Name("ada".into())),
        ("00c0ffee", NodeArg::Name("00c0ffee".into())),
    ] {
        let line = format!("rollcall member remove {text}");
        let Command::Member(MemberCommand::Remove { node }) = parse(&line) else {
            panic!("not member remove")
        };
        assert_eq!(node, expected);
    }
}

#[test]
fn the_program_to_run_keeps_its_own_flags() {
    let line = "rollcall run --service web --port 8080 -- sh -c 'exit 3' --port 1 -o json";
    let Command::Run(args) = parse(line) else { panic!("not run") };
    assert_eq!(args.port, 8080);
    assert_eq!(args.command, ["sh", "-c", "exit 3", "--port", "1", "-o", "json"]);
    assert_eq!((args.spec.weight, args.ttl, args.id), (100, None, None));
}

#[test]
fn policy_settings_that_were_not_named_stay_unset() {
    let line = "rollcall policy set web --evict-after 0s";
    let Command::Policy(PolicyCommand::Set(args)) = parse(line) else { panic!("not policy set") };
    assert_eq!(args.evict_after, Some(Duration::ZERO));
    assert_eq!((args.dns_ttl, args.fail_open_below, args.clear), (None, None, false));
    assert!(args.checks.is_empty() && !args.no_checks);
}

#[test]
fn the_checks_of_a_policy_are_read_as_those_of_a_registration() {
    let line = "rollcall policy set web --check http:/health,interval=5s --check tcp,advisory";
    let Command::Policy(PolicyCommand::Set(args)) = parse(line) else { panic!("not policy set") };
    let checks: Vec<_> = args.checks.into_iter().map(|CheckArg(check)| check).collect();
    assert_eq!(checks[0].interval, Duration::from_secs(5));
    assert_eq!((checks[1].probe.as_str(), checks[1].advisory), ("tcp", true));
}

#[test]
fn the_flags_of_a_server_become_settings() {
    let line = "rollcall server --name n1 --data-dir /tmp/d --listen-grpc 127.0.0.1:1 \
                --listen-http 127.0.0.1:2 --listen-dns 127.0.0.1:3 --listen-peer 127.0.0.1:4 \
                --bootstrap --join a:1 --join b:2 --insecure --set raft.heartbeat=50ms \
                --set node.name=other";
    let Command::Server(args) = parse(line) else { panic!("not server") };
    let loaded = load(&args.sources()).unwrap();
    let config = &loaded.config;
    assert_eq!(config.node_name(), "n1");
    assert_eq!(config.node.data_dir.to_str(), Some("/tmp/d"));
    let listen = &config.listen;
    let ports = [listen.grpc, listen.http, listen.dns, listen.peer].map(|at| at.port());
    assert_eq!(ports, [1, 2, 3, 4]);
    assert!(config.cluster.bootstrap && config.listen.insecure);
    assert_eq!(config.cluster.join, ["a:1", "b:2"]);
    assert_eq!(config.raft.heartbeat, Duration::from_millis(50));
    assert_eq!(loaded.origin("listen.peer").as_deref(), Some("--listen-peer"));
    let Command::Config(ConfigCommand::Check(args)) = parse("rollcall config check") else {
        panic!("not config check")
    };
    assert_eq!(load(&args.sources()).unwrap().config, Config::default());
}

#[test]
fn development_nodes_never_share_a_port() {
    let Command::Dev(args) = parse("rollcall dev --nodes 9 --port-base 65155") else {
        panic!("not dev")
    };
    let mut ports = Vec::new();
    for index in 0..args.nodes {
        let listen = args.listen(index);
        ports.extend([listen.grpc, listen.http, listen.dns, listen.peer].map(|at| at.port()));
    }
    ports.sort_unstable();
    assert_eq!(ports.last(), Some(&65_535));
    ports.dedup();
    assert_eq!(ports.len(), 36);
    let Command::Dev(args) = parse("rollcall dev") else { panic!("not dev") };
    assert_eq!(args.listen(0), Config::default().listen);
    let Command::Dev(args) = parse("rollcall dev --port-base 0") else { panic!("not dev") };
    assert_eq!(args.listen(2).grpc.port(), 0);
}

#[test]
fn completion_knows_the_commands() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let script = String::from_utf8(completion(shell)).unwrap();
        assert!(script.contains("protection") && script.contains("min-revision"), "{shell}");
    }
}

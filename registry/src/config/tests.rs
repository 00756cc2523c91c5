//! Defaults, layers, origins and rules of the configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use rollcall_core::instance::Spec;

use super::{Config, ConfigError, LogFormat, Override, Sources, load, render};
use crate::api::ApiSettings;
use crate::lease::LeaseSettings;
use crate::raft::RaftSettings;

const EXAMPLE: &str = include_str!("../../../config.example.toml");

fn flag(key: &str, text: &str) -> Override {
    Override { key: key.into(), text: text.into(), origin: "--set".into() }
}

fn flags(given: &[(&str, &str)]) -> Sources {
    let flags = given.iter().map(|(key, text)| flag(key, text)).collect();
    Sources { flags, ..Sources::default() }
}

fn environment(given: &[(&str, &str)]) -> Sources {
    let environment = given.iter().map(|(key, text)| ((*key).into(), (*text).into())).collect();
    Sources { environment, ..Sources::default() }
}

/// The sources and the directory that holds their file.
fn file(text: &str) -> (Sources, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rollcall.toml");
    std::fs::write(&path, text).unwrap();
    (Sources { file: Some(path), ..Sources::default() }, directory)
}

fn refusal(sources: &Sources) -> String {
    load(sources).expect_err("this configuration must be refused").to_string()
}

#[test]
fn the_default_is_valid_and_stays_on_loopback() {
    let config = Config::default();
    assert_eq!(config.validate(), Vec::new());
    assert!(config.is_loopback());
    assert_eq!(load(&Sources::default()).unwrap().config, config);
}

/// A setting that the parts of a node do not know, or a part's own default that differs, would show here.
#[test]
fn the_defaults_are_those_of_the_parts_of_a_node() {
    let config = Config::default();
    let options = config.node_options(Vec::new());
    // All listeners are loopback, by default.
    assert_eq!(options.raft, RaftSettings { allow_loopback: true, ..RaftSettings::default() });
    assert_eq!(format!("{:?}", options.lease), format!("{:?}", LeaseSettings::default()));
    assert_eq!(format!("{:?}", options.api), format!("{:?}", ApiSettings::default()));
    assert_eq!(config.lease.default_ttl, Spec::DEFAULT_TTL);
    assert_eq!(options.listen.grpc, config.listen.grpc);
    assert_eq!(options.shutdown_grace, config.api.shutdown_grace);
}

#[test]
fn the_example_file_equals_the_defaults() {
    let example: Config = toml::from_str(EXAMPLE).unwrap();
    assert_eq!(example, Config::default());
}

#[test]
fn the_example_file_shows_every_setting() {
    let mut shown = BTreeSet::new();
    let mut section = String::new();
    for line in EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, _)) = line.trim_start_matches("# ").split_once(" = ") {
            shown.insert(format!("{section}.{name}"));
        }
    }
    let all = serde_json::to_value(Config::default()).unwrap();
    for (section, settings) in all.as_object().unwrap() {
        for name in settings.as_object().unwrap().keys() {
            assert!(shown.contains(&format!("{section}.{name}")), "{section}.{name} is missing");
        }
    }
}

#[test]
fn the_optional_settings_of_the_example_parse_when_uncommented() {
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.contains(" = ") => setting.to_owned(),
        _ => line.to_owned(),
    };
    let text: Vec<String> = EXAMPLE.lines().map(uncomment).collect();
    let config: Config = toml::from_str(&text.join("\n")).unwrap();
    assert!(config.listen.advertise.is_some());
}

#[test]
fn later_layers_win_and_the_origin_is_remembered() {
    let (mut sources, _directory) = file(
        "[raft]\nheartbeat = '50ms'\nelection_timeout_min = '200ms'\nelection_timeout_max = '400ms'\n",
    );
    sources.environment = vec![
        ("ROLLCALL__RAFT__ELECTION_TIMEOUT_MIN".into(), "250ms".into()),
        ("HOME".into(), "/".into()),
    ];
    sources.flags = vec![
        flag("raft.election_timeout_max", "500ms"),
        flag("raft.election_timeout_max", "800ms"),
    ];
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.raft.heartbeat, Duration::from_millis(50));
    assert_eq!(loaded.config.raft.election_timeout_min, Duration::from_millis(250));
    assert_eq!(loaded.config.raft.election_timeout_max, Duration::from_millis(800));
    assert!(loaded.origin("raft.heartbeat").unwrap().ends_with("rollcall.toml"));
    let origin = loaded.origin("raft.election_timeout_min").unwrap();
    assert_eq!(origin, "environment variable ROLLCALL__RAFT__ELECTION_TIMEOUT_MIN");
    assert_eq!(loaded.origin("raft.election_timeout_max").unwrap(), "--set");
    assert_eq!(loaded.origin("raft.snapshot_entries"), None);
}

#[test]
fn text_is_read_by_the_type_of_its_setting() {
    let sources = environment(&[
        ("ROLLCALL__NODE__NAME", "007"),
        ("ROLLCALL__CLUSTER__JOIN", "10.0.0.1:8300, n2.example:8300"),
        ("ROLLCALL__CLUSTER__BOOTSTRAP", "true"),
        ("ROLLCALL__PROTECTION__CLUSTER_SHARE", "1"),
        ("ROLLCALL__LISTEN__GRPC", "[::1]:0"),
        ("ROLLCALL__LISTEN__ADVERTISE", "10.0.0.9"),
        ("ROLLCALL__TELEMETRY__FORMAT", "json"),
    ]);
    let config = load(&sources).unwrap().config;
    assert_eq!(config.node_name(), "007");
    assert_eq!(config.cluster.join, ["10.0.0.1:8300", "n2.example:8300"]);
    assert!(config.cluster.bootstrap);
    assert_eq!(config.protection.cluster_share, 1.0);
    assert_eq!(config.listen.grpc, "[::1]:0".parse().unwrap());
    assert_eq!(config.node_options(Vec::new()).advertise, "10.0.0.9".parse().ok());
    assert_eq!(config.telemetry.format, LogFormat::Json);
    let listed = load(&flags(&[("cluster.join", r#"["a:1", "b:2"]"#)])).unwrap().config;
    assert_eq!(listed.cluster.join, ["a:1", "b:2"]);
    assert!(load(&flags(&[("cluster.join", "")])).unwrap().config.cluster.join.is_empty());
}

#[test]
fn unknown_keys_name_the_key_the_source_and_a_near_one() {
    let (sources, _directory) = file("[raft]\nhearbeat = '50ms'\n[lease]\nttl = '5s'\n[zzz]\n");
    let text = refusal(&sources);
    assert!(text.contains("`raft.hearbeat` (from "), "{text}");
    assert!(text.contains("rollcall.toml) is not a setting; did you mean `raft.heartbeat`?"));
    assert!(text.contains("`lease.ttl`") && text.contains("`zzz`"), "{text}");
    assert_eq!(text.lines().count(), 3);
    let text = refusal(&environment(&[("ROLLCALL__RAFT__HEART_BEAT", "1s")]));
    assert!(text.contains("from environment variable ROLLCALL__RAFT__HEART_BEAT"), "{text}");
    for key in ["raft", "raft.heartbeat.x", "heartbeat", ""] {
        let text = refusal(&flags(&[(key, "1s")]));
        assert!(text.contains(&format!("`{key}` (from --set) is not a setting")), "{text}");
    }
}

#[test]
fn values_of_the_wrong_type_name_the_key_and_the_source() {
    let text = refusal(&flags(&[("raft.heartbeat", "soon")]));
    assert!(text.starts_with("`raft.heartbeat` (from --set) cannot be used: "), "{text}");
    assert!(text.contains("soon"), "{text}");
    let (sources, _directory) = file("[listen]\ngrpc = 8502\n");
    let text = refusal(&sources);
    assert!(text.starts_with("`listen.grpc` (from ") && text.contains("8502"), "{text}");
    let (sources, _directory) = file("listen = true\n");
    assert!(refusal(&sources).starts_with("`listen` (from "));
    let text = refusal(&flags(&[("telemetry.format", "xml")]));
    assert!(text.contains("telemetry.format") && text.contains("json"), "{text}");
    let text = refusal(&flags(&[("journal.events", "-1")]));
    assert!(text.contains("`journal.events`"), "{text}");
}

#[test]
fn an_unreadable_or_malformed_file_is_named() {
    let missing = PathBuf::from("/nonexistent/rollcall.toml");
    let sources = Sources { file: Some(missing), ..Sources::default() };
    assert!(matches!(load(&sources), Err(ConfigError::Read { .. })));
    assert!(refusal(&sources).starts_with("read configuration file /nonexistent/rollcall.toml: "));
    let (sources, _directory) = file("[raft]\nheartbeat = \n");
    let text = refusal(&sources);
    assert!(text.contains("rollcall.toml: TOML parse error at line 2"), "{text}");
}

#[test]
fn values_out_of_range_name_the_setting_the_value_and_the_range() {
    let cases = [
        ("raft.election_timeout_min", "299ms", "is 299ms: must be at least 3 x raft.heartbeat"),
        (
            "raft.election_timeout_max",
            "300ms",
            "is 300ms: must be more than raft.election_timeout_min",
        ),
        ("raft.election_timeout_max", "61s", "is 1m 1s: must be more than"),
        ("raft.heartbeat", "9ms", "is 9ms: must be from 10ms to 10s"),
        ("raft.snapshot_entries", "9", "is 9: must be from 10 to 100000000"),
        ("lease.default_ttl", "999ms", "is 999ms: must be from 1s to 1day"),
        ("lease.default_ttl", "25h", "is 1day 1h: must be from 1s to 1day"),
        ("raft.rpc_timeout", "0s", "is 0s: must be from 100ms to 1m"),
        ("raft.command_bytes_max", "1", "is 1: must be from 65536 to 33554432"),
        ("protection.cluster_share", "0", "is 0: must be above 0 and at most 1"),
        ("protection.service_share", "NaN.0", "cannot be used"),
        ("protection.exit_share", "0.15", "is 0.15: must be above 0 and below cluster_share"),
        ("limits.watches", "0", "is 0: must be from 1 to 1000000"),
        ("journal.events", "999", "is 999: must be from 1000 to 10000000"),
        ("api.message_bytes", "1", "is 1: must be from 65536 to 67108864"),
        ("cluster.join", "10.0.0.1", "must be host:port"),
        ("cluster.join", "::1:8300", "must be host:port"),
        ("cluster.join", "n1:0", "must be host:port"),
        ("node.name", "two words", "must have 1 to 128 characters"),
        ("node.data_dir", "", "must name a directory"),
        ("telemetry.log", "info,=,=", "not a log filter"),
        ("listen.http", "127.0.0.1:8502", "is 127.0.0.1:8502: listen.grpc listens there already"),
        ("listen.advertise", "0.0.0.0", "must be an address that other members can dial"),
    ];
    for (key, value, expected) in cases {
        let text = refusal(&flags(&[(key, value)]));
        assert!(text.contains(&format!("`{key}` (from --set) ")), "{key}: {text}");
        assert!(text.contains(expected), "{key}: {text}");
    }
}

#[test]
fn the_edges_of_the_ranges_are_allowed() {
    for (key, value) in [
        ("raft.election_timeout_max", "1m"),
        ("lease.default_ttl", "1s"),
        ("lease.default_ttl", "24h"),
        ("raft.kept_entries", "0"),
        ("protection.service_share", "1.0"),
        ("cluster.join", "[::1]:8300"),
    ] {
        load(&flags(&[(key, value)])).unwrap();
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    let sources = flags(&[("raft.heartbeat", "1ms"), ("limits.watches", "0")]);
    let Err(ConfigError::Refused(problems)) = load(&sources) else { panic!("must be refused") };
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["raft.heartbeat", "limits.watches"]);
}

#[test]
fn listeners_off_loopback_need_insecure_and_a_wildcard_needs_an_address() {
    let text = refusal(&flags(&[("listen.dns", "192.0.2.1:53")]));
    assert!(text.contains("`listen.dns` (from --set) is 192.0.2.1:53"), "{text}");
    assert!(text.contains("--insecure (listen.insecure = true)"), "{text}");
    let open = [("listen.dns", "192.0.2.1:53"), ("listen.insecure", "true")];
    let config = load(&flags(&open)).unwrap().config;
    assert!(!config.is_loopback());
    let wildcard = [("listen.peer", "0.0.0.0:8300"), ("listen.insecure", "true")];
    assert!(refusal(&flags(&wildcard)).contains("set listen.advertise"));
    let advertised = [wildcard[0], wildcard[1], ("listen.advertise", "192.0.2.1")];
    load(&flags(&advertised)).unwrap();
}

#[test]
fn what_is_rendered_reads_back_to_the_same_settings() {
    let changed = flags(&[
        ("raft.heartbeat", "70ms"),
        ("cluster.join", "a:1,b:2"),
        ("listen.advertise", "192.0.2.1"),
        ("node.data_dir", "/srv/a \"b\" = #c"),
    ]);
    for sources in [Sources::default(), changed] {
        let loaded = load(&sources).unwrap();
        for text in [render(&loaded.config), loaded.render()] {
            let (again, _directory) = file(&text);
            assert_eq!(load(&again).unwrap().config, loaded.config, "{text}");
        }
    }
    let text = load(&flags(&[("raft.heartbeat", "70ms")])).unwrap().render();
    assert!(text.contains("heartbeat = \"70ms\"  # --set\n"), "{text}");
}

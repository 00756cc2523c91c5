//! `dev`, `server`, `config`, and the commands about members.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::harness::{Registry, Running, finish, program, start, until};

#[test]
fn three_nodes_form_a_cluster_that_members_leave_and_enter() {
    let registry = Registry::with(&["--nodes", "3"]);
    let nodes = registry.ready["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    for node in nodes {
        let http = node["http"].as_str().unwrap();
        assert!(get(http, "/readyz").starts_with("HTTP/1.1 200"), "{}", get(http, "/readyz"));
        assert_eq!(node["node_id"].as_str().unwrap().len(), 16);
    }
    registry.list("web", "web-1", &[]);
    // Any node answers.
    for node in 0..3 {
        let asked = ["resolve", "web", "--min-revision", "1", "--addr", registry.address(node)];
        finish(program(asked)).exits(0).shows(&["web-1"]);
    }
    let to = nodes[1]["node_id"].as_str().unwrap();
    assert_eq!(registry.json(&["leader", "transfer", "n2"])["leader_node_id"], to);
    until("n2 leads", || registry.json(&["status"])["leader_node_id"] == to);
    registry
        .ask(&["leader", "transfer", "n9"])
        .exits(3)
        .says(&["no member is called n9", "n1, n2, n3"]);
    let third = nodes[2]["node_id"].as_str().unwrap();
    registry.ask(&["member", "remove", "n3"]).exits(0).says(&["removed", third]);
    let members = registry.json(&["status"])["members"].as_array().unwrap().len();
    assert_eq!(members, 2);
    registry.ask(&["member", "remove", "00c0ffee00c0ffee"]).exits(1);
    registry.ask(&["member", "promote", "00c0ffee00c0ffee"]).exits(1);

    let stopped = registry.process;
    stopped.signal(Signal::TERM);
    stopped.end().exits(0);
}

#[test]
fn a_server_waits_to_be_taken_in_as_a_learner_and_is_promoted() {
    let registry = Registry::start();
    let data = tempfile::tempdir().unwrap();
    let mut server = server(data.path());
    server.args(["--name", "late"]);
    let mut server = start(server);
    let peer = listens(&mut server, "peer");
    let added = registry.json(&["member", "add", &peer, "--learner"]);
    let id = added["node_id"].as_str().unwrap();
    let role = |id: &str| {
        let status = registry.json(&["status"]);
        let members = status["members"].as_array().unwrap().clone();
        let member = members.iter().find(|member| member["node_id"] == id).unwrap();
        member["role"].as_str().unwrap().to_owned()
    };
    assert_eq!(role(id), "LEARNER");
    registry.ask(&["member", "promote", "late"]).exits(0).says(&["votes"]);
    assert_eq!(role(id), "FOLLOWER");
    server.signal(Signal::TERM);
    server.end().exits(0);
}

/// Instances with as much metadata as is allowed: the log fills fast.
fn large(batch: usize) -> rollcall_client::v1::RegisterRequest {
    use rollcall_client::v1;
    let endpoint = v1::Endpoint {
        name: "http".into(),
        host: "127.0.0.1".into(),
        port: 80,
        ..Default::default()
    };
    let spec = v1::InstanceSpec {
        endpoints: vec![endpoint],
        persistent: true,
        metadata: (0..14).map(|key| (format!("key-{key}"), "x".repeat(500))).collect(),
        ..Default::default()
    };
    let item = |at: usize| v1::Registration {
        name: Some(v1::InstanceName {
            service: "web".into(),
            instance_id: format!("web-{batch}-{at}"),
            ..Default::default()
        }),
        spec: Some(spec.clone()),
        owner_nonce: vec![7; 16],
        ..Default::default()
    };
    v1::RegisterRequest { items: (0..10).map(item).collect(), ..Default::default() }
}

#[test]
fn a_server_whose_disk_fails_exits_with_70_and_keeps_what_it_acknowledged() {
    let data = tempfile::tempdir().unwrap();
    // Files may grow to 1.1 MB; the signal that says so is ignored, so that writing fails instead.
    let limited = server(data.path());
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 2200; exec \"$0\" \"$@\""]);
    command.arg(limited.get_program()).args(limited.get_args()).arg("--bootstrap");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut failing = start(command);
    let address = listens(&mut failing, "grpc");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let acknowledged = runtime.block_on(async {
        let client = rollcall_client::Client::new([address.as_str()]).unwrap();
        let mut batch = 0;
        while client.register_once(large(batch)).await.is_ok() {
            batch += 1;
            assert!(batch < 100, "the disk never failed");
        }
        10 * batch
    });
    failing.end().exits(70).says(&["cannot be trusted any more", "raft.log"]);
    let mut again = start(server(data.path()));
    let address = listens(&mut again, "grpc");
    let count = || {
        let status = finish(program(["status", "-o", "json", "--addr", &address]));
        status.json()["instance_count"].as_u64().unwrap()
    };
    until("what was acknowledged is there", || count() >= acknowledged as u64);
    again.signal(Signal::TERM);
    again.end().exits(0);
}

/// The address that a starting server names in its log.
fn listens(server: &mut Running, what: &str) -> String {
    let told = server.message("the node listens");
    let rest = told.split(&format!("{what}=")).nth(1).unwrap();
    rest.split(' ').next().unwrap().to_owned()
}

fn server(data: &Path) -> Command {
    let mut command = program(["server", "--listen-grpc", "127.0.0.1:0", "--data-dir"]);
    command.arg(data.join("data"));
    for listener in ["--listen-http", "--listen-peer", "--listen-dns"] {
        command.args([listener, "127.0.0.1:0"]);
    }
    command
}

fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_commands_that_dev_prints_work_as_printed() {
    for (arguments, count) in
        [(&["dev", "--port-base", "0"][..], 3), (&["dev", "--port-base", "0", "--demo"], 3)]
    {
        let mut dev = start(program(arguments));
        let mut commands = Vec::new();
        loop {
            let line = dev.line();
            if line == "Stop with Ctrl-C." {
                break;
            }
            commands.extend(line.strip_prefix("  ").map(str::to_owned));
        }
        assert_eq!(commands.len(), count, "{commands:?}");
        for line in commands {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(words[0], env!("CARGO_BIN_EXE_rollcall"));
            let mut tried = start(program(&words[1..]));
            if words[1] == "watch" {
                tried.line();
                tried.signal(Signal::INT);
            }
            tried.end().exits(0);
        }
        dev.signal(Signal::INT);
        dev.end().exits(0);
    }
}

#[test]
fn demo_services_answer_at_the_addresses_that_they_registered() {
    let registry = Registry::with(&["--demo"]);
    let mut seen = 0;
    for (service, count) in [("shop", 3), ("pay", 2), ("stock", 2)] {
        let answer = registry.json(&["resolve", service]);
        let instances = answer["instances"].as_array().unwrap();
        assert_eq!(instances.len(), count, "{answer}");
        for instance in instances {
            let endpoint = &instance["spec"]["endpoints"][0];
            let address = format!("127.0.0.1:{}", endpoint["port"]);
            let id = instance["instance_id"].as_str().unwrap();
            assert!(get(&address, "/").ends_with(&format!("this is {id}\n")));
            seen += 1;
        }
    }
    assert_eq!(seen, 7);
    let process = registry.process;
    process.signal(Signal::TERM);
    process.end().exits(0);
}

#[test]
fn a_temporary_directory_is_removed_at_the_end_and_a_given_one_is_kept() {
    let mut dev = start(program(["dev", "-o", "json", "--port-base", "0"]));
    let ready: serde_json::Value = serde_json::from_str(&dev.line()).unwrap();
    let data = Path::new(ready["data_dir"].as_str().unwrap()).to_owned();
    assert!(data.is_dir());
    dev.signal(Signal::TERM);
    dev.end().exits(0);
    assert!(!data.exists());

    for count in ["1", "3"] {
        a_given_directory_is_kept(count);
    }
}

fn a_given_directory_is_kept(count: &str) {
    let kept = tempfile::tempdir().unwrap();
    let arguments = ["dev", "-o", "json", "--port-base", "0", "--nodes"];
    let again = || {
        let mut command = program(arguments);
        command.args([count, "--data-dir"]).arg(kept.path());
        let mut dev = start(command);
        let ready: serde_json::Value = serde_json::from_str(&dev.line()).unwrap();
        let nodes = ready["nodes"].as_array().unwrap().iter();
        let texts = nodes.flat_map(|node| node.as_object().unwrap().values());
        let ports: Vec<SocketAddr> = texts.filter_map(|text| text.as_str()?.parse().ok()).collect();
        (dev, ready["nodes"][0]["grpc"].as_str().unwrap().to_owned(), ports)
    };
    let (dev, address, ports) = again();
    let listed =
        ["register", "web", "--id", "w", "--persistent", "--endpoint", "http=127.0.0.1:80"];
    finish(program(listed.iter().copied().chain(["--addr", &address]))).exits(0);
    dev.signal(Signal::TERM);
    dev.end().exits(0);
    // Ports that are kept may be lent to others meanwhile, which is not what this is about.
    until("its ports are free", || {
        ports.iter().all(|port| TcpListener::bind(port).is_ok() && UdpSocket::bind(port).is_ok())
    });
    let (dev, address, _) = again();
    let linearizable = ["resolve", "web", "--consistency", "linearizable", "--addr", &address];
    finish(program(linearizable)).exits(0);
    drop(dev);
    if count == "3" {
        let mut fewer = program(arguments);
        fewer.args(["2", "--data-dir"]).arg(kept.path());
        finish(fewer).exits(1).says(&["holds 3 nodes: give --nodes 3"]);
        let mut moved = program(["dev", "--port-base", "20000", "--nodes", "3", "--data-dir"]);
        moved.arg(kept.path());
        finish(moved).exits(1).says(&["at other addresses", "--port-base 0"]);
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_2() {
    let data = tempfile::tempdir().unwrap();
    let mut open = server(data.path());
    open.args(["--listen-dns", "0.0.0.0:0"]);
    finish(open).exits(2);
    let mut open = program(["server", "--listen-grpc", "192.0.2.1:8502", "--data-dir"]);
    open.arg(data.path());
    finish(open).exits(2).says(&["listen.grpc", "--insecure"]);
    let mut environment = program(["config", "check"]);
    environment.env("ROLLCALL__RAFT__HEARTBEET", "1s");
    finish(environment).exits(2).says(&["raft.heartbeet", "ROLLCALL__RAFT__HEARTBEET"]);
    finish(program(["config", "check", "--config", "/nonexistent.toml"])).exits(2);
    finish(program(["config", "check", "--set", "raft.heartbeat=1h"])).exits(2).says(&["--set"]);
    let good = finish(program(["config", "check"])).exits(0);
    assert!(good.out.is_empty());
    let shown = finish(program(["config", "show", "--set", "lease.default_ttl=5s"])).exits(0);
    shown.shows(&["[raft]", "default_ttl = \"5s\"  # --set"]);
    let shown = finish(program(["config", "show", "-o", "json", "--name", "n7"])).exits(0);
    assert_eq!(shown.json()["node"]["name"], "n7");
    assert_eq!(shown.json()["lease"]["default_ttl"], "10s");
}

#[test]
fn a_server_that_cannot_start_says_what_and_where() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("data");
    std::fs::write(&file, "not a directory").unwrap();
    let ended = finish(server(directory.path())).exits(1);
    ended.says(&["start the node in", file.to_str().unwrap()]);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program(["server", "--listen-grpc", &address, "--data-dir"]);
    command.arg(directory.path().join("other"));
    finish(command).exits(1).says(&["listen for gRPC on", &address]);
    let mut command = server(directory.path());
    command.args(["--join", "host.invalid:8300"]);
    finish(command).exits(1).says(&["look up host.invalid:8300", "--join"]);
}

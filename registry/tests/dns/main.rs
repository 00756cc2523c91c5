//! DNS of real nodes on loopback: both transports, what a change costs until it is seen, and three nodes together.
//! What the answers say is tested in `rollcall-dns`; here it is that they come, and in which bounds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod asking;
#[path = "../support/mod.rs"]
mod support;
mod tcp;
mod threads;
mod together;

use asking::{Client, code, message, question};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType},
};
use rollcall_registry::{
    dns::{DnsSettings, stats::Dropped},
    host::Host,
    node::{Entry, Node, NodeError},
};
use std::time::Duration;
use support::{Settings, eventually, options_in, persistent, single, within};
use tempfile::TempDir;

fn with_dns(change: impl FnOnce(&mut DnsSettings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings.dns);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_in_the_next_answer_over_both_transports() {
    let node = single(&Settings::default()).await;
    let client = Client::new(node.node.listen.dns).await;
    let name = "web.service.rollcall.internal.";
    assert_eq!(code(&client.udp(name, RecordType::A).await), ResponseCode::NXDomain);
    node.enlist(vec![persistent("web", "one")]).await;
    for reply in [client.udp(name, RecordType::SRV).await, client.tcp(name, RecordType::SRV).await]
    {
        let [answer] = &reply.answers[..] else { panic!("{reply:?}") };
        let RData::SRV(srv) = &answer.data else { panic!("{answer:?}") };
        assert_eq!((srv.port, srv.weight), (8080, 25_600));
        assert_eq!(reply.additionals.len(), 1);
    }
    node.deregister("web", "one").await;
    let reply = client.udp(name, RecordType::A).await;
    assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 0));
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_had_a_state_says_that_it_is_not_ready() {
    let dir = TempDir::new().unwrap();
    let options = options_in(&dir, &Settings::default(), Entry::default(), 1);
    let node = Node::start(options, Host::system(1)).await.unwrap();
    let client = Client::new(node.listen.dns).await;
    let reply = client.udp("web.service.rollcall.internal.", RecordType::A).await;
    assert_eq!(code(&reply), ResponseCode::ServFail);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_answers_from_its_disk_before_it_has_a_leader() {
    let settings = Settings::default();
    let mut nodes = support::three(&settings).await;
    nodes[0].enlist(vec![persistent("web", "one")]).await;
    let last = nodes.pop().unwrap();
    let name = rollcall_core::name::InstanceName::parse("", "web", "one").unwrap();
    let view = last.node.api().view().clone();
    eventually("it has the instance", || view.load().state.instance(&name).is_some()).await;
    drop(view);
    let support::Running { node, dir } = last;
    node.shutdown().await;
    support::stop(nodes).await;
    // Alone among three it cannot have a leader.
    let options = options_in(&dir, &settings, Entry::default(), 3);
    let node = Node::start(options, Host::system(3)).await.unwrap();
    let client = Client::new(node.listen.dns).await;
    let reply = within("an answer from the disk", async {
        loop {
            let reply = client.udp("web.service.rollcall.internal.", RecordType::A).await;
            if code(&reply) != ResponseCode::ServFail {
                break reply;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(reply.answers.len(), 1, "{reply:?}");
    assert!(reply.answers[0].ttl <= 2, "{reply:?}");
    assert!(!node.is_ready());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_is_counted_and_gets_no_reply() {
    let node = single(&Settings::default()).await;
    let client = Client::new(node.node.listen.dns).await;
    let stats = node.node.dns_stats();
    client.send(b"short").await;
    let mut reply = question("web.service.rollcall.internal.", RecordType::A);
    reply[2] |= 0x80;
    client.send(&reply).await;
    eventually("both are dropped", || {
        stats.drops(Dropped::Short) == 1 && stats.drops(Dropped::IsReply) == 1
    })
    .await;
    assert_eq!(stats.replies(), 0);
    client.udp("rollcall.internal.", RecordType::SOA).await;
    assert_eq!(stats.replies(), 1);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_do_not_share_a_port_unnoticed() {
    let node = single(&Settings::default()).await;
    let dir = TempDir::new().unwrap();
    let mut options = options_in(&dir, &Settings::default(), Entry::default(), 2);
    options.listen.dns = node.node.listen.dns;
    let error = Node::start(options, Host::system(2)).await.expect_err("the port is taken");
    assert!(matches!(error, NodeError::Listen { what: "DNS", .. }), "{error}");
    assert!(error.to_string().contains("choose another port"), "{error}");
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_and_sockets_are_gone_after_the_shutdown() {
    let settings = with_dns(|dns| dns.threads = 3);
    let node = single(&settings).await;
    let address = node.node.listen.dns;
    let waiting = Client::new(address).await;
    waiting.udp("rollcall.internal.", RecordType::SOA).await;
    let mut open = tokio::net::TcpStream::connect(address).await.unwrap();
    within("the node stops", node.node.shutdown()).await;
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read(&mut open, &mut byte);
    assert!(matches!(within("the connection ends", read).await, Ok(0) | Err(_)));
    let _again = std::net::UdpSocket::bind(address).expect("nobody has the port");
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let names = threads.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let ours = format!("dns-{}", address.port());
    assert!(names.into_iter().all(|name| !name.starts_with(&ours)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_out_of_its_bounds_is_named() {
    let settings = with_dns(|dns| dns.front.ttl = 4000);
    let dir = TempDir::new().unwrap();
    let options = options_in(&dir, &settings, Entry::default(), 1);
    let error = Node::start(options, Host::system(1)).await.expect_err("the ttl is too long");
    assert_eq!(error.to_string(), "dns.ttl: 4000: 0 to 3600 is allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_client_is_sent_to_tcp_and_others_are_not() {
    let settings = with_dns(|dns| {
        let rate = dns.front.rate.as_mut().unwrap();
        (rate.answers, rate.window, rate.slip, rate.exempt) = (1, 1, 2, Vec::new());
    });
    let node = single(&settings).await;
    node.enlist(vec![persistent("web", "one")]).await;
    let flood = Client::new(node.node.listen.dns).await;
    let query = question("web.service.rollcall.internal.", RecordType::A);
    for _ in 0..200 {
        flood.send(&query).await;
    }
    let stats = node.node.dns_stats();
    eventually("some are dropped", || stats.drops(Dropped::Limited) > 10).await;
    // A short reply that says: come by TCP.
    let slipped = within("a short reply", async {
        loop {
            let reply = message(&flood.receive().await);
            if reply.metadata.truncation {
                break reply;
            }
        }
    })
    .await;
    assert!(slipped.answers.is_empty());
    let reply = flood.tcp("web.service.rollcall.internal.", RecordType::A).await;
    assert_eq!(reply.answers.len(), 1);
    let other = Client::from("127.7.7.7", node.node.listen.dns).await;
    let reply = other.udp("web.service.rollcall.internal.", RecordType::A).await;
    assert_eq!(reply.answers.len(), 1);
    node.node.shutdown().await;
}

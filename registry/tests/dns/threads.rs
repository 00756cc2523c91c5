//! The threads behind SO_REUSEPORT: what they keep ready, that it follows the view, and what is left to the full path.

use crate::{
    asking::{Client, code, message, question},
    support::{eventually, persistent, single},
    with_dns,
};
use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{RData, RecordType, rdata::opt::EdnsOption},
};
use rollcall_registry::dns::stats::DnsStats;

const WEB: &str = "web.service.rollcall.internal.";

/// Clients of so many ports reach each of four threads, whatever the system's hash is, but for one time in 10^30.
const CLIENTS: usize = 256;

async fn clients(server: std::net::SocketAddr) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(Client::new(server).await);
    }
    clients
}

fn ready(stats: &DnsStats) -> (u64, u64) {
    (stats.ready_replies(), stats.replies())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_thread_answers_from_ready_records_and_shows_a_change_in_the_next_reply() {
    let node = single(&with_dns(|dns| dns.threads = 4)).await;
    let stats = node.node.dns_stats();
    let clients = clients(node.node.listen.dns).await;
    node.enlist(vec![persistent("web", "one")]).await;
    // Twice: made, and kept.
    for client in clients.iter().chain(&clients) {
        assert_eq!(client.udp(WEB, RecordType::A).await.answers.len(), 1);
    }
    let by_thread = stats.replies_by_thread();
    assert!(by_thread[..4].iter().all(|replies| *replies > 0), "{by_thread:?}");
    for round in 0..10 {
        let id = format!("two-{round}");
        let mut other = persistent("web", &id);
        other.spec.as_mut().unwrap().endpoints[0].host = "127.0.0.2".into();
        node.enlist(vec![other]).await;
        for client in &clients[..64] {
            let reply = client.udp(WEB, RecordType::SRV).await;
            assert_eq!((reply.answers.len(), reply.additionals.len()), (2, 2), "{round}");
        }
        node.deregister("web", &id).await;
        for client in &clients[..64] {
            let reply = client.udp(WEB, RecordType::SRV).await;
            let [answer] = &reply.answers[..] else { panic!("{round}: {reply:?}") };
            let RData::SRV(srv) = &answer.data else { panic!("{answer:?}") };
            assert_eq!((srv.port, srv.weight), (8080, 25_600));
        }
    }
    let count = (2 * CLIENTS + 20 * 64) as u64;
    assert_eq!(ready(&stats), (count, count));
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_ready_too_and_what_is_rare_is_not() {
    let node = single(&with_dns(|dns| dns.threads = 2)).await;
    let stats = node.node.dns_stats();
    node.enlist(vec![persistent("web", "one")]).await;
    let client = Client::new(node.node.listen.dns).await;
    let negatives = [
        ("none.service.rollcall.internal.", RecordType::A, ResponseCode::NXDomain),
        (WEB, RecordType::AAAA, ResponseCode::NoError),
        ("red.web.service.rollcall.internal.", RecordType::SRV, ResponseCode::NoError),
        ("service.rollcall.internal.", RecordType::A, ResponseCode::NoError),
    ];
    for (name, kind, expected) in negatives {
        for _ in 0..2 {
            let reply = client.udp(name, kind).await;
            assert_eq!((code(&reply), reply.answers.len()), (expected, 0), "{name}");
            assert_eq!(reply.authorities.len(), 1, "{name}");
        }
    }
    assert_eq!(ready(&stats), (8, 8));
    for (name, kind) in [(WEB, RecordType::TXT), ("rollcall.internal.", RecordType::SOA)] {
        assert_eq!(client.udp(name, kind).await.answers.len(), 1, "{name}");
    }
    // A transfer is no plain query: another thread refuses it.
    let refused = client.udp("rollcall.internal.", RecordType::AXFR).await;
    assert_eq!(code(&refused), ResponseCode::FormErr);
    assert_eq!(client.tcp(WEB, RecordType::A).await.answers.len(), 1);
    assert_eq!(ready(&stats), (8, 12));
    node.node.shutdown().await;
}

/// The query with a cookie.
fn with_cookie(cookie: &[u8]) -> Vec<u8> {
    let mut query = Message::from_vec(&question(WEB, RecordType::A)).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    edns.options_mut().insert(EdnsOption::Unknown(10, cookie.to_vec()));
    query.edns = Some(edns);
    query.to_vec().unwrap()
}

fn cookie(reply: &Message) -> Vec<u8> {
    let edns = reply.edns.as_ref().expect("EDNS");
    let found = edns.options().as_ref().iter().find(|(code, _)| u16::from(*code) == 10);
    let (_, value) = found.expect("a cookie");
    value.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_of_one_thread_is_good_at_the_others() {
    let settings = with_dns(|dns| {
        dns.threads = 4;
        let rate = dns.front.rate.as_mut().unwrap();
        (rate.answers, rate.window, rate.slip, rate.exempt) = (1, 1, 1, Vec::new());
    });
    let node = single(&settings).await;
    node.enlist(vec![persistent("web", "one")]).await;
    let view = node.node.api().view().clone();
    eventually("there is a secret", || view.load().state.secret().is_some()).await;
    let stats = node.node.dns_stats();
    let clients = clients(node.node.listen.dns).await;
    clients[0].send(&with_cookie(&[7; 8])).await;
    let known = cookie(&message(&clients[0].receive().await));
    assert_eq!((known.len(), &known[..8]), (24, &[7; 8][..]));
    // All are beyond the limit of their prefix, and none is limited.
    for client in &clients {
        client.send(&with_cookie(&known)).await;
        let reply = message(&client.receive().await);
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 1));
        assert_eq!(cookie(&reply), known);
    }
    let count = 1 + CLIENTS as u64;
    assert_eq!(ready(&stats), (count, count));
    node.node.shutdown().await;
}

//! TCP: pipelining, large replies, and every bound on a connection.

use crate::{
    asking::{Client, connect_from, framed, message, next_reply},
    support::{eventually, persistent, single, within},
    with_dns,
};
use hickory_proto::rr::RecordType;
use rollcall_registry::{dns::stats::DnsStats, node::Node};
use std::{sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const NAME: &str = "rollcall.internal.";

async fn connect(node: &Node) -> TcpStream {
    connect_from("127.0.0.1", node.listen.dns).await
}

async fn asks(stream: &mut TcpStream) -> bool {
    stream.write_all(&framed(NAME, RecordType::SOA)).await.is_ok()
        && next_reply(stream).await.is_some()
}

/// Whether the other side has ended the connection.
async fn ends(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    matches!(within("the end", stream.read(&mut byte)).await, Ok(0) | Err(_))
}

async fn open(stats: &Arc<DnsStats>, count: i64) {
    eventually(&format!("{count} connections"), || stats.connections() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_queries_in_one_segment_are_answered_in_order() {
    let node = single(&with_dns(|_| {})).await;
    let mut stream = connect(&node.node).await;
    let mut segment = Vec::new();
    for id in 0..100_u16 {
        let mut query = framed(NAME, RecordType::SOA);
        query[2..4].copy_from_slice(&id.to_be_bytes());
        segment.extend(query);
    }
    stream.write_all(&segment).await.unwrap();
    for id in 0..100 {
        let reply = next_reply(&mut stream).await.expect("a reply");
        assert_eq!(message(&reply).metadata.id, id);
    }
    node.node.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn connections_are_served_while_the_runtime_of_the_node_is_busy() {
    let node = single(&with_dns(|_| {})).await;
    let server = node.node.listen.dns;
    let (connected, asked) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let connect = || {
            let stream = std::net::TcpStream::connect(server).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        let ask = |stream: &mut std::net::TcpStream| {
            stream.write_all(&framed(NAME, RecordType::SOA)).unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut reply).unwrap();
        };
        let mut stream = connect();
        ask(&mut stream);
        connected.send(()).unwrap();
        (0..200).for_each(|_| ask(&mut stream));
        // Nor is anybody new kept out.
        (0..20).for_each(|_| ask(&mut connect()));
    });
    eventually("the first answer", || asked.try_recv().is_ok()).await;
    // This blocks the one thread of the runtime that everything else of the node runs on.
    other.join().unwrap();
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_may_come_byte_by_byte_and_the_next_one_with_it() {
    let node = single(&with_dns(|_| {})).await;
    let mut stream = connect(&node.node).await;
    stream.set_nodelay(true).unwrap();
    let both = [framed(NAME, RecordType::SOA), framed(NAME, RecordType::NS)].concat();
    let (last, rest) = both.split_last().unwrap();
    for byte in rest {
        stream.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(next_reply(&mut stream).await.is_some());
    stream.write_all(&[*last]).await.unwrap();
    assert!(next_reply(&mut stream).await.is_some());
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_two_thousand_comes_in_replies_up_to_64_kib() {
    let node = single(&with_dns(|_| {})).await;
    for batch in 0..4 {
        let item = |i: u32| {
            let mut item = persistent("big", &format!("i{}", batch * 500 + i));
            let spec = item.spec.as_mut().unwrap();
            spec.endpoints[0].host = format!("127.1.{batch}.{}", i % 250 + 1);
            spec.endpoints[0].port = 1000 + i;
            item
        };
        node.enlist((0..500).map(item).collect()).await;
    }
    let client = Client::new(node.node.listen.dns).await;
    let name = "big.service.rollcall.internal.";
    let addresses = client.tcp(name, RecordType::A).await;
    // 250 addresses in each of four nets; two instances on each.
    assert_eq!((addresses.answers.len(), addresses.metadata.truncation), (1000, false));
    let mut stream = connect(&node.node).await;
    stream.write_all(&framed(name, RecordType::SRV)).await.unwrap();
    let reply = next_reply(&mut stream).await.unwrap();
    assert!(reply.len() > 40_000, "{} bytes", reply.len());
    assert!(message(&reply).answers.len() > 900, "{}", message(&reply).answers.len());
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_finishes_no_query_is_closed_however_much_it_sends() {
    let node = single(&with_dns(|dns| dns.tcp.idle = Duration::from_millis(300))).await;
    let (mut silent, mut slow) = (connect(&node.node).await, connect(&node.node).await);
    slow.write_all(&[0, 200]).await.unwrap();
    let begin = Instant::now();
    let closed = within("the slow one is closed", async {
        loop {
            if slow.write_all(&[0]).await.is_err() {
                return begin.elapsed();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(closed.await >= Duration::from_millis(300));
    assert!(ends(&mut silent).await);
    let mut busy = connect(&node.node).await;
    for _ in 0..10 {
        assert!(asks(&mut busy).await, "a client that asks is not idle");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_query_ends_the_connection() {
    let node = single(&with_dns(|_| {})).await;
    let too_long = vec![0xff; 2];
    let mut reply = framed(NAME, RecordType::SOA);
    reply[4] |= 0x80;
    for bytes in [vec![0, 0], vec![0, 3, 1, 2, 3], too_long, reply] {
        let mut stream = connect(&node.node).await;
        assert!(asks(&mut stream).await);
        stream.write_all(&bytes).await.unwrap();
        assert!(ends(&mut stream).await, "{bytes:?}");
    }
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_too_many_connections_gets_no_more_and_others_do() {
    let node = single(&with_dns(|dns| dns.tcp.per_address = 3)).await;
    let stats = node.node.dns_stats();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(connect(&node.node).await);
    }
    open(&stats, 3).await;
    assert!(ends(&mut connect(&node.node).await).await);
    assert_eq!(stats.turned_away(), (1, 0));
    let mut other = connect_from("127.0.0.2", node.node.listen.dns).await;
    assert!(asks(&mut other).await);
    for stream in &mut held {
        assert!(asks(stream).await);
    }
    drop(held);
    open(&stats, 1).await;
    assert!(asks(&mut connect(&node.node).await).await);
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_connection_makes_room_for_the_next() {
    let node = single(&with_dns(|dns| dns.tcp.connections = 3)).await;
    let stats = node.node.dns_stats();
    let mut held = Vec::new();
    for count in 1..=3 {
        held.push(connect(&node.node).await);
        open(&stats, count).await;
    }
    // The first one asks: the second is now the longest idle.
    assert!(asks(&mut held[0]).await);
    let mut next = connect_from("127.0.0.9", node.node.listen.dns).await;
    assert!(asks(&mut next).await);
    assert!(ends(&mut held[1]).await);
    assert!(asks(&mut held[0]).await);
    assert!(asks(&mut held[2]).await);
    assert_eq!(stats.turned_away(), (0, 1));
    open(&stats, 3).await;
    node.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_replies_is_closed() {
    let node = single(&with_dns(|dns| dns.tcp.write = Duration::from_millis(200))).await;
    let item = |i| {
        let mut item = persistent("big", &format!("i{i}"));
        item.spec.as_mut().unwrap().endpoints[0].host = format!("127.1.1.{}", i + 1);
        item
    };
    node.enlist((0..250).map(item).collect()).await;
    let stats = node.node.dns_stats();
    let mut stream = connect(&node.node).await;
    let query = framed("big.service.rollcall.internal.", RecordType::SRV);
    // It asks as long as it can, and reads nothing.
    let asked = within("it is closed", async {
        let mut asked = 0;
        while stream.write_all(&query).await.is_ok() {
            asked += 1;
        }
        asked
    });
    assert!(asked.await > 0);
    open(&stats, 0).await;
    node.node.shutdown().await;
}

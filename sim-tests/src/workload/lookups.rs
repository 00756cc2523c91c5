//! Look-ups over DNS: the [`pair`] is asked for at a random node every few milliseconds, one in eight times over TCP.
//! One question at a time, so that the answers have an order.

use super::{Setup, host, pair};
use crate::{
    cluster::{Cluster, DNS, Machine},
    oracle::{Lookup, now},
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RData, RecordType},
};
use rand::RngExt;
use std::{net::SocketAddr, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use turmoil::{
    Sim,
    net::{TcpStream, UdpSocket},
};

/// A lost datagram is not waited for longer.
pub const PATIENCE: Duration = Duration::from_millis(100);
/// Extended errors (RFC 8914) and the one for stale answers.
const EDE: u16 = 15;
const STALE: [u8; 2] = [0, 3];

pub(super) fn start(sim: &mut Sim<'_>, cluster: &Cluster, setup: &Setup) {
    let (tasks, machines) = (usize::from(setup.plan.mix.lookups), cluster.machines.clone());
    host(sim, "ask", tasks, setup, move |setup, _| {
        let machines = machines.clone();
        async move { ask(&setup, &machines).await }
    });
}

async fn ask(setup: &Setup, machines: &[Machine]) {
    let mut dice = setup.dice("look-ups");
    let mut id = 0_u16;
    loop {
        tokio::time::sleep(Duration::from_millis(dice.random_range(1..40))).await;
        let node = dice.random_range(0..machines.len());
        let over_tcp = dice.random_range(0..8) == 0;
        id = id.wrapping_add(1);
        let query = query(id);
        let address = SocketAddr::new(turmoil::lookup(machines[node].name.as_str()), DNS);
        let (sent, boot) = (now(), machines[node].body().boots);
        let reply = tokio::time::timeout(PATIENCE, async {
            if over_tcp { tcp(address, &query).await } else { udp(address, &query).await }
        });
        // A machine that is down or cut off does not answer.
        let Ok(Ok(reply)) = reply.await else { continue };
        if machines[node].body().boots != boot {
            continue;
        }
        let lookup = match Message::from_vec(&reply) {
            Ok(message) if message.metadata.id == id => read(&message, node, boot, sent),
            Ok(_) => continue,
            Err(error) => {
                let seen = format!("n{}: {error}", node + 1);
                setup.oracle.complain("a DNS reply can be read", seen);
                continue;
            }
        };
        tracing::info!(?lookup, over_tcp, "dns");
        note(setup, lookup, over_tcp);
    }
}

fn note(setup: &Setup, lookup: Lookup, over_tcp: bool) {
    setup.oracle.points.hit("a look-up was answered");
    if over_tcp {
        setup.oracle.points.hit("a look-up was answered over TCP");
    }
    if lookup.stale {
        setup.oracle.points.hit("a look-up was answered as stale");
    }
    setup.oracle.ledger().lookups.push(lookup);
}

fn query(id: u16) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{}.service.rollcall.internal.", pair::SERVICE));
    message.add_query(Query::query(name.expect("a name of this file"), RecordType::SRV));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.edns = Some(edns);
    message.to_vec().expect("a short question")
}

async fn udp(address: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(("0.0.0.0", 0)).await?;
    socket.send_to(query, address).await?;
    let mut reply = vec![0; 4096];
    let (length, _) = socket.recv_from(&mut reply).await?;
    reply.truncate(length);
    Ok(reply)
}

async fn tcp(address: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    Ok(reply)
}

fn read(message: &Message, node: usize, boot: u64, sent: Duration) -> Lookup {
    let port = |data: &RData| match data {
        RData::SRV(srv) => Some(srv.port),
        _ => None,
    };
    let mut rounds: Vec<u16> =
        message.answers.iter().filter_map(|record| port(&record.data)).collect();
    rounds.sort_unstable();
    let errors = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    let stale = errors.into_iter().any(|(code, option)| {
        let bytes: Vec<u8> = option.try_into().unwrap_or_default();
        u16::from(*code) == EDE && bytes.starts_with(&STALE)
    });
    let code = message.metadata.response_code.into();
    Lookup { node, boot, sent, got: now(), code, rounds, stale }
}

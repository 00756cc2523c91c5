//! How soon a registration is in DNS: from its acknowledgement until an answer has it.

use super::{data::Data, load::Asker};
use crate::outcome::{Doing, Outcome};
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout},
};

/// An answer that takes longer is lost, and asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// Asks for a service whose first instance has just been acknowledged, until it is there; how long that took.
pub(crate) async fn appears(dns: SocketAddr, data: Data, service: usize) -> Outcome<Duration> {
    let acknowledged = Instant::now();
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(dns).await?;
    let mut query = Vec::new();
    let asker = Asker::new("a", data)?;
    asker.ask(1, Some(service), &mut SmallRng::seed_from_u64(7), &mut query);
    while !is_there(&socket, &query).await.doing("ask for a new service")? {
        if acknowledged.elapsed() > LONGEST {
            return Err(format!("not in DNS {LONGEST:?} after its registration").into());
        }
    }
    Ok(acknowledged.elapsed())
}

/// Asks once.
async fn is_there(socket: &UdpSocket, query: &[u8]) -> Outcome<bool> {
    socket.send(query).await?;
    let mut reply = [0; 1_500];
    loop {
        let Ok(received) = timeout(PATIENCE, socket.recv(&mut reply)).await else {
            return Ok(false);
        };
        // What was late the time before is passed over.
        if let Some(found) = found(&reply[..received?], &query[..2]) {
            return Ok(found);
        }
    }
}

/// Whether a reply to this query has an answer; `None`: it is to another query.
fn found(reply: &[u8], id: &[u8]) -> Option<bool> {
    let [i0, i1, _, flags, _, _, a0, a1, ..] = *reply else { return None };
    ([i0, i1] == *id).then(|| flags & 0x0F == 0 && u16::from_be_bytes([a0, a1]) > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_there_when_the_reply_to_the_query_has_an_answer() {
        let reply = |id: u8, code, answers| [0, id, 0x84, code, 0, 1, 0, answers, 0, 0, 0, 0];
        assert_eq!(found(&reply(9, 0, 1), &[0, 9]), Some(true));
        assert_eq!(found(&reply(9, 0, 0), &[0, 9]), Some(false));
        assert_eq!(found(&reply(9, 3, 0), &[0, 9]), Some(false));
        assert_eq!(found(&reply(8, 0, 1), &[0, 9]), None);
        assert_eq!(found(&[0, 9], &[0, 9]), None);
    }
}

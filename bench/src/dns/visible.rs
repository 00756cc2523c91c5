//! How soon a registration is in DNS: from its acknowledgement until an answer has it.

use super::{data::Data, load::Asker};
use crate::{
    load::rollcall,
    outcome::{Doing, Outcome},
};
use rand::{SeedableRng, rngs::SmallRng};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tonic::transport::Channel;

/// A registration is made so long after the one before was seen: few beside 2,000 changes a second.
const APART: Duration = Duration::from_millis(10);
/// An answer that takes longer is lost, and asked for again.
const PATIENCE: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);

/// Registers services that nobody has registered, one after the other, asks for each until it is there, and tells how
/// long that took. Ends when nobody listens, or with a problem.
pub(crate) async fn watch(
    dns: SocketAddr,
    channel: Channel,
    data: Data,
    tell: mpsc::UnboundedSender<Duration>,
) -> Outcome {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(dns).await?;
    let (asker, mut dice) = (Asker::new("a", data)?, SmallRng::seed_from_u64(7));
    for turn in 0_u16.. {
        let service = data.services + usize::from(turn);
        let mut query = Vec::new();
        asker.ask(turn, Some(service), &mut dice, &mut query);
        let item = data.registration(service, 0, 1);
        rollcall::register(&channel, vec![item]).await?;
        let acknowledged = Instant::now();
        while !is_there(&socket, &query).await.doing("ask for a new service")? {
            if acknowledged.elapsed() > LONGEST {
                return Err(format!("not in DNS {LONGEST:?} after its registration").into());
            }
        }
        if tell.send(acknowledged.elapsed()).is_err() {
            break;
        }
        sleep(APART).await;
    }
    Ok(())
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

//! Behind hickory's own server the answers are the same, and none is cut in the middle of a record.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod given;

use given::*;
use hickory_proto::{
    op::Message,
    rr::{Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncoder},
};
use hickory_server::{
    net::{NetError, runtime::TokioTime, xfer::Protocol},
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponse,
};
use rollcall_dns::{Outcome, Query, Transport, handler::Handler};
use std::sync::{Arc, Mutex};

/// Encodes a reply as hickory's server does.
#[derive(Clone)]
struct Sent {
    protocol: Protocol,
    bytes: Arc<Mutex<Vec<u8>>>,
}

#[async_trait::async_trait]
impl ResponseHandler for Sent {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::new();
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(match (self.protocol, response.edns()) {
            (Protocol::Udp, Some(edns)) => edns.max_payload(),
            (Protocol::Udp, None) => 512,
            _ => u16::MAX,
        });
        let info = response.destructive_emit(&mut encoder)?;
        *self.bytes.lock().unwrap() = bytes;
        Ok(info)
    }
}

fn handle(given: &Arc<Given>, query: &[u8], how: &How) -> Vec<u8> {
    let (given, how) = (given.clone(), how.clone());
    let protocol = match how.transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let request = Request::from_bytes(query.to_vec(), how.peer, protocol).unwrap();
    let handler = Handler::new(move |bytes: &[u8], peer, transport| {
        let query =
            Query { bytes, peer, transport, now: how.now, unix: how.unix, random: how.random };
        let mut reply = Vec::new();
        match given.front.answer(&query, &given.catalog(), &mut reply) {
            Outcome::Reply(_) => Some(reply),
            Outcome::Drop(_) => None,
        }
    });
    let sent = Sent { protocol, bytes: Arc::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(handler.handle_request::<_, TokioTime>(&request, sent.clone()));
    let bytes = sent.bytes.lock().unwrap();
    bytes.clone()
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.to_string()).collect()
}

#[test]
fn hickorys_server_gives_the_answers_that_we_give() {
    let mut given = Given::new();
    for i in 0..100 {
        let mut spec = spec(&format!("10.0.0.{i}:80"));
        spec.endpoints.push(endpoint("http6", &format!("[fd00::{i:x}]:80")));
        given.register(&format!("big/i{i}"), spec);
    }
    given.register("web/a", spec("10.0.0.1:80"));
    let given = Arc::new(given);
    let names = ["web", "big", "none"].map(|name| format!("{name}.service.rollcall.internal"));
    let others = ["rollcall.internal", "example.org", "n1.node.consul"].map(str::to_owned);
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::TXT, RecordType::NS];
    for how in [How::default(), How::payload(512), How::payload(1232), How::tcp()] {
        for (name, kind) in names.iter().chain(&others).flat_map(|n| kinds.map(|kind| (n, kind))) {
            let query = question(name, kind, how.edns.clone());
            let ours = given.raw(&query, &how).unwrap();
            let bytes = handle(&given, &query, &how);
            let mut decoder = BinDecoder::new(&bytes);
            let theirs = Message::read(&mut decoder).unwrap();
            let what = format!("{name} {kind} {how:?}");
            assert!(decoder.is_empty(), "{what}: bytes behind the reply");
            if how.transport == Transport::Udp {
                let limit = how.edns.as_ref().map_or(512, |edns| edns.max_payload().into());
                assert!(bytes.len() <= limit, "{what}: {}", bytes.len());
            }
            assert_eq!(theirs.metadata, ours.message.metadata, "{what}");
            // What takes more room in hickory's encoding costs additional records, and a few answers at most.
            let answers = shown(&ours.message.answers);
            assert!(answers.starts_with(&shown(&theirs.answers)), "{what}");
            assert!(answers.len() <= theirs.answers.len() + 5, "{what}: {}", theirs.answers.len());
            assert_eq!(shown(&theirs.authorities), shown(&ours.message.authorities), "{what}");
            let additional = shown(&ours.message.additionals);
            assert!(additional.starts_with(&shown(&theirs.additionals)), "{what}");
            assert_eq!(theirs.edns, ours.message.edns, "{what}");
        }
    }
}

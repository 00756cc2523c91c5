//! Our answers behind hickory's request handler: its parser reads the query, its encoder writes our reply, and what comes
//! out must say what we say. Used by `tests/handler.rs` and by the differential test.
//!
//! hickory encodes a reply once more. Over UDP that takes more room than our own encoding, and what does not fit it cuts
//! in the middle of a record (0.26.3); so what would not fit is taken out before.
#![allow(dead_code, reason = "each test binary uses its own part")]

use hickory_proto::{
    ProtoError,
    op::{Header, HeaderCounts, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncoder},
};
use hickory_server::{
    net::{
        NetError,
        runtime::{Time, TokioTime},
        xfer::Protocol,
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponse, MessageResponseBuilder},
};
use rollcall_dns::{Catalog, Front, Outcome, Query, Transport};
use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

/// hickory compresses 120 names of a message and no more (0.26.3), of which a record has one or two. All others take their
/// full length, so that fewer of so many records fit.
const COMPRESSED: usize = 50;

/// A handler for [`hickory_server::Server`] that passes on what `answer` says; `None`: no reply.
struct Handler<A> {
    answer: A,
}

impl<A> Handler<A>
where
    A: Fn(&[u8], SocketAddr, Transport) -> Option<Vec<u8>>,
{
    /// The reply, of which hickory can encode all.
    fn reply(&self, request: &Request) -> Option<Result<Message, ProtoError>> {
        let datagram = request.protocol().is_datagram();
        let transport = if datagram { Transport::Udp } else { Transport::Tcp };
        let bytes = (self.answer)(request.as_slice(), request.src(), transport)?;
        let message = Message::from_vec(&bytes).map_err(ProtoError::from);
        Some(message.map(|message| if datagram { fit(message, request) } else { message }))
    }
}

/// Takes records out until hickory can encode the rest: additional ones first, which nobody misses. Addresses go without
/// a word, as everywhere; where others go, the client is told.
fn fit(mut message: Message, request: &Request) -> Message {
    let client = request.max_payload();
    let room = message.edns.as_ref().map_or(512, |edns| edns.max_payload().min(client));
    while !fits(&message, request, room) {
        if message.additionals.pop().is_some() {
            continue;
        }
        match message.answers.pop().map(|record| record.record_type()) {
            Some(RecordType::A | RecordType::AAAA) => {}
            Some(_) => message.metadata.truncation = true,
            None => break,
        }
    }
    message
}

/// Whether hickory encodes the whole message within the limit. It writes a name before it sees that a pointer will do,
/// and so may need more room than it uses.
fn fits(message: &Message, request: &Request, room: u16) -> bool {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room);
    let emitted = response(message, request).destructive_emit(&mut encoder);
    let records = [&message.answers, &message.authorities, &message.additionals].map(Vec::len);
    let whole = records.iter().sum::<usize>() + usize::from(message.edns.is_some());
    emitted.is_ok_and(|info| {
        let counts = info.counts();
        let written = [counts.answers, counts.authorities, counts.additionals].map(usize::from);
        written.iter().sum::<usize>() == whole
    })
}

type Records<'a> = std::slice::Iter<'a, Record>;

fn response<'a>(
    message: &'a Message,
    request: &'a Request,
) -> MessageResponse<'a, 'a, Records<'a>, Records<'a>, Records<'a>, Records<'a>> {
    let builder = MessageResponseBuilder::new(&request.queries, message.edns.as_ref());
    // What hickory knows as SOA stands among the authorities already.
    let none: &[Record] = &[];
    builder.build(
        message.metadata,
        &message.answers,
        &message.authorities,
        none,
        &message.additionals,
    )
}

#[async_trait::async_trait]
impl<A> RequestHandler for Handler<A>
where
    A: Fn(&[u8], SocketAddr, Transport) -> Option<Vec<u8>> + Send + Sync + Unpin + 'static,
{
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responder: R,
    ) -> ResponseInfo {
        let failed = || {
            let asked = &request.metadata;
            let mut metadata = Metadata::new(asked.id, MessageType::Response, asked.op_code);
            metadata.response_code = ResponseCode::ServFail;
            ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
        };
        match self.reply(request) {
            // hickory wants to know what was sent, even where nothing was.
            None | Some(Err(_)) => failed(),
            Some(Ok(message)) => {
                let sent = responder.send_response(response(&message, request)).await;
                sent.unwrap_or_else(|_| failed())
            }
        }
    }
}

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
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}

/// What hickory's server sends where [`Front::answer`] has sent `ours`. `None`: hickory reads no query in those bytes.
pub(crate) fn sent(query: &Query<'_>, ours: &[u8]) -> Option<Vec<u8>> {
    let protocol = match query.transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    };
    let request = Request::from_bytes(query.bytes.to_vec(), query.peer, protocol).ok()?;
    let (asked, ours) = ((query.bytes.to_vec(), query.peer, query.transport), ours.to_vec());
    let answer = move |bytes: &[u8], peer, transport| {
        assert!(
            (bytes, peer, transport) == (&asked.0, asked.1, asked.2),
            "it passes on another query"
        );
        (!ours.is_empty()).then(|| ours.clone())
    };
    let (handler, sent) = (Handler { answer }, Sent { protocol, bytes: Arc::default() });
    {
        let handled = pin!(handler.handle_request::<_, TokioTime>(&request, sent.clone()));
        let polled = handled.poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(polled, Poll::Ready(_)), "nothing is waited for");
    }
    let bytes = sent.bytes.lock().expect("one thread").clone();
    Some(bytes)
}

fn shown(records: &[Record]) -> Vec<String> {
    records.iter().map(ToString::to_string).collect()
}

/// Both replies say the same: hickory's may lack the last records, where its encoding needs more room.
pub(crate) fn same(query: &Query<'_>, ours: &[u8], theirs: &[u8]) {
    let what = query.bytes.escape_ascii();
    assert_eq!(ours.is_empty(), theirs.is_empty(), "{what}: one of them is silent");
    if ours.is_empty() {
        return;
    }
    let mut decoder = BinDecoder::new(theirs);
    let theirs_read = Message::read(&mut decoder).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(decoder.is_empty(), "{what}: bytes behind the reply");
    let ours = Message::from_vec(ours).unwrap_or_else(|error| panic!("{what}: {error}"));
    if query.transport == Transport::Udp {
        let limit = theirs_read.edns.as_ref().map_or(512, |edns| edns.max_payload());
        assert!(theirs.len() <= limit.into(), "{what}: {} of {limit} bytes", theirs.len());
    }
    let theirs = theirs_read;
    let (all, answers) = (shown(&ours.answers), shown(&theirs.answers));
    assert!(all.starts_with(&answers), "{what}");
    // Long names cost some at the end of a datagram, where it wants room for the whole name first.
    let room = if all.len() < COMPRESSED { 10 } else { all.len() - COMPRESSED };
    assert!(all.len() <= answers.len() + room, "{what}: {} of {}", answers.len(), all.len());
    let cut = all.len() > answers.len();
    let mut metadata = theirs.metadata;
    metadata.truncation &= !cut || ours.metadata.truncation;
    assert_eq!(metadata, ours.metadata, "{what}");
    assert_eq!(shown(&theirs.authorities), shown(&ours.authorities), "{what}");
    assert!(shown(&ours.additionals).starts_with(&shown(&theirs.additionals)), "{what}");
    assert_eq!(theirs.edns, ours.edns, "{what}");
    // It repeats every question that it could read, also several, or one under another opcode. A reply that the rate limit
    // cut short says as much as the whole one would.
    let metadata = &ours.metadata;
    let malformed = [ResponseCode::FormErr, ResponseCode::NotImp].contains(&metadata.response_code);
    let unread = malformed || metadata.truncation || metadata.op_code != OpCode::Query;
    if !(unread && ours.queries.is_empty()) {
        assert_eq!(theirs.queries, ours.queries, "{what}: {metadata:?}");
    }
}

/// The reply of [`Front::answer`].
pub(crate) fn ours(front: &Front, query: &Query<'_>, catalog: &Catalog<'_>) -> Vec<u8> {
    let mut reply = Vec::new();
    match front.answer(query, catalog, &mut reply) {
        Outcome::Reply(_) => reply,
        Outcome::Drop(_) => Vec::new(),
    }
}

//! The same answers behind hickory's own server: for the transports that it speaks and we do not (TLS, HTTPS), and to
//! measure ours against it.
//!
//! hickory encodes a reply once more. Over UDP that takes more room than our own encoding, and what does not fit it cuts
//! in the middle of a record (0.26.3); so what would not fit is taken out before.

use crate::Transport;
use hickory_proto::{
    ProtoError,
    op::{Header, HeaderCounts, Message, MessageType, Metadata, ResponseCode},
    rr::{Record, RecordType},
    serialize::binary::BinEncoder,
};
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::{MessageResponse, MessageResponseBuilder},
};
use std::{fmt, net::SocketAddr};

/// A handler for [`hickory_server::Server`]. `A` answers a message as [`crate::Front::answer`] does, with the catalogue,
/// the clock and the dice of its node; `None`: no reply.
#[derive(Clone)]
pub struct Handler<A> {
    answer: A,
}

impl<A> Handler<A>
where
    A: Fn(&[u8], SocketAddr, Transport) -> Option<Vec<u8>>,
{
    /// A handler that passes on what `answer` says.
    pub fn new(answer: A) -> Self {
        Self { answer }
    }

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

impl<A> fmt::Debug for Handler<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handler")
    }
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

//! What the tests start from: a catalogue made by commands, a front, and short ways to ask it.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use hickory_proto::{
    op::{Edns, Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder},
};
use rollcall_core::{
    Command, Stamped, State,
    command::{
        Deregister, Deregistration, ExpireLeases, Expiry, PutServicePolicy, Register, Registration,
        SetAdminState,
    },
    instance::{Endpoint, Locality, Spec, Transport as Layer4},
    name::{InstanceName, Label, ServiceName},
    policy::Policy,
    record::{Actor, AdminState},
};
use rollcall_dns::{
    Answered, Catalog, CookieSecret, DropReason, Front, Node, Outcome, Query, Settings, Standing,
    Transport,
};
use std::{net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

/// Largest message that a transport without EDNS carries.
pub(crate) const PLAIN: usize = 512;

/// A node with a catalogue.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) state: State,
    pub(crate) nodes: Vec<Node>,
    pub(crate) standing: Standing,
    pub(crate) cookies: Option<CookieSecret>,
    pub(crate) front: Front,
}

/// How a question is asked.
#[derive(Debug, Clone)]
pub(crate) struct How {
    pub(crate) transport: Transport,
    pub(crate) peer: SocketAddr,
    /// `None`: without EDNS.
    pub(crate) edns: Option<Edns>,
    pub(crate) random: u64,
    pub(crate) now: Duration,
    pub(crate) unix: u64,
}

impl Default for How {
    fn default() -> Self {
        Self {
            transport: Transport::Udp,
            peer: "10.9.9.9:4242".parse().unwrap(),
            edns: None,
            random: 1,
            now: Duration::ZERO,
            unix: 1_700_000_000,
        }
    }
}

impl How {
    pub(crate) fn tcp() -> Self {
        Self { transport: Transport::Tcp, ..Self::default() }
    }

    pub(crate) fn payload(size: u16) -> Self {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        Self { edns: Some(edns), ..Self::default() }
    }

    pub(crate) fn from(self, peer: &str) -> Self {
        Self { peer: format!("{peer}:4242").parse().unwrap(), ..self }
    }
}

/// A reply, as hickory reads it.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) bytes: Vec<u8>,
    pub(crate) answered: Answered,
}

pub(crate) fn owner() -> Actor {
    Actor::Owner("10.9.9.9".into())
}

pub(crate) fn operator() -> Actor {
    Actor::Operator("ann".into())
}

pub(crate) fn label(text: &str) -> Label {
    Label::parse("label", text).unwrap()
}

pub(crate) fn zone(zone: &str) -> Locality {
    Locality { zone: Some(label(zone)), ..Locality::default() }
}

pub(crate) fn endpoint(name: &str, address: &str) -> Endpoint {
    Endpoint {
        name: label(name),
        address: address.parse().unwrap(),
        transport: Layer4::Tcp,
        app_protocol: "".into(),
    }
}

/// One endpoint `http` there.
pub(crate) fn spec(address: &str) -> Spec {
    Spec::new(vec![endpoint("http", address)]).unwrap()
}

impl Given {
    pub(crate) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let node =
            |name: &str, ip: &str| Node { name: label(name), addresses: vec![ip.parse().unwrap()] };
        Self {
            state: State::new(100),
            nodes: vec![node("n1", "10.0.9.1"), node("n2", "10.0.9.2"), node("n3", "fd00::3")],
            standing: Standing::Current,
            cookies: None,
            front: Front::new(settings).unwrap(),
        }
    }

    pub(crate) fn send(&mut self, command: Command) {
        let stamped = Stamped { wall_ms: 0, advance_ms: 0, command };
        self.state.apply(&stamped).outcome.result.unwrap();
    }

    pub(crate) fn advance(&mut self, advance_ms: u64) {
        let command = Command::AdvanceTime;
        self.state.apply(&Stamped { wall_ms: 0, advance_ms, command }).outcome.result.unwrap();
    }

    /// Registers `[namespace/]service/id`.
    pub(crate) fn register(&mut self, name: &str, spec: Spec) {
        self.register_all(vec![(name.to_owned(), spec)]);
    }

    pub(crate) fn register_all(&mut self, all: Vec<(String, Spec)>) {
        let items = all.into_iter().map(|(name, spec)| Registration {
            name: instance(&name),
            spec: Arc::new(spec.checked().unwrap()),
            nonce: 1,
            held_generation: 0,
            expected_revision: None,
        });
        let items: Vec<Registration> = items.collect();
        for items in items.chunks(1_000) {
            let items = items.to_vec();
            let actor = owner();
            let register = Register { items, actor, request_id: None, address_limit: false };
            self.send(Command::Register(register));
        }
    }

    pub(crate) fn deregister(&mut self, name: &str) {
        let item = Deregistration {
            name: instance(name),
            generation: 0,
            allow_missing: false,
            expected_revision: None,
        };
        self.send(Command::Deregister(Deregister {
            items: vec![item],
            actor: owner(),
            evidence: "".into(),
            request_id: None,
        }));
    }

    pub(crate) fn set(&mut self, name: &str, state: AdminState) {
        self.send(Command::SetAdminState(SetAdminState {
            name: instance(name),
            generation: 0,
            state,
            actor: operator(),
            reason: "".into(),
            expire_after: None,
            request_id: None,
            expected_revision: None,
        }));
    }

    pub(crate) fn expire(&mut self, name: &str) {
        let record = self.state.instance(&instance(name)).unwrap();
        let item = Expiry {
            generation: record.generation,
            lease_epoch: record.lease.unwrap().epoch,
            overdue: false,
            evidence: "".into(),
        };
        let actor = Actor::Registry("n1".into());
        self.send(Command::ExpireLeases(ExpireLeases { items: vec![item], actor }));
    }

    pub(crate) fn policy(&mut self, service: &str, policy: Policy) {
        let service = ServiceName::parse("", service).unwrap();
        let put = PutServicePolicy { service, policy, actor: operator(), request_id: None };
        self.send(Command::PutServicePolicy(put));
    }

    pub(crate) fn catalog(&self) -> Catalog<'_> {
        Catalog {
            state: &self.state,
            nodes: &self.nodes,
            standing: self.standing,
            cookies: self.cookies.as_ref(),
        }
    }

    /// Sends bytes as they are; checks what holds for every reply.
    pub(crate) fn raw(&self, bytes: &[u8], how: &How) -> Result<Reply, DropReason> {
        let query = Query {
            bytes,
            peer: how.peer,
            transport: how.transport,
            now: how.now,
            unix: how.unix,
            random: how.random,
        };
        let mut reply = vec![0xEE; 3];
        match self.front.answer(&query, &self.catalog(), &mut reply) {
            Outcome::Drop(reason) => {
                assert!(reply.is_empty(), "a drop leaves {} bytes", reply.len());
                Err(reason)
            }
            Outcome::Reply(answered) => Ok(check(bytes, reply, answered)),
        }
    }

    pub(crate) fn try_ask(&self, name: &str, kind: RecordType, how: &How) -> Reply {
        self.raw(&question(name, kind, how.edns.clone()), how).unwrap()
    }

    pub(crate) fn ask_how(&self, name: &str, kind: RecordType, how: &How) -> Reply {
        let reply = self.try_ask(name, kind, how);
        let limit = match (how.transport, &how.edns) {
            (Transport::Tcp, _) => 65_535,
            (Transport::Udp, None) => PLAIN,
            (Transport::Udp, Some(edns)) => usize::from(edns.max_payload().clamp(512, 1232)),
        };
        assert!(reply.bytes.len() <= limit, "{name}: {} of {limit} bytes", reply.bytes.len());
        assert_eq!(reply.message.edns.is_some(), how.edns.is_some(), "{name}");
        reply
    }

    pub(crate) fn ask(&self, name: &str, kind: RecordType) -> Reply {
        self.ask_how(name, kind, &How::default())
    }
}

fn check(asked: &[u8], bytes: Vec<u8>, answered: Answered) -> Reply {
    let mut decoder = BinDecoder::new(&bytes);
    let message = Message::read(&mut decoder).unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
    assert!(decoder.is_empty(), "bytes behind the reply: {bytes:?}");
    assert_eq!(bytes[..2], asked[..2], "the id");
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert!(!message.metadata.recursion_available && !message.metadata.authentic_data);
    assert_eq!(u16::from(message.metadata.response_code), answered.code);
    assert_eq!(message.metadata.truncation, answered.truncated);
    let question = &bytes[12..];
    assert!(message.queries.is_empty() || asked[12..].starts_with(&question[..asked_len(asked)]));
    for section in [&message.answers, &message.authorities] {
        for record in section.iter() {
            assert_eq!(record.ttl, section[0].ttl, "one TTL in a section");
        }
    }
    Reply { message, bytes, answered }
}

/// Length of a well-formed question section.
fn asked_len(bytes: &[u8]) -> usize {
    let mut at = 12;
    while bytes[at] != 0 {
        at += 1 + usize::from(bytes[at]);
    }
    at + 5 - 12
}

/// A query as clients send it, its case kept. In `name`, `\\ddd` is a byte.
pub(crate) fn question(name: &str, kind: RecordType, edns: Option<Edns>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = unescaped(label);
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label);
    }
    bytes.push(0);
    bytes.extend(u16::from(kind).to_be_bytes());
    bytes.extend([0, 1]);
    if let Some(edns) = edns {
        let mut opt = Vec::new();
        edns.emit(&mut BinEncoder::new(&mut opt)).unwrap();
        bytes.extend(opt);
    }
    bytes
}

fn unescaped(label: &str) -> Vec<u8> {
    let mut parts = label.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(part[..3].parse().unwrap());
        bytes.extend(part[3..].bytes());
    }
    bytes
}

pub(crate) fn instance(name: &str) -> InstanceName {
    let mut parts: Vec<&str> = name.splitn(3, '/').collect();
    if parts.len() == 2 {
        parts.insert(0, "");
    }
    InstanceName::parse(parts[0], parts[1], parts[2]).unwrap()
}

pub(crate) fn name(text: &str) -> Name {
    Name::from_str(&format!("{text}.")).unwrap()
}

impl Reply {
    pub(crate) fn code(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    pub(crate) fn truncated(&self) -> bool {
        self.message.metadata.truncation
    }

    pub(crate) fn answers(&self) -> &[Record] {
        &self.message.answers
    }

    /// The addresses of the answer section in their order.
    pub(crate) fn ips(&self) -> Vec<String> {
        addresses(&self.message.answers)
    }

    pub(crate) fn sorted_ips(&self) -> Vec<String> {
        let mut ips = self.ips();
        ips.sort();
        ips
    }

    /// `priority weight port target` of the SRV records in their order.
    pub(crate) fn places(&self) -> Vec<String> {
        let place = |record: &Record| match &record.data {
            RData::SRV(srv) => {
                format!("{} {} {} {}", srv.priority, srv.weight, srv.port, srv.target)
            }
            other => panic!("not an SRV record: {other}"),
        };
        self.message.answers.iter().map(place).collect()
    }

    /// Code and text of the extended errors.
    pub(crate) fn extended_errors(&self) -> Vec<u16> {
        let Some(edns) = &self.message.edns else { return Vec::new() };
        let options = edns.options().as_ref().iter();
        let errors = options.filter(|(code, _)| u16::from(*code) == 15);
        let code = |value: Vec<u8>| u16::from_be_bytes([value[0], value[1]]);
        errors.map(|(_, value)| code(value.try_into().unwrap())).collect()
    }

    /// NODATA or NXDOMAIN as they must be: authoritative, one SOA of the zone, nothing else.
    pub(crate) fn assert_negative(&self, code: ResponseCode, apex: &str) {
        assert_eq!(self.code(), code, "{:?}", self.message.queries);
        assert!(self.message.metadata.authoritative);
        assert!(self.message.answers.is_empty() && self.message.additionals.is_empty());
        let [soa] = &self.message.authorities[..] else { panic!("no SOA: {}", self.message) };
        assert_eq!(soa.name.to_lowercase(), name(apex));
        let RData::SOA(data) = &soa.data else { panic!("no SOA: {soa}") };
        assert_eq!(soa.ttl, data.minimum.min(300), "RFC 2308 section 3");
    }

    pub(crate) fn assert_no_data(&self) {
        self.assert_negative(ResponseCode::NoError, "rollcall.internal");
    }

    pub(crate) fn assert_unknown(&self) {
        self.assert_negative(ResponseCode::NXDomain, "rollcall.internal");
    }
}

pub(crate) fn addresses(records: &[Record]) -> Vec<String> {
    let ip = |record: &Record| match &record.data {
        RData::A(a) => a.0.to_string(),
        RData::AAAA(a) => a.0.to_string(),
        other => panic!("not an address: {other}"),
    };
    records.iter().map(ip).collect()
}

//! A DNS client for tests: one UDP socket, and TCP connections as they are asked for.

use crate::support::within;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RecordType},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
};

pub(crate) struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

/// A query with the id 7 and without EDNS.
pub(crate) fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// The same with its length in front.
pub(crate) fn framed(name: &str, kind: RecordType) -> Vec<u8> {
    let query = question(name, kind);
    let length = u16::try_from(query.len()).unwrap();
    [&length.to_be_bytes(), &query[..]].concat()
}

pub(crate) fn message(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).expect("the reply can be read")
}

pub(crate) fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// A connection from an address of loopback.
pub(crate) async fn connect_from(local: &str, server: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(local.parse().unwrap(), 0)).unwrap();
    within("a connection", socket.connect(server)).await.expect("connect")
}

/// The next reply; `None` where the connection ends.
pub(crate) async fn next_reply(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let reply = async {
        let length = stream.read_u16().await.ok()?;
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.ok()?;
        Some(reply)
    };
    within("a reply or the end", reply).await
}

impl Client {
    pub(crate) async fn new(server: SocketAddr) -> Self {
        Self::from("127.0.0.1", server).await
    }

    pub(crate) async fn from(local: &str, server: SocketAddr) -> Self {
        let socket = UdpSocket::bind((local, 0)).await.unwrap();
        socket.connect(server).await.unwrap();
        Self { socket, server }
    }

    pub(crate) async fn send(&self, bytes: &[u8]) {
        self.socket.send(bytes).await.unwrap();
    }

    pub(crate) async fn receive(&self) -> Vec<u8> {
        let mut reply = vec![0; 65_535];
        let length = within("a reply", self.socket.recv(&mut reply)).await.unwrap();
        reply.truncate(length);
        reply
    }

    pub(crate) async fn udp(&self, name: &str, kind: RecordType) -> Message {
        self.send(&question(name, kind)).await;
        message(&self.receive().await)
    }

    pub(crate) async fn tcp(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = TcpStream::connect(self.server).await.unwrap();
        stream.write_all(&framed(name, kind)).await.unwrap();
        message(&next_reply(&mut stream).await.expect("a reply"))
    }
}

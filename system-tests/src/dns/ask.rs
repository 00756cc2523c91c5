//! Our own look at DNS where another program would hide too much or be too slow.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use crate::backend::get;
use crate::case::Checked;
use crate::program::output;
use crate::registry::Registry;
use crate::stage::installed;

/// Longest wait for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Type A.
pub(crate) const A: u16 = 1;

/// What a reply says in its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Response code.
    pub(crate) code: u8,
    /// Whether it was cut.
    pub(crate) truncated: bool,
    /// Records of the answer section.
    pub(crate) answers: u16,
    /// IPv4 addresses of the answer section.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// A query without EDNS.
pub(crate) fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes
}

/// The query with its length in front, as TCP wants it.
pub(crate) fn framed(query: &[u8]) -> Vec<u8> {
    let length = u16::try_from(query.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), query].concat()
}

/// Reads a reply. Only answers whose owner is a pointer, as ours are to questions without a chain of names.
pub(crate) fn read(bytes: &[u8], asked: usize) -> Checked<Reply> {
    let header = bytes.first_chunk::<12>().ok_or("shorter than a header")?;
    let answers = u16::from_be_bytes([header[6], header[7]]);
    let mut addresses = Vec::new();
    let mut rest = bytes.get(asked..).unwrap_or_default();
    for _ in 0..answers {
        let Some(record) = rest.first_chunk::<12>() else { break };
        let length = usize::from(u16::from_be_bytes([record[10], record[11]]));
        let data = rest.get(12..12 + length).ok_or("a record is cut")?;
        if let (&[0, 1], &[a, b, c, d]) = (&record[2..4], data) {
            addresses.push(Ipv4Addr::new(a, b, c, d));
        }
        rest = &rest[12 + length..];
    }
    let truncated = header[2] & 2 != 0;
    Ok(Reply { code: header[3] & 15, truncated, answers, addresses })
}

/// Asks over UDP.
pub(crate) fn udp(server: SocketAddr, name: &str, kind: u16) -> Checked<Reply> {
    let socket = UdpSocket::bind((local(server), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    let query = question(1, name, kind);
    socket.send(&query)?;
    let mut reply = [0; 65_535];
    let length = socket.recv(&mut reply)?;
    read(&reply[..length], query.len())
}

/// Asks over TCP, on a connection of its own.
pub(crate) fn tcp(server: SocketAddr, name: &str, kind: u16) -> Checked<Reply> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = question(1, name, kind);
    stream.write_all(&framed(&query))?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut reply)?;
    read(&reply, query.len())
}

fn local(server: SocketAddr) -> IpAddr {
    if server.is_ipv4() { IpAddr::from([127, 0, 0, 1]) } else { IpAddr::from([0; 16]) }
}

/// What `dig` prints.
pub(crate) fn dig(server: SocketAddr, arguments: &[&str]) -> Checked<String> {
    output(dig_command(server).args(arguments))
}

/// A call of `dig`.
pub(crate) fn dig_command(server: SocketAddr) -> Command {
    let mut command = installed("dig");
    let (ip, port) = (format!("@{}", server.ip()), server.port().to_string());
    command.args([&ip, "-p", &port, "+tries=1", "+time=3"]);
    command
}

/// What `kdig` prints.
pub(crate) fn kdig(server: SocketAddr, arguments: &[&str]) -> Checked<String> {
    let (ip, port) = (format!("@{}", server.ip()), server.port().to_string());
    let mut command = installed("kdig");
    output(command.args([&ip, "-p", &port, "+retry=0", "+time=3"]).args(arguments))
}

/// A metric of the first node, by the beginning of its line.
pub(crate) fn metric(registry: &Registry, name: &str) -> Checked<i64> {
    let text = get(registry.nodes[0].http, "/metrics")?;
    let line = text.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    let value = line.and_then(|line| line.rsplit(' ').next()).ok_or("no such metric")?;
    Ok(value.parse()?)
}

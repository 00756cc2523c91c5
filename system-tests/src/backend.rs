//! A small HTTP server that says who it is and counts whom it has answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::case::Checked;

/// Longest wait for the other side of a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server in this process; it ends with the case.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    answered: Arc<AtomicU64>,
}

impl Backend {
    /// Listens on `address` and answers every request with `name`.
    pub(crate) fn start(address: &str, name: &'static str) -> Checked<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let answered = Arc::new(AtomicU64::new(0));
        let count = answered.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || answer(&stream, name, &count));
            }
        });
        Ok(Self { address, answered })
    }

    /// Requests so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// One request, one answer, end. A caller that goes away is its own matter.
fn answer(mut stream: &TcpStream, name: &str, count: &AtomicU64) {
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if line.trim().is_empty() => break,
            Ok(_) => {}
        }
    }
    count.fetch_add(1, Ordering::Relaxed);
    let length = name.len();
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}"
    );
    let _ = stream.write_all(text.as_bytes());
}

/// The body of a page.
pub(crate) fn get(address: SocketAddr, path: &str) -> Checked<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 200 ") { Ok(body.to_owned()) } else { Err(status.to_owned().into()) }
}

//! A proxy between a program and a store that makes faults, by a plan that is the same whenever it is asked.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is answered.
    None,
    /// The connection ends before the store has seen the request.
    Reset,
    /// The store has obeyed, and the connection ends before its answer.
    Lost,
    /// 500, the store has seen nothing.
    Error,
    /// 503 with the code of a store that is asked too much.
    SlowDown,
    /// The answer comes later.
    Late,
    /// The answer comes after the client has given up.
    TooLate,
    /// The answer ends in the middle of its body, or of its head.
    Cut,
}

/// All that do harm.
pub const FAULTS: [Fault; 7] =
    [Fault::Reset, Fault::Lost, Fault::Error, Fault::SlowDown, Fault::Late, Fault::TooLate, Fault::Cut];

/// A proxy on a free port.
pub struct Proxy {
    /// Its port on loopback.
    pub port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    plan: Box<dyn Fn(u64) -> Fault + Send + Sync>,
    seen: AtomicU64,
    faults: AtomicU64,
    /// How long the answers are held back that come too late.
    patience: Duration,
}

impl Proxy {
    /// A proxy to a port of loopback. `plan` says what happens to each request, by its number; `patience` is how long the
    /// client waits for an answer.
    pub fn new(to: u16, patience: Duration, plan: impl Fn(u64) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, faults) = (AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { to, plan: Box::new(plan), seen, faults, patience });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = serving.clone();
                std::thread::spawn(move || {
                    let _ = shared.serve(client);
                });
            }
        });
        Self { port, shared }
    }

    /// Requests seen, and faults made of them.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.seen.load(Ordering::SeqCst), self.shared.faults.load(Ordering::SeqCst))
    }
}

/// A fault with the probability `share`, the same for a number and a seed whenever it is asked.
pub fn by_chance(seed: u64, share: f64) -> impl Fn(u64) -> Fault + Send + Sync + 'static {
    move |number| {
        let drawn =
            twotower_artifacts::split_mix::mix(seed.wrapping_mul(0x9E37_79B9) ^ number.wrapping_mul(0xD1B5_4A32));
        let chance = (drawn >> 11) as f64 / (1u64 << 53) as f64;
        if chance < share { FAULTS[(drawn % FAULTS.len() as u64) as usize] } else { Fault::None }
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        loop {
            let Some(request) = message(&mut client, false)? else { return Ok(()) };
            let number = self.seen.fetch_add(1, Ordering::SeqCst);
            let fault = (self.plan)(number);
            if fault != Fault::None {
                self.faults.fetch_add(1, Ordering::SeqCst);
            }
            match fault {
                Fault::Reset => return client.shutdown(Shutdown::Both),
                Fault::Error => {
                    answer(&mut client, "500 Internal Server Error", "InternalError")?;
                    continue;
                }
                Fault::SlowDown => {
                    answer(&mut client, "503 Slow Down", "SlowDown")?;
                    continue;
                }
                Fault::None | Fault::Lost | Fault::Late | Fault::TooLate | Fault::Cut => {}
            }
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.to))?;
            server.write_all(&request)?;
            let is_head = request.starts_with(b"HEAD ");
            let Some(answer) = message(&mut server, is_head)? else { return client.shutdown(Shutdown::Both) };
            match fault {
                Fault::Lost => return client.shutdown(Shutdown::Both),
                Fault::TooLate => {
                    std::thread::sleep(self.patience + Duration::from_millis(500));
                    let _ = client.write_all(&answer);
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Cut => {
                    client.write_all(&answer[..answer.len() / 2])?;
                    return client.shutdown(Shutdown::Both);
                }
                Fault::Late => std::thread::sleep(Duration::from_millis(300)),
                Fault::None | Fault::Reset | Fault::Error | Fault::SlowDown => {}
            }
            client.write_all(&answer)?;
            if header(&answer, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                return client.shutdown(Shutdown::Both);
            }
        }
    }
}

fn answer(client: &mut TcpStream, status: &str, code: &str) -> io::Result<()> {
    let body = format!("<Error><Code>{code}</Code><Message>made by the proxy</Message></Error>");
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n", body.len());
    client.write_all(format!("{head}{body}").as_bytes())
}

/// A request or an answer with its body; none at the end of the connection. The answer to HEAD has no body.
fn message(stream: &mut TcpStream, is_head: bool) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let mut more = [0; 4096];
        match stream.read(&mut more)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&more[..n]),
        }
        // Whoever sends a large body first asks whether it may.
        if bytes.windows(4).any(|four| four == b"\r\n\r\n") && header(&bytes, "expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    };
    let has_no_body = is_head || bytes.starts_with(b"HTTP/1.1 204") || bytes.starts_with(b"HTTP/1.1 304");
    if has_no_body {
        return Ok(Some(bytes));
    }
    if header(&bytes[..end], "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        while !bytes[end..].ends_with(b"0\r\n\r\n") {
            more(stream, &mut bytes)?;
        }
        return Ok(Some(bytes));
    }
    let length: usize = header(&bytes[..end], "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    while bytes.len() < end + length {
        more(stream, &mut bytes)?;
    }
    Ok(Some(bytes))
}

fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut more = vec![0; 256 << 10];
    match stream.read(&mut more)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        n => {
            bytes.extend_from_slice(&more[..n]);
            Ok(())
        }
    }
}

/// The value of a header.
fn header(bytes: &[u8], name: &str) -> Option<String> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let of = |line: &str| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_string())
    };
    head.lines().skip(1).find_map(of)
}

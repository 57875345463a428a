//! A relay in front of a server that keeps what passes: requests and answers, whole.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value as Json;

use crate::support::Answer;
use crate::support::scripted_server::request;

/// A request and its answer.
#[derive(Debug)]
pub struct Exchange {
    /// `METHOD /path?query`.
    pub line: String,
    /// The names of the request's headers.
    pub headers: Vec<String>,
    /// The request's body; null if it is no JSON.
    pub body: Json,
    /// The answer.
    pub answer: Answer,
}

/// The relay. It runs until the test process exits.
pub struct Recorder {
    /// The address it listens on.
    pub address: SocketAddr,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl Recorder {
    /// A relay in front of the server at `target`.
    pub fn new(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let exchanges: Arc<Mutex<Vec<Exchange>>> = Arc::default();
        let (kept, target) = (exchanges.clone(), target.to_string());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, target) = (kept.clone(), target.clone());
                thread::spawn(move || relay(stream, &target, &kept));
            }
        });
        Recorder { address, exchanges }
    }

    /// Takes what has passed so far.
    pub fn taken(&self) -> Vec<Exchange> {
        std::mem::take(&mut self.exchanges.lock().unwrap())
    }
}

/// Passes one request on, and its answer back; the connection closes after it.
fn relay(mut client: TcpStream, target: &str, kept: &Mutex<Vec<Exchange>>) {
    let Some((lines, body)) = request(&client) else {
        return; // A connection that was opened in advance.
    };
    let pairs = lines[1..].iter().filter_map(|line| line.split_once(':'));
    let pairs: Vec<(&str, &str)> = pairs.collect();
    let mut head = format!("{}\r\n", lines[0]);
    // The server speaks plain text to us, and closes after one answer.
    let ours = ["connection", "accept-encoding", "host"];
    for (name, value) in &pairs {
        if !ours.contains(&name.to_ascii_lowercase().as_str()) {
            head += &format!("{name}:{value}\r\n");
        }
    }
    head += &format!("Host: {target}\r\nConnection: close\r\n\r\n");
    let mut server = TcpStream::connect(target).expect("the server listens");
    server.write_all(head.as_bytes()).expect("it reads");
    server.write_all(&body).expect("it reads");
    let (mut answer, mut buffer) = (Vec::new(), [0; 1 << 16]);
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        answer.extend_from_slice(&buffer[..count]);
        // A client that leaves early has what it wants.
        let _ = client.write_all(&buffer[..count]);
    }
    let is_head = lines[0].starts_with("HEAD ");
    kept.lock().unwrap().push(Exchange {
        line: lines[0].trim_end_matches(" HTTP/1.1").to_string(),
        headers: pairs
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        answer: Answer::parse(&answer, is_head),
    });
}

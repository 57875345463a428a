//! A scripted HTTP server on loopback: the test supplies its responses.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request that the server received.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `METHOD /path?query`.
    pub line: String,
}

/// A response: status, headers and body; the connection closes after it.
pub struct Say(pub u16, pub Vec<(&'static str, String)>, pub Vec<u8>);

/// The server. It runs until the test process exits.
pub struct Scripted {
    /// The address it listens on.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Scripted {
    /// A server that answers each request with `script`.
    pub fn new(script: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (script, log) = (Arc::new(script), asked.clone());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, log) = (script.clone(), log.clone());
                thread::spawn(move || answer(stream, &*script, &log));
            }
        });
        Scripted { address, asked }
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

/// A request's lines and its body; `None` if it does not come whole.
pub fn request(stream: &TcpStream) -> Option<(Vec<String>, Vec<u8>)> {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            text => lines.push(text.to_string()),
        }
    }
    let length = lines.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let length = value.trim().parse::<usize>().ok();
        length.filter(|_| name.eq_ignore_ascii_case("content-length"))
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some((lines, body))
}

fn answer(mut stream: TcpStream, script: &dyn Fn(&Asked) -> Say, log: &Mutex<Vec<Asked>>) {
    let Some((lines, _)) = request(&stream) else {
        return;
    };
    let asked = Asked {
        line: lines[0].trim_end_matches(" HTTP/1.1").to_string(),
    };
    log.lock().unwrap().push(asked.clone());
    let Say(status, headers, body) = script(&asked);
    let mut head = format!("HTTP/1.1 {status} -\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Content-Length") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in &headers {
        head += &format!("{name}: {value}\r\n");
    }
    // A client may disconnect early; its test checks that.
    let _ = stream.write_all((head + "\r\n").as_bytes());
    let _ = stream.write_all(&body);
}

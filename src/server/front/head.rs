//! Reads the heads of requests and answers. A request's head is checked strictly and written anew, so that no two parsers
//! can see different requests in it (request smuggling).

/// Longest head of a request or an answer, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

/// The header that tells the server which request of the front it handles.
pub const NUMBER_HEADER: &str = "X-Puna-Request";

/// Headers that concern one connection, or that are written anew.
const OWN: [&str; 9] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    NUMBER_HEADER,
];
/// Headers that may occur only once.
const SINGLE: [&str; 3] = ["Host", "Origin", "Content-Length"];

/// How the length of a body is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All bytes until the connection closes; only for answers.
    ToEnd,
}

/// The head of a request.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// Its body.
    pub framing: Framing,
    /// True if its answer has no body.
    pub is_head: bool,
    /// True if the connection ends with it.
    pub closes: bool,
    /// True if the client waits for `100 Continue` before it sends the body.
    pub awaits_leave: bool,
    method: String,
    target: String,
    version: &'static str,
    /// Names and values of the headers that are handed on.
    headers: Vec<(String, String)>,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The reason, for the client.
    pub why: &'static str,
}

const fn bad(why: &'static str) -> Refusal {
    Refusal { status: 400, why }
}

/// The length of the head at the beginning of `bytes`, with the empty line after it; `None`: it is not complete.
pub fn length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

/// How many bytes of empty lines come before a head, which a client may send after a body.
pub fn empty_lines(bytes: &[u8]) -> usize {
    let pairs = bytes.chunks_exact(2);
    2 * pairs.take_while(|pair| *pair == b"\r\n").count()
}

impl RequestHead {
    /// Reads a complete head.
    ///
    /// # Errors
    /// The answer to a head that is wrong, ambiguous, or of another version of HTTP.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(bytes)
            .ok()
            .filter(|text| text.is_ascii());
        let text = text.ok_or(bad("the head of a request is ASCII text"))?;
        let text = text.strip_suffix("\r\n\r\n").unwrap_or(text);
        let mut lines = text.split("\r\n");
        let (method, target, version) = request_line(lines.next().unwrap_or_default())?;
        let mut headers: Vec<(String, String)> = lines.map(header).collect::<Result<_, _>>()?;
        let of = |name: &'static str| {
            let headers = headers.iter();
            headers.filter(move |(known, _)| known.eq_ignore_ascii_case(name))
        };
        if SINGLE.iter().any(|name| of(name).count() > 1) {
            return Err(bad(
                "Content-Length is not a number, or a header that may come once was given twice",
            ));
        }
        let framing = framing(of("Content-Length"), of("Transfer-Encoding"))?;
        let tokens = || of("Connection").flat_map(|(_, value)| value.split(','));
        let closes = version == "HTTP/1.0"
            || tokens().any(|token| token.trim().eq_ignore_ascii_case("close"));
        if version == "HTTP/1.0" && framing == Framing::Chunked {
            return Err(bad("HTTP/1.0 has no chunks"));
        }
        let awaits_leave = of("Expect").next().is_some();
        let is_head = method == "HEAD";
        let kept = |name: &str| !OWN.iter().any(|own| name.eq_ignore_ascii_case(own));
        headers.retain(|(name, _)| kept(name));
        let target = origin_form(target, &mut headers);
        Ok(RequestHead {
            framing,
            is_head,
            closes,
            awaits_leave,
            method: method.to_string(),
            target,
            version,
            headers,
        })
    }

    /// The head as it is handed on, for the request with this number. A body longer than `length_max` goes on in chunks.
    pub fn written(&self, number: u64, framing: Framing) -> Vec<u8> {
        let mut text = format!("{} {} {}\r\n", self.method, self.target, self.version);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        match framing {
            Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
            Framing::Length(0) | Framing::ToEnd => {}
            Framing::Length(bytes) => text += &format!("Content-Length: {bytes}\r\n"),
        }
        text += &format!("{NUMBER_HEADER}: {number}\r\n\r\n");
        text.into_bytes()
    }
}

/// Method, target and version.
fn request_line(line: &str) -> Result<(&str, &str, &'static str), Refusal> {
    let wrong = bad("the request line is not METHOD TARGET HTTP/1.1");
    let mut parts = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong);
    };
    let version = match version {
        "HTTP/1.1" => "HTTP/1.1",
        "HTTP/1.0" => "HTTP/1.0",
        other if other.starts_with("HTTP/") => {
            return Err(Refusal {
                status: 505,
                why: "this server speaks HTTP/1.0 and 1.1",
            });
        }
        _ => return Err(wrong),
    };
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token(method) && visible && !target.is_empty() {
        Ok((method, target, version))
    } else {
        Err(wrong)
    }
}

/// Name and value of a header line.
fn header(line: &str) -> Result<(String, String), Refusal> {
    let (name, value) = line.split_once(':').ok_or(bad("a header is NAME: VALUE"))?;
    let plain = |byte: u8| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic();
    if !is_token(name) || !value.bytes().all(plain) {
        return Err(bad("a header is NAME: VALUE"));
    }
    Ok((name.to_string(), value.trim().to_string()))
}

fn is_token(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

fn framing<'a>(
    mut lengths: impl Iterator<Item = &'a (String, String)>,
    mut codings: impl Iterator<Item = &'a (String, String)>,
) -> Result<Framing, Refusal> {
    let wrong = bad("Content-Length is not a number, or the body's length is given twice");
    match (lengths.next(), codings.next(), codings.next()) {
        (None, None, _) => Ok(Framing::Length(0)),
        (Some((_, length)), None, _) => {
            let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            let bytes = digits.then(|| length.parse().ok()).flatten();
            bytes.map(Framing::Length).ok_or(wrong)
        }
        (None, Some((_, coding)), None) if coding.eq_ignore_ascii_case("chunked") => {
            Ok(Framing::Chunked)
        }
        (None, Some(_), None) => Err(bad("the only transfer coding is chunked")),
        _ => Err(wrong),
    }
}

/// The path and query of a target. A target with scheme and host, as proxies get, overrides the `Host` header.
fn origin_form(target: &str, headers: &mut Vec<(String, String)>) -> String {
    let scheme_end = ["http://", "https://"]
        .iter()
        .find(|scheme| {
            let start = target.get(..scheme.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(|scheme| scheme.len());
    let Some(rest) = scheme_end.map(|at| &target[at..]) else {
        return target.to_string();
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Host"));
    headers.insert(0, ("Host".into(), host.to_string()));
    if path.starts_with('/') {
        path.to_string()
    } else {
        format!("/{path}")
    }
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// Its body.
    pub framing: Framing,
    /// True if another head follows: `100 Continue`.
    pub is_interim: bool,
    /// True if the server closes the connection after it.
    pub closes: bool,
}

impl AnswerHead {
    /// Reads a complete head that our own server wrote; `None`: it is none.
    pub fn parse(bytes: &[u8], to_head: bool) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
        let value = |name: &str| {
            let mut headers = headers.iter();
            let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim())
        };
        let framing = match (value("Content-Length"), value("Transfer-Encoding")) {
            _ if to_head || status < 200 || status == 204 || status == 304 => Framing::Length(0),
            (_, Some(_)) => Framing::Chunked,
            (Some(length), None) => Framing::Length(length.parse().ok()?),
            (None, None) => Framing::ToEnd,
        };
        let closes = value("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Some(AnswerHead {
            framing,
            is_interim: status < 200,
            closes: closes || framing == Framing::ToEnd,
        })
    }
}

/// An answer after which the connection closes: its status with the phrase, the body's type, the body.
pub fn last_answer((status, phrase): (u16, &str), kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<RequestHead, u16> {
        let head = text.replace('\n', "\r\n") + "\r\n\r\n";
        assert_eq!(length(head.as_bytes()), Some(head.len()));
        RequestHead::parse(head.as_bytes()).map_err(|refusal| refusal.status)
    }

    fn written(text: &str) -> String {
        let head = parse(text).unwrap();
        String::from_utf8(head.written(7, head.framing)).unwrap()
    }

    #[test]
    fn a_head_is_written_anew() {
        assert_eq!(
            written(
                "POST /api/chat?x HTTP/1.1\nhost: a\nContent-Length: 05\nx-PUNA-request: 1\nConnection: close"
            ),
            "POST /api/chat?x HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\nX-Puna-Request: 7\r\n\r\n"
        );
        assert_eq!(
            written("GET HTTP://host:1/x HTTP/1.1\nHost: other"),
            "GET /x HTTP/1.1\r\nHost: host:1\r\nX-Puna-Request: 7\r\n\r\n"
        );
        assert_eq!(
            written("GET http://host HTTP/1.0"),
            "GET / HTTP/1.0\r\nHost: host\r\nX-Puna-Request: 7\r\n\r\n"
        );
    }

    #[test]
    fn framing_is_unambiguous_or_refused() {
        let of = |headers: &str| {
            let head = parse(&format!("POST / HTTP/1.1\nHost: a\n{headers}"));
            head.map(|head| head.framing)
        };
        assert_eq!(of("X: y"), Ok(Framing::Length(0)));
        assert_eq!(
            of("Content-Length: 18446744073709551615"),
            Ok(Framing::Length(u64::MAX))
        );
        assert_eq!(of("transfer-encoding: Chunked"), Ok(Framing::Chunked));
        for headers in [
            "Content-Length: 18446744073709551616",
            "Content-Length: 99999999999999999999999",
            "Content-Length:",
            "Content-Length: +16",
            "Content-Length: 0x10",
            "Content-Length: 16, 16",
            "Content-Length: -1",
            "Content-Length: 5\nContent-Length: 5",
            "Content-Length: 5\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding : chunked",
            "Transfer-Encoding: xchunked",
            "X: a\n folded",
            "X: a\u{0}b",
            "X: é",
            ": empty",
            "Host: b",
            "Origin: a\nOrigin: b",
        ] {
            assert_eq!(of(headers), Err(400), "{headers:?}");
        }
        assert_eq!(
            parse("POST / HTTP/1.0\nTransfer-Encoding: chunked").unwrap_err(),
            400
        );
    }

    #[test]
    fn other_versions_and_lines_are_refused() {
        for (line, status) in [
            ("PRI * HTTP/2.0", 505),
            ("GET / HTTP/3.0", 505),
            ("GET / HTTP/0.9", 505),
            ("GET /", 400),
            ("GET  / HTTP/1.1", 400),
            ("GET /\u{7f} HTTP/1.1", 400),
            ("G@T / HTTP/1.1", 400),
            ("GET / HTTP/1.1 ", 400),
            ("", 400),
        ] {
            assert_eq!(parse(line).map(|_| ()), Err(status), "{line:?}");
        }
        assert_eq!(
            RequestHead::parse(b"GET / HTTP/1.1\nHost: a\r\n\r\n")
                .unwrap_err()
                .status,
            400
        );
    }

    #[test]
    fn the_end_of_a_connection_is_seen() {
        assert!(!parse("GET / HTTP/1.1\nHost: a").unwrap().closes);
        assert!(
            parse("GET / HTTP/1.1\nConnection: x, Close")
                .unwrap()
                .closes
        );
        assert!(
            parse("GET / HTTP/1.0\nConnection: keep-alive")
                .unwrap()
                .closes
        );
        assert_eq!(empty_lines(b"\r\n\r\nGET"), 4);
        assert_eq!(empty_lines(b"GET\r\n"), 0);
    }

    #[test]
    fn answers_are_framed() {
        let of = |text: &str, to_head| {
            let head = AnswerHead::parse(text.replace('\n', "\r\n").as_bytes(), to_head).unwrap();
            (head.framing, head.is_interim, head.closes)
        };
        assert_eq!(
            of("HTTP/1.1 200 OK\ncontent-length: 3", false),
            (Framing::Length(3), false, false)
        );
        assert_eq!(
            of("HTTP/1.1 200 OK\ncontent-length: 3", true),
            (Framing::Length(0), false, false)
        );
        assert_eq!(
            of("HTTP/1.1 204 No Content", false),
            (Framing::Length(0), false, false)
        );
        assert_eq!(
            of("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", false),
            (Framing::Chunked, false, false)
        );
        assert_eq!(of("HTTP/1.0 200 OK", false), (Framing::ToEnd, false, true));
        assert_eq!(
            of("HTTP/1.1 100 Continue", false),
            (Framing::Length(0), true, false)
        );
        assert_eq!(
            of(
                "HTTP/1.1 400 Bad\nContent-Length: 0\nConnection: close",
                false
            ),
            (Framing::Length(0), false, true)
        );
        assert_eq!(AnswerHead::parse(b"nothing", false), None);
    }
}

//! Finds the end of a body while its bytes pass, and takes chunks apart.

use super::head::Framing;

/// Longest line of a chunk's size with its extension, and of a trailer, in bytes.
const LINE_BYTES_MAX: usize = 1 << 10;
/// Most bytes of all trailers of a body.
const TRAILER_BYTES_MAX: usize = 16 << 10;
/// Longest size of a chunk, in hexadecimal digits.
const SIZE_DIGITS_MAX: usize = 16;

/// A body whose chunks are wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

/// The place in a body.
#[derive(Debug)]
pub struct Body(State);

#[derive(Debug)]
enum State {
    /// So many bytes follow.
    Data(u64),
    /// All that comes.
    ToEnd,
    /// The line with a chunk's size, as far as it has come.
    Size(Vec<u8>),
    /// So many bytes of a chunk follow.
    Chunk(u64),
    /// The end of a chunk's line, as far as it has come.
    ChunkEnd(Vec<u8>),
    /// Trailers: the line that has begun, and the bytes of those before.
    Trailer(Vec<u8>, usize),
    Complete,
}

impl Body {
    /// The beginning of a body.
    pub fn new(framing: Framing) -> Self {
        Body(match framing {
            Framing::Length(0) => State::Complete,
            Framing::Length(bytes) => State::Data(bytes),
            Framing::Chunked => State::Size(Vec::new()),
            Framing::ToEnd => State::ToEnd,
        })
    }

    /// True if the body has ended.
    pub fn is_complete(&self) -> bool {
        matches!(self.0, State::Complete)
    }

    /// Ends it where the connection does; false if that is too early.
    pub fn end(&mut self) -> bool {
        if matches!(self.0, State::ToEnd) {
            self.0 = State::Complete;
        }
        self.is_complete()
    }

    /// Reads from the beginning of `bytes`. Returns how many bytes belong to the body's framing, and the content
    /// that follows them: its length. Both are 0 once the body is complete or `bytes` are spent.
    ///
    /// # Errors
    /// If a chunk's size is no hexadecimal number, or its lines are too long or end wrongly.
    pub fn next(&mut self, bytes: &[u8]) -> Result<(usize, usize), Broken> {
        let mut framing = 0;
        while let Some(byte) = bytes.get(framing) {
            match &mut self.0 {
                State::Complete => break,
                State::ToEnd => return Ok((framing, bytes.len() - framing)),
                State::Data(left) | State::Chunk(left) => {
                    let content = (*left).min((bytes.len() - framing) as u64);
                    *left -= content;
                    if *left == 0 {
                        self.0 = match self.0 {
                            State::Data(_) => State::Complete,
                            _ => State::ChunkEnd(Vec::new()),
                        };
                    }
                    return Ok((framing, content as usize));
                }
                _ => self.read_line(*byte)?,
            }
            framing += 1;
        }
        Ok((framing, 0))
    }

    fn read_line(&mut self, byte: u8) -> Result<(), Broken> {
        let is_end = matches!(self.0, State::ChunkEnd(_));
        let (State::Size(line) | State::Trailer(line, _) | State::ChunkEnd(line)) = &mut self.0
        else {
            return Ok(());
        };
        line.push(byte);
        if line.len() > LINE_BYTES_MAX || is_end && !b"\r\n".starts_with(line) {
            return Err(Broken);
        }
        if byte != b'\n' {
            return Ok(());
        }
        let line = std::mem::take(line);
        let line = line.strip_suffix(b"\r\n").ok_or(Broken)?;
        self.0 = match self.0 {
            State::ChunkEnd(_) if line.is_empty() => State::Size(Vec::new()),
            State::Size(_) => match size(line)? {
                0 => State::Trailer(Vec::new(), 0),
                bytes => State::Chunk(bytes),
            },
            State::Trailer(..) if line.is_empty() => State::Complete,
            State::Trailer(_, before) if before + line.len() <= TRAILER_BYTES_MAX => {
                State::Trailer(Vec::new(), before + line.len())
            }
            _ => return Err(Broken),
        };
        Ok(())
    }
}

/// The size of a chunk: digits only, and what follows a semicolon is its extension.
fn size(line: &[u8]) -> Result<u64, Broken> {
    let end = line.iter().position(|byte| *byte == b';');
    let digits = line[..end.unwrap_or(line.len())].trim_ascii_end();
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).map_err(|_| Broken)?;
    if !is_number || text.len() > SIZE_DIGITS_MAX {
        return Err(Broken);
    }
    u64::from_str_radix(text, 16).map_err(|_| Broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The content of a body, fed in pieces of this size, and what follows it.
    fn read(framing: Framing, bytes: &str, piece: usize) -> Result<(String, usize), Broken> {
        let mut body = Body::new(framing);
        let (mut content, mut used) = (Vec::new(), 0);
        for piece in bytes.as_bytes().chunks(piece) {
            let mut at = 0;
            loop {
                let (skipped, length) = body.next(&piece[at..])?;
                content.extend_from_slice(&piece[at + skipped..at + skipped + length]);
                at += skipped + length;
                if skipped + length == 0 {
                    break;
                }
            }
            used += at;
        }
        assert!(body.is_complete() || framing == Framing::ToEnd || used == bytes.len());
        Ok((String::from_utf8(content).unwrap(), bytes.len() - used))
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        for piece in [1, 2, 3, 7, 100] {
            let of = |framing, bytes| read(framing, bytes, piece).unwrap();
            assert_eq!(of(Framing::Length(3), "abcGET"), ("abc".into(), 3));
            assert_eq!(of(Framing::Length(0), "GET"), (String::new(), 3));
            assert_eq!(of(Framing::ToEnd, "abc"), ("abc".into(), 0));
            let chunks = "3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nX-T: a\r\n\r\nGET";
            assert_eq!(of(Framing::Chunked, chunks), ("abc0123456789".into(), 3));
        }
    }

    #[test]
    fn wrong_chunks_are_refused() {
        let long = format!("1;{}\r\na\r\n", "x".repeat(2000));
        let trailers = format!("0\r\n{}", format!("X: {}\r\n", "y".repeat(1000)).repeat(20));
        for bytes in [
            "+3\r\nabc\r\n",
            "-1\r\n",
            "zz\r\n",
            "\r\n",
            "3\nabc",
            "3\r\nabcd",
            "10000000000000000\r\n",
            " 3\r\nabc",
            &long,
            &trailers,
        ] {
            assert_eq!(read(Framing::Chunked, bytes, 5), Err(Broken), "{bytes:.20}");
        }
    }
}

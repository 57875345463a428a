//! SHA-256 digests: the only place where text becomes a digest, and a writer that hashes on the way.

use std::fmt;
use std::io::{self, Read, Write};

use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};

/// Read in pieces of this size when hashing a file: large enough that the cost of system calls vanishes.
const PIECE_BYTES: usize = 1 << 20;

/// A SHA-256 digest. Its text form is `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Parses `sha256:<hex>` or `sha256-<hex>`, hex of either case.
    ///
    /// # Errors
    /// Anything else is `invalid digest format`: nothing but a digest ever becomes a path.
    pub fn parse(text: &str) -> Result<Self> {
        let hex = text
            .strip_prefix("sha256:")
            .or_else(|| text.strip_prefix("sha256-"));
        hex.and_then(from_hex)
            .map(Digest)
            .ok_or_else(|| Error::usage("invalid digest format"))
    }

    /// The digest of some bytes.
    pub fn compute(bytes: &[u8]) -> Self {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of everything a reader yields, and how many bytes that was.
    ///
    /// # Errors
    /// Those of the reader.
    pub fn read_from(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut writer = HashingWriter::new(io::sink());
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok((writer.digest(), writer.written_bytes())),
                Ok(count) => writer.write_all(&piece[..count])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The 64 hex digits alone.
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The file name of the blob with this digest: `sha256-<hex>`.
    pub fn file_name(&self) -> String {
        format!("sha256-{}", self.hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let hex = hex.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high << 4 | low) as u8;
    }
    Some(bytes)
}

/// A writer that passes bytes on to another writer and hashes them.
pub struct HashingWriter<W> {
    inner: W,
    hash: Sha256,
    written_bytes: u64,
}

impl<W: Write> HashingWriter<W> {
    /// Wraps a writer.
    pub fn new(inner: W) -> Self {
        HashingWriter {
            inner,
            hash: Sha256::new(),
            written_bytes: 0,
        }
    }

    /// The digest of what was written so far.
    pub fn digest(&self) -> Digest {
        Digest(self.hash.clone().finalize().into())
    }

    /// How many bytes were written so far.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
}

impl HashingWriter<io::Sink> {
    /// Hashes bytes that need no writing.
    pub fn push(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.written_bytes += bytes.len() as u64;
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.written_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_digest_are_one() {
        let digest = Digest::compute(b"");
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(
            Digest::parse(&EMPTY.to_uppercase().replace("SHA256:", "sha256-")).unwrap(),
            digest
        );
    }

    #[test]
    fn only_digests_are_parsed() {
        let hex = &EMPTY[7..];
        for bad in [
            "",
            "sha256:",
            hex,
            &EMPTY[..70],
            &format!("{EMPTY}0"),
            &format!("sha256:../{}", &hex[3..]),
            &format!("md5:{hex}"),
            &format!("sha256:{}é", &hex[2..]),
            &format!("sha256:+{}", &hex[1..]),
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_reader_is_hashed_to_its_end() {
        let bytes = vec![7u8; PIECE_BYTES + 13];
        let (digest, count) = Digest::read_from(&bytes[..]).unwrap();
        assert_eq!(
            (digest, count),
            (Digest::compute(&bytes), bytes.len() as u64)
        );
    }
}

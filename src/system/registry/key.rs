//! The ed25519 key that identifies a user to registries, in OpenSSH's format, created on first use.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::core::error::{Error, Result};
use crate::core::regular_file;

const MAGIC: &[u8] = b"openssh-key-v1\0";
const KIND: &[u8] = b"ssh-ed25519";
const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
/// Size limit of a key file, in bytes; real ones are far smaller.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// An ed25519 key pair.
pub struct Key(Ed25519KeyPair);

impl Key {
    /// Reads the first of these files that exists; creates the last one if none does.
    ///
    /// # Errors
    /// If a file contains no usable key, or a key cannot be created.
    pub fn load(paths: &[PathBuf]) -> Result<Self> {
        if let Some(path) = paths.iter().find(|path| path.exists()) {
            let failed = |error| Error::io("read", path, error);
            let length = fs::metadata(path).map_err(failed)?.len();
            let text = if length <= FILE_BYTES_MAX {
                regular_file::text(path).map_err(failed)?
            } else {
                String::new()
            };
            let seed = seed(&text).ok_or_else(|| {
                let why = "it contains no ed25519 key in OpenSSH's format, without a passphrase";
                Error::damaged(path, why)
            })?;
            return Self::from_seed(&seed);
        }
        let none = || Error::failed("no folder for a key; set HOME");
        Self::make(paths.last().ok_or_else(none)?)
    }

    fn from_seed(seed: &[u8]) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed);
        pair.map(Key)
            .map_err(|error| Error::failed(format!("the key cannot be used: {error}")))
    }

    fn make(path: &Path) -> Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|error| Error::failed(format!("no random numbers: {error}")))?;
        let key = Self::from_seed(&seed)?;
        let failed = |error| Error::io("write", path, error);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut options = fs::File::options();
        let file = options.write(true).create_new(true).mode(0o600).open(path);
        let text = key.private_text(&seed);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        let public = path.with_extension("pub");
        let line = format!("ssh-ed25519 {}\n", key.public_text());
        fs::write(&public, line).map_err(|error| Error::io("write", &public, error))?;
        Ok(key)
    }

    /// The public key in base64, as in the `.pub` file.
    pub fn public_text(&self) -> String {
        BASE64_STANDARD.encode(public_wire(self.0.public_key().as_ref()))
    }

    /// Signs a message; the signature in base64.
    pub fn sign(&self, message: &str) -> String {
        BASE64_STANDARD.encode(self.0.sign(message.as_bytes()))
    }

    fn private_text(&self, seed: &[u8]) -> String {
        let public = self.0.public_key().as_ref();
        let mut inner = vec![7; 8]; // The check number, twice: equal numbers prove correct decryption.
        put(&mut inner, KIND);
        put(&mut inner, public);
        put(&mut inner, &[seed, public].concat());
        put(&mut inner, b"");
        inner.extend((1..).take(inner.len().next_multiple_of(8) - inner.len()));
        let mut outer = MAGIC.to_vec();
        put(&mut outer, b"none");
        put(&mut outer, b"none");
        put(&mut outer, b"");
        outer.extend(1_u32.to_be_bytes());
        put(&mut outer, &public_wire(public));
        put(&mut outer, &inner);
        let text = BASE64_STANDARD.encode(outer);
        let lines = text.as_bytes().chunks(70).map(String::from_utf8_lossy);
        format!("{BEGIN}\n{}\n{END}\n", lines.collect::<Vec<_>>().join("\n"))
    }
}

fn public_wire(public: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    put(&mut wire, KIND);
    put(&mut wire, public);
    wire
}

fn put(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u32).to_be_bytes());
    bytes.extend(text);
}

/// The seed of a private key in OpenSSH's format, if it is an ed25519 key without a passphrase.
fn seed(text: &str) -> Option<[u8; 32]> {
    let body = text.split_once(BEGIN)?.1.split_once(END)?.0;
    let body: String = body.split_whitespace().collect();
    let bytes = BASE64_STANDARD.decode(body).ok()?;
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let cipher = take(&mut rest)?;
    take(&mut rest)?;
    take(&mut rest)?;
    rest = rest.strip_prefix(&1_u32.to_be_bytes())?;
    take(&mut rest)?;
    let mut inner = take(&mut rest)?.get(8..)?;
    let kind = take(&mut inner)?;
    take(&mut inner)?;
    let secret = take(&mut inner)?;
    (cipher == b"none" && kind == KIND)
        .then(|| secret.get(..32)?.try_into().ok())
        .flatten()
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = rest.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*length) as usize;
    let (taken, left) = after.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        let key = Key::from_seed(&[5; 32]).unwrap();
        let text = key.private_text(&[5; 32]);
        assert_eq!(seed(&text), Some([5; 32]));
        assert!(key.public_text().starts_with("AAAAC3NzaC1lZDI1NTE5AAAAI"));
        for length in 0..text.len() - END.len() {
            assert_eq!(seed(&text[..length]), None);
        }
    }
}

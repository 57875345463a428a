//! Takes bytes out of a compression that their sender names, up to a length.

use std::io::Read as _;

use flate2::read::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

/// Why bytes could not be taken out.
#[derive(Debug, PartialEq, Eq)]
pub enum Flaw {
    /// The compression is none of those that are read.
    Unknown,
    /// The bytes are not what it makes, with the decoder's reason.
    Broken(String),
    /// More than the limit comes out.
    TooLong,
}

/// Inflates bytes in `gzip` or `zstd`, to at most `bytes_max`; `identity` and the empty name leave them as they are.
///
/// # Errors
/// The flaw.
pub fn inflate(bytes: Vec<u8>, encoding: &str, bytes_max: usize) -> Result<Vec<u8>, Flaw> {
    let mut inflated = Vec::new();
    let most = bytes_max as u64 + 1;
    let read = match encoding.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => return Ok(bytes),
        "gzip" | "x-gzip" => MultiGzDecoder::new(&bytes[..])
            .take(most)
            .read_to_end(&mut inflated),
        "zstd" => StreamingDecoder::new(&bytes[..])
            .map_err(|error| Flaw::Broken(error.to_string()))?
            .take(most)
            .read_to_end(&mut inflated),
        _ => return Err(Flaw::Unknown),
    };
    read.map_err(|error| Flaw::Broken(error.to_string()))?;
    if inflated.len() > bytes_max {
        return Err(Flaw::TooLong);
    }
    Ok(inflated)
}

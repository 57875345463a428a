//! Fetches a range of a blob and validates the response headers before any byte is used.

use std::io::Read;
use std::ops::Range;

use ureq::Body;
use ureq::http::Response;

use super::place::shown;
use super::{Fault, Place, Registry, failed, header, network, passing};
use crate::core::error::{Class, Error, Result};

/// A response with bytes of a blob.
pub struct Piece {
    /// Offset of the first byte.
    pub start: u64,
    /// True if the response is the whole blob, whatever range was requested.
    pub whole: bool,
    /// The bytes. A read that exceeds the stall timeout fails.
    pub reader: Box<dyn Read + Send>,
}

impl Registry {
    /// The length of the file at a URL, in bytes.
    ///
    /// # Errors
    /// `NoModel` if the file does not exist; if the server does not report the length; network errors.
    pub fn length(&self, place: &Place, url: &str) -> Result<u64> {
        let headers = [
            ("Range", "bytes=0-0".to_string()),
            ("Accept-Encoding", "identity".to_string()),
        ];
        self.with_retries(|| {
            let (response, _) = self.get(place, url, &headers)?;
            let total = match response.status().as_u16() {
                206 => header(&response, "Content-Range").and_then(|text| parse(text)?.2),
                200 => header(&response, "Content-Length").and_then(|text| text.parse().ok()),
                404 => {
                    let text = format!("{}: no such file", shown(url));
                    return Err(Error::plain(Class::NoModel, text).into());
                }
                _ => return Err(failed(response)),
            };
            let silent = || {
                network(format!(
                    "{}: the server does not report the length",
                    shown(url)
                ))
            };
            total.ok_or_else(|| silent().into())
        })
    }

    /// Requests a range of a file of `size` bytes. `resolved` caches the address that the registry
    /// redirected to; once that address is refused, the registry is asked for a new one.
    ///
    /// # Errors
    /// A [`Fault`], if no usable response arrives.
    pub fn piece(
        &self,
        place: &Place,
        url: &str,
        (range, size): (Range<u64>, u64),
        resolved: &mut Option<String>,
    ) -> Result<Piece, Fault> {
        let whole = range == (0..size);
        let mut headers = vec![("Accept-Encoding", "identity".to_string())];
        if !whole {
            headers.push(("Range", format!("bytes={}-{}", range.start, range.end - 1)));
        }
        let known = resolved.take();
        let (response, at) = self.get(place, known.as_deref().unwrap_or(url), &headers)?;
        let (start, whole) = match response.status().as_u16() {
            206 if !fits(&response, &range, size) => {
                let text = "the registry sent a different range than requested";
                return Err(passing(network(text)));
            }
            206 => (range.start, whole),
            200 => (0, true),
            // A signed address expires: the registry gives a new one.
            401 | 403 | 404 | 410 if known.is_some() => {
                return self.piece(place, url, (range, size), &mut None);
            }
            _ => return Err(failed(response)),
        };
        *resolved = (at != url).then_some(at);
        Ok(Piece {
            start,
            whole,
            reader: Box::new(response.into_body().into_reader()),
        })
    }
}

/// True if the response is the requested range.
fn fits(response: &Response<Body>, range: &Range<u64>, size: u64) -> bool {
    let content_range = header(response, "Content-Range").and_then(parse);
    content_range.is_some_and(|(start, end, total)| {
        start == range.start && end < range.end && total.is_none_or(|total| total == size)
    })
}

/// Parses `bytes 0-9/100`: first byte, last byte, and total length if known.
fn parse(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, end) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((start.trim().parse().ok()?, end.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(parse("bytes 5-9/*"), Some((5, 9, None)));
        for bad in ["", "bytes */100", "items 0-1/2", "bytes 0-1", "bytes a-b/c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}

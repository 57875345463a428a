//! Uploads blobs and manifests to a registry, in parts and resumable.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ureq::http::Response;
use ureq::{Body, SendBody};

use super::auth::percent;
use super::place::absolute;
use super::{Fault, MANIFEST_TYPE, Place, Registry, failed, header, network};
use crate::core::digest::Digest;
use crate::core::error::{Class, Error, Result};

/// How often a registry may report fewer bytes than were sent, before the upload fails.
const SETBACKS_MAX: usize = 5;

/// The outcome of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// The registry already had the blob, or mounted it from another of its models.
    Known,
    /// The blob was sent.
    Sent,
}

/// The parameters of an upload.
pub struct Upload<'a> {
    /// The blob's digest.
    pub digest: &'a Digest,
    /// Path of the blob's file.
    pub path: &'a Path,
    /// A repository of the registry that may have the blob, to mount it from.
    pub from: Option<&'a str>,
    /// The saved address of an interrupted upload.
    pub begun: Option<String>,
}

/// The position of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stand {
    /// Bytes that the registry has.
    bytes: u64,
    /// The address for the rest.
    address: String,
}

impl Registry {
    /// Uploads a blob. `progress` gets the number of bytes that the registry has, and the address for
    /// the rest.
    ///
    /// # Errors
    /// The registry's error, or a network error.
    pub fn upload(
        &self,
        place: &Place,
        upload: &Upload,
        progress: &mut dyn FnMut(u64, &str),
    ) -> Result<Uploaded> {
        let digest = upload.digest;
        let head = place.url(&format!("blobs/{digest}"));
        let known = self.with_retries(|| {
            let response = self.authorized("HEAD", place, &head, &[])?;
            match response.status().as_u16() {
                200..300 => Ok(true),
                404 => Ok(false),
                _ => Err(failed(response)),
            }
        })?;
        if known {
            return Ok(Uploaded::Known);
        }
        let begun = upload.begun.as_deref();
        let stand = match begun.and_then(|address| self.stand(place, address)) {
            Some(stand) => stand,
            None => match self.begin(place, upload)? {
                Some(address) => Stand { bytes: 0, address },
                None => return Ok(Uploaded::Known),
            },
        };
        let session = self.parts(place, upload.path, stand, progress)?;
        let sign = if session.contains('?') { '&' } else { '?' };
        let commit = format!("{session}{sign}digest={}", percent(&digest.to_string()));
        self.with_retries(|| {
            let response = self.authorized("PUT", place, &commit, &no_body())?;
            match response.status().as_u16() {
                200..300 => Ok(Uploaded::Sent),
                _ => Err(failed(response)),
            }
        })
    }

    /// Starts an upload and returns its address; `None` if the registry mounted the blob from `from`.
    fn begin(&self, place: &Place, upload: &Upload) -> Result<Option<String>> {
        let mount = upload.from.map_or(String::new(), |from| {
            let (from, digest) = (percent(from), percent(&upload.digest.to_string()));
            format!("?from={from}&mount={digest}")
        });
        let open = place.url("blobs/uploads/") + &mount;
        self.with_retries(|| {
            let response = self.authorized("POST", place, &open, &no_body())?;
            match response.status().as_u16() {
                201 => Ok(None),
                200..300 => Ok(Some(next(&response, &open)?)),
                _ => Err(failed(response)),
            }
        })
    }

    /// Sends the missing parts; returns the address that completes the upload.
    fn parts(
        &self,
        place: &Place,
        path: &Path,
        mut stand: Stand,
        progress: &mut dyn FnMut(u64, &str),
    ) -> Result<String> {
        let failed = |error| Error::io("read", path, error);
        let size = std::fs::metadata(path).map_err(failed)?.len();
        progress(stand.bytes, &stand.address);
        let mut setbacks = 0;
        while stand.bytes < size {
            let (start, mut is_retry) = (stand.bytes, false);
            let end = (start + self.network.part_bytes).min(size);
            let after = self.with_retries(|| {
                // After a failed attempt, some of the part may have arrived.
                if std::mem::replace(&mut is_retry, true)
                    && let Some(now) = self.stand(place, &stand.address)
                {
                    stand.address.clone_from(&now.address);
                    if now.bytes != start {
                        return Ok(now);
                    }
                }
                let address = self.part(place, &stand.address, path, (start, end))?;
                Ok(Stand {
                    bytes: end,
                    address,
                })
            })?;
            setbacks += usize::from(after.bytes < start);
            if after.bytes > size || setbacks > SETBACKS_MAX {
                return Err(network("the registry keeps losing bytes that were sent"));
            }
            stand = after;
            progress(stand.bytes, &stand.address);
        }
        Ok(stand.address)
    }

    /// The position of an upload, if the registry knows it.
    fn stand(&self, place: &Place, address: &str) -> Option<Stand> {
        let response = self.authorized("GET", place, address, &[]).ok()?;
        // The specification says 204; some registries answer 200 or 202.
        if !response.status().is_success() {
            return None;
        }
        let last = header(&response, "Range")?.rsplit('-').next()?;
        let last: u64 = last.trim().parse().ok()?;
        Some(Stand {
            // The index of the last byte; registries report 0 for an empty upload.
            bytes: if last == 0 { 0 } else { last + 1 },
            address: next(&response, address).unwrap_or_else(|_| address.to_string()),
        })
    }

    /// Uploads a manifest, byte for byte.
    ///
    /// # Errors
    /// As [`Registry::upload`].
    pub fn put_manifest(&self, place: &Place, bytes: &[u8]) -> Result<()> {
        let url = place.url(&format!("manifests/{}", place.tag));
        let headers = [("Content-Type", MANIFEST_TYPE.to_string())];
        self.with_retries(|| {
            let mut body = || {
                Ok(SendBody::from_owned_reader(std::io::Cursor::new(
                    bytes.to_vec(),
                )))
            };
            let mut all = headers.to_vec();
            all.push(("Content-Length", bytes.len().to_string()));
            let response = self.authorized_with("PUT", place, &url, &all, &mut body)?;
            // A registry says that it has made the manifest, and which; a web server says 200 to anything.
            let headers = response.headers();
            let named = ["Location", "Docker-Content-Digest"];
            let is_named = named.iter().any(|name| headers.contains_key(*name));
            match response.status().as_u16() {
                201 | 202 => Ok(()),
                200..300 if is_named => Ok(()),
                200..300 => {
                    let text =
                        format!("{} is not a registry: it stored nothing", place.origin.host);
                    Err(Fault::Final(Error::plain(Class::Network, text)))
                }
                _ => Err(failed(response)),
            }
        })
    }

    /// Sends a part of a file; returns the address for the next part.
    fn part(
        &self,
        place: &Place,
        session: &str,
        path: &Path,
        (start, end): (u64, u64),
    ) -> Result<String, Fault> {
        let headers = [
            ("Content-Type", "application/octet-stream".to_string()),
            ("Content-Length", (end - start).to_string()),
            ("Content-Range", format!("{start}-{}", end - 1)),
            ("X-Redirect-Uploads", "1".to_string()),
        ];
        let mut body = || part_of(path, start, end);
        let response = self.authorized_with("PATCH", place, session, &headers, &mut body)?;
        match response.status().as_u16() {
            200..300 => next(&response, session),
            307 => {
                // The bytes go to the redirect's target, the next part to the address in this response.
                let target = super::location(&response, session)?;
                let following = header(&response, "Docker-Upload-Location");
                let following = following.and_then(|next| absolute(next, session));
                let sent = self.send("PUT", &target, &headers[..2], part_of(path, start, end)?);
                let sent = sent.map_err(super::passing)?;
                match sent.status().as_u16() {
                    200..300 => Ok(following.unwrap_or_else(|| session.to_string())),
                    _ => Err(failed(sent)),
                }
            }
            // The registry has more or fewer bytes than expected: the retry asks for the position.
            416 => Err(super::passing(network(
                "the registry expects a different range",
            ))),
            _ => Err(failed(response)),
        }
    }
}

fn no_body() -> [(&'static str, String); 1] {
    [("Content-Length", "0".to_string())]
}

fn part_of(path: &Path, start: u64, end: u64) -> Result<SendBody<'static>> {
    let failed = |error| Error::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    Ok(SendBody::from_owned_reader(file.take(end - start)))
}

/// The address for the next request of an upload.
fn next(response: &Response<Body>, from: &str) -> Result<String, Fault> {
    let target =
        header(response, "Docker-Upload-Location").or_else(|| header(response, "Location"));
    target
        .and_then(|target| absolute(target, from))
        .ok_or_else(|| Fault::Final(network("the registry returned no upload address")))
}

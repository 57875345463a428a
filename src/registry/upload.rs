//! Blobs and manifests to a registry.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ureq::http::Response;
use ureq::{Body, SendBody};

use super::auth::percent;
use super::place::absolute;
use super::{Fault, MANIFEST_TYPE, Place, Registry, failed, header, network};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What became of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Uploaded {
    /// The registry had it, or took it over from another of its models.
    Known,
    /// It was sent.
    Sent,
}

impl Registry {
    /// Brings a blob to a registry; `from` is a model there that may have it. `progress` gets the
    /// bytes that are there.
    ///
    /// # Errors
    /// What the registry says, or that it cannot be reached.
    pub fn upload(
        &self,
        place: &Place,
        (digest, path): (&Digest, &Path),
        from: Option<&str>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Uploaded> {
        let head = place.url(&format!("blobs/{digest}"));
        let known = self.patiently(|| {
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
        let mount = from.map_or(String::new(), |from| {
            format!(
                "?from={}&mount={}",
                percent(from),
                percent(&digest.to_string())
            )
        });
        let open = place.url("blobs/uploads/") + &mount;
        let none = [("Content-Length", "0".to_string())];
        let session = self.patiently(|| {
            let response = self.authorized("POST", place, &open, &none)?;
            match response.status().as_u16() {
                201 => Ok(None),
                200..300 => Ok(Some(next(&response, &open)?)),
                _ => Err(failed(response)),
            }
        })?;
        let Some(mut session) = session else {
            return Ok(Uploaded::Known);
        };
        let size = std::fs::metadata(path)
            .map_err(|error| Error::io("read", path, error))?
            .len();
        let mut start = 0;
        while start < size {
            let end = (start + self.network.part_bytes).min(size);
            session = self.patiently(|| self.part(place, &session, path, (start, end)))?;
            progress(end);
            start = end;
        }
        let sign = if session.contains('?') { '&' } else { '?' };
        let commit = format!("{session}{sign}digest={}", percent(&digest.to_string()));
        self.patiently(|| {
            let response = self.authorized("PUT", place, &commit, &none)?;
            match response.status().as_u16() {
                200..300 => Ok(Uploaded::Sent),
                _ => Err(failed(response)),
            }
        })
    }

    /// Sends a manifest as it is stored.
    ///
    /// # Errors
    /// As [`Registry::upload`].
    pub fn put_manifest(&self, place: &Place, bytes: &[u8]) -> Result<()> {
        let url = place.url(&format!("manifests/{}", place.tag));
        let headers = [("Content-Type", MANIFEST_TYPE.to_string())];
        self.patiently(|| {
            let mut body = || {
                Ok(SendBody::from_owned_reader(std::io::Cursor::new(
                    bytes.to_vec(),
                )))
            };
            let mut all = headers.to_vec();
            all.push(("Content-Length", bytes.len().to_string()));
            let response = self.authorized_with("PUT", place, &url, &all, &mut body)?;
            match response.status().as_u16() {
                200..300 => Ok(()),
                _ => Err(failed(response)),
            }
        })
    }

    /// Sends a part of a file; the address for the next one.
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
                // The bytes go to an address of its own, the next part to where this answer says.
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
            _ => Err(failed(response)),
        }
    }
}

fn part_of(path: &Path, start: u64, end: u64) -> Result<SendBody<'static>> {
    let failed = |error| Error::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    Ok(SendBody::from_owned_reader(file.take(end - start)))
}

/// Where an upload goes on.
fn next(response: &Response<Body>, from: &str) -> Result<String, Fault> {
    let target =
        header(response, "Docker-Upload-Location").or_else(|| header(response, "Location"));
    target
        .and_then(|target| absolute(target, from))
        .ok_or_else(|| Fault::Final(network("the registry does not say where to upload")))
}

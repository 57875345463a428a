//! Lists the files of a Hugging Face repository, for models that its registry does not serve.

use std::io::Read;

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::auth::percent;
use super::place::absolute;
use super::{Fault, Place, Registry, failed, header, network, passing};
use crate::core::digest::Digest;
use crate::core::error::{Error, Result, cause};

/// Size limit of one page of the file list, in bytes; 1000 entries are about 300 KB.
const PAGE_BYTES_MAX: u64 = 8 << 20;
/// Limit on the pages of a list.
const PAGES_MAX: usize = 20;

/// A large file (Git LFS) of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// The path in the repository.
    pub path: String,
    /// The sha256 digest.
    pub digest: Digest,
    /// The length in bytes.
    pub size: u64,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    oid: String,
    size: u64,
}

impl Registry {
    /// Lists the large files of a repository.
    ///
    /// # Errors
    /// The hub's error, or a network error.
    pub fn hub_files(&self, place: &Place) -> Result<Vec<HubFile>> {
        let mut next = Some(place.hub_url("api/models", "tree/main?recursive=true"));
        let mut files = Vec::new();
        for _ in 0..PAGES_MAX {
            let Some(url) = next else { break };
            let (entries, following) = self.with_retries(|| {
                let (response, url) = self.get(place, &url, &[])?;
                if response.status().as_u16() != 200 {
                    return Err(failed(response));
                }
                let following = following(&response, &url);
                Ok((entries(response)?, following))
            })?;
            files.extend(entries.into_iter().filter_map(|entry| {
                let large = entry.lfs?;
                Some(HubFile {
                    path: entry.path,
                    digest: Digest::parse(&format!("sha256:{}", large.oid)).ok()?,
                    size: large.size,
                })
            }));
            next = following;
        }
        Ok(files)
    }
}

impl Place {
    /// The URL of a repository's file.
    pub fn file_url(&self, path: &str) -> String {
        let parts: Vec<String> = path.split('/').map(percent).collect();
        self.hub_url("", &format!("resolve/main/{}", parts.join("/")))
    }

    fn hub_url(&self, before: &str, after: &str) -> String {
        let origin = &self.origin;
        let before = if before.is_empty() {
            String::new()
        } else {
            format!("{before}/")
        };
        format!(
            "{}://{}/{before}{}/{after}",
            origin.scheme,
            origin.authority(),
            self.repository
        )
    }
}

fn entries(response: Response<Body>) -> Result<Vec<Entry>, Fault> {
    let mut bytes = Vec::new();
    let body = response.into_body().into_reader();
    body.take(PAGE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|error| passing(network(cause(&error))))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::failed(format!("cannot read the repository's file list: {error}")).into()
    })
}

/// The URL of the next page, from the header `Link`.
fn following(response: &Response<Body>, from: &str) -> Option<String> {
    let links = header(response, "Link")?;
    let link = links
        .split(',')
        .find(|link| link.contains("rel=\"next\""))?;
    let target = link.split_once('<')?.1.split_once('>')?.0;
    absolute(target, from)
}

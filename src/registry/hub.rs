//! The files of a repository of Hugging Face, for models that its registry does not serve.

use std::io::Read;

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::auth::percent;
use super::place::absolute;
use super::{Fault, Place, Registry, failed, header, network, passing};
use crate::digest::Digest;
use crate::error::{Error, Result, cause};

/// A page of the list of files is no longer than this: 1000 entries have about 300 KB.
const PAGE_BYTES_MAX: u64 = 8 << 20;
/// Pages of a list.
const PAGES_MAX: usize = 20;

/// A large file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
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
    /// The large files of a repository.
    ///
    /// # Errors
    /// What the hub says, or that it cannot be reached.
    pub fn hub_files(&self, place: &Place) -> Result<Vec<HubFile>> {
        let mut next = Some(place.hub_url("api/models", "tree/main?recursive=true"));
        let mut files = Vec::new();
        for _ in 0..PAGES_MAX {
            let Some(url) = next else { break };
            let (entries, following) = self.patiently(|| {
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
    /// Where a file of a repository is.
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
        Error::failed(format!("the list of the repository's files: {error}")).into()
    })
}

/// The address of the next page, as the header `Link` tells it.
fn following(response: &Response<Body>, from: &str) -> Option<String> {
    let links = header(response, "Link")?;
    let link = links
        .split(',')
        .find(|link| link.contains("rel=\"next\""))?;
    let target = link.split_once('<')?.1.split_once('>')?.0;
    absolute(target, from)
}

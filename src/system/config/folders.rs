//! The user's folders, and lists in settings.

use std::path::PathBuf;

/// The user's folders, where they exist.
pub struct Folders {
    pub(super) home: Option<PathBuf>,
    pub(super) data: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
    pub(super) runtime: Option<PathBuf>,
}

impl Folders {
    pub(super) fn for_user() -> Self {
        let by_user = || {
            let folder = PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
            folder.is_dir().then_some(folder)
        };
        Folders {
            home: dirs::home_dir(),
            data: dirs::data_dir(),
            cache: dirs::cache_dir(),
            state: dirs::state_dir().or_else(dirs::data_dir),
            config: dirs::config_dir(),
            runtime: dirs::runtime_dir()
                .or_else(by_user)
                .map(|folder| folder.join("puna")),
        }
    }
}

pub fn below(folder: &Option<PathBuf>, path: &str) -> Option<PathBuf> {
    folder.as_ref().map(|folder| folder.join(path))
}

pub fn split_list(text: &str) -> Vec<String> {
    text.split(',')
        .map(|item| item.trim().to_lowercase())
        .filter(|item| !item.is_empty())
        .collect()
}

//! The limits that our control groups set, of version 1 and 2. A limit of a group above ours binds us too, so the
//! tightest on the way up counts.

use std::fs;
use std::path::{Path, PathBuf};

/// Version 1 writes the largest number of pages for "no limit".
const NO_LIMIT: u64 = 1 << 62;

/// Processors that the quotas allow, as time a period; `None`: no quota. `root` is `/` but for tests.
pub fn processors(root: &Path) -> Option<f64> {
    let unified = folders(root, "").into_iter().filter_map(|folder| {
        let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
        let (quota, period) = text.split_once(char::is_whitespace)?;
        share(quota.parse().ok()?, period.trim().parse().ok()?)
    });
    let legacy = folders(root, "cpu").into_iter().filter_map(|folder| {
        let quota: i64 = number(&folder.join("cpu.cfs_quota_us"))?;
        let period: i64 = number(&folder.join("cpu.cfs_period_us"))?;
        share(quota as f64, period as f64)
    });
    unified.chain(legacy).reduce(f64::min)
}

fn share(quota: f64, period: f64) -> Option<f64> {
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

/// The memory limit in bytes; `None`: none.
pub fn memory_max(root: &Path) -> Option<u64> {
    memory(root).map(|(most, _)| most).min()
}

/// The memory that the limits still leave, in bytes; `None`: no limit. File cache can be reclaimed and counts as free.
pub fn memory_free(root: &Path) -> Option<u64> {
    memory(root)
        .map(|(most, used)| most.saturating_sub(used))
        .min()
}

/// Limit and use of each group that has a limit.
fn memory(root: &Path) -> impl Iterator<Item = (u64, u64)> {
    let files = [
        ("", "memory.max", "memory.current", "file "),
        (
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_cache ",
        ),
    ];
    files
        .into_iter()
        .flat_map(move |(controller, most, used, cached)| {
            let folders = folders(root, controller).into_iter();
            folders.filter_map(move |folder| {
                let most = number(&folder.join(most)).filter(|most| *most < NO_LIMIT)?;
                let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
                let cache = stat.lines().find_map(|line| line.strip_prefix(cached));
                let cache: u64 = cache
                    .and_then(|bytes| bytes.trim().parse().ok())
                    .unwrap_or(0);
                let used: u64 = number(&folder.join(used)).unwrap_or(0);
                Some((most, used.saturating_sub(cache)))
            })
        })
}

/// The folders of our group and of those above it: of a controller of version 1, or of version 2 for "". A container sees
/// its own group as the root, whatever its path is outside.
fn folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let path = own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let is_its = controllers.split(',').any(|known| known == controller);
        is_its.then(|| path.trim_start_matches('/').to_string())
    });
    let Some(path) = path else { return Vec::new() };
    let base = root.join("sys/fs/cgroup").join(controller);
    let own = base.join(&path);
    let above = own.ancestors().take_while(|folder| *folder != base);
    above.map(Path::to_path_buf).chain([base.clone()]).collect()
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A folder with these files, for tests.
#[cfg(test)]
pub fn made_root(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let root = std::env::temp_dir().join(format!("puna-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root); // Of a test that failed earlier.
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a path below the root")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_on_the_way_up_counts() {
        let root = made_root(
            "cgroup2",
            &[
                ("proc/self/cgroup", "0::/user.slice/job\n"),
                ("sys/fs/cgroup/user.slice/job/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/user.slice/cpu.max", "350000 100000\n"),
                ("sys/fs/cgroup/user.slice/job/memory.max", "8589934592\n"),
                ("sys/fs/cgroup/user.slice/job/memory.current", "100\n"),
                ("sys/fs/cgroup/user.slice/memory.max", "4000\n"),
                ("sys/fs/cgroup/user.slice/memory.current", "3000\n"),
                (
                    "sys/fs/cgroup/user.slice/memory.stat",
                    "anon 500\nfile 2500\n",
                ),
            ],
        );
        assert_eq!(processors(&root), Some(3.5));
        assert_eq!(memory_max(&root), Some(4000));
        assert_eq!(memory_free(&root), Some(3500));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn version_1_and_containers_are_read() {
        let root = made_root(
            "cgroup1",
            &[
                (
                    "proc/self/cgroup",
                    "4:memory:/outside/1\n2:cpu,cpuacct:/outside/1\n0::/\n",
                ),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n"),
                ("sys/fs/cgroup/memory/memory.stat", "total_cache 200\n"),
            ],
        );
        assert_eq!(processors(&root), Some(1.5));
        assert_eq!(
            (memory_max(&root), memory_free(&root)),
            (Some(1000), Some(300))
        );
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn no_limit_is_none() {
        let root = made_root(
            "cgroup0",
            &[
                ("proc/self/cgroup", "4:memory:/\n2:cpu:/\n0::/\n"),
                ("sys/fs/cgroup/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
                (
                    "sys/fs/cgroup/memory/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
                ("sys/fs/cgroup/memory.max", "max\n"),
            ],
        );
        assert_eq!(processors(&root), None);
        assert_eq!((memory_max(&root), memory_free(&root)), (None, None));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!((processors(&root), memory_free(&root)), (None, None));
    }
}

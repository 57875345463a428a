//! The processors that we may compute with, and those that are worth a thread.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use super::cgroup;

/// A core of less than this share of the fastest one's capacity holds the others up: every operation ends when its last thread
/// does.
const CAPACITY_SHARE_MIN: f64 = 0.5;

/// Logical processors that we may use, within the quotas of our groups.
pub fn logical(root: &Path) -> usize {
    match allowed(root) {
        Some(allowed) => within_quota(root, allowed.len()),
        None => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
    }
}

/// Processors that are useful for computing: one for each physical core that we may use, without the efficiency
/// cores beside faster ones, within the quotas of our groups.
pub fn useful(root: &Path) -> usize {
    let Some(allowed) = allowed(root) else {
        return logical(root);
    };
    let fast = without_slow(root, allowed);
    let siblings = |processor: &usize| {
        let path = format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list");
        fs::read_to_string(root.join(path)).map_or_else(|_| processor.to_string(), trimmed)
    };
    let cores: HashSet<String> = fast.iter().map(siblings).collect();
    within_quota(root, cores.len())
}

fn within_quota(root: &Path, count: usize) -> usize {
    let quota = cgroup::processors(root).unwrap_or(f64::INFINITY);
    // Part of a processor's time would stop a thread of its own in every period.
    count.min(quota as usize).max(1)
}

/// The processors of our affinity mask that are online; `None` where the system does not say.
fn allowed(root: &Path) -> Option<BTreeSet<usize>> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let mask = list(mask);
    let online = fs::read_to_string(root.join("sys/devices/system/cpu/online"));
    let online = online.map_or_else(|_| mask.clone(), |text| list(&text));
    let both: BTreeSet<usize> = mask.intersection(&online).copied().collect();
    (!both.is_empty()).then_some(both)
}

/// Leaves out the efficiency cores, where there are others.
fn without_slow(root: &Path, allowed: BTreeSet<usize>) -> BTreeSet<usize> {
    // Intel's hybrid processors list their fast cores; ARM's name each core's capacity.
    let performance = fs::read_to_string(root.join("sys/devices/cpu_core/cpus"));
    let performance = list(&performance.unwrap_or_default());
    let capacity = |processor: &usize| -> Option<f64> {
        let path = format!("sys/devices/system/cpu/cpu{processor}/cpu_capacity");
        let text = fs::read_to_string(root.join(path)).ok()?;
        text.trim().parse().ok()
    };
    let most = allowed.iter().filter_map(capacity).fold(0.0, f64::max);
    let is_fast = |processor: &usize| {
        let enough = most * CAPACITY_SHARE_MIN;
        let has_capacity = capacity(processor).is_none_or(|capacity| capacity >= enough);
        has_capacity && (performance.is_empty() || performance.contains(processor))
    };
    let fast: BTreeSet<usize> = allowed.iter().copied().filter(is_fast).collect();
    if fast.is_empty() { allowed } else { fast }
}

/// Reads a list such as `0-3,8`.
fn list(text: &str) -> BTreeSet<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
}

fn trimmed(text: String) -> String {
    text.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::machine::cgroup::made_root;

    /// Logical and useful processors of a machine with these files.
    fn counts(name: &str, files: &[(&str, &str)]) -> (usize, usize) {
        let root = made_root(name, files);
        let counts = (logical(&root), useful(&root));
        fs::remove_dir_all(root).unwrap();
        counts
    }

    /// The files of a machine with so many processors, of which each `threads` share a core.
    fn machine(processors: usize, threads: usize) -> Vec<(String, String)> {
        let mut files = vec![(
            "sys/devices/system/cpu/online".to_string(),
            format!("0-{}\n", processors - 1),
        )];
        for processor in 0..processors {
            let first = processor / threads * threads;
            files.push((
                format!("sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"),
                format!("{first}-{}\n", first + threads - 1),
            ));
        }
        files
    }

    fn with<'a>(
        machine: &'a [(String, String)],
        more: &[(&'a str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        let files = machine.iter();
        let files = files.map(|(path, content)| (path.as_str(), content.as_str()));
        files.chain(more.iter().copied()).collect()
    }

    #[test]
    fn hyper_threads_share_a_core() {
        let machine = machine(8, 2);
        let all = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-255\n");
        assert_eq!(counts("threads", &with(&machine, &[all])), (8, 4));
        // Three processors of two cores.
        let mask = ("proc/self/status", "Cpus_allowed_list:\t0-2\n");
        assert_eq!(counts("mask", &with(&machine, &[mask])), (3, 2));
        let one = ("proc/self/status", "Cpus_allowed_list:\t1,5\n");
        assert_eq!(counts("two", &with(&machine, &[one])), (2, 2));
    }

    #[test]
    fn a_quota_of_any_group_above_bounds_both() {
        let machine = machine(16, 2);
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-15\n"),
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/pod/cpu.max", "250000 100000\n"),
        ];
        assert_eq!(counts("quota", &with(&machine, &files)), (2, 2));
        let files = [
            files[0],
            files[1],
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ];
        assert_eq!(counts("half", &with(&machine, &files)), (1, 1));
    }

    #[test]
    fn efficiency_cores_wait_beside_fast_ones() {
        let all = ("proc/self/status", "Cpus_allowed_list:\t0-11\n");
        // Four cores with two threads each, and four efficiency cores.
        let mut hybrid = machine(8, 2);
        hybrid[0].1 = "0-11\n".into();
        let cores = [
            ("sys/devices/cpu_core/cpus", "0-7\n"),
            ("sys/devices/cpu_atom/cpus", "8-11\n"),
        ];
        let files = with(&hybrid, &[all, cores[0], cores[1]]);
        assert_eq!(counts("hybrid", &files), (12, 4));
        let slow = ("proc/self/status", "Cpus_allowed_list:\t8-11\n");
        let files = with(&hybrid, &[slow, cores[0], cores[1]]);
        assert_eq!(counts("slow", &files), (4, 4));

        let big = machine(4, 1);
        let files = [
            ("proc/self/status", "Cpus_allowed_list:\t0-3\n"),
            ("sys/devices/system/cpu/cpu0/cpu_capacity", "420\n"),
            ("sys/devices/system/cpu/cpu1/cpu_capacity", "420\n"),
            ("sys/devices/system/cpu/cpu2/cpu_capacity", "800\n"),
            ("sys/devices/system/cpu/cpu3/cpu_capacity", "1024\n"),
        ];
        assert_eq!(counts("capacity", &with(&big, &files)), (4, 2));
    }

    #[test]
    fn where_nothing_is_known_the_standard_library_answers() {
        let (logical, useful) = counts("empty", &[("proc/none", "")]);
        assert!(logical >= 1 && useful == logical);
    }
}

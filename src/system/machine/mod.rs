//! The machine: cores, free memory, GPUs that a CPU build leaves idle. Values that do not change are
//! read once.

mod cgroup;
mod processors;

use std::fs;
use std::path::Path;
use std::sync::{LazyLock, OnceLock};

/// Where the kernel's files are.
const ROOT: &str = "/";
/// The part of the free memory that puna leaves to others.
const RESERVE_BYTES: u64 = 128 << 20;

/// How many threads are useful for computing: one for each fast physical core that we may use, within the quotas of our
/// control groups.
pub fn cores() -> usize {
    static CORES: LazyLock<usize> = LazyLock::new(|| processors::useful(Path::new(ROOT)));
    *CORES
}

/// Logical processors that we may use, within the quotas of our control groups.
pub fn processors() -> usize {
    static PROCESSORS: LazyLock<usize> = LazyLock::new(|| processors::logical(Path::new(ROOT)));
    *PROCESSORS
}

/// Memory that a load may use, in bytes: what the system has available, at most what our control
/// groups and `ulimit -v` still allow. `u64::MAX` if unknown.
pub fn free_bytes() -> u64 {
    let available = meminfo("MemAvailable:").unwrap_or(u64::MAX);
    let free = available
        .min(cgroup::memory_free(Path::new(ROOT)).unwrap_or(u64::MAX))
        .min(limit_bytes().unwrap_or(u64::MAX));
    if free == u64::MAX {
        free
    } else {
        free.saturating_sub(RESERVE_BYTES)
    }
}

/// Memory of the machine, or of our control groups if they have less, in bytes.
pub fn total_bytes() -> u64 {
    static TOTAL: LazyLock<u64> = LazyLock::new(|| {
        let own = cgroup::memory_max(Path::new(ROOT));
        meminfo("MemTotal:")
            .unwrap_or(8 << 30)
            .min(own.unwrap_or(u64::MAX))
    });
    *TOTAL
}

/// The memory that one process could have, in bytes, if nothing else had any.
pub fn most_bytes() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current;
    total_bytes().min(limit.unwrap_or(u64::MAX))
}

/// Memory of this process that is in RAM, in bytes; 0 if unknown.
pub fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// Anonymous memory of this process that is in RAM, in bytes; 0 if unknown.
pub fn anonymous_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}

/// Names of GPUs whose drivers are installed, whatever this build can use.
pub fn gpus() -> Vec<&'static str> {
    let known = [
        ("/dev/nvidia0", "NVIDIA"),
        ("/dev/kfd", "AMD"),
        ("/dev/dxg", "WSL"),
    ];
    known
        .iter()
        .filter(|(path, _)| Path::new(path).exists())
        .map(|(_, name)| *name)
        .collect()
}

/// The processor's name, as the system reports it.
pub fn processor() -> Option<&'static str> {
    static NAME: LazyLock<Option<String>> =
        LazyLock::new(|| cpuinfo(&["model name", "Model", "Hardware"]));
    NAME.as_deref()
}

/// The processor features that speed llama.cpp up: name, whether the processor has it, and whether this
/// build uses it without a check at run time.
pub fn features() -> Vec<(&'static str, bool, bool)> {
    let flags = cpuinfo(&["flags", "Features"]).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|known| known == flag);
    let known = [
        ("avx2", "avx2", cfg!(target_feature = "avx2")),
        ("avx512f", "avx512f", cfg!(target_feature = "avx512f")),
        (
            "avx512_vnni",
            "avx512_vnni",
            cfg!(target_feature = "avx512vnni"),
        ),
        ("amx_int8", "amx_int8", cfg!(target_feature = "amx-int8")),
        ("asimddp", "dotprod", cfg!(target_feature = "dotprod")),
        ("i8mm", "i8mm", cfg!(target_feature = "i8mm")),
    ];
    let listed = known.map(|(flag, name, used)| (name, has(flag), used));
    listed
        .into_iter()
        .filter(|(_, has, used)| *has || *used)
        .collect()
}

/// True if the processor has a feature of [`features`]. They are looked up once.
pub fn has(feature: &str) -> bool {
    static FEATURES: OnceLock<Vec<&'static str>> = OnceLock::new();
    let known = FEATURES.get_or_init(|| {
        let all = features().into_iter();
        all.filter(|(_, has, _)| *has)
            .map(|(name, _, _)| name)
            .collect()
    });
    known.contains(&feature)
}

/// The first value under one of these keys.
fn cpuinfo(keys: &[&str]) -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find_map(|(key, value)| keys.contains(&key.trim()).then(|| value.trim().to_string()))
}

fn meminfo(key: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1024)
}

fn limit_bytes() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let used =
        statm.split_whitespace().next()?.parse::<u64>().ok()? * rustix::param::page_size() as u64;
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_core_and_some_memory() {
        assert!(cores() >= 1);
        assert!(free_bytes() > 0);
    }
}

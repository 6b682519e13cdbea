//! Available and used memory, as far as the system reports it.

#![expect(clippy::disallowed_methods, reason = "asks the system, not a file of the user")]

use std::{fs, sync::OnceLock};

/// Assumed if the system does not report it: 4 GiB.
const UNKNOWN: u64 = 4 << 30;

/// Bytes that can be allocated without swapping: the least of what the machine
/// has available and what the control group leaves.
pub fn available() -> u64 {
    let machine =
        fs::read_to_string("/proc/meminfo").ok().and_then(|t| kilobytes(&t, "MemAvailable:"));
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .and_then(|most| Some(most.saturating_sub(number("/sys/fs/cgroup/memory.current")?)));
    match (machine, group) {
        (Some(a), Some(b)) => a.min(b),
        (Some(a), None) | (None, Some(a)) => a,
        (None, None) => UNKNOWN,
    }
}

/// The processor's name, where the system tells.
pub fn processor() -> Option<String> {
    let told = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = told.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Share of the free memory that is left to other processes.
const SPARED: u64 = 8;

/// Bytes that a stage may use in addition to what the process held at the first call: what is
/// left of a total of `limit` bytes, or seven eighths of the machine's free memory.
///
/// The allocator keeps freed pages, so memory of earlier stages is reused and does not count
/// against a later one. A stage that leaves more than a few numbers behind has to count them
/// itself.
pub fn budget(limit: Option<u64>) -> u64 {
    static BEFORE: OnceLock<u64> = OnceLock::new();
    let now = held();
    let before = *BEFORE.get_or_init(|| now);
    match limit {
        Some(limit) => limit.saturating_sub(before),
        None => (available() + now.saturating_sub(before)) / SPARED * (SPARED - 1),
    }
}

/// Bytes of physical memory that this process holds, without the pages of mapped
/// files, which go back to the system where it needs them; 0 where it does not tell.
fn held() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "RssAnon:").unwrap_or(0)
}

/// Peak physical memory of this process in bytes, mapped files included.
pub fn peak() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// The value of a line `KEY:  NUMBER kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kilobytes_are_read_from_their_line() {
        let text = "MemTotal:  100 kB\nMemAvailable:   42 kB\n";
        assert_eq!(kilobytes(text, "MemAvailable:"), Some(42 << 10));
        assert_eq!(kilobytes(text, "MemFree:"), None);
        assert_eq!(kilobytes("VmHWM: many kB", "VmHWM:"), None);
    }

    #[test]
    fn there_is_memory() {
        assert!(available() > 0);
    }

    #[test]
    fn what_was_held_before_counts_towards_a_limit_and_what_stages_left_does_not() {
        const LIMIT: u64 = 1 << 40;
        assert_eq!(budget(Some(1)), 0);
        let first = budget(Some(LIMIT));
        assert!(first > 0 && first <= LIMIT);
        let held = vec![1_u8; 64 << 20];
        assert_eq!(budget(Some(LIMIT)), first);
        assert_eq!(held.iter().map(|&b| u64::from(b)).sum::<u64>(), 64 << 20);
        assert!(budget(None) > 0);
    }
}

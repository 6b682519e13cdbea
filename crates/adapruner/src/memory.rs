//! Memory at hand and memory used, where the system tells.

use std::fs;

/// What is assumed where the system does not tell: 4 GiB.
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

/// Of what the machine has free, so much is left to others.
const SPARED: u64 = 8;

/// Bytes that this process may take beside what it holds: what is left of `limit`
/// bytes in all, or seven eighths of what the machine has free.
pub fn budget(limit: Option<u64>) -> u64 {
    match limit {
        Some(limit) => limit.saturating_sub(held()),
        None => available() / SPARED * (SPARED - 1),
    }
}

/// Bytes of physical memory that this process holds, without the pages of mapped
/// files, which go back to the system where it needs them; 0 where it does not tell.
fn held() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kilobytes(&status, "RssAnon:").unwrap_or(0)
}

/// Most bytes of physical memory this process has held at once, mapped files
/// included.
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
    fn what_is_held_counts_towards_a_limit() {
        assert_eq!(budget(Some(1)), 0);
        let limit = 1 << 40;
        let before = budget(Some(limit));
        assert!(before > 0 && before <= limit);
        // A page at a time is written, so that it is really held.
        let held = vec![1_u8; 64 << 20];
        if before < limit {
            assert!(budget(Some(limit)) + (48 << 20) < before);
        }
        assert_eq!(held.iter().map(|&b| u64::from(b)).sum::<u64>(), 64 << 20);
        assert!(budget(None) < available() + (1 << 30));
    }
}

//! What the system tells of this process (Linux; elsewhere nothing).

/// Largest resident set in bytes.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Minor page faults of all threads since the start: pages that were given to the
/// process without being read from a disk.
pub fn minor_faults() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in brackets, may hold anything; faults are the eighth field after it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(7)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_memory_is_a_fault_for_every_page() {
        let Some(before) = minor_faults() else { return };
        let pages = 4096;
        let memory = vec![1_u8; pages * 4096];
        assert_eq!(memory[memory.len() / 2], 1);
        let after = minor_faults().unwrap_or_default();
        // Pages may be larger than 4 KiB.
        assert!(after > before, "{before} faults before, {after} after");
        assert!(peak_memory() > Some(memory.len() as u64));
    }
}

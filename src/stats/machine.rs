//! What machine this is: its processor, caches, cores and memory. The limits of control groups are [`super::cgroup`]'s.
//!
//! Linux says all of it in text files; elsewhere most answers are `None`. The parsers take the files' text, so that they
//! are tested on the texts of machines that are not at hand.

/// The processor's name and its cores, to tell this machine's figures from another's.
pub fn name() -> String {
    format!("{}, {} cores", processor().unwrap_or_else(|| std::env::consts::ARCH.into()), super::cores())
}

/// The processor's name, as the system gives it.
pub fn processor() -> Option<String> {
    cpuinfo("model name")
}

/// The instruction sets that matter to matrix products and that this processor has, fastest first.
pub fn features() -> Vec<&'static str> {
    let names: &[&str] = if cfg!(target_arch = "aarch64") {
        &["i8mm", "asimddp", "sve", "asimd"] // asimddp: NEON's dot product, asimd: NEON
    } else {
        &["amx_int8", "avx512_vnni", "avx512_bf16", "avx512f", "avx_vnni", "avx2", "fma", "f16c", "avx", "sse4_2"]
    };
    let flags = cpuinfo("flags").or_else(|| cpuinfo("Features")).unwrap_or_default();
    names.iter().copied().filter(|name| flags.split_whitespace().any(|flag| flag == *name)).collect()
}

fn cpuinfo(key: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// Processors that are switched on, whoever may use them.
pub fn processors() -> Option<usize> {
    list_len(std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?.trim())
}

/// Processors that the scheduler may put this process on (`taskset`, cpusets).
pub fn affinity() -> Option<String> {
    status("Cpus_allowed_list")
}

/// A line of this process's status, by its name.
pub fn status(name: &str) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// How many processors a list such as `0-3,8` names.
pub fn list_len(list: &str) -> Option<usize> {
    list.split(',').try_fold(0usize, |n, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        n.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// Bytes of the largest cache of the first processor.
pub fn last_level_cache() -> Option<u64> {
    let caches = std::fs::read_dir("/sys/devices/system/cpu/cpu0/cache").ok()?;
    caches.flatten().filter_map(|entry| cache_size(&std::fs::read_to_string(entry.path().join("size")).ok()?)).max()
}

/// A size as the kernel writes it: `32768K`.
fn cache_size(text: &str) -> Option<u64> {
    text.trim().strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

/// All memory of the machine, in bytes.
pub fn total_memory() -> Option<u64> {
    meminfo("MemTotal")
}

/// Memory that can be had without swapping, in bytes, whoever may have it.
pub fn free_memory() -> Option<u64> {
    meminfo("MemAvailable")
}

fn meminfo(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let size = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_and_sizes_of_caches_are_the_kernels() {
        assert_eq!(list_len("0-3,8"), Some(5));
        assert_eq!(list_len("0"), Some(1));
        assert_eq!((list_len(""), list_len("3-1"), list_len("a")), (None, None, None));
        assert_eq!((cache_size("32768K\n"), cache_size("big")), (Some(32 << 20), None));
    }
}

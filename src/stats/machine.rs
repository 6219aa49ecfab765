//! What machine this is: its processor, caches, cores and the limits that the system sets this process.
//!
//! Linux says all of it in text files; elsewhere most answers are `None`. The parsers take the files' text, so that they
//! are tested on the texts of machines that are not at hand.

use std::path::Path;

use serde::Serialize;

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
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// What the control group allows this process.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Quota {
    /// 1 or 2; `None` where there are no control groups.
    pub cgroup: Option<u8>,
    /// Processors' worth of time; `None` is no limit.
    pub cores: Option<f64>,
    /// Bytes; `None` is no limit.
    pub memory: Option<u64>,
}

/// The tightest limits of this process's control group and of those above it.
pub fn quota() -> Quota {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    quota_in(Path::new("/sys/fs/cgroup"), &groups)
}

/// [`quota`] of the hierarchy mounted at `root`. `groups` is /proc/self/cgroup: `0::/path` in version 2, a line a
/// controller in version 1.
fn quota_in(root: &Path, groups: &str) -> Quota {
    let read = |folder: &Path, file: &str| std::fs::read_to_string(folder.join(file)).ok();
    let number = |folder: &Path, file: &str| read(folder, file)?.trim().parse::<i64>().ok();
    let path_of = |controller: &str| {
        let group = groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|c| c == controller).then_some(path)
        });
        group.unwrap_or("/").trim_start_matches('/')
    };
    // From the group up to the root: inside a container the path may name folders that only the host sees.
    let tightest = |mount: &Path, path: &str, limit: &dyn Fn(&Path) -> Option<f64>| {
        let group = mount.join(path);
        let folders = group.ancestors().take_while(|folder| folder.starts_with(mount));
        folders.filter_map(limit).reduce(f64::min)
    };
    if root.join("cgroup.controllers").exists() {
        let cores = tightest(root, path_of(""), &|folder| {
            let text = read(folder, "cpu.max")?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|period| *period > 0.0)?)
        });
        let memory = tightest(root, path_of(""), &|folder| number(folder, "memory.max").map(|n| n as f64));
        return Quota { cgroup: Some(2), cores, memory: memory.map(|n| n as u64) };
    }
    let cpu = ["cpu", "cpu,cpuacct"].map(|name| root.join(name)).into_iter().find(|folder| folder.exists());
    let memory = Some(root.join("memory")).filter(|folder| folder.exists());
    let cgroup = (cpu.is_some() || memory.is_some()).then_some(1);
    let cores = cpu.and_then(|mount| {
        tightest(&mount, path_of("cpu"), &|folder| {
            let quota = number(folder, "cpu.cfs_quota_us").filter(|n| *n > 0)?; // -1: none
            Some(quota as f64 / number(folder, "cpu.cfs_period_us").filter(|n| *n > 0)? as f64)
        })
    });
    let memory = memory.and_then(|mount| {
        tightest(&mount, path_of("memory"), &|folder| {
            // Version 1 writes "none" as the largest multiple of a page.
            number(folder, "memory.limit_in_bytes").filter(|n| *n < 1 << 62).map(|n| n as f64)
        })
    });
    Quota { cgroup, cores, memory: memory.map(|n| n as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A control group hierarchy of these files.
    fn hierarchy(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn version_2_takes_the_tightest_limit_on_the_way_up() {
        let root = hierarchy(&[
            ("cgroup.controllers", "cpu memory"),
            ("user/cpu.max", "150000 100000\n"),
            ("user/memory.max", "max\n"),
            ("user/app/cpu.max", "max 100000\n"),
            ("user/app/memory.max", "1000000\n"),
        ]);
        let expected = Quota { cgroup: Some(2), cores: Some(1.5), memory: Some(1_000_000) };
        assert_eq!(quota_in(root.path(), "0::/user/app\n"), expected);
        // A container sees its own group as the root, whatever the path says.
        let expected = Quota { cgroup: Some(2), cores: None, memory: None };
        assert_eq!(quota_in(root.path(), "0::/not/here\n"), expected);
    }

    #[test]
    fn version_1_has_a_folder_a_controller_and_minus_one_for_no_limit() {
        let groups = "5:cpu,cpuacct:/box\n4:memory:/box\n";
        let root = hierarchy(&[
            ("cpu,cpuacct/box/cpu.cfs_quota_us", "200000"),
            ("cpu,cpuacct/box/cpu.cfs_period_us", "100000"),
            ("memory/box/memory.limit_in_bytes", "2000000"),
        ]);
        let expected = Quota { cgroup: Some(1), cores: Some(2.0), memory: Some(2_000_000) };
        assert_eq!(quota_in(root.path(), groups), expected);
        let root = hierarchy(&[
            ("cpu/cpu.cfs_quota_us", "-1"),
            ("cpu/cpu.cfs_period_us", "100000"),
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
        ]);
        assert_eq!(quota_in(root.path(), groups), Quota { cgroup: Some(1), cores: None, memory: None });
    }

    #[test]
    fn without_control_groups_there_is_no_quota() {
        let root = hierarchy(&[]);
        assert_eq!(quota_in(root.path(), ""), Quota::default());
    }

    #[test]
    fn lists_of_processors_and_sizes_of_caches_are_the_kernels() {
        assert_eq!(list_len("0-3,8"), Some(5));
        assert_eq!(list_len("0"), Some(1));
        assert_eq!((list_len(""), list_len("3-1"), list_len("a")), (None, None, None));
        assert_eq!((cache_size("32768K\n"), cache_size("big")), (Some(32 << 20), None));
    }
}

//! What control groups allow this process: processors' time and memory, in version 1 and 2.
//!
//! A limit may be on the process's own group or on any above it, so both the quota that `doctor` shows and the memory that
//! a model may take go from the group up to the root.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// What the control groups allow this process.
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
    Groups::of_process().quota()
}

/// Bytes that the groups' limits leave this process; `None` is no limit.
pub fn memory_left() -> Option<u64> {
    Groups::of_process().memory_left()
}

/// The folders of a process's groups, each from its own up to the root's.
#[derive(Debug, Default)]
struct Groups {
    version: Option<u8>,
    cpu: Vec<PathBuf>,
    memory: Vec<PathBuf>,
}

impl Groups {
    fn of_process() -> Self {
        let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self::under(Path::new("/sys/fs/cgroup"), &groups)
    }

    /// Those of the hierarchy mounted at `root`. `groups` is /proc/self/cgroup: `0::/path` in version 2, a line a
    /// controller in version 1.
    fn under(root: &Path, groups: &str) -> Self {
        let path_of = |controller: &str| {
            let group = groups.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|c| c == controller).then_some(path)
            });
            group.unwrap_or("/").trim_start_matches('/')
        };
        // Inside a container the path may name folders that only the host sees; those above it are looked at all the same.
        let folders = |mount: &Path, path: &str| -> Vec<PathBuf> {
            let group = mount.join(path);
            group.ancestors().take_while(|folder| folder.starts_with(mount)).map(Path::to_owned).collect()
        };
        if root.join("cgroup.controllers").exists() {
            let all = folders(root, path_of(""));
            return Self { version: Some(2), cpu: all.clone(), memory: all };
        }
        let mount = |names: &[&str]| names.iter().map(|name| root.join(name)).find(|folder| folder.exists());
        let of = |mount: Option<PathBuf>, controller| mount.map_or_else(Vec::new, |m| folders(&m, path_of(controller)));
        let cpu = of(mount(&["cpu", "cpu,cpuacct"]), "cpu");
        let memory = of(mount(&["memory"]), "memory");
        let version = (!cpu.is_empty() || !memory.is_empty()).then_some(1);
        Self { version, cpu, memory }
    }

    fn quota(&self) -> Quota {
        Quota {
            cgroup: self.version,
            cores: self.cpu.iter().filter_map(|folder| cores(folder)).reduce(f64::min),
            memory: self.memory.iter().filter_map(|folder| memory_limit(folder)).min(),
        }
    }

    fn memory_left(&self) -> Option<u64> {
        let left = |folder: &PathBuf| Some(memory_limit(folder)?.saturating_sub(memory_used(folder)?));
        self.memory.iter().filter_map(left).min()
    }
}

fn cores(group: &Path) -> Option<f64> {
    if let Some(text) = read(group, "cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok().filter(|period| *period > 0.0)?);
    }
    let quota = number(group, "cpu.cfs_quota_us").filter(|n| *n > 0)?; // -1: none
    Some(quota as f64 / number(group, "cpu.cfs_period_us").filter(|n| *n > 0)? as f64)
}

fn memory_limit(group: &Path) -> Option<u64> {
    let limit = number(group, "memory.max").or_else(|| {
        // Version 1 writes "none" as the largest multiple of a page.
        number(group, "memory.limit_in_bytes").filter(|n| *n < 1 << 62)
    });
    u64::try_from(limit?).ok()
}

/// Bytes that a group's processes hold. Files that nobody has read lately count as theirs, and go when memory is wanted.
fn memory_used(group: &Path) -> Option<u64> {
    let used = number(group, "memory.current").or_else(|| number(group, "memory.usage_in_bytes"))?;
    let stat = read(group, "memory.stat").unwrap_or_default();
    let field = |name: &str| {
        stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse::<i64>().ok())
    };
    // Version 1 has its own share and, "total", that of all groups below; version 2 the latter alone.
    let cache = field("total_inactive_file").or_else(|| field("inactive_file")).unwrap_or(0);
    u64::try_from(used.saturating_sub(cache)).ok()
}

fn read(group: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(group.join(file)).ok()
}

/// The number that is a file's whole text; version 2 writes "max" for no limit, which is none.
fn number(group: &Path, file: &str) -> Option<i64> {
    read(group, file)?.trim().parse().ok()
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
        assert_eq!(Groups::under(root.path(), "0::/user/app\n").quota(), expected);
        // A container sees its own group as the root, whatever the path says.
        let expected = Quota { cgroup: Some(2), cores: None, memory: None };
        assert_eq!(Groups::under(root.path(), "0::/not/here\n").quota(), expected);
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
        assert_eq!(Groups::under(root.path(), groups).quota(), expected);
        let root = hierarchy(&[
            ("cpu/cpu.cfs_quota_us", "-1"),
            ("cpu/cpu.cfs_period_us", "100000"),
            ("memory/memory.limit_in_bytes", "9223372036854771712"),
        ]);
        let none = Quota { cgroup: Some(1), cores: None, memory: None };
        assert_eq!(Groups::under(root.path(), groups).quota(), none);
        assert_eq!(Groups::under(root.path(), groups).memory_left(), None);
    }

    #[test]
    fn the_memory_left_is_that_of_the_fullest_group_without_files_that_can_go() {
        let v2 = hierarchy(&[
            ("cgroup.controllers", "cpu memory"),
            ("user/memory.max", "5000\n"),
            ("user/memory.current", "4500\n"),
            ("user/memory.stat", "anon 1000\ninactive_file 3000\n"),
            ("user/app/memory.max", "4000\n"),
            ("user/app/memory.current", "100\n"),
        ]);
        let left = |root: &tempfile::TempDir, groups: &str| Groups::under(root.path(), groups).memory_left();
        assert_eq!(left(&v2, "0::/user/app\n"), Some(3500), "the group above leaves less");
        assert_eq!(left(&v2, "0::/user\n"), Some(3500));
        let v1 = hierarchy(&[
            ("memory/box/memory.limit_in_bytes", "5000"),
            ("memory/box/memory.usage_in_bytes", "4500"),
            ("memory/box/memory.stat", "inactive_file 10\ntotal_inactive_file 1000\n"),
            ("memory/box/in/memory.limit_in_bytes", "9223372036854771712"),
            ("memory/box/in/memory.usage_in_bytes", "100"),
        ]);
        assert_eq!(left(&v1, "4:memory:/box/in\n"), Some(1500), "the limit is on the group above");
        assert_eq!(left(&v1, "4:memory:/\n"), None);
    }

    #[test]
    fn without_control_groups_there_is_no_quota() {
        let root = hierarchy(&[]);
        assert_eq!(Groups::under(root.path(), "").quota(), Quota::default());
    }
}

//! How many threads this process has cores for: the processors that it may be put on, the cores that these are of, and the
//! time that control groups grant it there.

use super::cgroup;

/// The cores that this process may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cores {
    /// Processors as the system counts them, after `taskset` and cpusets.
    pub processors: usize,
    /// Cores that those are of: two processors of one core share its arithmetic.
    pub physical: usize,
    /// Processors' worth of time that control groups grant; `None` is no limit.
    pub quota: Option<f64>,
}

impl Cores {
    pub fn of_process() -> Self {
        let quota = cgroup::quota().cores;
        let (processors, physical) = processors().map_or_else(
            || {
                let n = std::thread::available_parallelism().map_or(1, usize::from);
                (n, n)
            },
            |mine| (mine.len(), physical(&mine, siblings)),
        );
        Self { processors, physical, quota }
    }

    /// Threads that compute when nobody says how many: one for each core, as many as the quota feeds.
    pub fn usual(&self) -> usize {
        self.physical.min(self.fed())
    }

    /// Threads that can compute at the same time. More would wait for each other in turns.
    pub fn most(&self) -> usize {
        self.processors.min(self.fed())
    }

    /// Threads that the quota feeds: half a core's time is enough for one, one and a half cores' for two.
    fn fed(&self) -> usize {
        self.quota.map_or(usize::MAX, |cores| cores.ceil().max(1.0) as usize)
    }
}

/// The numbers of the processors that the scheduler may put this process on.
#[cfg(target_os = "linux")]
fn processors() -> Option<Vec<usize>> {
    use nix::sched::{CpuSet, sched_getaffinity};
    let set = sched_getaffinity(nix::unistd::Pid::from_raw(0)).ok()?;
    let mine: Vec<usize> = (0..CpuSet::count()).filter(|n| set.is_set(*n) == Ok(true)).collect();
    (!mine.is_empty()).then_some(mine)
}

#[cfg(not(target_os = "linux"))]
fn processors() -> Option<Vec<usize>> {
    None
}

/// The processors of one core, as the kernel writes them: all that it has write the same.
fn siblings(processor: usize) -> Option<String> {
    std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")).ok()
}

/// How many cores some processors are of; one whose siblings are not known is a core of its own.
fn physical(processors: &[usize], siblings: impl Fn(usize) -> Option<String>) -> usize {
    let mut cores: Vec<String> = processors.iter().map(|n| siblings(*n).unwrap_or_else(|| n.to_string())).collect();
    for core in &mut cores {
        core.truncate(core.trim_end().len());
    }
    cores.sort_unstable();
    cores.dedup();
    cores.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_counts_once_however_many_of_its_processors_are_ours() {
        let two_each = |n: usize| Some(format!("{},{}\n", n % 4, n % 4 + 4)); // 8 processors, 4 cores
        assert_eq!(physical(&[0, 1, 2, 3, 4, 5, 6, 7], two_each), 4);
        assert_eq!(physical(&[0, 4], two_each), 1);
        assert_eq!(physical(&[1, 2, 6], two_each), 2);
        assert_eq!(physical(&[3, 9], |_| None), 2);
    }

    #[test]
    fn a_quota_feeds_whole_threads_and_at_least_one() {
        let of = |quota| Cores { processors: 8, physical: 4, quota };
        for (quota, usual, most) in [
            (None, 4, 8),
            (Some(0.5), 1, 1),
            (Some(1.0), 1, 1),
            (Some(1.5), 2, 2),
            (Some(6.0), 4, 6),
            (Some(0.0), 1, 1),
        ] {
            assert_eq!((of(quota).usual(), of(quota).most()), (usual, most), "{quota:?}");
        }
    }
}

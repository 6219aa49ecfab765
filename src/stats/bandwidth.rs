//! Memory bandwidth as this process can have it: the rate at which its threads read a buffer that no cache holds.
//!
//! Generating a token reads every weight once and computes little with it, so this rate is the limit that a generation's
//! own rate is told against. It is measured, not looked up: a virtual machine's share is on no data sheet. `--bench` and
//! `doctor` measure it anew; what they find is kept in the cache folder for the line after an answer, which never waits.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::machine;
use crate::config::{self, Dirs};
use crate::engine::fit::available_memory;

const MIB: u64 = 1 << 20;
/// Enough that caches of common sizes hold little of it; with larger caches the buffer grows.
const LEAST_BUFFER: u64 = 512 * MIB;
const MOST_BUFFER: u64 = 1024 * MIB;
/// The time for all passes, without the filling of the buffer.
const BUDGET: Duration = Duration::from_millis(500);
const LEAST_PASSES: usize = 3;

/// Bytes a second that `threads` threads together read from memory: the best of several passes. Takes under a second.
pub fn measure(threads: usize) -> f64 {
    let threads = threads.max(1);
    let words = (buffer_bytes(available_memory(), machine::last_level_cache()) / 8) as usize / threads;
    let barrier = Barrier::new(threads + 1);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Filled by the thread that reads it, so that it lies in the memory next to that thread's core.
                let part = vec![1u64; words];
                loop {
                    barrier.wait();
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    black_box(sum(black_box(&part)));
                    barrier.wait();
                }
            });
        }
        let mut best = Duration::MAX;
        let mut begun = None;
        for pass in 0.. {
            let enough = begun.is_some_and(|begun: Instant| begun.elapsed() > BUDGET) && pass >= LEAST_PASSES;
            done.store(enough, Ordering::Relaxed);
            barrier.wait();
            if enough {
                break;
            }
            let start = Instant::now();
            begun.get_or_insert(start);
            barrier.wait();
            best = best.min(start.elapsed());
        }
        (words * threads * 8) as f64 / best.as_secs_f64()
    })
}

/// Four times the last-level cache, within limits, and no more than a quarter of the memory that is left.
fn buffer_bytes(available: Option<u64>, cache: Option<u64>) -> u64 {
    let wanted = cache.map_or(LEAST_BUFFER, |bytes| (4 * bytes).clamp(LEAST_BUFFER, MOST_BUFFER));
    available.map_or(wanted, |left| wanted.min(left / 4)).max(MIB)
}

/// One addition a word: reading is what takes the time. Eight sums, so that none waits for the one before.
fn sum(words: &[u64]) -> u64 {
    let mut sums = [0u64; 8];
    for line in words.as_chunks::<8>().0 {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// What was measured on this machine, by number of threads; the file in the cache folder.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Known {
    /// A cache folder may be shared by machines: another one's figures are not ours.
    machine: String,
    by_threads: Vec<(usize, f64)>,
}

/// The last figure measured with `threads` threads on this machine, in bytes a second.
pub fn known(dirs: &Dirs, threads: usize) -> Option<f64> {
    let known = read(&file(dirs)?, &machine::name());
    known.by_threads.into_iter().find_map(|(n, rate)| (n == threads).then_some(rate))
}

/// Keeps a figure for [`known`]. A cache that cannot be written costs the figure and nothing else.
pub fn remember(dirs: &Dirs, threads: usize, bytes_per_second: f64) {
    let Some(path) = file(dirs) else { return };
    let mut known = read(&path, &machine::name());
    known.by_threads.retain(|(n, _)| *n != threads);
    known.by_threads.push((threads, bytes_per_second));
    let written = serde_json::to_vec(&known).map_err(Into::into).and_then(|bytes| config::keep(&path, &bytes));
    if let Err(e) = written {
        tracing::debug!("the measured bandwidth is not kept: {e}");
    }
}

fn file(dirs: &Dirs) -> Option<PathBuf> {
    Some(dirs.cache().ok()?.join("bandwidth.json"))
}

/// The figures of `machine`; none from a file that is absent, damaged or another machine's.
fn read(file: &Path, machine: &str) -> Known {
    let parsed = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Known>(&bytes).ok());
    let usable = parsed.filter(|known| known.machine == machine);
    usable.unwrap_or_else(|| Known { machine: machine.to_owned(), by_threads: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_outgrows_the_cache_and_leaves_memory_alone() {
        assert_eq!(buffer_bytes(None, None), LEAST_BUFFER);
        assert_eq!(buffer_bytes(None, Some(32 * MIB)), LEAST_BUFFER);
        assert_eq!(buffer_bytes(None, Some(200 * MIB)), 800 * MIB);
        assert_eq!(buffer_bytes(None, Some(1024 * MIB)), MOST_BUFFER);
        assert_eq!(buffer_bytes(Some(100 * MIB), Some(32 * MIB)), 25 * MIB);
    }

    #[test]
    fn measuring_takes_under_two_seconds_and_gives_a_rate_that_memory_has() {
        let start = Instant::now();
        let rate = measure(2);
        // From an old laptop's single channel under load to a server's twelve.
        assert!((2e8..2e12).contains(&rate), "{rate}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }

    #[test]
    fn every_word_is_read() {
        let words: Vec<u64> = (0..1024).collect();
        assert_eq!(sum(&words), 1023 * 1024 / 2);
    }

    #[test]
    fn a_figure_is_kept_by_threads_and_a_damaged_file_is_no_figure() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = Dirs::below(&folder.path().join("new"));
        let file = file(&dirs).unwrap();
        assert_eq!(known(&dirs, 2), None);
        remember(&dirs, 2, 3e10);
        remember(&dirs, 1, 1e10);
        remember(&dirs, 2, 4e10);
        assert_eq!((known(&dirs, 2), known(&dirs, 1), known(&dirs, 4)), (Some(4e10), Some(1e10), None));
        assert_eq!(read(&file, "another machine").by_threads, []);
        std::fs::write(&file, b"{\"machine\":").unwrap();
        assert_eq!(known(&dirs, 2), None);
        remember(&dirs, 2, 5e10);
        assert_eq!(known(&dirs, 2), Some(5e10));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let dirs = Dirs::below(&folder.path().join("file"));
        remember(&dirs, 2, 3e10);
        assert_eq!(known(&dirs, 2), None);
    }
}

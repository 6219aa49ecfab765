//! A few threads that work in step: one job at a time, all threads on it, barriers inside.
//!
//! A phase of a small model takes microseconds, so a waiting thread spins at first. It does so for a short while only:
//! where other programs run, the one that is waited for may need this one's processor. Where there are more threads than
//! processors (or than a quota's worth of them) it surely does, and nobody spins.
#![expect(unsafe_code, reason = "a job's borrow is handed to threads that outlive it")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stats::cores::Cores;

/// How long a thread spins before it sleeps: a few phases' time, so that a step's gaps do not put it to sleep.
const SPIN: Duration = Duration::from_micros(100);
/// Turns between looks at the clock.
const SPINS: u32 = 256;

/// What waiting threads read again and again, on lines (with the neighbour that processors fetch along) of its own.
#[repr(align(128))]
struct Alone<T>(T);

/// A number that threads wait for: it only grows (and wraps).
struct Gate {
    value: Alone<AtomicU32>,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    bell: Condvar,
    /// Whether there are processors for all who wait.
    spins: bool,
}

impl Gate {
    fn new(spins: bool) -> Self {
        let (value, sleepers) = (Alone(AtomicU32::new(0)), AtomicU32::new(0));
        Self { value, sleepers, lock: Mutex::new(()), bell: Condvar::new(), spins }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner) // it guards no data
    }

    /// Sets the next value and wakes whoever sleeps.
    fn open(&self, value: u32) {
        self.value.0.store(value, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            let _guard = self.lock();
            self.bell.notify_all();
        }
    }

    /// Waits until the value is no longer `old`.
    fn wait(&self, old: u32) {
        if self.spins && self.spin(old) {
            return;
        }
        // Whoever opens sees the sleeper, or the sleeper sees the new value: both are sequentially consistent.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.lock();
        while self.value.0.load(Ordering::SeqCst) == old {
            guard = self.bell.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Waits for a short while; whether the value changed.
    fn spin(&self, old: u32) -> bool {
        let turns = || {
            (0..SPINS).any(|_| {
                let is_open = self.value.0.load(Ordering::Acquire) != old;
                if !is_open {
                    std::hint::spin_loop();
                }
                is_open
            })
        };
        if turns() {
            return true;
        }
        let start = Instant::now();
        while start.elapsed() < SPIN {
            if turns() {
                return true;
            }
        }
        false
    }
}

/// Where all threads of a pool meet.
struct Barrier {
    threads: u32,
    arrived: AtomicU32,
    gate: Gate,
}

impl Barrier {
    fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let generation = self.gate.value.0.load(Ordering::Relaxed);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.gate.open(generation.wrapping_add(1));
        } else {
            self.gate.wait(generation);
        }
    }
}

/// What the threads are to do. The borrow is made `'static` for the time of [`Pool::run`].
type Work = &'static (dyn Fn(Thread<'_>) + Sync);

struct Shared {
    barrier: Barrier,
    /// Grows with every job.
    jobs: Gate,
    work: Mutex<Option<Work>>,
    stop: AtomicBool,
}

/// One thread of a job.
#[derive(Clone, Copy)]
pub struct Thread<'a> {
    pub index: usize,
    pub count: usize,
    barrier: &'a Barrier,
}

impl Thread<'_> {
    /// Waits for all threads of the job.
    pub fn meet(&self) {
        self.barrier.wait();
    }

    /// This thread's share of `n` things: neighbours, as even as can be.
    pub fn share(&self, n: usize) -> std::ops::Range<usize> {
        share(n, self.index, self.count)
    }
}

/// Share `index` of `n` things among `count`.
pub fn share(n: usize, index: usize, count: usize) -> std::ops::Range<usize> {
    n * index / count..n * (index + 1) / count
}

/// Threads that live as long as the pool. The caller's thread is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` counts the caller's.
    pub fn new(threads: usize) -> Self {
        Self::with_room_for(threads, Cores::of_process().most())
    }

    /// As many threads where so many can run at the same time.
    fn with_room_for(threads: usize, most: usize) -> Self {
        let (count, spins) = (threads.max(1), threads <= most);
        let barrier = Barrier { threads: count as u32, arrived: AtomicU32::new(0), gate: Gate::new(spins) };
        let shared =
            Arc::new(Shared { barrier, jobs: Gate::new(spins), work: Mutex::new(None), stop: AtomicBool::new(false) });
        let workers = (1..count).map(|index| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.serve(index, count))
        });
        Self { workers: workers.collect(), shared }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `work` on every thread, and returns when all have finished.
    pub fn run(&mut self, work: &(dyn Fn(Thread<'_>) + Sync)) {
        // SAFETY: the borrow ends when this function returns. Before that, all threads pass the barrier behind their
        // last use of it, and `&mut self` keeps a second job from overwriting it.
        let work: Work = unsafe { std::mem::transmute::<&(dyn Fn(Thread<'_>) + Sync), Work>(work) };
        *self.shared.work.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        let next = self.shared.jobs.value.0.load(Ordering::Relaxed).wrapping_add(1);
        self.shared.jobs.open(next);
        self.shared.part(work, 0, self.threads());
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        let next = self.shared.jobs.value.0.load(Ordering::Relaxed).wrapping_add(1);
        self.shared.jobs.open(next);
        for worker in self.workers.drain(..) {
            let _ = worker.join(); // a worker that panicked has ended the process
        }
    }
}

impl Shared {
    /// A worker's life.
    fn serve(&self, index: usize, count: usize) {
        let mut seen = 0;
        loop {
            self.jobs.wait(seen);
            seen = seen.wrapping_add(1);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let work = *self.work.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(work) = work {
                self.part(work, index, count);
            }
        }
    }

    fn part(&self, work: Work, index: usize, count: usize) {
        let alarm = Alarm;
        work(Thread { index, count, barrier: &self.barrier });
        std::mem::forget(alarm);
        self.barrier.wait();
    }
}

/// Ends the process when it is dropped: a thread that panics would leave the others waiting for ever, and its borrow
/// alive.
struct Alarm;

impl Drop for Alarm {
    fn drop(&mut self) {
        tracing::error!("a compute thread failed; this is a bug in taper");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, AtomicUsize};

    #[test]
    fn every_thread_runs_every_job_once_and_nobody_passes_a_barrier_early() {
        for (threads, most) in [(1, 8), (2, 2), (2, 1), (3, 8), (8, 8), (8, 1)] {
            let mut pool = Pool::with_room_for(threads, most);
            for job in 0..200 {
                let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
                pool.run(&|thread: Thread<'_>| {
                    for round in 1..=3 {
                        before.fetch_add(1, Ordering::SeqCst);
                        thread.meet();
                        assert_eq!(before.load(Ordering::SeqCst), round * threads, "job {job}");
                        thread.meet();
                    }
                    after.fetch_add(thread.index + 1, Ordering::SeqCst);
                });
                assert_eq!(after.into_inner(), threads * (threads + 1) / 2);
            }
        }
    }

    #[test]
    fn threads_that_fell_asleep_wake_for_the_next_job() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(SPIN * 20);
            let ran = AtomicUsize::new(0);
            pool.run(&|thread: Thread<'_>| {
                if thread.index == 0 {
                    std::thread::sleep(SPIN * 20); // the others sleep at the barrier
                }
                thread.meet();
                ran.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(ran.into_inner(), 3);
        }
    }

    /// How long a thread waits at a barrier before it sleeps: the shortest of some tries.
    fn time_awake(most: usize) -> Duration {
        let mut pool = Pool::with_room_for(2, most);
        let shared = Arc::clone(&pool.shared);
        let start = Instant::now();
        let nanoseconds = || start.elapsed().as_nanos() as u64;
        let awake = (0..20).map(|_| {
            let (arrived, asleep) = (AtomicU64::new(0), AtomicU64::new(0));
            pool.run(&|thread: Thread<'_>| {
                if thread.index == 1 {
                    arrived.store(nanoseconds(), Ordering::SeqCst);
                } else {
                    while arrived.load(Ordering::SeqCst) == 0
                        || shared.barrier.gate.sleepers.load(Ordering::SeqCst) == 0
                    {
                        std::thread::yield_now();
                    }
                    asleep.store(nanoseconds(), Ordering::SeqCst);
                }
                thread.meet();
            });
            asleep.into_inner() - arrived.into_inner()
        });
        Duration::from_nanos(awake.min().unwrap())
    }

    #[test]
    fn who_waits_spins_for_a_while_only_where_all_threads_have_a_processor() {
        assert!(time_awake(2) >= SPIN);
        let alone = time_awake(1);
        assert!(alone < SPIN / 2, "{alone:?}");
    }

    #[test]
    fn shares_cover_everything_once() {
        for (n, count) in [(0, 3), (1, 3), (7, 3), (36, 2)] {
            let all: Vec<usize> = (0..count).flat_map(|i| share(n, i, count)).collect();
            assert_eq!(all, (0..n).collect::<Vec<_>>());
        }
    }
}

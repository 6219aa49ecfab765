//! Memory for weights, pages and activations: taken once, zeroed by the system, in huge pages where it has them.
#![expect(unsafe_code, reason = "parts of a region are written by several threads")]

use memmap2::MmapMut;

use crate::engine::fit::human_bytes;
use crate::error::{Error, Result};

/// Huge pages are this large on x86-64 and most Arm systems.
const HUGE: usize = 2 << 20;
/// Every part begins on a cache line.
const LINE: usize = 64;

/// Bytes that are handed out in parts, and live as long as this does.
pub struct Region {
    map: MmapMut,
    used: usize,
    len: usize,
}

impl Region {
    /// # Errors
    /// When the system has not so much memory.
    pub fn new(len: usize) -> Result<Self> {
        let map = MmapMut::map_anon(len + HUGE).map_err(|e| {
            Error::memory(format!("the system gives no {} of memory: {e}", human_bytes(len as u64))).caused_by(e)
        })?;
        let used = map.as_ptr().align_offset(HUGE);
        // Not the rest behind the last whole one: it would fill up another, which nobody planned.
        #[cfg(target_os = "linux")]
        if let Err(e) = map.advise_range(memmap2::Advice::HugePage, used, len / HUGE * HUGE) {
            tracing::debug!("no huge pages: {e}");
        }
        Ok(Self { map, used, len: used + len })
    }

    /// The next `count` numbers, all zero.
    ///
    /// # Errors
    /// When the region was planned too small.
    pub fn take<T: Number>(&mut self, count: usize) -> Result<Part<T>> {
        let bytes = (count * size_of::<T>()).next_multiple_of(LINE);
        if bytes > self.len - self.used {
            return Err(Error::runtime(format!("the memory plan is {} bytes short", bytes - (self.len - self.used))));
        }
        // SAFETY: inside the mapping, as was just checked.
        let first = unsafe { self.map.as_mut_ptr().add(self.used) };
        self.used += bytes;
        Ok(Part { first: first.cast(), count })
    }
}

/// An empty vector with room for `count`, in huge pages where the system has them: for what is read here and there.
#[cfg(feature = "memory")]
pub fn reserved<T>(count: usize) -> Vec<T> {
    let room: Vec<T> = Vec::with_capacity(count);
    #[cfg(target_os = "linux")]
    {
        use nix::sys::mman::{MmapAdvise, madvise};
        let first = room.as_ptr().cast::<u8>();
        let skipped = first.align_offset(HUGE);
        let whole = (room.capacity() * size_of::<T>()).saturating_sub(skipped) / HUGE * HUGE;
        if whole > 0
            && let Some(begin) = std::ptr::NonNull::new(first.wrapping_add(skipped).cast_mut())
            // SAFETY: whole pages of the vector's own; the advice changes nothing of what is in them.
            && let Err(e) = unsafe { madvise(begin.cast(), whole, MmapAdvise::MADV_HUGEPAGE) }
        {
            tracing::debug!("no huge pages: {e}");
        }
    }
    room
}

/// Bytes that a part takes of a region.
pub fn part_bytes<T: Number>(count: usize) -> usize {
    (count * size_of::<T>()).next_multiple_of(LINE)
}

/// Numbers for which all bits, and no bits, are valid.
pub trait Number: Copy {}
impl Number for u8 {}
impl Number for f32 {}

/// Numbers of a region that several threads read, and write in disjoint places between barriers. A bare pointer: who
/// uses it sees to that, and keeps the region alive.
#[derive(Debug)]
pub struct Part<T> {
    first: *mut T,
    count: usize,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

// SAFETY: the pointer may be sent; dereferencing it is unsafe, and that is where the rules are kept.
unsafe impl<T> Send for Part<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Part<T> {}

impl<T> Part<T> {
    /// The place of number `i`.
    ///
    /// # Panics
    /// When it lies outside, in builds with debug assertions.
    pub fn at(&self, i: usize) -> *mut T {
        debug_assert!(i <= self.count, "{i} of {}", self.count);
        self.first.wrapping_add(i)
    }

    /// What begins at number `i`.
    pub fn from(&self, i: usize) -> Self {
        Self { first: self.at(i), count: self.count - i }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    /// Numbers `i..i + n`.
    ///
    /// # Safety
    /// The region lives, and no thread writes them meanwhile.
    pub unsafe fn slice<'a>(&self, i: usize, n: usize) -> &'a [T] {
        assert!(i + n <= self.count);
        // SAFETY: inside the part; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.first.add(i), n) }
    }

    /// Numbers `i..i + n`, to write.
    ///
    /// # Safety
    /// The region lives, and nobody else uses them meanwhile.
    pub unsafe fn slice_mut<'a>(&self, i: usize, n: usize) -> &'a mut [T] {
        assert!(i + n <= self.count);
        // SAFETY: inside the part; the rest is the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i), n) }
    }
}

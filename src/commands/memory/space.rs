//! Gives back the space that removed records leave.

use crate::memory::store::Store;
use crate::terminal::progress::megabytes;

/// Less than this part of the file is left for records to come.
const PART: u64 = 4;
/// And less than so many bytes.
const LEAST: u64 = 1 << 20;

/// Shrinks the file where enough of it is empty. Nothing is lost where that cannot be, so it is only told of.
pub(super) fn give_back(store: &mut Store, say: impl FnOnce(String)) {
    let bytes = |store: &Store| std::fs::metadata(store.path()).map_or(0, |found| found.len());
    let before = bytes(store);
    if store.slack().map_or(true, |slack| slack < LEAST || slack < before / PART) {
        return;
    }
    match store.shrink() {
        Ok(()) => say(format!("the file is {} smaller", megabytes(before.saturating_sub(bytes(store))))),
        Err(e) => say(format!("the file keeps its size: {}", e.what())),
    }
}

//! Vectors of texts that came before, within a budget of bytes; the one used longest ago gives way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub(super) struct Cache {
    budget: usize,
    bytes: usize,
    /// Counts uses.
    clock: u64,
    by_text: HashMap<Arc<str>, (u64, Arc<[f32]>)>,
    /// Texts by their last use.
    by_use: BTreeMap<u64, Arc<str>>,
}

impl Cache {
    pub fn new(budget: usize) -> Self {
        Self { budget, bytes: 0, clock: 0, by_text: HashMap::new(), by_use: BTreeMap::new() }
    }

    pub fn get(&mut self, text: &str) -> Option<Arc<[f32]>> {
        let (used, vector) = self.by_text.get_mut(text)?;
        if let Some(text) = self.by_use.remove(used) {
            self.clock += 1;
            *used = self.clock;
            self.by_use.insert(self.clock, text);
        }
        Some(vector.clone())
    }

    pub fn put(&mut self, text: &str, vector: &Arc<[f32]>) {
        let size = size(text, vector);
        if size > self.budget || self.by_text.contains_key(text) {
            return;
        }
        while self.bytes + size > self.budget {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            if let Some((_, gone)) = self.by_text.remove(&oldest) {
                self.bytes -= self::size(&oldest, &gone);
            }
        }
        let text: Arc<str> = text.into();
        self.clock += 1;
        self.bytes += size;
        self.by_use.insert(self.clock, text.clone());
        self.by_text.insert(text, (self.clock, vector.clone()));
    }
}

/// Bytes of an entry; those of the maps around it are about as many as a short text.
fn size(text: &str, vector: &[f32]) -> usize {
    text.len() + size_of_val(vector) + 128
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_used_longest_ago_gives_way_and_the_budget_holds() {
        let vector: Arc<[f32]> = vec![1.0; 32].into();
        let mut cache = Cache::new(3 * size("a", &vector));
        for text in ["a", "b", "c"] {
            cache.put(text, &vector);
        }
        assert!(cache.get("a").is_some());
        cache.put("d", &vector);
        assert!(cache.get("b").is_none() && cache.get("a").is_some() && cache.get("d").is_some());
        assert_eq!(cache.bytes, 3 * size("a", &vector));
        cache.put(&"x".repeat(10_000), &vector);
        assert_eq!(cache.by_text.len(), 3, "what is larger than the budget is not kept");
    }
}

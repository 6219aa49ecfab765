//! Which record a row belongs to.

/// Identities by row, ascending, as runs of consecutive ones: a memory from which little was removed has few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The first identity of each run.
    pub(super) firsts: Vec<i64>,
    /// The row of each of those.
    pub(super) rows: Vec<u32>,
    pub(super) len: u32,
}

impl Ids {
    /// Appends a row. `id` is above all before it.
    pub fn push(&mut self, id: i64) {
        if self.last().is_none_or(|last| id != last + 1) {
            self.firsts.push(id);
            self.rows.push(self.len);
        }
        self.len += 1;
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn last(&self) -> Option<i64> {
        let (first, row) = (self.firsts.last()?, self.rows.last()?);
        Some(first + i64::from(self.len - row - 1))
    }

    /// The identity of a row that is there.
    pub fn get(&self, row: usize) -> i64 {
        let run = self.rows.partition_point(|first| *first as usize <= row) - 1;
        self.firsts[run] + (row as i64 - i64::from(self.rows[run]))
    }
}

impl FromIterator<i64> for Ids {
    fn from_iter<T: IntoIterator<Item = i64>>(ids: T) -> Self {
        let mut all = Self::default();
        ids.into_iter().for_each(|id| all.push(id));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_identities_and_neighbours_share_a_run() {
        let given = [1, 2, 3, 7, 8, 20];
        let ids: Ids = given.into_iter().collect();
        assert_eq!((0..ids.len()).map(|row| ids.get(row)).collect::<Vec<_>>(), given);
        assert_eq!((ids.firsts.len(), ids.last()), (3, Some(20)));
        assert_eq!((Ids::default().last(), Ids::default().is_empty()), (None, true));
    }
}

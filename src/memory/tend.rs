//! Keeps the index file in step with the memory.
//!
//! What was added since it was built is searched exactly, so it need not be built anew for every record: only when that
//! would begin to show. What was removed is never found, and goes out of it soon: until then its vector is in the file.

use std::collections::HashSet;
use std::path::Path;

use super::ids::Ids;
use super::index::choose::{EXACT, needs_none};
use super::index::{Index, Target, build};
use super::store::{IndexNote, Store};
use super::view::Stored;
use crate::error::{Error, Result};

/// It is built anew when what it does not have, or what it has too much, is more than this part of it.
const SHARE: usize = 8;

/// When to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Never,
    /// When the file lags behind so far that searches are slow.
    IfOutgrown,
    Always,
}

/// What became of the index.
#[derive(Debug, Clone, PartialEq)]
pub enum Tended {
    /// It is good as it is.
    Nothing,
    /// What was removed from the memory was taken out of it.
    Forgot,
    /// Its file could not be read: there is none now.
    Lost,
    /// It was built, and is this.
    Built(String),
    /// All of so many records are compared, as fast or as was asked for: there is none now.
    Needless(usize),
}

/// Brings the index up to date, on so many threads. `building` hears before one is built, which takes time, of how many records.
///
/// # Errors
/// When the memory cannot be read or written, or FAISS has no memory.
pub fn tend(store: &mut Store, when: Build, threads: usize, building: &mut dyn FnMut(usize)) -> Result<Tended> {
    let Some(model) = store.model()?.filter(|_| store.is_writable()) else { return Ok(Tended::Nothing) };
    let (removals, note) = (store.removals()?, store.index()?);
    let in_step = note.as_ref().is_none_or(|note| note.removals == removals);
    if when == Build::Never && in_step {
        return Ok(Tended::Nothing); // without a look at all identities
    }
    let ids = store.ids()?;
    let wanted = store.wanted()?;
    let target = Target { recall: wanted.recall as f32, memory: wanted.memory, threads, queries: Vec::new() };
    let needless = needs_none(model.dim, ids.len(), &target);
    let due = match (when, &note) {
        (Build::Always, _) => true,
        (Build::Never, _) => false,
        (Build::IfOutgrown, None) => !needless,
        (Build::IfOutgrown, Some(note)) => is_outgrown(note, &ids, model.dim),
    };
    if due && needless {
        return store.drop_index().map(|()| Tended::Needless(ids.len()));
    }
    if due {
        has_place(&store.index_path())?;
        building(ids.len());
        return rebuild(store, &ids.into_iter().collect(), model.dim, removals, &target);
    }
    let Some(note) = note.as_ref().filter(|_| !in_step) else { return Ok(Tended::Nothing) };
    // A file that cannot be read is not the memory's index any more, and nobody reads it.
    let Ok(mut index) = open(store, note, model.dim) else { return store.drop_index().map(|()| Tended::Lost) };
    let there: HashSet<i64> = ids.into_iter().collect();
    let gone: Vec<u32> =
        (0..index.len() as u32).filter(|row| !there.contains(&index.ids().get(*row as usize))).collect();
    index.forget(&gone)?;
    let note = note.clone();
    store.put_index(|path| Ok(IndexNote { sha256: index.save(path)?, removals, ..note }))?;
    Ok(Tended::Forgot)
}

/// # Errors
/// As [`Index::open`].
pub(super) fn open(store: &Store, note: &IndexNote, dim: usize) -> Result<Index> {
    Index::open(&store.index_path(), &note.sha256, note.count, dim)
}

/// How many of the memory's records, whose identities ascend, the index has.
pub(super) fn live(note: &IndexNote, ids: &[i64]) -> usize {
    ids.partition_point(|id| *id <= note.last)
}

fn is_outgrown(note: &IndexNote, ids: &[i64], dim: usize) -> bool {
    let kept = live(note, ids);
    let differs = (ids.len() - kept) + note.count.saturating_sub(kept);
    differs > (note.count / SHARE).max(EXACT / dim)
}

fn rebuild(store: &mut Store, ids: &Ids, dim: usize, removals: i64, target: &Target) -> Result<Tended> {
    let index = build(&Stored::new(store, dim, ids)?, target)?;
    let (count, last) = (ids.len(), ids.last().unwrap_or(0));
    store.put_index(|path| Ok(IndexNote { sha256: index.save(path)?, count, last, removals }))?;
    Ok(Tended::Built(index.describe()))
}

/// Looks before an index is built, which takes minutes, whether it could be written.
fn has_place(path: &Path) -> Result<()> {
    if !is_taken(path) {
        return Ok(());
    }
    Err(Error::runtime("what is in the place of the memory's index is no file")
        .in_file(path)
        .help(format!("remove it, then: taper memory rebuild {}", name_of(path))))
}

/// The memory whose file, or whose index, is at a path.
pub fn name_of(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether what is at a path can be no index: a folder, or a FIFO.
pub fn is_taken(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| !found.is_file())
}

#[cfg(test)]
mod tests {
    use super::super::index::tests::{Made, made};
    use super::super::store::{Access, Model, Passage};
    use super::super::vectors::Vectors;
    use super::super::view::View;
    use super::*;

    const DIM: usize = 512;

    /// Keeps the vectors from row `from` on; their records are numbered from 1.
    fn add(store: &mut Store, vectors: &Made, from: usize) {
        let count = vectors.len() - from;
        let mut source = store.begin(&format!("from {from}"), b"1", count).unwrap();
        let rows = vectors.numbers[from * DIM..].chunks(DIM);
        let passages: Vec<Passage> =
            rows.enumerate().map(|(n, vector)| Passage { begins: n, ends: n + 1, text: "x", vector }).collect();
        store.append(&mut source, &passages).unwrap();
    }

    fn nearest(view: &mut View, store: &Store, query: &[f32]) -> Vec<i64> {
        view.refresh(store).unwrap();
        let hits = view.nearest(store, query, 5).unwrap();
        hits.iter().map(|hit| view.id(hit.row as usize)).collect()
    }

    fn tended(store: &mut Store, when: Build) -> Tended {
        tend(store, when, 1, &mut |_| ()).unwrap()
    }

    #[test]
    fn an_index_comes_when_it_is_due_and_follows_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("m.sqlite"), Access::Create).unwrap();
        let mut probe = vec![0.0; DIM];
        probe[0] = 1.0;
        store.set_model(&Model { name: "made".into(), dim: DIM, probe }).unwrap();
        let all = made(1400, DIM, 40, 3);
        let part = |count: usize| Made { dim: DIM, numbers: all.numbers[..count * DIM].to_vec() };
        let query = |row: usize| &all.numbers[row * DIM..][..DIM];

        add(&mut store, &part(1000), 0);
        assert_eq!(tended(&mut store, Build::IfOutgrown), Tended::Nothing, "few records are compared faster without");
        add(&mut store, &part(1100), 1000);
        assert_eq!(tended(&mut store, Build::Never), Tended::Nothing);
        let Tended::Built(what) = tended(&mut store, Build::IfOutgrown) else { panic!("no index of 1,100 records") };
        assert!(what.starts_with("1100 vectors: all scanned as int8"), "{what}");
        assert_eq!(tended(&mut store, Build::IfOutgrown), Tended::Nothing);

        let mut view = View::new(DIM);
        assert!(nearest(&mut view, &store, query(7)).starts_with(&[8]) && view.describe().is_some());
        add(&mut store, &part(1200), 1100);
        assert_eq!(tended(&mut store, Build::IfOutgrown), Tended::Nothing, "what is newer is searched all the same");
        for row in [3, 1099, 1100, 1199] {
            assert_eq!(nearest(&mut view, &store, query(row))[0], row as i64 + 1);
        }

        let before = nearest(&mut view, &store, query(7));
        store.remove(&[8]).unwrap();
        assert_eq!(
            nearest(&mut view, &store, query(7))[..4],
            before[1..],
            "what is gone is not found, and nothing else is"
        );
        let bytes = |store: &Store| std::fs::read(store.index_path()).unwrap();
        let whole = bytes(&store);
        assert_eq!(tended(&mut store, Build::Never), Tended::Forgot);
        assert_eq!(
            bytes(&store).iter().zip(&whole).filter(|(a, b)| a != b).count() / 400,
            1,
            "one vector became zeros"
        );
        assert_eq!(nearest(&mut view, &store, query(7))[..4], before[1..]);
        assert!(view.describe().is_some(), "the file that was written anew is read");
        assert_eq!(tended(&mut store, Build::Never), Tended::Nothing);

        add(&mut store, &all, 1200);
        let Tended::Built(what) = tended(&mut store, Build::Always) else { panic!() };
        assert!(what.starts_with("1399 vectors"), "{what}");
    }

    #[test]
    fn a_file_that_is_not_the_one_noted_is_not_read_and_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("m.sqlite"), Access::Create).unwrap();
        let all = made(1100, DIM, 40, 3);
        store.set_model(&Model { name: "made".into(), dim: DIM, probe: all.numbers[..DIM].to_vec() }).unwrap();
        add(&mut store, &all, 0);
        tended(&mut store, Build::Always);
        let mut bytes = std::fs::read(store.index_path()).unwrap();
        bytes[100_000] ^= 1;
        for damage in [Some(bytes), None] {
            match damage {
                Some(bytes) => std::fs::write(store.index_path(), bytes).unwrap(),
                None => std::fs::remove_file(store.index_path()).unwrap(),
            }
            let mut view = View::new(DIM);
            assert_eq!(nearest(&mut view, &store, &all.numbers[..DIM])[0], 1);
            assert!(view.lacks_index() && view.describe().is_none());
            tended(&mut store, Build::Always);
            assert_eq!(nearest(&mut view, &store, &all.numbers[..DIM])[0], 1);
            assert!(!view.lacks_index() && view.describe().is_some());
        }
    }

    #[test]
    fn it_is_outgrown_when_an_eighth_or_a_thousand_records_differ() {
        let note = IndexNote { sha256: String::new(), count: 80_000, last: 80_000, removals: 0 };
        let grown = |ids: Vec<i64>| is_outgrown(&note, &ids, DIM);
        assert!(!grown((1..=90_000).collect()) && grown((1..=90_001).collect()));
        assert!(!grown((10_001..=80_000).collect()) && grown((10_002..=80_000).collect()));
        let small = IndexNote { count: 1100, last: 1100, ..note.clone() };
        assert!(!is_outgrown(&small, &(1..=2124).collect::<Vec<_>>(), DIM));
        assert!(is_outgrown(&small, &(1..=2125).collect::<Vec<_>>(), DIM));
    }
}

//! Graphs in files.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::memory::index::layout::{Form, Plan};
use crate::memory::index::tests::{Made, made};
use crate::memory::index::{Effort, Index, exact};
use crate::memory::vectors::Vectors;

const DIM: usize = 72;
const EFFORT: Effort = Effort { reach: 40, rerank: 25 };

/// An index of vectors in a file of a folder, with its SHA-256.
fn saved(vectors: &Made, path: &std::path::Path) -> String {
    Index::with(vectors, Plan::Disk, EFFORT, 2).unwrap().save(path).unwrap()
}

/// The share of the ten best of those left that are found from every 31st of them.
fn recall(index: &Index, vectors: &Made, gone: &[u32]) -> f32 {
    let (mut found, mut all) = (0, 0);
    for row in (0..vectors.len() as u32).filter(|row| !gone.contains(row)).step_by(31) {
        let query = &vectors.numbers[row as usize * DIM..][..DIM];
        let truth = exact(vectors, query, 10 + gone.len()).unwrap();
        let truth: Vec<&Hit> = truth.iter().filter(|hit| !gone.contains(&hit.row)).take(10).collect();
        let hits = index.search(vectors, query, 10).unwrap();
        assert!(!hits.iter().any(|hit| gone.contains(&hit.row)), "{row}: {hits:?}");
        found += truth.iter().filter(|hit| hits.contains(hit)).count();
        all += truth.len();
    }
    found as f32 / all as f32
}

#[test]
fn what_is_forgotten_leaves_the_file_and_the_others_are_found_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let vectors = made(3000, DIM, 12, 4);
    let hash = saved(&vectors, &path);
    let mut index = Index::open(&path, &hash, 3000, DIM).unwrap();
    // A third of one cluster, and every tenth of all others.
    let gone: Vec<u32> = (0..3000).filter(|row| row % 36 == 5 || row % 10 == 3).collect();
    index.forget(&gone).unwrap();
    let forgot = recall(&index, &vectors, &gone);
    assert!(forgot > 0.97, "{forgot}");
    // Twice, for it is read from the file that it replaces.
    let hash = index.save(&path).unwrap();
    let mut index = Index::open(&path, &hash, 3000, DIM).unwrap();
    assert_eq!(recall(&index, &vectors, &gone), forgot);
    let all: Vec<u32> = (0..3000).filter(|row| row % 3 == 0 || gone.contains(row)).collect();
    index.forget(&all).unwrap();
    let hash = index.save(&path).unwrap();
    let index = Index::open(&path, &hash, 3000, DIM).unwrap();
    assert!(recall(&index, &vectors, &all) > 0.97, "{}", recall(&index, &vectors, &all));

    let Some(Form::Disk(disk)) = index.layout.as_ref().map(|layout| &layout.form) else { panic!() };
    let rows = &index.layout.as_ref().unwrap().lists.rows;
    let mut node = Node::default();
    for (position, row) in rows.iter().enumerate() {
        disk.nodes.read(position as u32, &mut node).unwrap();
        let left = !all.contains(row);
        assert_eq!(left, node.bytes.iter().any(|byte| *byte != 0), "the bytes of {row}");
        assert_eq!(left, !node.edges.is_empty(), "the edges of {row}");
        assert!(!node.edges.iter().any(|to| all.contains(&rows[*to as usize])), "an edge of {row} to what is gone");
    }
}

#[test]
fn where_all_pivots_are_forgotten_what_is_left_is_found() {
    let vectors = made(3000, DIM, 12, 5);
    let mut index = Index::with(&vectors, Plan::Disk, EFFORT, 1).unwrap();
    let mut gone = index.layout.as_ref().unwrap().lists.rows[..pivots(3000)].to_vec();
    gone.sort_unstable();
    index.forget(&gone).unwrap();
    assert!(recall(&index, &vectors, &gone) > 0.97);
}

#[test]
fn a_file_that_changes_while_it_is_open_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let vectors = made(3000, DIM, 12, 6);
    let hash = saved(&vectors, &path);
    let mut index = Index::open(&path, &hash, 3000, DIM).unwrap();
    let query = &vectors.numbers[..DIM];
    let len = std::fs::metadata(&path).unwrap().len() as usize;
    let file = File::options().write(true).open(&path).unwrap();
    for byte in [0x77, 0xFF] {
        file.write_all_at(&vec![byte; len], 0).unwrap();
        let hits = index.search(&vectors, query, 10).unwrap();
        assert!(hits.iter().all(|hit| hit.row < 3000), "edges that lead nowhere: {hits:?}");
    }
    file.set_len(1000).unwrap();
    let message = "the memory's index cannot be read: failed to fill whole buffer";
    for error in [index.search(&vectors, query, 10).unwrap_err(), index.forget(&[7]).unwrap_err()] {
        assert!(error.to_string().contains(message), "{error}");
        assert!(error.to_string().contains("taper memory rebuild NAME"), "{error}");
    }
}

#[test]
fn pieces_that_are_no_whole_number_are_none() {
    let file = || tempfile::tempfile().unwrap();
    let size = Node::size(128);
    assert_eq!(Nodes::in_file(file(), 0, 3 * size, DIM).map(|nodes| (nodes.len(), nodes.size())), Some((3, 3 * size)));
    assert!(Nodes::in_file(file(), 0, 3 * size + 1, DIM).is_none());
}

//! Graphs over made vectors.

use super::*;
use crate::backend::cpu::Isa;
use crate::memory::index::tests::{made, near_copies};

const DIM: usize = 72;

fn bytes(numbers: &[f32]) -> Int8 {
    let mut int8 = Int8::new(DIM, numbers.len() / DIM);
    for (row, vector) in numbers.chunks(DIM).enumerate() {
        int8.set(row, vector);
    }
    int8
}

fn scans() -> Scans {
    Scans::of_processor().unwrap()
}

/// The share of the ten best by bytes that a walk finds from every 37th vector.
fn recall(graph: &Graph, int8: &Int8, beam: usize) -> f64 {
    let (mut found, mut all) = (0, 0);
    for row in (0..int8.scales.len() as u32).step_by(37) {
        let query = int8.query(row);
        let mut truth = crate::memory::index::search::scan_bytes(int8, scans(), &query, 10);
        truth.sort_unstable_by(Hit::order);
        let hits = graph.search(int8, scans(), &query, beam);
        assert!(hits.is_sorted_by(|a, b| a.order(b).is_lt()), "each once, best first");
        found += truth.iter().filter(|t| hits.iter().any(|hit| hit.score >= t.score && hit.row == t.row)).count();
        all += truth.len();
    }
    f64::from(found as u32) / f64::from(all as u32)
}

#[test]
fn clusters_that_are_far_from_each_other_are_all_found() {
    let int8 = bytes(&made(5000, DIM, 12, 1).numbers);
    let graph = Graph::build(&int8, scans(), 1);
    assert!(recall(&graph, &int8, 30) > 0.97, "{}", recall(&graph, &int8, 30));
}

#[test]
fn the_graph_depends_neither_on_threads_nor_on_the_processor() {
    let int8 = bytes(&made(3000, DIM, 200, 2).numbers);
    let graph = Graph::build(&int8, scans(), 1);
    for threads in [2, 3, 7] {
        assert_eq!(Graph::build(&int8, scans(), threads), graph);
    }
    assert_eq!(Graph::build(&int8, Scans::of(Isa::Scalar), 2), graph);
}

#[test]
fn of_many_equal_vectors_as_many_are_found_as_are_asked_for() {
    let mut numbers = made(3000, DIM, 200, 3).numbers;
    let (first, others) = numbers.split_at_mut(DIM);
    for vector in others.chunks_mut(DIM).step_by(10) {
        vector.copy_from_slice(first);
    }
    let int8 = bytes(&numbers);
    let graph = Graph::build(&int8, scans(), 1);
    let hits = graph.search(&int8, scans(), &int8.query(0), 100);
    let best = hits[0].score;
    assert!(hits.iter().filter(|hit| hit.score == best).count() >= 95, "{hits:?}");
}

#[test]
fn what_is_forgotten_leaves_no_edge_and_the_others_are_found_as_before() {
    let mut int8 = bytes(&made(4000, DIM, 12, 4).numbers);
    let mut graph = Graph::build(&int8, scans(), 1);
    // Some pivots, a third of one cluster, and every tenth of all others.
    let gone: Vec<u32> = (0..4000).filter(|row| *row < 20 || row % 36 == 5 || row % 10 == 3).collect();
    graph.forget(&int8, scans(), &gone);
    for row in &gone {
        int8.set(*row as usize, &[]);
    }
    for row in 0..4000 {
        let edges = neighbours(&graph.edges, row);
        if gone.contains(&row) {
            assert!(edges.is_empty());
        } else {
            assert!(!edges.iter().any(|to| gone.contains(to) || *to == row), "{row}: {edges:?}");
        }
    }
    assert!(recall_of_rest(&graph, &int8, &gone) > 0.97, "{}", recall_of_rest(&graph, &int8, &gone));
}

fn recall_of_rest(graph: &Graph, int8: &Int8, gone: &[u32]) -> f64 {
    let rows: Vec<u32> = (0..int8.scales.len() as u32).filter(|row| !gone.contains(row)).step_by(17).collect();
    let found =
        |row: &&u32| graph.search(int8, scans(), &int8.query(**row), 20).first().map(|hit| hit.row) == Some(**row);
    rows.iter().filter(found).count() as f64 / rows.len() as f64
}

#[test]
fn every_vector_is_found_by_itself() {
    let int8 = bytes(&near_copies(6000, DIM).numbers);
    let graph = Graph::build(&int8, scans(), 2);
    let found = |row: &u32| graph.search(&int8, scans(), &int8.query(*row), 64).iter().any(|hit| hit.row == *row);
    let lost: Vec<u32> = (0..6000).filter(|row| !found(row)).collect();
    assert!(lost.is_empty(), "{} are lost: {lost:?}", lost.len());
}

#[test]
fn what_lies_between_vectors_finds_its_nearest_too() {
    let numbers = near_copies(6000, DIM).numbers;
    let int8 = bytes(&numbers);
    let graph = Graph::build(&int8, scans(), 2);
    let mut found = 0;
    for i in 0..200 {
        let (a, b) = (&numbers[i * 29 * DIM..][..DIM], &numbers[(5999 - i * 13) * DIM..][..DIM]);
        let query = Query::new(&a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>());
        let mut truth = crate::memory::index::search::scan_bytes(&int8, scans(), &query, 10);
        truth.sort_unstable_by(Hit::order);
        let hits = graph.search(&int8, scans(), &query, 64);
        found += truth.iter().filter(|t| hits.iter().any(|hit| hit.row == t.row)).count();
    }
    assert!(found >= 1850, "{found} of 2000");
}

#[test]
fn a_few_vectors_and_none_make_a_graph_too() {
    for count in [0, 1, 2, 7, 9, 40] {
        let int8 = bytes(&made(40, DIM, 40, 5).numbers[..count * DIM]);
        let graph = Graph::build(&int8, scans(), 2);
        for row in 0..count as u32 {
            let hits = graph.search(&int8, scans(), &int8.query(row), 50);
            assert!(count < 2 || hits[0].row == row, "{count} vectors");
        }
    }
}

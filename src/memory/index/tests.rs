//! Indexes of every form over made vectors.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::*;

/// Vectors in memory.
pub(in crate::memory) struct Made {
    pub(in crate::memory) dim: usize,
    pub(in crate::memory) numbers: Vec<f32>,
}

impl Vectors for Made {
    fn dim(&self) -> usize {
        self.dim
    }
    fn len(&self) -> usize {
        self.numbers.len() / self.dim
    }
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        out.copy_from_slice(&self.numbers[row * self.dim..][..self.dim]);
        Ok(())
    }
    fn id(&self, row: usize) -> i64 {
        row as i64
    }
}

/// `count` unit vectors, `around` some centres each.
pub(in crate::memory) fn made(count: usize, dim: usize, around: usize, seed: u64) -> Made {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut number = || (0..4).map(|_| rng.next_u32() as f32 / u32::MAX as f32 - 0.5).sum::<f32>();
    let centres: Vec<f32> = (0..around * dim).map(|_| number()).collect();
    let mut numbers = Vec::with_capacity(count * dim);
    for i in 0..count {
        let centre = &centres[i % around * dim..][..dim];
        let vector: Vec<f32> = centre.iter().map(|x| x + 0.7 * number()).collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        numbers.extend(vector.iter().map(|x| x / length));
    }
    Made { dim, numbers }
}

/// Unit vectors in groups of four that are all but equal.
pub(in crate::memory) fn near_copies(count: usize, dim: usize) -> Made {
    let (originals, noise) = (made(count.div_ceil(4), dim, count, 6), made(count, dim, count, 7));
    let moved = noise.numbers.chunks(dim).enumerate().flat_map(|(i, noise)| {
        let original = &originals.numbers[i / 4 * dim..][..dim];
        unit(original.iter().zip(noise).map(|(x, noise)| x + 0.3 * noise).collect())
    });
    Made { dim, numbers: moved.collect() }
}

fn unit(vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.into_iter().map(|x| x / length).collect()
}

/// The share of the exact ten best that an index finds for vectors near rows, and whether scores are exact and in
/// order.
fn recall(index: &Index, vectors: &Made) -> f32 {
    let (mut found, mut all) = (0, 0);
    for row in (0..vectors.len()).step_by(vectors.len() / 50) {
        let mut query = vectors.numbers[row * vectors.dim..][..vectors.dim].to_vec();
        query[0] += 0.2;
        query[1] -= 0.2;
        let truth = exact(vectors, &query, 10).unwrap();
        let hits = index.search(vectors, &query, 10).unwrap();
        for pair in hits.windows(2) {
            assert!(pair[0].order(&pair[1]).is_lt(), "{pair:?}");
        }
        for hit in &hits {
            if let Some(exact) = truth.iter().find(|exact| exact.row == hit.row) {
                assert_eq!(hit, exact);
                found += 1;
            }
        }
        all += truth.len();
    }
    found as f32 / all as f32
}

#[test]
fn every_form_finds_the_nearest() {
    let vectors = made(6000, 72, 40, 1);
    let forms = [
        (Plan::Int8, 1, 20),
        (Plan::Graph, 40, 20),
        (Plan::Disk, 40, 20),
        (Plan::Codes { lists: 24, sub: 2 }, 12, 100),
        (Plan::Codes { lists: 1, sub: 5 }, 1, 1500),
    ];
    for (plan, reach, rerank) in forms {
        let index = Index::with(&vectors, plan, Effort { reach, rerank }, 1).unwrap();
        let recall = recall(&index, &vectors);
        assert!(recall > 0.97, "{plan:?}: {recall}");
    }
}

#[test]
fn the_instruction_sets_find_the_same_rows_with_the_same_scores() {
    use crate::backend::cpu::Isa;
    let vectors = made(3000, 72, 40, 2);
    for plan in [Plan::Codes { lists: 12, sub: 3 }, Plan::Int8, Plan::Graph, Plan::Disk] {
        let effort = Effort { reach: 3, rerank: 15 };
        let mut index = Index::with(&vectors, plan, effort, 1).unwrap();
        let layout = index.layout.clone();
        for query in vectors.numbers.chunks(72).step_by(300) {
            index.scans = Scans::of(Isa::Scalar);
            let plain = index.search(&vectors, query, 10).unwrap();
            for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
                index.scans = Scans::of(isa);
                assert_eq!(index.search(&vectors, query, 10).unwrap(), plain, "{isa:?}");
            }
        }
        for isa in Isa::ALL.iter().copied().filter(|isa| isa.is_available()) {
            assert_eq!(Some(Layout::build(&vectors, plan, Scans::of(isa), 2).unwrap()), layout, "{isa:?}");
        }
    }
}

#[test]
fn the_choice_reaches_its_target_and_says_what_it_is() {
    let small = made(500, 72, 10, 3);
    let index = build(&small, &Target::default()).unwrap();
    assert_eq!(index.describe(), "exact scan of 500 vectors");
    assert_eq!(recall(&index, &small), 1.0);

    let large = made(12_000, 48, 200, 4);
    for target in [0.8, 0.98] {
        let index = build(&large, &Target { recall: target, ..Target::default() }).unwrap();
        assert!(index.recall() >= target && recall(&index, &large) >= target - 0.02, "{}", index.describe());
        assert!(index.describe().starts_with("12000 vectors: a graph of int8, "), "{}", index.describe());
    }
    for (bound, form) in [(500_000, "a graph on the disk, by 2-bit codes, "), (400_000, "224 lists, ")] {
        let index = build(&large, &Target { memory: Some(bound), ..Target::default() }).unwrap();
        assert!(index.describe().starts_with(&format!("12000 vectors: {form}")), "{}", index.describe());
        assert!(index.memory() <= bound && index.recall() >= 0.98, "{}", index.describe());
    }
    assert_eq!(
        build(&large, &Target { recall: 1.0, ..Target::default() }).unwrap().describe(),
        "exact scan of 12000 vectors"
    );
}

#[test]
fn an_index_chosen_on_near_copies_finds_what_lies_between_them() {
    let (count, dim) = (12_000, 48);
    let vectors = near_copies(count, dim);
    let index = build(&vectors, &Target::default()).unwrap();
    assert!(index.describe().starts_with("12000 vectors: a graph of int8, "), "{}", index.describe());
    let mut found = 0;
    // Others than those that it was measured on: that took rows at equal distances.
    for i in 0..300 {
        let row = |row: usize| &vectors.numbers[row * dim..][..dim];
        let (a, b) = (row(i * 39 + 1), row(count - 1 - i * 37));
        let query = unit(a.iter().zip(b).map(|(a, b)| a + b).collect());
        let truth = exact(&vectors, &query, 10).unwrap();
        let hits = index.search(&vectors, &query, 10).unwrap();
        found += truth.iter().filter(|hit| hits.contains(hit)).count();
    }
    assert!(found >= 2940, "{found} of 3000: {}", index.describe());
}

#[test]
fn a_saved_index_answers_alike_and_no_other_file_is_read() {
    let vectors = made(3000, 72, 40, 5);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    for plan in [Plan::Codes { lists: 12, sub: 2 }, Plan::Int8, Plan::Graph, Plan::Disk] {
        let index = Index::with(&vectors, plan, Effort { reach: 4, rerank: 20 }, 1).unwrap();
        let hash = index.save(&path).unwrap();
        let opened = Index::open(&path, &hash, 3000, 72).unwrap();
        assert_eq!((&opened.layout, opened.effort), (&index.layout, index.effort));
        let query = &vectors.numbers[720..792];
        assert_eq!(opened.search(&vectors, query, 10).unwrap(), index.search(&vectors, query, 10).unwrap());
    }
    let plain = build(&made(100, 72, 40, 5), &Target::default()).unwrap();
    let hash = plain.save(&path).unwrap();
    assert_eq!(Index::open(&path, &hash, 100, 72).unwrap().describe(), "exact scan of 100 vectors");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left behind");

    let error = Index::open(&path, &hash, 101, 72).unwrap_err().to_string();
    assert!(error.contains("this is not the memory's index: it has 100 vectors with 72 components"), "{error}");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = Index::open(&path, &hash, 100, 72).unwrap_err().to_string();
    assert!(error.contains("its SHA-256 is another") && error.contains("taper memory rebuild"), "{error}");
}

#[test]
#[cfg(unix)]
fn what_is_no_file_in_the_place_of_an_index_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    let error = Index::open(&path, "", 100, 72).unwrap_err().to_string();
    assert!(error.contains("this is not the memory's index: it is not a file"), "{error}");
}

#[test]
fn a_query_of_another_width_is_refused() {
    let vectors = made(100, 72, 10, 6);
    let error = exact(&vectors, &[0.0; 71], 10).unwrap_err().to_string();
    assert_eq!(error, "the query has 71 components, the vectors have 72");
    let index = build(&vectors, &Target::default()).unwrap();
    let error = index.search(&made(99, 72, 10, 6), &[0.0; 72], 10).unwrap_err().to_string();
    assert!(error.contains("the index is of 100 vectors with 72 components, the memory has 99 with 72"), "{error}");
}

#[test]
fn as_many_are_found_as_are_asked_for() {
    let vectors = made(3000, 72, 40, 9);
    for plan in [Plan::Graph, Plan::Disk] {
        let index = Index::with(&vectors, plan, Effort { reach: 40, rerank: 30 }, 1).unwrap();
        for k in [1, 10, 40, 3000] {
            let hits = index.search(&vectors, &vectors.numbers[..72], k).unwrap();
            assert_eq!(hits, exact(&vectors, &vectors.numbers[..72], 3000).unwrap()[..k].to_vec(), "{plan:?}, {k}");
        }
    }
}

#[test]
fn rows_that_were_added_later_are_found_too() {
    let mut vectors = made(3000, 72, 40, 8);
    let index = Index::with(&vectors, Plan::Graph, Effort { reach: 20, rerank: 20 }, 1).unwrap();
    let mut added = vectors.numbers[..72].to_vec();
    added.reverse();
    vectors.numbers.extend(&added);
    assert_eq!(index.search(&vectors, &added, 1).unwrap()[0].row, 3000);
    assert_eq!(index.search(&vectors, &vectors.numbers[..72], 1).unwrap()[0].row, 0);
}

#[test]
fn vectors_that_are_none_are_never_found_and_break_nothing() {
    let mut vectors = made(3000, 72, 40, 7);
    vectors.numbers[..72].fill(f32::NAN);
    vectors.numbers[72..144].fill(0.0);
    for plan in [Plan::Codes { lists: 12, sub: 2 }, Plan::Int8, Plan::Graph, Plan::Disk] {
        let index = Index::with(&vectors, plan, Effort { reach: 12, rerank: 20 }, 1).unwrap();
        let query = vectors.numbers[1440..1512].to_vec();
        let hits = index.search(&vectors, &query, 10).unwrap();
        assert_eq!(hits.len(), 10);
        assert!(hits.iter().all(|hit| hit.row > 1), "{hits:?}");
        assert!(index.search(&vectors, &[f32::NAN; 72], 10).unwrap().is_empty());
    }
}

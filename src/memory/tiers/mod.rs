//! Smaller forms of vectors for a first, coarse search, compared: how much smaller, how fast, and what an exact rerank
//! of the shortlist makes good.
//!
//! Experiments, not what a memory is searched with: random features (RFF, SORF, Nyström) stand for the inner product in
//! the space of a Gaussian kernel, which orders unit vectors as their own inner product does, but with more numbers
//! than the vectors have and with noise of their own. [`bench()`] puts them beside int8 and product quantization of the
//! vectors themselves, and beside exact FAISS and the index that [`super::index::build`] chooses.

mod bench;
mod features;
mod linear;
mod nystrom;
mod report;

pub use bench::{Options, bench};
pub use report::{Report, Row};

use crate::error::Result;
use crate::memory::Vectors;
use features::{Map, Rff, Sorf};
use nystrom::Nystrom;

/// Components of random features.
const FEATURES: usize = 512;
/// Vectors that Nyström's features compare with.
const LANDMARKS: usize = 1024;

/// A form of the vectors.
#[derive(Debug, Clone, Copy)]
struct Tier {
    name: &'static str,
    map: Mapping,
    /// Components of a part of 4-bit product quantization; none: int8.
    sub: Option<usize>,
}

/// What is done with a vector before it is coded.
#[derive(Debug, Clone, Copy)]
enum Mapping {
    None,
    Rff,
    Sorf,
    Nystrom,
}

const TIERS: [Tier; 7] = [
    Tier { name: "int8", map: Mapping::None, sub: None },
    Tier { name: "PQ, 2 components a code", map: Mapping::None, sub: Some(2) },
    Tier { name: "PQ, 4 components a code", map: Mapping::None, sub: Some(4) },
    Tier { name: "RFF 512, int8", map: Mapping::Rff, sub: None },
    Tier { name: "SORF 512, int8", map: Mapping::Sorf, sub: None },
    Tier { name: "Nyström 1024, int8", map: Mapping::Nystrom, sub: None },
    Tier { name: "RFF 512, then PQ", map: Mapping::Rff, sub: Some(4) },
];

impl Mapping {
    /// The map, learnt from the vectors where there is something to learn.
    fn learn(self, vectors: &dyn Vectors) -> Result<Option<Box<dyn Map>>> {
        let dim = vectors.dim();
        Ok(match self {
            Self::None => None,
            Self::Rff => Some(Box::new(Rff::new(dim, FEATURES, features::bandwidth(vectors)?)?)),
            Self::Sorf => Some(Box::new(Sorf::new(dim, FEATURES, features::bandwidth(vectors)?))),
            Self::Nystrom => Some(Box::new(Nystrom::learn(vectors, LANDMARKS, features::bandwidth(vectors)?)?)),
        })
    }
}

/// Vectors after a map.
struct Mapped<'a> {
    vectors: &'a dyn Vectors,
    map: &'a dyn Map,
}

impl Vectors for Mapped<'_> {
    fn dim(&self) -> usize {
        self.map.dim()
    }
    fn len(&self) -> usize {
        self.vectors.len()
    }
    fn read(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let mut vector = vec![0.0; self.vectors.dim()];
        self.vectors.read(row, &mut vector)?;
        self.map.apply(&vector, out);
        Ok(())
    }
    fn id(&self, row: usize) -> i64 {
        self.vectors.id(row)
    }
}

//! How kernels of several rows of packed matrices are cut into blocks: `several.cuh`, which has the same constants.

use super::few::{Cut, Few, OWN_SHARED};
use super::gpu::Gpu;
use super::layout::planes;
use crate::format::packed::{Format, GROUP};

/// Rows of a tile of the matrix, warps that compute it, and teams of so many warps that a block has at most.
const COLUMNS: usize = 8;
const TEAM: usize = 8;
const MOST_TEAMS: usize = 2;
/// What a warp has under way: so many lots of two rounds of 4 groups of each row.
const ROUNDS: usize = 3 * 2;
const SLOTS: usize = 4;

/// `None` where blocks have no room for 8 rows.
pub fn cut(few: &Few<'_>, gpu: &dyn Gpu) -> Option<Cut> {
    let room = gpu.shared_memory() - OWN_SHARED;
    let tiles = (few.tiles * few.tile).div_ceil(COLUMNS);
    let teams = tiles.div_ceil(gpu.multiprocessors()).min(MOST_TEAMS);
    let sizes = if few.rows > 8 { &[16, 8][..] } else { &[8] };
    let blocks = sizes.iter().flat_map(|at_once| (1..=teams).rev().map(move |teams| (*at_once, teams)));
    let mut blocks = blocks.map(|(at_once, teams)| (at_once, teams, shared(few.format, few.k, at_once, teams)));
    let (at_once, teams, shared) = blocks.find(|(.., shared)| *shared <= room)?;
    let turns = tiles.div_ceil(gpu.multiprocessors() * teams);
    Some(Cut { at_once, blocks: tiles.div_ceil(turns * teams), warps: teams * TEAM, shared })
}

/// Whether blocks have room for several rows.
pub fn fits(format: Format, k: usize, room: usize) -> bool {
    shared(format, k, 8, 1) + OWN_SHARED <= room
}

/// Shared memory of a block: its rows, what warps hand over, and what is under way.
fn shared(format: Format, k: usize, at_once: usize, teams: usize) -> usize {
    let rows = (k / GROUP * (at_once * (GROUP + 8) + 4)).next_multiple_of(16);
    let handed = 2 * at_once * COLUMNS * TEAM * 2 * 4;
    rows + teams * (handed + TEAM * ROUNDS * round_bytes(format))
}

/// Bytes of a warp's part of a round: of what 8 groups share, a word of every two.
fn round_bytes(format: Format) -> usize {
    let of =
        |&(bytes, share): &(usize, usize)| if share == 1 { SLOTS * COLUMNS * bytes } else { SLOTS / 2 * COLUMNS * 4 };
    planes(format).iter().map(of).sum()
}

// A matrix times many rows of activations on tensor cores: a block gives a tile of ROWS rows of activations by COLUMNS rows of a
// matrix, a warp 32 by 32 of them. What the factors' two kinds, packed and in floating point, have in common.
//
// The matrix is the left factor: its fragments are made by arithmetic, in the registers where they are to be; those of the
// activations come from shared memory in pairs, which is what a right factor takes. The other way round every register of the
// left factor was copied before each product.
#pragma once

#include "mma.cuh"
#include "unpack.cuh"

namespace tile {

constexpr int ROWS = 64;
constexpr int COLUMNS = 128;
// Of a warp: HIGH fragments of 16 columns of the tile, WIDE of 8 rows.
constexpr int SPAN = 32;
constexpr int HIGH = SPAN / 16;
constexpr int WIDE = SPAN / 8;
static_assert(ROWS * COLUMNS == SPAN * SPAN * WARPS, "a warp has one part of the tile");

// A warp's place in the tile, and a lane's in the warp's fragments.
struct Place {
    int row, column;  // The warp's first.
    int g, t;
};

DEVICE Place place() {
    int warp = warp_id(), lane = lane_id();
    return {warp / (COLUMNS / SPAN) * SPAN, warp % (COLUMNS / SPAN) * SPAN, lane / 4, lane % 4};
}

// A lane's results: of rows 8w + 2t and 8w + 2t + 1 of its warp, numbers 2w and 2w + 1, the four columns 4g, 4g + 1, ….
constexpr int FOUR = 2 * HIGH;
using Sums = float[2 * WIDE][FOUR];

DEVICE int row_of(Place p, int which) { return p.row + which / 2 * 8 + 2 * p.t + which % 2; }
DEVICE int first_column(Place p) { return p.column + FOUR * p.g; }

DEVICE void clear(Sums& sums) {
#pragma unroll
    for (int r = 0; r < 2 * WIDE; r++)
#pragma unroll
        for (int i = 0; i < FOUR; i++) sums[r][i] = 0.0f;
}

// The result that number i of a product of fragment h and rows w is.
DEVICE float& result(Sums& sums, int w, int h, int i) { return sums[2 * w + i % 2][2 * h + i / 2]; }

// Weights lie in shared memory so that a fragment's columns are neighbours: g and g + 8 of fragment h are columns 4g + 2h and
// 4g + 2h + 1 of the warp.
DEVICE int column_of(int slot) {
    int in = slot % SPAN, fragment = in / 16;
    return slot - in + in % 8 * FOUR + 2 * fragment + in % 16 / 8;
}

// The row of a matrix that a thread copies to its slot, once and for all.
struct Source {
    const uint8_t* planes;
    uint32_t first;   // The row's first group.
    uint32_t groups;  // Of the whole matrix.

    // Group `which` of a plane of `bytes` a group, behind planes of `before` bytes a group.
    DEVICE_MEMBER const uint8_t* at(uint32_t before, uint32_t bytes, uint32_t which) const {
        return planes + uint64_t(before) * groups + uint64_t(bytes) * which;
    }
};

// Rows behind the last are copied as the last.
DEVICE Source source(const Matrix& m, int row) {
    uint32_t groups = m.k / GROUP;
    return {m.planes, min(row, m.rows - 1) * groups, m.rows * groups};
}

}  // namespace tile

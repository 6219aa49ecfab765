// A row of numbers as weights in floating point take it: in shared memory, so that not every warp reads it from the second-level cache,
// of which it would be twice as many bytes as the weights are in 16 bits.
#pragma once

#include "stage.cuh"

// Sixteen bytes longer than its numbers are: the groups of eight lanes, which shared memory serves at a time, lie in different banks.
struct __align__(16) StagedGroup {
    float4 fours[OF_GROUP];
    float squares;  // In every fourth group: the sum over it and the three behind it, before the norm's weight.
    float pad[3];
};

// The same as Stager, for numbers as they are. Its sums of squares are in the same order, so that a row's answer does not depend on
// whether it came alone.
template <bool NORMS>
struct NumberStager : Reader<NORMS> {
    using Reader<NORMS>::row, Reader<NORMS>::fours;
    StagedGroup* to;

    DEVICE_MEMBER NumberStager(const Row& from, uint8_t* room) : Reader<NORMS>(from), to(reinterpret_cast<StagedGroup*>(room)) {}

    // The room that it takes: few.rs has the same.
    DEVICE_MEMBER static int bytes(int groups) { return groups * int(sizeof(StagedGroup)); }

    DEVICE_MEMBER void put() {
        this->hand_out([&](int t, float4 x, float4 w) { put_four(t, x, w); });
    }

    DEVICE_MEMBER void put_four(int t, float4 x, float4 w) {
        StagedGroup& group = to[t / OF_GROUP];
        if (NORMS) {
            float squares = warp_sum(t < fours ? square(x) : 0.0f);
            if (lane_id() == 0) group.squares = squares;
            x = times(x, w);
        }
        if (t < fours) group.fours[t % OF_GROUP] = x;
    }

    // All threads see all of the row behind it: the norm's factor.
    DEVICE_MEMBER float norm() {
        __syncthreads();
        if (!NORMS) return 1.0f;
        float sum = 0.0f;
#pragma unroll 8
        for (int g = 0; g < fours / OF_GROUP; g += WARP / OF_GROUP) sum += to[g].squares;
        return rsqrtf(fmaf(sum, row.inverse, row.eps));
    }
};

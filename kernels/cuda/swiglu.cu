// Gate and up matrices of two types, of which no kernel has both: their products come one after the other, and meet here.
#include "matrices.cuh"

struct SwigluArgs {
    float* gate;     // (rows, to.k): taken, and 0 again, for products that are added.
    float* up;       // The same.
    Activations to;  // Steps of few rows leave it its numbers alone.
    int is_of_few;
    int pad;
};

// A warp a group of a row.
KERNEL(swiglu_of_two, SwigluArgs, a) {
    let_next_begin();
    wait_for_previous();
    int g = blockIdx.x * WARPS + warp_id(), row = blockIdx.y;
    if (g >= int(a.to.k / GROUP)) return;
    int64_t at = row * a.to.k + g * GROUP + lane_id();
    float x = swiglu(fresh(a.gate + at), fresh(a.up + at));
    a.gate[at] = 0.0f, a.up[at] = 0.0f;
    if (a.is_of_few) a.to.numbers[at] = x;
    else put_group(a.to, row, g, x, INFINITY);
}

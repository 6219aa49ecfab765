// Softmax in pieces: each has its own largest score and its sum of exp(score - largest), and pieces are joined in the order of
// positions, so that the result depends on the positions alone.
#pragma once

#include "common.cuh"

struct Softmax {
    float top;
    float total;
};

// What a and b are to be multiplied with when they are joined.
struct Joined {
    Softmax both;
    float a, b;
};

DEVICE Joined join(Softmax a, Softmax b) {
    float top = fmaxf(a.top, b.top), wa = expf(a.top - top), wb = expf(b.top - top);
    return {{top, fmaf(b.total, wb, a.total * wa)}, wa, wb};
}

// The softmax of `n` scores, by a warp; each score becomes exp(score - largest).
DEVICE Softmax exponentials(float* scores, int n) {
    float top = -INFINITY, total = 0.0f;
    for (int i = lane_id(); i < n; i += WARP) top = fmaxf(top, scores[i]);
    top = warp_max(top);
    for (int i = lane_id(); i < n; i += WARP) {
        scores[i] = expf(scores[i] - top);
        total += scores[i];
    }
    return {top, warp_sum(total)};
}

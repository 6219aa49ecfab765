// What kernels of few rows and of many take alike, and where keys and values go.
#pragma once

#include "stage.cuh"
#include "unpack.cuh"

// Which of an attention's three matrices, or none.
enum Kind { QUERY = 0, KEY = 1, VALUE = 2, NONE = 3 };

struct Part {
    Matrix matrix;
    const float* bias;  // (matrix.rows), or null.
    int64_t kind;
};

// Where keys and values go, see attention.cu.
struct Cache {
    uint8_t* bytes;    // (pages, layers, K | V, kv_heads, PAGE, head_dim)
    int64_t page;      // Numbers of a page.
    int64_t layer;     // From a page's first number to the layer's.
    int kv_heads;
    int head_dim;
    int is_half;       // f16, otherwise f32.
    int pad;
};

struct QkvArgs {
    Part parts[3];
    Input x;
    Cache cache;
    float* query;          // (rows, heads * head_dim)
    const float2* angles;  // (rows, head_dim / 2): cosine and sine.
    const int* places;     // (rows): page * PAGE + token of the page.
    int rows;
    int pad;
};

DEVICE void store(const Cache& c, int64_t at, float a, float b) {
    if (c.is_half) {
        uint32_t both = uint32_t(to_half(a)) | uint32_t(to_half(b)) << 16;
        *reinterpret_cast<uint32_t*>(c.bytes + 2 * at) = both;
    } else {
        *reinterpret_cast<float2*>(c.bytes + 4 * at) = make_float2(a, b);
    }
}

// A pair of neighbouring rows of Q, K or V: the first of them, its head, and its number in there.
struct Pair {
    int part, row, head, d;
};

DEVICE Pair pair_of(const QkvArgs& a, int part, int row) { return {part, row, row / a.cache.head_dim, row % a.cache.head_dim}; }

// What is to be known of a pair for row t of the activations: the angle by which it is turned, and where it goes.
struct Goes {
    float2 angle;
    int place;
};

DEVICE Goes goes_to(const QkvArgs& a, const Pair& pair, int t) {
    return {fresh(a.angles + int64_t(t) * (a.cache.head_dim / 2) + pair.d / 2), fresh(a.places + t)};
}

// Bias, RoPE (a, b) -> (a cos - b sin, b cos + a sin), keys and values to their pages.
DEVICE void put_pair(const QkvArgs& a, const Pair& pair, int t, float x, float y, Goes to) {
    const Part& part = a.parts[pair.part];
    int row = pair.row, dim = a.cache.head_dim, head = pair.head, d = pair.d;
    if (part.bias) {
        x += part.bias[row];
        y += part.bias[row + 1];
    }
    if (part.kind != VALUE) {
        float turned = fmaf(x, to.angle.x, -(y * to.angle.y));
        y = fmaf(y, to.angle.x, x * to.angle.y);
        x = turned;
    }
    if (part.kind == QUERY) {
        float* query = a.query + int64_t(t) * part.matrix.rows + row;
        *reinterpret_cast<float2*>(query) = make_float2(x, y);
        return;
    }
    int64_t block = (part.kind == VALUE ? a.cache.kv_heads : 0) + head;
    int64_t at = (to.place / PAGE) * a.cache.page + a.cache.layer + (block * PAGE + to.place % PAGE) * dim + d;
    store(a.cache, at, x, y);
}

DEVICE float swiglu(float gate, float up) {
    float silu = gate / (1.0f + expf(-gate));
    return silu * up;
}

struct GatedArgs {
    Matrix gate, up;
    Input x;
    Activations to;  // Steps of few rows leave it its numbers alone.
    int rows;
    int pad;
};

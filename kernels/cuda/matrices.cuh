// What kernels of few rows and of many take alike, and where keys and values go.
#pragma once

#include "quantize.cuh"
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
    Activations x;
    Cache cache;
    float* query;          // (rows, heads * head_dim)
    const float2* angles;  // (rows, head_dim / 2): cosine and sine.
    const int* places;     // (rows): page * PAGE + token of the page.
    float eps;
    int rows;
};

DEVICE void store(const Cache& c, int64_t at, float a, float b) {
    if (c.is_half) {
        uint32_t both = uint32_t(to_half(a)) | uint32_t(to_half(b)) << 16;
        *reinterpret_cast<uint32_t*>(c.bytes + 2 * at) = both;
    } else {
        *reinterpret_cast<float2*>(c.bytes + 4 * at) = make_float2(a, b);
    }
}

// A pair of neighbouring rows of Q, K or V for row t of the activations: bias, RoPE (a, b) -> (a cos - b sin, b cos + a sin), keys
// and values to their pages.
DEVICE void put_pair(const QkvArgs& a, const Part& part, int row, int t, float x, float y) {
    if (part.bias) {
        x += part.bias[row];
        y += part.bias[row + 1];
    }
    int dim = a.cache.head_dim, head = row / dim, d = row % dim;
    if (part.kind != VALUE) {
        float2 angle = fresh(a.angles + int64_t(t) * (dim / 2) + d / 2);
        float turned = fmaf(x, angle.x, -(y * angle.y));
        y = fmaf(y, angle.x, x * angle.y);
        x = turned;
    }
    if (part.kind == QUERY) {
        float* to = a.query + int64_t(t) * part.matrix.rows + row;
        to[0] = x;
        to[1] = y;
        return;
    }
    int place = fresh(a.places + t);
    int64_t block = (part.kind == VALUE ? a.cache.kv_heads : 0) + head;
    int64_t at = (place / PAGE) * a.cache.page + a.cache.layer + (block * PAGE + place % PAGE) * dim + d;
    store(a.cache, at, x, y);
}

struct GatedArgs {
    Matrix gate, up;
    Activations x;
    Activations to;
    float eps;
    int rows;
};

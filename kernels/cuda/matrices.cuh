// What the kernels of matrices take, and where keys and values go.
#pragma once

#include "quantize.cuh"
#include "unpack.cuh"

struct LinearArgs {
    Matrix matrix;
    Activations x;
    float* out;  // (rows, matrix.rows)
    int rows;
    int add;  // Whether to add to what is there.
};

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
    int rows;
    int pad;
};

struct GatedArgs {
    Matrix gate, up;
    Activations x;
    Activations to;
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

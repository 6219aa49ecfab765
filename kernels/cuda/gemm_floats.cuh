// Weights in floating point times activations in f32, on tensor cores that multiply 11 bits of significand (tf32) and add in f32.
//
// f16 and bf16 are exact in 11 bits; f32 is two pieces of them, of which the lesser is itself cut: 2^-21 of a number is lost at
// most. So it takes two products for weights of 16 bits, three for f32 (that of the lesser pieces is below what is lost anyway).
//
// Estimated, not measured: two products of 16 x 8 x 8 for 2,048 operations that count, at 4 to 8 cycles each on each of 528
// tensor cores of 1.7 GHz, 115 to 230 TFLOPS for 16 bits and two thirds of that for 32.
#pragma once

#include "quantize.cuh"
#include "tile.cuh"

namespace tile {

template <class T>
struct __align__(16) FloatStage {
    uint8_t numbers[ROWS * GROUP * 4];
    uint8_t weights[COLUMNS * GROUP * T::BYTES];
};

// Where 16 bytes of a row of shared memory are: rows lie so that the lanes that read at once find different banks.
DEVICE int of_128(int row, int piece) { return 128 * row + 16 * (piece ^ row % 2 * 4); }
DEVICE int of_64(int row, int piece) { return 64 * row + 16 * (piece ^ row / 2 % 2 * 2); }

// Of each type: 8 numbers of a lane, 4t, 4t + 1, … and 16 + 4t, 16 + 4t + 1, ….
struct TwoBytes {
    static constexpr int BYTES = 2;
    static constexpr bool EXACT = true;
    DEVICE int place(int slot, int piece) { return of_64(slot, piece); }
};

struct Half : TwoBytes {
    DEVICE void eight(const uint8_t* from, int slot, int t, float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint2 four = shared<uint2>(from + place(slot, 2 * i + t / 2) + 8 * (t % 2));
            x[4 * i] = half_bits(uint16_t(four.x)), x[4 * i + 1] = half_bits(uint16_t(four.x >> 16));
            x[4 * i + 2] = half_bits(uint16_t(four.y)), x[4 * i + 3] = half_bits(uint16_t(four.y >> 16));
        }
    }
};

struct BHalf : TwoBytes {
    DEVICE void eight(const uint8_t* from, int slot, int t, float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint2 four = shared<uint2>(from + place(slot, 2 * i + t / 2) + 8 * (t % 2));
            x[4 * i] = bf16_bits(uint16_t(four.x)), x[4 * i + 1] = bf16_bits(uint16_t(four.x >> 16));
            x[4 * i + 2] = bf16_bits(uint16_t(four.y)), x[4 * i + 3] = bf16_bits(uint16_t(four.y >> 16));
        }
    }
};

struct Single {
    static constexpr int BYTES = 4;
    static constexpr bool EXACT = false;
    DEVICE int place(int slot, int piece) { return of_128(slot, piece); }
    DEVICE void eight(const uint8_t* from, int slot, int t, float (&x)[8]) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float4 four = shared<float4>(from + place(slot, 4 * i + t));
            x[4 * i] = four.x, x[4 * i + 1] = four.y, x[4 * i + 2] = four.z, x[4 * i + 3] = four.w;
        }
    }
};

// The upper 11 bits of the significand, and the rest.
DEVICE uint32_t upper(float x) { return __float_as_uint(x) & 0xFFFFE000u; }
DEVICE uint32_t lower(float x) { return __float_as_uint(x - __uint_as_float(upper(x))); }

template <class T>
struct InFloats {
    using Room = FloatStage<T>[2];

    // Begins to copy group g; rows behind the last are computed as the last.
    DEVICE void begin(const Source& weights, const Activations& x, int first, int rows, int g, FloatStage<T>& to) {
        constexpr int EACH = GROUP * T::BYTES / 16 / 2;
        int slot = threadIdx.x / 2;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int piece = threadIdx.x % 2 * EACH + i;
            const uint8_t* from = weights.at(16 * piece, 16, weights.first + g);
            begin_copy<16>(to.weights + T::place(slot, piece), from, true);
        }
#pragma unroll
        for (int i = 0; i < ROWS * 8 / THREADS; i++) {
            int row = (threadIdx.x + i * THREADS) / 8, piece = threadIdx.x % 8;
            const float* from = x.numbers + int64_t(min(first + row, rows - 1)) * x.k + g * GROUP + 4 * piece;
            begin_copy<16>(to.numbers + of_128(row, piece), from, true);
        }
    }

    DEVICE void add_group(const FloatStage<T>& s, Place p, Sums& sums) {
        float a[HIGH][2][8];
#pragma unroll
        for (int h = 0; h < HIGH; h++)
#pragma unroll
            for (int i = 0; i < 2; i++) T::eight(s.weights, p.column + 16 * h + 8 * i + p.g, p.t, a[h][i]);
#pragma unroll
        for (int w = 0; w < WIDE; w++) {
            float x[8];
            Single::eight(s.numbers, p.row + 8 * w + p.g, p.t, x);
#pragma unroll
            for (int h = 0; h < HIGH; h++) {
                float d[4];
#pragma unroll
                for (int i = 0; i < 4; i++) d[i] = result(sums, w, h, i);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float all[4] = {a[h][0][i], a[h][1][i], a[h][0][4 + i], a[h][1][4 + i]};
                    uint32_t high[4];
#pragma unroll
                    for (int j = 0; j < 4; j++) high[j] = T::EXACT ? __float_as_uint(all[j]) : upper(all[j]);
                    mma_tf32(d, high, lower(x[i]), lower(x[4 + i]));
                    if constexpr (!T::EXACT) {
                        const uint32_t low[4] = {lower(all[0]), lower(all[1]), lower(all[2]), lower(all[3])};
                        mma_tf32(d, low, upper(x[i]), upper(x[4 + i]));
                    }
                    mma_tf32(d, high, upper(x[i]), upper(x[4 + i]));
                }
#pragma unroll
                for (int i = 0; i < 4; i++) result(sums, w, h, i) = d[i];
            }
        }
    }

    // As of packed weights, without a codebook.
    DEVICE void multiply(Room& room, Source weights, const Activations& x, int first, int rows, const uint32_t*, Sums& sums) {
        Place p = place();
        clear(sums);
        int groups = int(x.k / GROUP);
        begin(weights, x, first, rows, 0, room[0]);
        end_lot();
        for (int g = 0; g < groups; g++) {
            wait_for_copies<0>();
            __syncthreads();
            if (g + 1 < groups) begin(weights, x, first, rows, g + 1, room[(g + 1) % 2]);
            end_lot();
            add_group(room[g % 2], p, sums);
        }
        __syncthreads();
    }
};

}  // namespace tile

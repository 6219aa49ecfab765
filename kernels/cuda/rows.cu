// Rows that are quantized before their matrix: more than one, so that not every block does it, or one that blocks have no room for.
//
// Bytes: a row is read twice, the second time from the first-level cache; latency is all there is to it.
#include "stage.cuh"

struct QuantizeArgs {
    Row row;           // The first of rows of so many numbers.
    const int* which;  // The row for each row of the result; null for all of them in order.
    Activations to;
    int keeps_numbers;  // For weights in floating point.
    int pad;
};

// Threads of a block, at most.
constexpr int MOST_QUANTIZING = 512;

// What stage() makes of a row, and the row itself.
template <bool NORMS>
DEVICE void quantize_row(const QuantizeArgs& a) {
    LAUNCH_SHARED(room);
    int64_t groups = a.to.k / GROUP, to = blockIdx.x;
    Stager<NORMS> stager(a.row, room);
    const Staged& staged = stager.to;
    stager.ask_early();
    let_next_begin();
    wait_for_previous();
    stager.row.numbers += (a.which ? int64_t(fresh(a.which + to)) : to) * a.to.k;
    stager.ask();
    stager.put();
    float factor = stager.norm();
    if (threadIdx.x == 0) a.to.factors[to] = factor;
    int4 *codes = reinterpret_cast<int4*>(a.to.codes + to * a.to.k), *rests = reinterpret_cast<int4*>(a.to.rests + to * a.to.k);
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        codes[2 * g] = staged.low[g], codes[2 * g + 1] = staged.high[g];
        a.to.scales[to * groups + g] = staged.scales[g];
        if (staged.scales[g].rest_scale != 0.0f) rests[2 * g] = staged.rest_low[g], rests[2 * g + 1] = staged.rest_high[g];
    }
    if (!a.keeps_numbers) return;
    for (int64_t i = threadIdx.x; i < a.to.k; i += blockDim.x) {
        float x = fresh(stager.row.numbers + i);
        a.to.numbers[to * a.to.k + i] = NORMS ? x * a.row.weight[i] : x;
    }
}

KERNEL_OF(quantize_rows, QuantizeArgs, a, MOST_QUANTIZING, 1) { quantize_row<false>(a); }
// Rows that are to be normed: sums with their codes are to be multiplied with the row's factor.
KERNEL_OF(quantize_unnormed, QuantizeArgs, a, MOST_QUANTIZING, 1) { quantize_row<true>(a); }

// Attention of few rows as kernels: see decode.cuh.
#include "decode.cuh"

namespace few {

// A block a row and head.
template <int D>
DEVICE void join(const DecodeArgs& a) {
    __shared__ float4 sums[SLICES<D>][UNITS<D>];
    int row = blockIdx.y, end = fresh(a.positions + row) + 1, begin = max(0, end - a.window) / SPAN;
    int64_t head = int64_t(row) * a.heads + blockIdx.x;
    let_next_begin();
    wait_for_previous();
    join_chunks<D, WholeBlock>(a, make_int2(begin, (end + SPAN - 1) / SPAN), row, blockIdx.x, gridDim.y, Settled{}, sums,
                               [&](int unit, float4 x) { reinterpret_cast<float4*>(a.out + head * D)[unit] = x; });
}

// A block a row, key head and chunk.
template <int D, class K>
DEVICE void decode(const DecodeArgs& a) {
    __shared__ __align__(16) Room<D> room;
    Task task = {int(blockIdx.z), int(blockIdx.y), int(blockIdx.x), a.heads / a.kv_heads, 0, 0};
    task.end = fresh(a.positions + task.row) + 1;
    task.begin = max(0, task.end - a.window);
    int chunks = (task.end + SPAN - 1) / SPAN;
    int first = task.chunk * SPAN + warp_id() * STRIP;
    bool is_seen = first < task.end && first + STRIP > task.begin;
    int page = is_seen ? fresh(a.tables + fresh(a.table + task.row) + first / PAGE) : 0;
    int known = fresh(a.known + task.row);
    Strip<D, K> strip = {};
    // What earlier steps left, then what the kernel in front did.
#pragma unroll 1
    for (int turn = 0; turn < 2; turn++) {
        if (is_seen && (turn == 0 || first + STRIP > known))
            strip.load(a, task, page, first, turn == 0 ? 0 : known, turn == 0 ? known : task.end);
        if (turn == 1) break;
        let_next_begin();
        wait_for_previous();
    }
    if (task.chunk < task.begin / SPAN || task.chunk >= chunks) return;
    Query<D> query(a, task);
    if (is_seen) query.ask(Settled{});
    attend_strip(a, task, first, is_seen, strip, query, room, [] {}, [] {});
    __syncthreads();
    gather_strips<D>(task, room, [&](int unit, float4 sum, Softmax softmax) {
        // A chunk by itself is the answer.
        if (gridDim.x == 1) {
            int64_t head = int64_t(task.row) * a.heads + task.kv * task.count;
            reinterpret_cast<float4*>(a.out + head * D)[unit] = times(sum, 1.0f / softmax.total);
            return;
        }
        PartialPlace<D> place(a, task, gridDim.z, unit);
        *place.numbers = sum;
        if (unit % UNITS<D> == 0) *place.softmax = make_float2(softmax.top, softmax.total);
    });
}

}  // namespace few

KERNEL_OF(decode_64, few::DecodeArgs, a, THREADS, 2) { few::decode<64, Halves>(a); }
KERNEL(decode_128, few::DecodeArgs, a) { few::decode<128, Halves>(a); }
KERNEL_OF(decode_q8_64, few::DecodeArgs, a, THREADS, 2) { few::decode<64, Codes8>(a); }
KERNEL(decode_q8_128, few::DecodeArgs, a) { few::decode<128, Codes8>(a); }

KERNEL(join_64, few::DecodeArgs, a) { few::join<64>(a); }
KERNEL(join_128, few::DecodeArgs, a) { few::join<128>(a); }

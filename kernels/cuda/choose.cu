// A step's last kernels: a token is drawn where more than the likeliest is asked for, and the host is told.
//
// Drawing is src/sample's chain: the likeliest few, of which top-p, min-p and temperature leave some, and a number from the host that says
// which of them it is. A block goes through 4,096 logits and leaves its likeliest; the last block to be done draws among those.
#include "changes.cuh"

// Of the likeliest, at most so many are drawn from: `MOST` of draws.rs.
constexpr int MOST = 64;
// Logits of a thread, so that a block has SLICE of them: the same of draws.rs. A row has at most as many slices as the last block has room
// for.
constexpr int EACH = 16, SLICE = EACH * THREADS;

struct ChooseArgs {
    float* logits;           // (rows, vocab): changed in place, where changes are asked for.
    const Drawn* draws;      // (rows)
    const Changes* changes;  // (rows); null where no row has any.
    const uint32_t* chosen;  // What the last steps chose.
    uint64_t* some;          // (rows, slices, MOST)
    uint32_t* counters;      // (rows): zero.
    uint64_t* best;          // (rows): what the head chose, or is drawn here; see rank_of.
    int vocab;
    int pad;
};

struct Sieve {
    uint64_t tops[THREADS];
    uint64_t some[MOST * EACH];
    uint64_t sorted[MOST];
    double weights[MOST];
    uint64_t bound;
    uint32_t count;
};

// The block's `most` largest ranks, sorted, 0 where there are no more; all threads see them. A thread's largest that is the so-manieth of
// all threads' bounds them from below, and what is not below it comes from `most` threads alone.
DEVICE void find_strongest(const uint64_t (&mine)[EACH], int most, Sieve& room) {
    uint64_t top = 0;
#pragma unroll
    for (int i = 0; i < EACH; i++) top = mine[i] > top ? mine[i] : top;
    room.tops[threadIdx.x] = top;
    if (threadIdx.x == 0) room.bound = 1, room.count = 0;
    if (threadIdx.x < MOST) room.sorted[threadIdx.x] = 0;
    __syncthreads();
    // Ranks are all different, but those of nothing.
    int before = 0;
    for (int i = 0; i < THREADS; i++) before += room.tops[i] > top;
    if (top != 0 && before == most - 1) room.bound = top;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++)
        if (mine[i] >= room.bound) room.some[atomicAdd(&room.count, 1u)] = mine[i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < room.count; i += THREADS) {
        uint64_t rank = room.some[i];
        int place = 0;
        for (uint32_t j = 0; j < room.count; j++) place += room.some[j] > rank;
        if (place < most) room.sorted[place] = rank;
    }
    __syncthreads();
}

// exp(logit - first) of the first `count` of the sorted, of which lanes have one in 32; the sum of them in their order.
template <class Logit>
DEVICE double weigh(int count, Logit logit, Sieve& room) {
    for (int i = lane_id(); i < count; i += WARP) room.weights[i] = exp(double(logit(i)) - double(logit(0)));
    meet_in_warp();
    double sum = 0.0;
    for (int i = 0; i < count; i++) sum += room.weights[i];
    return sum;
}

// How many it takes until their probabilities together reach `enough`, or go beyond it.
DEVICE int count_until(double enough, bool beyond, int count, double sum, const Sieve& room) {
    double so_far = 0.0;
    for (int i = 0; i < count; i++) {
        so_far += room.weights[i] / sum;
        if (beyond ? so_far > enough : so_far >= enough) return i + 1;
    }
    return count;
}

// One of the sorted, by a warp; 0 where there are none.
DEVICE uint64_t draw(const Drawn& d, Sieve& room) {
    int count = 0;
    while (count < int(d.top_k) && room.sorted[count] != 0) count++;
    if (count == 0) return 0;
    auto own = [&](int i) { return logit_of(room.sorted[i]); };
    if (d.top_p < 1.0f) {
        double sum = weigh(count, own, room);
        count = count_until(double(d.top_p), false, count, sum, room);
        meet_in_warp();
    }
    float first = own(0), least = first + d.least;
    while (count > 1 && own(count - 1) < least) count--;
    double sum = weigh(count, [&](int i) { return (own(i) - first) / d.temperature; }, room);
    double at = double_bits(d.at[0], d.at[1]);
    return room.sorted[count_until(at, true, count, sum, room) - 1];
}

KERNEL(choose, ChooseArgs, a) {
    __shared__ Sieve room;
    let_next_begin();
    wait_for_previous();
    int row = blockIdx.y, first = blockIdx.x * SLICE, end = min(first + SLICE, a.vocab);
    const Drawn* at = a.draws + row;
    int most = int(fresh(&at->top_k));
    if (most == 0) return;
    float* logits = a.logits + int64_t(row) * a.vocab;
    if (a.changes) change_logits(a.changes + row, a.chosen, uint32_t(first), uint32_t(end), logits);
    uint32_t banned[MOST_BANNED];
#pragma unroll
    for (int b = 0; b < MOST_BANNED; b++) banned[b] = fresh(at->banned + b);
    uint64_t mine[EACH];
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        int id = first + i * THREADS + threadIdx.x;
        bool is = id < end;
#pragma unroll
        for (int b = 0; b < MOST_BANNED; b++) is = is && banned[b] != uint32_t(id);
        mine[i] = is ? rank_of(fresh(logits + id), id) : 0;
    }
    find_strongest(mine, most, room);
    uint64_t* some = a.some + int64_t(row) * gridDim.x * MOST;
    if (gridDim.x > 1) {
        if (threadIdx.x < MOST) some[blockIdx.x * MOST + threadIdx.x] = room.sorted[threadIdx.x];
        if (!is_last(a.counters + row, gridDim.x)) return;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            int n = i * THREADS + threadIdx.x;
            mine[i] = n < int(gridDim.x) * MOST ? fresh(some + n) : 0;
        }
        find_strongest(mine, most, room);
    }
    if (warp_id() > 0) return;
    Drawn d;
    d.at[0] = fresh(&at->at[0]), d.at[1] = fresh(&at->at[1]);
    d.temperature = fresh(&at->temperature), d.top_p = fresh(&at->top_p), d.least = fresh(&at->least);
    d.top_k = most;
    uint64_t chosen = draw(d, room);
    if (lane_id() == 0) a.best[row] = chosen;
}

struct FinishArgs {
    uint64_t* best;    // (rows): taken, and 0 again.
    uint32_t* chosen;  // (STEPS + 1, stride): ids, for the steps behind.
    uint32_t* ended;   // See step.cuh.
    uint64_t* begun;   // When the step began.
    uint64_t* hash;    // Of the step's logits: taken, and 0 again; null where nobody asks for it.
    uint32_t* out;     // (STEPS + 1, stride), in the host's memory: ids; in the last words the hash, when the step began and when it
                       // ended, two words each, and how many steps have ended.
    uint32_t rows;
    uint32_t stride;
};

DEVICE void tell(uint32_t* to, uint64_t x) { to[0] = uint32_t(x), to[1] = uint32_t(x >> 32); }

// Tells the host the token of each row.
KERNEL(finish_step, FinishArgs, a) {
    let_next_begin();
    wait_for_previous();
    uint32_t place = place_of_step(a.ended) * a.stride;
    uint32_t* out = a.out + place;
    for (uint32_t t = threadIdx.x; t < a.rows; t += THREADS) {
        uint64_t rank = fresh(a.best + t);
        uint32_t id = rank == 0 ? NO_TOKEN : ~uint32_t(rank);
        out[t] = id;
        a.chosen[place + t] = id;
        a.best[t] = 0;
    }
    uint32_t* told = out + a.stride - 7;
    if (a.hash && threadIdx.x == 0) {
        tell(told, fresh(a.hash));
        *a.hash = 0;
    }
    if (!a.ended) return;
    if (threadIdx.x == 0) tell(told + 2, fresh(a.begun));
    if (threadIdx.x == 1) tell(told + 4, nanoseconds());
    // The host looks for the last word.
    publish();
    __syncthreads();
    if (threadIdx.x > 0) return;
    uint32_t now = fresh(a.ended) + 1;
    *a.ended = now;
    store_last(out + a.stride - 1, now);
}

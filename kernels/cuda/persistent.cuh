// A step of one row as one kernel that stays: blocks hand each other rows (handed.cuh), and weights are under way to shared memory whatever
// phase is at work (ring.cuh). The device functions are those of the kernels that it takes the place of, and so are the answers, bit for bit.
//
// A block a multiprocessor, all of them there at once. Warps 0 to 15 compute; one fills the ring; one tells the other blocks that this one's
// part of a phase is done, and waits for theirs. That is a hint, and needs no fence: what is read says by itself whether it is there.
#pragma once

#include "decode.cuh"
#include "gemv.cuh"
#include "ring.cuh"

namespace persistent {

constexpr int COMPUTING = 16, FILLING = COMPUTING, MEETING = COMPUTING + 1, ALL = COMPUTING + 2;
// Barriers: of those who compute, of the team that attends, of a phase that is done here, and of one that is done everywhere.
constexpr int COMPUTE = 1, ATTEND = 2, DONE = 3, GO_ON = 4;
constexpr int WITH_ONE = (COMPUTING + 1) * WARP;

struct Computing {
    DEVICE int threads() { return COMPUTING * WARP; }
    DEVICE void meet() { meet_some(COMPUTE, COMPUTING * WARP); }
};

// The first warps, of which attention takes a block of the kernels of decode.cu.
struct Attending {
    DEVICE int threads() { return THREADS; }
    DEVICE void meet() { meet_some(ATTEND, THREADS); }
};

// What a step multiplies by, in the order in which it does.
enum Which { Q, K, V, O, GATE_UP, DOWN, HEAD, PARTS };

struct Layer {
    const float *attn_norm, *ffn_norm;
    const float* bias[3];          // Of Q, K and V, or null.
    const uint8_t* planes[7];      // Q, K, V, O, gate, up, down
};

struct Args {
    const Layer* layers;
    const float* output_norm;
    const float* stream;  // (hidden): the embedding.
    float* query;         // (heads * D + 2 * kv_heads * D): queries, keys, values.
    float* attended;      // (heads * D)
    float* hidden;        // (hidden)
    float* gated;         // (ffn)
    uint32_t* met;        // Phases that blocks are done with; 0 between steps.
    const float2* angles;  // (D / 2)
    const int* place;      // page * PAGE + token of the page.
    Cache cache;
    few::DecodeArgs attend;  // Its layer, queries and answers are this kernel's.
    LogitsArgs head;         // Its row is this kernel's.
    int count;               // Layers.
    int width;               // Numbers of a row of the residual stream.
    int ffn;
    float eps;
    float inverse;           // 1 / width
    // Shared memory: slots of the ring and bytes of each, how many of them are under way at a time, bytes of a staged row and of what is the
    // block's of the residual stream.
    int slots, slot, ahead, staged, residual;
};

// A block's rows of a part: tiles of R rows, some at a time in a slot, one a warp.
struct Share {
    int first, end;  // Tiles.
    int together;
    int groups;      // Of a row.
    int sets;        // Slots that they take.
};

constexpr int MOST_SLOTS = 64, MOST_DIM = 128;

// What a block shares, in front of its staged rows and slots.
struct __align__(16) Desk {
    Signal full[MOST_SLOTS], empty[MOST_SLOTS];
    Share parts[PARTS];
    float2 angles[MOST_DIM / 2];
    uint64_t best[COMPUTING];
    uint32_t banned[MOST_BANNED];
};

DEVICE constexpr int rows_of_tile(int part) { return part == O || part == DOWN ? 1 : 2; }

// Bytes of a row of a matrix.
template <class W>
DEVICE uint32_t row_bytes(int groups) {
    uint32_t bytes = 0;
#pragma unroll
    for (int p = 0; p < W::PLANES; p++) bytes += W::planes(p).bytes;
    return bytes * groups;
}

// Where plane p of rows lies in a slot, and what is between the boundary of 16 bytes before it and its first byte: `row` is the first of them
// in its matrix, `rows` how many a slot has room for.
template <class W>
DEVICE uint32_t place_in_slot(int p, int groups, int rows) {
    static_assert(W::PLANES == 2 && W::planes(0).bytes % 16 == 0, "the last one's end is on no boundary");
    return W::planes(p).before * groups * rows + 16 * p;
}
template <class W>
DEVICE uint32_t skew(int p, int groups, int row) { return W::planes(p).bytes * groups * row % 16; }

template <class W, int D>
struct Step {
    const Args& a;
    Desk& desk;
    uint8_t* staged;
    Ring ring;
    float* residual;  // Of this block's rows.
    int end, place;    // Of what the row sees, and where its own keys and values go.
    int page;          // Of the positions that this warp attends to first.
    uint8_t* kept;     // Keys and values on their way.

    DEVICE_MEMBER Step(const Args& args, uint8_t* room)
        : a(args),
          desk(*reinterpret_cast<Desk*>(room)),
          staged(room + sizeof(Desk)),
          ring{staged + staging(args), desk.full, desk.empty, args.slots, args.slot, 0, 0},
          residual(reinterpret_cast<float*>(staged + staging(args) + args.slots * args.slot)),
          end(fresh(args.attend.positions) + 1),
          place(fresh(args.place)),
          page(0),
          kept(reinterpret_cast<uint8_t*>(residual) + args.residual) {
        few::Task task = task_of(blockIdx.x);
        int first = task.chunk * few::SPAN + warp_id() * few::STRIP;
        if (warp_id() < WARPS && first < end) page = page_of(first);
    }
    // Of keys and values on their way: bytes.
    static constexpr int KEPT = WARPS * int(sizeof(typename few::Strip<D, Halves>::OnTheWay));


    // A row, or what attention shares.
    DEVICE_MEMBER static int staging(const Args& a) { return max(a.staged, int(sizeof(few::Room<D>))); }
    DEVICE_MEMBER int kv_width() const { return a.attend.kv_heads * D; }
    DEVICE_MEMBER int q_width() const { return a.attend.heads * D; }
    DEVICE_MEMBER int rows_of(int part) const {
        return part == Q ? q_width() : part == K || part == V ? kv_width() : part == GATE_UP ? 2 * a.ffn : part == HEAD ? a.head.matrix.rows : a.width;
    }
    DEVICE_MEMBER int k_of(int part) const { return part == O ? q_width() : part == DOWN ? a.ffn : a.width; }
    DEVICE_MEMBER int tiles_of(int part) const { return (rows_of(part) + rows_of_tile(part) - 1) / rows_of_tile(part); }

    // This block's tiles of a part: of Q, K and V its share of all three, one behind the other.
    DEVICE_MEMBER Share share_of(int part) const {
        int before = part == K ? tiles_of(Q) : part == V ? tiles_of(Q) + tiles_of(K) : 0;
        int64_t all = part <= V ? tiles_of(Q) + tiles_of(K) + tiles_of(V) : tiles_of(part);
        int from = int(all * blockIdx.x / gridDim.x), to = int(all * (blockIdx.x + 1) / gridDim.x), tiles = tiles_of(part);
        int groups = k_of(part) / GROUP, bytes = rows_of_tile(part) * int(row_bytes<W>(groups));
        int together = min(COMPUTING, (a.slot - 48 * W::PLANES) / bytes);
        int first = min(max(from - before, 0), tiles), end = min(max(to - before, 0), tiles);
        return {first, end, together, groups, (end - first + together - 1) / together};
    }

    // All threads of a block come here first.
    DEVICE_MEMBER void prepare() {
        if (threadIdx.x < PARTS) desk.parts[threadIdx.x] = share_of(threadIdx.x);
        if (int(threadIdx.x) < a.slots) desk.full[threadIdx.x].init(1), desk.empty[threadIdx.x].init(MOST_USERS);
        if (threadIdx.x < D / 2) desk.angles[threadIdx.x] = fresh(a.angles + threadIdx.x);
        if (threadIdx.x < MOST_BANNED) desk.banned[threadIdx.x] = a.head.draws ? fresh(a.head.draws->banned + threadIdx.x) : NO_TOKEN;
        __syncthreads();
        const Share& rows = desk.parts[O];
        for (int i = rows.first + threadIdx.x; i < rows.end; i += blockDim.x) residual[i - rows.first] = fresh(a.stream + i);
        __syncthreads();
    }

    // Copies neighbouring rows of a matrix of so many to a slot that has room for `most` of them.
    DEVICE_MEMBER static void fill(Filler& to, uint8_t* room, int most, const uint8_t* planes, int64_t all, int groups, int row, int rows) {
#pragma unroll
        for (int p = 0; p < W::PLANES; p++) {
            PlaneOf plane = W::planes(p);
            uint32_t offset = skew<W>(p, groups, row);
            const uint8_t* from = planes + (all * plane.before + int64_t(row) * plane.bytes) * groups - offset;
            begin_bulk_copy(room + place_in_slot<W>(p, groups, most), from, whole(offset + plane.bytes * groups * rows), to.signal());
        }
    }
    DEVICE_MEMBER static uint32_t whole(uint32_t bytes) { return (bytes + 15) / 16 * 16; }

    DEVICE_MEMBER void fill_part(Filler& to, int part, const uint8_t* const (&planes)[2]) {
        const Share& s = desk.parts[part];
        bool is_two = part == GATE_UP;
        int each = is_two ? 1 : rows_of_tile(part), matrix_rows = is_two ? a.ffn : rows_of(part);
        for (int first = s.first; first < s.end; first += s.together) {
            int row = first * each, rows = min(min(s.together, s.end - first) * each, matrix_rows - row);
            uint32_t bytes = 0;
#pragma unroll
            for (int p = 0; p < W::PLANES; p++)
                bytes += whole(skew<W>(p, s.groups, row) + W::planes(p).bytes * s.groups * rows);
            uint8_t* room = to.begin(is_two ? 2 * bytes : bytes, min(s.together, s.end - first));
            fill(to, room, s.together * each, planes[0], matrix_rows, s.groups, row, rows);
            if (is_two) fill(to, room + second_matrix(s), s.together, planes[1], matrix_rows, s.groups, row, rows);
            to.ring.next();
        }
    }
    DEVICE_MEMBER static uint32_t second_matrix(const Share& s) { return whole(row_bytes<W>(s.groups) * s.together) + 16 * W::PLANES; }

    // The life of the warp that fills the ring: one lane of it.
    DEVICE_MEMBER void fill_all() {
        Filler to = {ring, ring, 0, a.ahead};
        for (int l = 0; l < a.count; l++) {
            const uint8_t* const* planes = a.layers[l].planes;
            fill_part(to, Q, {planes[0], nullptr});
            fill_part(to, K, {planes[1], nullptr});
            fill_part(to, V, {planes[2], nullptr});
            fill_part(to, O, {planes[3], nullptr});
            fill_part(to, GATE_UP, {planes[4], planes[5]});
            fill_part(to, DOWN, {planes[6], nullptr});
        }
        fill_part(to, HEAD, {a.head.matrix.planes, nullptr});
    }

    DEVICE_MEMBER bool joins() const { return end > few::SPAN; }

    // The life of the warp that meets the other blocks'.
    DEVICE_MEMBER void meet_all() {
        uint32_t phases = a.count * (joins() ? 6 : 5);
        for (uint32_t i = 1; i <= phases; i++) {
            meet_some(DONE, WITH_ONE);
            if (lane_id() == 0) {
                count_up(a.met);
                while (counted(a.met) < i * gridDim.x) let_others_go_on();
            }
            meet_in_warp();
            arrive_some(GO_ON, WITH_ONE);
        }
        // Nobody looks any more when the last one comes.
        meet_some(DONE, WITH_ONE);
        if (lane_id() == 0 && atomicAdd(a.met, 1u) + 1 == (phases + 1) * gridDim.x) *a.met = 0;
    }

    DEVICE_MEMBER static void done() { arrive_some(DONE, WITH_ONE); }
    DEVICE_MEMBER static void go_on() { meet_some(GO_ON, WITH_ONE); }

    // Those who compute.

    // Products of this block's tiles of a part with a row that is staged: `end(tile, sums)`.
    template <int R, class S, class End>
    DEVICE_MEMBER void multiply_part(int part, const S& x, float factor, End end) {
        const Share s = desk.parts[part];
        bool is_two = part == GATE_UP;
        int each = is_two ? 1 : R, most = s.together * each;
#pragma unroll 1
        for (int tile = s.first + warp_id(); tile < s.end; tile += COMPUTING) {
            int set = (tile - s.first) / s.together, first = s.first + set * s.together, i = tile - first;
            Ring at = ring.behind(set);
            at.full[at.slot].wait(at.turn);
            float sums[R];
#pragma unroll
            for (int r = 0; r < R; r++) sums[r] = 0.0f;
            const uint8_t* planes[R][W::PLANES];
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int p = 0; p < W::PLANES; p++)
                    planes[r][p] = at.room() + place_in_slot<W>(p, s.groups, most) + skew<W>(p, s.groups, first * each) +
                                   (is_two ? r * second_matrix(s) : 0) + W::planes(p).bytes * s.groups * (is_two ? i : R * i + r);
#pragma unroll 1
            for (int lot = 0; lot < s.groups; lot += TOGETHER<W> * WARP)
                add_staged<W, S::IS_NORMED>(x, s.groups, lot + lane_id(), [&](int u, W(&w)[R]) {
                    int g = min(lot + lane_id() + u * WARP, s.groups - 1);
#pragma unroll
                    for (int r = 0; r < R; r++) w[r] = W::load(Found{planes[r], g}, a.head.matrix.codebook);
                }, sums);
            meet_in_warp();
            if (lane_id() == 0) at.empty[at.slot].arrive();
#pragma unroll
            for (int r = 0; r < R; r++) sums[r] = warp_sum(sums[r]) * factor;
            end(tile, sums);
        }
        ring = ring.behind(s.sets);
    }

    // A lane's group in a slot.
    struct Found {
        const uint8_t* const* planes;
        int group;

        template <class T, int P>
        DEVICE_MEMBER T of() const {
            return *reinterpret_cast<const T*>(planes[P] + group * sizeof(T));
        }
    };

    template <bool NORMS>
    struct Row : Stager<NORMS, Computing, Tagged> {
        static constexpr bool IS_NORMED = NORMS;
        using Stager<NORMS, Computing, Tagged>::Stager;
    };

    // A phase whose row is normed: the parts from `first` to `last`, `now` being the tag of what it leaves. All of them are here once, however
    // different their ends are: instructions that are not in the cache cost more than branches.
    DEVICE_MEMBER void normed(int first, int last, int l, const float* numbers, Tagged from, Tagged now) {
        const float *weight = a.output_norm, *bias[3] = {};
        if (first != HEAD) {
            const Layer& layer = a.layers[l];
            weight = first == Q ? layer.attn_norm : layer.ffn_norm;
#pragma unroll
            for (int i = 0; i < 3; i++) bias[i] = layer.bias[i];
        }
        Row<true> x({numbers, weight, a.width, a.eps, a.inverse}, staged, from);
        x.ask_early();
        if (from.bits) go_on();
        x.ask();
        x.put();
        float factor = x.norm();
        uint64_t most = 0;
#pragma unroll 1
        for (int part = first; part <= last; part++)
            multiply_part<2>(part, x, factor, [&](int tile, const float(&sums)[2]) {
                if (lane_id() > 0) return;
                if (part == GATE_UP) {
                    now.put(a.gated + tile, swiglu(sums[0], sums[1]));
                } else if (part == HEAD) {
#pragma unroll
                    for (int r = 0; r < 2; r++) put_logit(a.head, 0, 2 * tile + r, sums[r], desk.banned, most);
                } else {
                    put_qkv(part, l, 2 * tile, part == Q ? bias[0] : part == K ? bias[1] : bias[2], sums, now);
                }
            });
        if (first == HEAD) tell_best(most);
        done();
    }

    DEVICE_MEMBER void put_qkv(int part, int l, int row, const float* bias, const float (&sums)[2], Tagged now) const {
        int d = row % D, before = part == Q ? 0 : part == K ? q_width() : q_width() + kv_width();
        float2 pair = turned_pair(bias, part, row, sums[0], sums[1], desk.angles[d / 2]);
        if (part != Q) {
            Cache cache = a.cache;
            cache.layer = int64_t(l) * a.cache.layer;
            store(cache, place_in(cache, part, row / D, d, place), pair.x, pair.y);
            pair = make_float2(half_bits(to_half(pair.x)), half_bits(to_half(pair.y)));
        }
        now.put(reinterpret_cast<float2*>(a.query + before + row), pair);
    }

    DEVICE_MEMBER void tell_best(uint64_t most) {
        if (lane_id() == 0) desk.best[warp_id()] = most;
        Computing::meet();
        if (threadIdx.x > 0) return;
        for (int w = 0; w < COMPUTING; w++) most = desk.best[w] > most ? desk.best[w] : most;
        atomic_max(a.head.best, most);
    }

    // A phase that adds a matrix's product with numbers to the residual stream.
    DEVICE_MEMBER void add(int part, Tagged now) {
        Row<false> x({part == O ? a.attended : a.gated, nullptr, k_of(part), 0.0f, 0.0f}, staged, now);
        go_on();
        x.ask();
        x.put();
        x.norm();
        int first = desk.parts[part].first;
        float* to = a.hidden + (part == O ? 0 : a.width);
        multiply_part<1>(part, x, 1.0f, [&](int tile, const float(&sums)[1]) {
            if (lane_id() > 0) return;
            float sum = residual[tile - first] + sums[0];
            residual[tile - first] = sum;
            now.put(to + tile, sum);
        });
        done();
    }

    using Strip = few::Strip<D, Halves>;

    // A task of attention: a key head and a chunk of positions.
    DEVICE_MEMBER few::Task task_of(int which) const {
        few::Task task = {0, which % a.attend.kv_heads, which / a.attend.kv_heads, a.attend.heads / a.attend.kv_heads, 0, end};
        task.begin = max(0, task.end - a.attend.window);
        task.chunk += task.begin / few::SPAN;
        return task;
    }
    DEVICE_MEMBER int page_of(int position) const { return fresh(a.attend.tables + fresh(a.attend.table) + position / PAGE); }
    DEVICE_MEMBER int chunks_end() const { return (end + few::SPAN - 1) / few::SPAN; }

    // The step's own keys and values come with its queries; earlier steps' are on their way.
    DEVICE_MEMBER void attend_strip(const few::DecodeArgs& d, const few::Task& task, int first, bool is_seen,
                                    const typename Strip::OnTheWay& on_the_way, Tagged now, few::Room<D>& room) {
        int g = lane_id() / 4, t = lane_id() % 4, own = task.end - 1 - first;
        const float* key = a.query + q_width() + task.kv * D;
        few::Query<D> query(d, task);
        few::OwnRow<D / 32, 32> own_key = {reinterpret_cast<const float4*>(key + 8 * t), {}};
        few::OwnRow<D / 64, 64> own_value = {reinterpret_cast<const float4*>(key + kv_width() + 8 * g), {}};
        now.until([&] {
            bool query_is = query.ask(now), key_is = own_key.ask(now), value_is = own_value.ask(now);
            return query_is && key_is && value_is;
        });
        Strip strip;
        auto take_keys = [&] {
            strip.take_keys(on_the_way);
#pragma unroll
            for (int c = 0; c < D / 32; c++) {
                uint4 mine = own_key.take(c);
#pragma unroll
                for (int i = 0; i < 2; i++)
                    if (8 * i + g == own) strip.keys[i][c] = mine;
            }
        };
        auto take_values = [&] {
            strip.take_values(on_the_way);
#pragma unroll
            for (int c = 0; c < D / 64; c++) {
                uint4 mine = own_value.take(c);
#pragma unroll
                for (int i = 0; i < 4; i++)
                    if (few::value_position(i) == own) strip.values[i][c] = mine;
            }
        };
        few::attend_strip(d, task, first, is_seen, strip, query, room, take_keys, take_values);
    }

    DEVICE_MEMBER void attend(int l, Tagged now) {
        few::DecodeArgs d = a.attend;
        d.layer = int64_t(l) * a.cache.layer;
        few::Room<D>& room = *reinterpret_cast<few::Room<D>*>(staged);
        bool attends = warp_id() < WARPS, has_gone_on = false;
        for (int which = blockIdx.x; attends; which += gridDim.x) {
            few::Task task = task_of(which);
            if (task.chunk >= chunks_end()) break;
            int first = task.chunk * few::SPAN + warp_id() * few::STRIP, own = task.end - 1;
            bool is_seen = first < task.end && first + few::STRIP > task.begin;
            auto& on_the_way = reinterpret_cast<typename Strip::OnTheWay*>(kept)[warp_id()];
            if (is_seen) Strip::begin_copies(on_the_way, d, task, which == int(blockIdx.x) ? page : page_of(first), first, own);
            if (!has_gone_on) go_on();
            has_gone_on = true;
            attend_strip(d, task, first, is_seen, on_the_way, now, room);
            Attending::meet();
            few::gather_strips<D>(task, room, [&](int unit, float4 sum, Softmax softmax) {
                if (!joins()) {
                    now.put(reinterpret_cast<float4*>(a.attended + task.kv * task.count * D) + unit, few::times(sum, 1.0f / softmax.total));
                    return;
                }
                few::PartialPlace<D> place(d, task, 1, unit);
                now.put(place.numbers, sum);
                if (unit % few::UNITS<D> == 0) now.put(place.softmax, make_float2(softmax.top, softmax.total));
            });
            Attending::meet();
        }
        if (!has_gone_on) go_on();
        done();
        if (!joins()) return;
        go_on();
        if (attends) join(d, now);
        done();
    }

    DEVICE_MEMBER void join(const few::DecodeArgs& d, Tagged now) {
        auto sums = reinterpret_cast<float4(*)[few::UNITS<D>]>(staged);
        int begin = max(0, end - d.window) / few::SPAN;
        for (int head = blockIdx.x; head < d.heads; head += gridDim.x) {
            few::join_chunks<D, Attending>(d, make_int2(begin, chunks_end()), 0, head, 1, now, sums,
                                           [&](int unit, float4 x) { now.put(reinterpret_cast<float4*>(a.attended + head * D) + unit, x); });
            Attending::meet();
        }
    }

    // Halves of layers, and the head: each begins with a row that is normed.
    DEVICE_MEMBER void compute_all() {
        Tagged from = Tagged::settled(), now = from;
        const float* numbers = a.stream;
#pragma unroll 1
        for (int half = 0; half <= 2 * a.count; half++) {
            int l = half / 2;
            bool is_head = half == 2 * a.count, is_second = half % 2;
            if (!is_second && !is_head) now = Tagged::of(l, a.count);
            normed(is_head ? HEAD : is_second ? GATE_UP : Q, is_head ? HEAD : is_second ? GATE_UP : V, l, numbers, from, now);
            if (is_head) return;
            if (!is_second) attend(l, now);
            add(is_second ? DOWN : O, now);
            from = now;
            numbers = a.hidden + (is_second ? a.width : 0);
        }
    }
};

template <class W, int D>
DEVICE void run(const Args& a) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
    LAUNCH_SHARED(room);
    wait_for_previous();
    Step<W, D> step(a, room);
    step.prepare();
    if (warp_id() < COMPUTING) step.compute_all();
    else if (warp_id() == MEETING) step.meet_all();
    else if (lane_id() == 0) step.fill_all();
#endif
}

}  // namespace persistent

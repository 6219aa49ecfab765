// A step's first kernel: it takes in what the host says of the rows, and looks their embeddings up.
//
// The host's memory is far: all of it is to be asked for at once, by many threads.
#include "step.cuh"
#include "stream.cuh"

struct BeginArgs {
    Matrix embedding;
    const uint32_t* tokens;  // (rows): see id_of; counted from the step's words where there are some.
    const uint32_t* chosen;  // What the last steps chose.
    const uint32_t* words;   // (STEPS + 1, stride), in the host's memory; null where the GPU has them already.
    uint32_t* to_words;
    const uint32_t* ended;   // See step.cuh.
    uint64_t* begun;         // When this step did, for those that follow each other.
    float* stream;           // (rows, embedding.k)
    int64_t stride;
    uint32_t count;          // Of words, behind which there is a gap and then more.
    uint32_t gap;
    uint32_t more;
    uint32_t pad;
};

// The id of a row; whatever the host was wrong about, it is one that there is.
DEVICE uint32_t known_id(const BeginArgs& a, uint32_t token) {
    uint32_t id = id_of(token, a.chosen);
    return id < uint32_t(a.embedding.rows) ? id : 0;
}

// Writes the numbers of a strip of a row of the matrix, by a warp.
template <class W>
DEVICE void embed(const BeginArgs& a, uint32_t id, int strip, uint8_t* room) {
    int groups = a.embedding.k / GROUP, first = strip * STRIP_GROUPS, g = first + lane_id();
    Begins<W> begins;
    begins.find(a.embedding);
    begin_piece<W, 1>(room, begins, id * uint32_t(groups) + first, groups - first);
    end_lot();
    wait_for_copies<0>();
    meet_in_warp();
    if (g >= groups) return;
    W w = W::load(Lane<W, 1>{room, 0}, a.embedding.codebook);
    float4* to = reinterpret_cast<float4*>(a.stream + int64_t(blockIdx.x) * a.embedding.k + g * GROUP);
#pragma unroll
    for (int i = 0; i < GROUP / 4; i++) to[i] = {w.number(4 * i), w.number(4 * i + 1), w.number(4 * i + 2), w.number(4 * i + 3)};
}

// A block a row and strip of it.
template <class W>
DEVICE void begin(const BeginArgs& a) {
    __shared__ __align__(16) uint8_t room[PIECE<W, 1>];
    let_next_begin();
    wait_for_previous();
    const uint32_t* words = a.words ? a.words + place_of_step(a.ended) * a.stride : nullptr;
    if (warp_id() == 0) {
        const uint32_t* tokens = words ? words + (a.tokens - a.to_words) : a.tokens;
        embed<W>(a, known_id(a, tokens[blockIdx.x]), blockIdx.y, room);
        return;
    }
    if (a.ended && blockIdx.x + blockIdx.y + warp_id() == 1 && lane_id() == 0) *a.begun = nanoseconds();
    constexpr uint32_t HELPERS = THREADS - WARP;
    uint32_t block = blockIdx.x * gridDim.y + blockIdx.y, first = block * HELPERS + threadIdx.x - WARP;
#pragma unroll 4
    for (uint32_t i = first; i < a.count + a.more; i += gridDim.x * gridDim.y * HELPERS) {
        uint32_t at = i < a.count ? i : i + a.gap;
        a.to_words[at] = words[at];
    }
}

#define BEGIN(W) \
    KERNEL(begin_##W, BeginArgs, a) { begin<W>(a); }
BEGIN(Affine4)
BEGIN(Affine4Min)
BEGIN(Lut4)
BEGIN(Q4K)
BEGIN(Int8)
BEGIN(Int8Min)
BEGIN(Q6K)
BEGIN(Half)
BEGIN(BHalf)
BEGIN(Single)

// Runs the kernels of kernels/cuda on the host, for tests/cuda.rs.
#include "host.h"

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <ucontext.h>
#include <vector>

#include "../../kernels/cuda/attention.cu"
#include "../../kernels/cuda/begin.cu"
#include "../../kernels/cuda/choose.cu"
#include "../../kernels/cuda/decode.cu"
#include "../../kernels/cuda/gemm.cu"
#include "../../kernels/cuda/gemv4.cu"
#include "../../kernels/cuda/gemv8.cu"
#include "../../kernels/cuda/gemv_float.cu"
#include "../../kernels/cuda/hash.cu"
#include "../../kernels/cuda/keep.cu"
#include "../../kernels/cuda/norm.cu"
#include "../../kernels/cuda/plain.cu"
#include "../../kernels/cuda/prefill.cu"
#include "../../kernels/cuda/rows.cu"
#include "../../kernels/cuda/several4.cu"
#include "../../kernels/cuda/several8.cu"
#include "../../kernels/cuda/swiglu.cu"

namespace host {
// Bytes behind a block's shared memory that nobody is to write.
constexpr unsigned GUARD = 4096;
Index thread, block, grid, dim;
alignas(16) uint8_t launch_shared[(96 << 10) + GUARD];

namespace {
constexpr size_t STACK = 64 << 10;
using Kernel = void (*)(const void*);

enum State { READY, AT_BLOCK, AT_TEAM, AT_WARP, DONE };

// A thread of the block: its stack, and where it goes on.
struct Fiber {
    std::vector<char> stack;
    ucontext_t start;
    jmp_buf here;
    State state;
    bool begun = false;
    unsigned shuffles = 0;
};

std::vector<Fiber> fibers(MOST);
uint32_t words[2][MOST];
jmp_buf scheduler;
ucontext_t from;
int current;
// Threads of a team, once some have met.
int team;
Kernel kernel;
const void* args;

void wait(State state) {
    Fiber& f = fibers[current];
    f.state = state;
    if (_setjmp(f.here) == 0) _longjmp(scheduler, 1);
}

// A fiber's life: a thread of one block after the other.
void run() {
    for (;;) {
        kernel(args);
        wait(DONE);
    }
}

__attribute__((noinline)) void turn(int i) {
    Fiber& f = fibers[i];
    current = i;
    thread = {unsigned(i), 0, 0};
    if (_setjmp(scheduler)) return;
    if (f.begun) _longjmp(f.here, 1);
    f.begun = true;
    setcontext(&f.start);
}

// Lets those go on who wait for nobody any more: a warp whose threads have all come, or the block.
bool release(int first, int count, State at) {
    int waiting = 0, done = 0;
    for (int i = first; i < first + count; i++) waiting += fibers[i].state == at, done += fibers[i].state == DONE;
    if (waiting == 0 || waiting + done < count) return false;
    for (int i = first; i < first + count; i++)
        if (fibers[i].state == at) fibers[i].state = READY;
    return true;
}

void prepare(Fiber& f) {
    f.state = READY;
    f.shuffles = 0;
    if (f.begun) return;
    f.stack.resize(STACK);
    getcontext(&f.start);
    f.start.uc_stack.ss_sp = f.stack.data();
    f.start.uc_stack.ss_size = STACK;
    f.start.uc_link = &from;
    makecontext(&f.start, run, 0);
}

void run_block(bool backwards) {
    int threads = dim.x;
    for (int i = 0; i < threads; i++) prepare(fibers[i]);
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < threads; i++) {
            int which = backwards ? threads - 1 - i : i;
            if (fibers[which].state == READY) turn(which), moved = true;
        }
        for (int w = 0; w < threads; w += WARP) moved |= release(w, WARP, AT_WARP);
        for (int i = 0; team > 0 && i < threads; i += team) moved |= release(i, team, AT_TEAM);
        moved |= release(0, threads, AT_BLOCK);
    }
    for (int i = 0; i < threads; i++)
        if (fibers[i].state != DONE) {
            fprintf(stderr, "threads of a block wait for each other for ever\n");
            abort();
        }
}
}  // namespace

void meet_block() { wait(AT_BLOCK); }
void meet_team(int threads) {
    team = threads;
    wait(AT_TEAM);
}
void meet_warp() { wait(AT_WARP); }
uint32_t* lanes() { return words[fibers[current].shuffles++ % 2] + thread.x / WARP * WARP; }
}  // namespace host

// Runs a kernel's blocks one after the other; `backwards` turns the order of blocks and threads round. Of the shared memory they have
// so many bytes, NaN at first.
extern "C" void taper_host_launch(host::Kernel kernel, const void* args, const unsigned* grid, unsigned threads, unsigned shared,
                                  int backwards) {
    memset(host::launch_shared, 0xFF, shared + host::GUARD);
    host::dim = {threads, 1, 1};
    host::grid = {grid[0], grid[1], grid[2]};
    host::kernel = kernel;
    host::args = args;
    unsigned count = grid[0] * grid[1] * grid[2];
    for (unsigned n = 0; n < count; n++) {
        unsigned i = backwards ? count - 1 - n : n;
        host::block = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
        host::run_block(backwards);
    }
    for (unsigned i = shared; i < shared + host::GUARD; i++)
        if (host::launch_shared[i] != 0xFF) {
            fprintf(stderr, "a block writes behind its %u bytes of shared memory\n", shared);
            abort();
        }
}

// Changes a row's logits, (vocab), in two slices.
extern "C" void taper_host_change(const Changes* changes, const uint32_t* chosen, float* logits, unsigned vocab, int backwards) {
    struct Args {
        const Changes* changes;
        const uint32_t* chosen;
        float* logits;
        unsigned vocab;
    } args = {changes, chosen, logits, vocab};
    auto kernel = [](const void* args) {
        const Args& a = *static_cast<const Args*>(args);
        unsigned half = a.vocab / 2;
        change_logits(a.changes, a.chosen, blockIdx.x * half, blockIdx.x ? a.vocab : half, a.logits);
    };
    const unsigned grid[3] = {2, 1, 1};
    taper_host_launch(kernel, &args, grid, THREADS, 0, backwards);
}

// The integer part of each group of a row of a matrix, for activations of one row: (k / 32). A lane has a group of a strip.
#define INTEGERS(W)                                                                                                     \
    extern "C" void taper_host_integers_##W(const Matrix& m, int row, const int8_t* codes, const int* sums, int* out) { \
        static uint8_t piece[PIECE<W, 1>] __attribute__((aligned(16)));                                                 \
        int64_t groups = m.k / GROUP, all = m.rows * groups;                                                            \
        for (int64_t g = 0; g < groups; g++) {                                                                          \
            int64_t first = g / WARP * WARP, count = groups - first < WARP ? groups - first : WARP;                     \
            for (int p = 0; p < W::PLANES; p++) {                                                                       \
                PlaneOf plane = W::planes(p);                                                                           \
                const uint8_t* from = m.planes + plane.before * all + (row * groups + first) / plane.groups * plane.bytes; \
                memcpy(piece + Piece<W, 1>::place(p), from, count / plane.groups * plane.bytes);                        \
            }                                                                                                           \
            host::thread.x = unsigned(g - first);                                                                       \
            out[g] = W::load(Lane<W, 1>{piece, 0}, m.codebook).integer(codes_of(codes + g * GROUP, 1.0f, sums[g]));     \
        }                                                                                                               \
    }
INTEGERS(Affine4)
INTEGERS(Affine4Min)
INTEGERS(Lut4)
INTEGERS(Int8)
INTEGERS(Int8Min)
INTEGERS(Q4K)
INTEGERS(Q6K)

// Adds a matrix times rows of codes in tiles to (rows, matrix.rows).
#define TILED(W)                                                                                                        \
    extern "C" void taper_host_tiled_##W(const Matrix& m, int8_t* codes, int8_t* rests, Scales* scales, float* stream,  \
                                         int rows, int backwards) {                                                     \
        tile::LinearArgs a{};                                                                                           \
        a.matrix = m;                                                                                                   \
        a.x.codes = codes, a.x.rests = rests, a.x.scales = scales, a.x.k = m.k;                                         \
        a.stream = stream;                                                                                              \
        a.rows = rows;                                                                                                  \
        const unsigned grid[3] = {unsigned(m.rows + tile::COLUMNS - 1) / tile::COLUMNS,                                 \
                                  unsigned(rows + tile::ROWS - 1) / tile::ROWS, 1};                                     \
        auto kernel = [](const void* a) { add_linear_##W##_many(*static_cast<const tile::LinearArgs*>(a)); };           \
        taper_host_launch(kernel, &a, grid, THREADS, 0, backwards);                                                     \
    }
TILED(Affine4)
TILED(Affine4Min)
TILED(Lut4)
TILED(Int8)
TILED(Int8Min)
TILED(Q4K)
TILED(Q6K)

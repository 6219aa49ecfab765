// Tensor cores, and copies to shared memory that go on while threads compute: instructions of sm_80 and everything after it.
//
// Fragments are spread over a warp as PTX defines it (its manual's "Matrix Fragments"): with g = lane / 4, t = lane % 4, a lane
// holds of the result (16 rows, 8 columns) the columns 2t and 2t + 1 of rows g and g + 8; of the left factor rows g and g + 8,
// of the right one column g.
#pragma once

#include "common.cuh"

#ifndef __CUDACC__
#include "mma.h"
#endif

// Exact: d = a b for int8, 32 numbers of k.
DEVICE void mma_s8(int (&d)[4], const uint32_t (&a)[4], uint2 b) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(0), "r"(0), "r"(0), "r"(0));
#else
    host::mma_s8(d, a, b);
#endif
}

// d += a b for f16, 16 numbers of k, sums in f32.
DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    host::mma_f16(d, a, b0, b1);
#endif
}

// d += a b for the upper 19 bits of f32 (tf32: 11 bits of significand), 8 numbers of k, sums in f32.
DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    host::mma_tf32(d, a, b0, b1);
#endif
}

#ifdef __CUDACC__
DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
#endif

// Four matrices of 8 by 8 f16 from shared memory: lane l says where row l % 8 of matrix l / 8 is, 16 bytes on a boundary of 16.
// Register i is the lane's part of matrix i: row g, columns 2t and 2t + 1.
DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    host::load_matrices(r, row, false);
#endif
}

// The same, transposed: column g, rows 2t and 2t + 1.
DEVICE void load_transposed(uint32_t (&r)[4], const void* row) {
#ifdef __CUDACC__
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
#else
    host::load_matrices(r, row, true);
#endif
}

// Begins to copy 4, 8 or 16 bytes to shared memory, or zeros where `there` is false; `from` is not read then. Sixteen go past the
// first-level cache.
template <int BYTES>
DEVICE void begin_copy(void* to, const void* from, bool there = true) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "what PTX has");
#ifdef __CUDACC__
    int size = there ? BYTES : 0;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(to)), "l"(from), "r"(size) : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0],[%1],%3,%2;" ::"r"(shared_address(to)), "l"(from), "r"(size), "n"(BYTES)
                     : "memory");
    }
#else
    host::begin_copy(to, from, BYTES, there);
#endif
}

// What this thread began since the last call becomes one lot of copies.
DEVICE void end_lot() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    host::end_lot();
#endif
}

// Waits for this thread's copies but for those of the last LOTS lots; other threads see them after the next barrier.
template <int LOTS>
DEVICE void wait_for_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(LOTS) : "memory");
#else
    host::wait_for_copies(LOTS);
#endif
}

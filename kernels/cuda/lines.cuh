// Groups of a matrix's rows on their way to shared memory, ahead of their activations, and where lanes find theirs there.
#pragma once

#include "dot.cuh"
#include "mma.cuh"

// What a warp has of a row at a time: U strips, plane behind plane.
template <class W, int U>
struct Piece {
    static constexpr int GROUPS = U * STRIP_GROUPS;

    // Bytes that a lane copies at once, and of how many groups they are.
    DEVICE constexpr int bytes(int p) { return W::planes(p).bytes < 4 ? 4 : W::planes(p).bytes; }
    DEVICE constexpr int share(int p) { return bytes(p) / W::planes(p).bytes * W::planes(p).groups; }
    DEVICE constexpr int place(int p) {
        int at = 0;
        for (int q = 0; q < p; q++) at += (GROUPS / share(q) * bytes(q) + 15) / 16 * 16;
        return at;
    }
};
// Its bytes: few.rs has the same.
template <class W, int U>
constexpr int PIECE = Piece<W, U>::place(W::PLANES);

// Where this lane's part of the first piece of a matrix is, plane by plane.
template <class W>
struct Begins {
    const uint8_t* planes[W::PLANES];

    DEVICE_MEMBER void find(const Matrix& m) {
#pragma unroll
        for (int p = 0; p < W::PLANES; p++)
            planes[p] = m.planes + groups_of(m) * W::planes(p).before + lane_id() * Piece<W, 1>::bytes(p);
    }
};

// Begins to copy a plane of the piece that begins with group `at` of all, of a row that has so many groups left.
template <class W, int U, int P>
DEVICE void begin_plane(uint8_t* piece, const Begins<W>& begins, uint32_t at, int left) {
    constexpr PlaneOf plane = W::planes(P);
    constexpr int BYTES = Piece<W, U>::bytes(P), SHARE = Piece<W, U>::share(P), PARTS = Piece<W, U>::GROUPS / SHARE;
    const uint8_t* from = begins.planes[P] + uint64_t(plane.groups == 1 ? at : at / plane.groups) * plane.bytes;
    uint8_t* to = piece + Piece<W, U>::place(P) + lane_id() * BYTES;
    // There is no copy for less than 4 bytes: odd numbers of groups, which no known model has, take loads.
    bool is_odd = plane.bytes < 4 && (uint32_t(reinterpret_cast<uintptr_t>(from)) & 2);
#pragma unroll
    for (int i = 0; i < PARTS; i += WARP) {
        bool is = (i + lane_id()) * SHARE < left && (PARTS - i >= WARP || i + lane_id() < PARTS);
        if (is && !is_odd) begin_copy<BYTES>(to + i * BYTES, from + i * BYTES);
        if (is && is_odd)
            for (int b = 0; b < BYTES; b += 2) *reinterpret_cast<uint16_t*>(to + i * BYTES + b) = read<uint16_t>(from + i * BYTES + b);
    }
}

template <class W, int U, int P = 0>
DEVICE void begin_piece(uint8_t* piece, const Begins<W>& begins, uint32_t at, int left) {
    if constexpr (P < W::PLANES) {
        begin_plane<W, U, P>(piece, begins, at, left);
        begin_piece<W, U, P + 1>(piece, begins, at, left);
    }
}

// A lane's group of strip u.
template <class W, int U>
struct Lane {
    const uint8_t* piece;
    int u;

    template <class T, int P>
    DEVICE_MEMBER T of() const {
        constexpr int place = Piece<W, U>::place(P), groups = W::planes(P).groups;
        return *reinterpret_cast<const T*>(piece + place + (u * WARP + lane_id()) / groups * sizeof(T));
    }
};

// Weights on their way through a ring of slots in shared memory, brought by the copy engine: a warp asks for them as far ahead as there is room,
// whatever phase they are for, and the others find them there.
//
// Under way at a time are only as many bytes as it takes to keep the memory busy: with more, what blocks hand each other waits behind them
// (H100, TinyLlama: 383 us with 19 KB of a block, 411 with 38).
#pragma once

#include "mma.cuh"

// A place where a warp waits for so many arrivals, and so many bytes of copies.
struct Signal {
    uint64_t word;

    DEVICE_MEMBER void init(uint32_t arrivals) {
#ifdef __CUDACC__
        asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
#else
        host::init_signal(&word, arrivals);
#endif
    }
    DEVICE_MEMBER void arrive(uint32_t times = 1) {
#ifdef __CUDACC__
        asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0],%1;" ::"r"(shared_address(this)), "r"(times) : "memory");
#else
        for (uint32_t i = 0; i < times; i++) host::arrive(&word);
#endif
    }
    // Arrives, and says how many bytes are to come.
    DEVICE_MEMBER void expect(uint32_t bytes) {
#ifdef __CUDACC__
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(shared_address(this)), "r"(bytes) : "memory");
#else
        host::arrive(&word);
        (void)bytes;
#endif
    }
    DEVICE_MEMBER void wait(uint32_t parity) {
#ifdef __CUDACC__
        asm volatile(
            "{ .reg .pred p; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1; @p bra DONE; bra AGAIN; DONE: }" ::"r"(
                shared_address(this)),
            "r"(parity)
            : "memory");
#else
        while (!host::has_turned(&word, parity)) host::let_others_go_on();
#endif
    }
};

// Begins to copy so many bytes, of which there are multiples of 16 on boundaries of 16.
DEVICE void begin_bulk_copy(uint8_t* to, const uint8_t* from, uint32_t bytes, Signal& signal) {
#ifdef __CUDACC__
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(&signal))
                 : "memory");
#else
    memcpy(to, from, bytes);
    (void)signal;
#endif
}

// Warps that need what is in a slot, at most.
constexpr int MOST_USERS = 16;

// The slots, one after the other; each who goes through them has one of these.
struct Ring {
    uint8_t* slots;
    Signal *full, *empty;
    int count, bytes;
    int slot;
    uint32_t turn;

    // The slot so many behind this one.
    DEVICE_MEMBER Ring behind(int n) const {
        Ring r = *this;
        r.slot += n;
        while (r.slot >= count) {
            r.slot -= count;
            r.turn ^= 1;
        }
        return r;
    }
    DEVICE_MEMBER void next() { *this = behind(1); }
    DEVICE_MEMBER uint8_t* room() const { return slots + slot * bytes; }
};

// Of the warp that fills it, of which one lane does.
struct Filler {
    Ring ring, oldest;
    int under_way, most;

    // Where the next ones go, once there is room, and so many fewer are under way. Of MOST_USERS who may need a slot so many will.
    DEVICE_MEMBER uint8_t* begin(uint32_t bytes, int users) {
        ring.empty[ring.slot].wait(ring.turn ^ 1);
        if (users < MOST_USERS) ring.empty[ring.slot].arrive(MOST_USERS - users);
        if (under_way == most) {
            oldest.full[oldest.slot].wait(oldest.turn);
            oldest.next();
        } else {
            under_way++;
        }
        ring.full[ring.slot].expect(bytes);
        return ring.room();
    }
    DEVICE_MEMBER Signal& signal() { return ring.full[ring.slot]; }
};

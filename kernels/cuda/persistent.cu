// Steps of one row of models whose matrices all have one type of 4 bits, see persistent.cuh.
#include "persistent.cuh"

#define PERSISTENT(W)                                                                                                        \
    KERNEL_OF(persistent_##W##_64, persistent::Args, a, persistent::ALL * WARP, 1) { persistent::run<W, 64>(a); }            \
    KERNEL_OF(persistent_##W##_128, persistent::Args, a, persistent::ALL * WARP, 1) { persistent::run<W, 128>(a); }
PERSISTENT(Affine4)
PERSISTENT(Affine4Min)
PERSISTENT(Lut4)

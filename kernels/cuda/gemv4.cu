// Matrices of 4 bits, and of 4 and 6, see gemv.cuh.
#include "gemv.cuh"

ROWS(Affine4, 1)
ROWS(Affine4Min, 1)
ROWS(Lut4, 1)
ROWS(Q4K, 1)

KERNEL_WITHIN(qkv_Q4K_Q6K_1, TwoQkvArgs, a, most_registers<Q4K>(1, false)) { two_qkv<Q4K, Q6K>(a); }

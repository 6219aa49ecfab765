// Matrices of 4 bits, and of 4 and 6, see gemv.cuh.
#include "gemv.cuh"

ROWS(Affine4, 1)
ROWS(Affine4Min, 1)
ROWS(Lut4, 1)
ROWS(Q4K, 1)

FEW_KERNEL(qkv_Q4K_Q6K_1, TwoQkvArgs, a, Q4K, 1) { two_qkv<Q4K, Q6K>(a); }

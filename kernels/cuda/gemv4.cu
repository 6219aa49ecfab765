// Matrices of 4 bits, see gemv.cuh.
#include "gemv.cuh"

ROWS(Affine4, 1) ROWS(Affine4, 4) ROWS(Affine4, 16)
ROWS(Affine4Min, 1) ROWS(Affine4Min, 4) ROWS(Affine4Min, 16)
ROWS(Lut4, 1) ROWS(Lut4, 4) ROWS(Lut4, 16)
ROWS(Q4K, 1) ROWS(Q4K, 4) ROWS(Q4K, 16)

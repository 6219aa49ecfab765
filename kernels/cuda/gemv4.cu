// Matrices of 4 bits, see gemv.cuh.
#include "gemv.cuh"

ROWS(Affine4, 1)
ROWS(Affine4Min, 1)
ROWS(Lut4, 1)
ROWS(Q4K, 1)

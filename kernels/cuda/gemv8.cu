// Matrices of 6 and 8 bits, see gemv.cuh.
#include "gemv.cuh"

ROWS(Int8, 1)
ROWS(Int8Min, 1)
ROWS(Q6K, 1)

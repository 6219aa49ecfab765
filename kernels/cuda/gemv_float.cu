// Matrices in floating point, see gemv.cuh.
#include "gemv.cuh"

ROWS(Half, 1) ROWS(Half, 4)
ROWS(BHalf, 1) ROWS(BHalf, 4)
ROWS(Single, 1) ROWS(Single, 4)

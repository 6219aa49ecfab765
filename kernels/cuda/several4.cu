// Matrices of 4 bits times 2 to 16 rows, see several.cuh.
#include "several_ends.cuh"

SEVERAL(Affine4, 8) SEVERAL(Affine4, 16)
SEVERAL(Affine4Min, 8) SEVERAL(Affine4Min, 16)
SEVERAL(Lut4, 8) SEVERAL(Lut4, 16)
SEVERAL(Q4K, 8) SEVERAL(Q4K, 16)

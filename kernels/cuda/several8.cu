// Matrices of 6 and 8 bits times 2 to 16 rows, see several.cuh.
#include "several_ends.cuh"

SEVERAL(Int8, 8) SEVERAL(Int8, 16)
SEVERAL(Int8Min, 8) SEVERAL(Int8Min, 16)
SEVERAL(Q6K, 8) SEVERAL(Q6K, 16)

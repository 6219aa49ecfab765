//! The compiled kernels, as `kernels/build.rs` found them: a name and a fat binary for each `kernels/cuda/*.cu`; nothing
//! where there was no nvcc.

include!(concat!(env!("OUT_DIR"), "/cuda_kernels.rs"));

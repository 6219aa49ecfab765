//! What is compiled beside the Rust, the kernels for NVIDIA GPUs, and where the linker finds what FAISS needs.

#[path = "kernels/build.rs"]
mod kernels;
#[path = "src/memory/build.rs"]
mod memory;

fn main() {
    memory::link();
    if let Err(e) = kernels::build() {
        println!("cargo::error={e}");
    }
}

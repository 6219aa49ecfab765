//! What is compiled beside the Rust: the kernels for NVIDIA GPUs.

#[path = "kernels/build.rs"]
mod kernels;

fn main() {
    if let Err(e) = kernels::build() {
        println!("cargo::error={e}");
    }
}

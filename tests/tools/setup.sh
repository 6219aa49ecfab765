#!/bin/sh
# Sees to what the build needs from the system. Cheap when it is all there; otherwise it installs what is missing
# (as root on Debian), or prints the command to type and stops.
set -eu

python=${TAPER_PYTHON:-python3}
packages=

need() { packages="$packages $*"; }

# Cargo links with cc, and crates with C in them include the C library's headers.
echo '#include <stdio.h>
int main(void) { return puts("") < 0; }' | cc -x c -o /dev/null - 2>/dev/null || need gcc libc6-dev
# FAISS, which finds things in the memory, is built from its sources and linked with static libraries.
has_archive() { case $(c++ -print-file-name="$1" 2>/dev/null) in /*) ;; *) return 1 ;; esac; }
command -v cmake >/dev/null || need cmake
command -v c++ >/dev/null || need g++
has_archive libopenblas.a || need libopenblas-dev
has_archive libgfortran.a || need "libgfortran-$(c++ -dumpversion 2>/dev/null | grep . || echo 12)-dev"
# Models come through pip.
"$python" -c 'import pip' 2>/dev/null || need python3 python3-pip

# nvcc works with g++; so do the tests that run the kernels for NVIDIA GPUs on the host.
if [ "${CI:-}" = true ] || [ -e /dev/nvidiactl ]; then
    command -v g++ >/dev/null || need g++
fi

# Completions are tested in the shells themselves, kernels for other processors in an emulator; CI tests all of them,
# everyone else those that they have.
if [ "${CI:-}" = true ]; then
    for shell in zsh fish; do
        command -v $shell >/dev/null || need $shell
    done
    command -v qemu-aarch64 >/dev/null || need qemu-user
    command -v aarch64-linux-gnu-gcc >/dev/null || need gcc-aarch64-linux-gnu libc6-dev-arm64-cross
fi

if ! command -v cargo >/dev/null; then
    echo "cargo is not on the PATH: install Rust with rustup, or put ~/.cargo/bin on the PATH, then try again" >&2
    exit 1
fi

# The compiler of the CUDA kernels: for who has a GPU to run them, and for CI. Nobody else need fetch so much.
toolkit() {
    if [ "${CI:-}" = true ]; then
        tests/tools/cuda_toolkit.sh
    elif [ -e /dev/nvidiactl ]; then
        tests/tools/cuda_toolkit.sh || echo "no nvcc could be fetched: this build leaves the GPU alone" >&2
    fi
}

if [ -z "$packages" ]; then
    toolkit
    exit
fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing$packages" >&2
    apt-get update -qq
    # shellcheck disable=SC2086 # the names are words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >&2
    toolkit
else
    echo "The build needs packages that are missing. On Debian or Ubuntu:" >&2
    echo "    sudo apt-get install$packages" >&2
    exit 1
fi

# Processors that are not at hand, by qemu's user emulation. Sourced by test.sh.

# has_all qemu-aarch64 …: whether all these programs are there.
has_all() {
    for tool in "$@"; do
        if ! command -v "$tool" >/dev/null; then
            absent "$tool"
            return 1
        fi
    done
}

# says PROGRAM…: a few tokens of the test model.
says() {
    "$@" -q --raw --temp 0 -n 4 -c 64 --device cpu -m "$TAPER_TEST_MODEL" -p 'Name a colour.'
}

# says_the_same PROGRAM…: whether they are those of the plain kernels here.
says_the_same() {
    here=$(says env TAPER_CPU=scalar target/debug/taper)
    there=$(says "$@")
    [ "$here" = "$there" ] || { echo "$*: '$there', not '$here'" >&2; exit 1; }
}

# takes KERNELS PROGRAM…: whether doctor names these kernels.
takes() {
    kernels=$1
    shift
    "$@" doctor -t 1 | grep -x "backend    cpu: kernels for $kernels, .*" >&2 || {
        echo "$*: doctor does not name the kernels for $kernels" >&2
        exit 1
    }
}

emulated() (
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    export TAPER_CACHE_DIR="$folder" TAPER_DATA_DIR="$folder" TAPER_CONFIG_DIR="$folder" TAPER_OFFLINE=1
    old_x86
    arm
)

# A processor of 2010, which has none of the instructions that kernels are written for, and not even AVX.
old_x86() {
    step 'an x86 processor without AVX'
    has_all qemu-x86_64 || return 0
    [ "$(uname -m)" = x86_64 ] || { echo "skipped: this is no x86 machine" >&2; return 0; }
    westmere="qemu-x86_64 -cpu Westmere target/debug/taper"
    # shellcheck disable=SC2086 # several words
    {
        $westmere --version
        takes scalar $westmere
        says_the_same $westmere
    }
}

# Arm: the unit tests that compare every kernel with plain loops, bit for bit, and the program itself. Dependencies are
# compiled without optimization, in a third of the time: they are not what is tested.
arm() {
    export TAPER_NO_CUDA=1 # the kernels are compiled once already
    target=aarch64-unknown-linux-gnu
    step "kernels for $target"
    has_all rustup qemu-aarch64 aarch64-linux-gnu-gcc || return 0
    rustup target list --installed | grep -qx $target || rustup target add $target
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    set -- --no-default-features --target $target --locked --config 'profile.dev.package."*".opt-level=0'
    # Their assembly needs instructions that it has only where it is inlined.
    for crate in gemm-common gemm-f16; do set -- "$@" --config "profile.dev.package.$crate.opt-level=3"; done
    cargo test "$@" --lib backend::cpu
    cargo build "$@" --bin taper
    emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    program=target/$target/debug/taper
    # shellcheck disable=SC2086 # several words
    {
        takes dotprod $emulator $program
        takes neon $emulator -cpu cortex-a53 $program # the last without the dot product
        says_the_same $emulator $program
    }
}

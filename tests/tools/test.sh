#!/bin/sh
# What `make test`, `make lint` and `make soak` run: test.sh all|lint|tests|emulated. Everything but the release build is in
# one target folder and one profile, so that each dependency is compiled once.
#
# A step whose tool is absent is skipped with a line; under CI=true that is a failure.
set -eu
cd "$(dirname "$0")/../.."

step() { printf '\n== %s\n' "$1" >&2; }

absent() {
    if [ "${CI:-}" = true ]; then
        echo "$1 is absent, which CI does not forgive" >&2
        exit 1
    fi
    echo "skipped: $1 is absent" >&2
}

# has_component rustfmt fmt: whether `cargo fmt` is there, or could be had.
has_component() {
    cargo "$2" --version >/dev/null 2>&1 && return
    command -v rustup >/dev/null && rustup component add "$1" && return
    absent "$1"
    return 1
}

lint() {
    step 'format'
    if has_component rustfmt fmt; then cargo fmt --check; fi
    step 'clippy'
    if has_component clippy clippy; then cargo clippy --all-targets --locked -- -D warnings; fi
}

# The model and the vocabularies that the tests are about. Both stay where they are for the next time.
fetch() {
    step 'test files'
    cargo build --locked
    target/debug/taper tokenize -m smollm2-135m </dev/null >/dev/null
    cache=${TAPER_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/taper}
    TAPER_TEST_MODEL=$cache/models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf
    TAPER_TEST_EMBEDDER=$(target/debug/taper models pull -q all-minilm-l6-v2)
    TAPER_TEST_VOCABS=$PWD/target/vocabularies
    export TAPER_TEST_MODEL TAPER_TEST_EMBEDDER TAPER_TEST_VOCABS
    "${TAPER_PYTHON:-python3}" tests/tools/fetch_vocabularies.py "$TAPER_TEST_VOCABS"
}

tests() {
    fetch
    step 'tests'
    cargo test --locked
}

# One binary: everything but the C library is inside it.
libraries() {
    step 'libraries'
    [ "$(uname -s)" = Linux ] || return 0
    others=$(ldd target/debug/taper | grep -vE '^\s*(linux-vdso|lib(c|m|gcc_s)\.so|/lib.*/ld-linux)' || true)
    [ -z "$others" ] || { echo "taper needs shared libraries:
$others" >&2; exit 1; }
}

# The fuzz targets are a workspace of their own. With taper's lock file and profile they find the dependencies as clippy
# left them; libFuzzer itself, which is C++, is for those who fuzz.
fuzz() {
    step 'fuzz targets'
    cp Cargo.lock tests/fuzz/Cargo.lock
    CUSTOM_LIBFUZZER_PATH=absent/libfuzzer.a cargo check --manifest-path tests/fuzz/Cargo.toml --target-dir target
}

documentation() {
    step 'documentation'
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
}

# Without the default features: their build scripts compile C, for which an Apple compiler would be needed.
apple() {
    target=aarch64-apple-darwin
    step "type-check for $target"
    if command -v rustup >/dev/null; then
        rustup target list --installed | grep -qx $target || rustup target add $target
        cargo check --no-default-features --target $target --lib --bins --locked
    else
        absent rustup
    fi
}

. tests/tools/emulated.sh

case ${1:-} in
    all) lint; fuzz; tests; libraries; emulated; documentation; apple ;;
    emulated) fetch; emulated ;;
    lint) lint ;;
    tests) tests ;;
    *) echo "usage: test.sh all|lint|tests|emulated" >&2; exit 2 ;;
esac

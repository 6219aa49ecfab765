#!/bin/sh
# Fetches the compiler of the CUDA kernels into taper's cache (271 MB), unless there is one. No GPU is needed, nor a toolkit of
# the system's; kernels/build.rs looks in the same folder.
set -eu

nvcc=${NVCC:-${CUDA_HOME:+$CUDA_HOME/bin/nvcc}}
[ -n "$nvcc" ] || nvcc=$(command -v nvcc || true)
[ -z "$nvcc" ] || [ ! -x "$nvcc" ] || exit 0

folder=${TAPER_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/taper}/cuda-13.0.88
[ ! -d "$folder" ] || exit 0

echo "fetching nvcc into $folder" >&2
mkdir -p "$(dirname "$folder")"
part=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$part"' EXIT
"${TAPER_PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
    --target "$part" nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-cccl==13.0.85 \
    nvidia-cuda-runtime==13.0.96 >&2
chmod 755 "$part"
mv "$part" "$folder"
# Cargo looks for a compiler when this changes.
touch "$(dirname "$0")/../../kernels/build.rs"

#!/usr/bin/env bash
# Builds here what bench/gpu.py --prebuilt runs on a machine that has a GPU but no package index:
#
#     bench/bundle.sh                    for H100 and H200
#     bench/bundle.sh '80-real;90a-real' for these chips, by CMake's names
#
# build/bundle then holds uipe, uipe_bench and test_cuda for any x86-64-v3 processor, and beside them every shared
# library that they need but the C library's own, which must be as new there as here. cuBLASLt is not in it: the machine's
# CUDA toolkit or PyTorch has it. Nor is MPI: the program is one rank. build/bundle.tar.xz is the same, a quarter of the
# size. JOBS: compilers at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

architectures=${1:-90a-real}
commit=$(git describe --always --abbrev=40 --exclude='*' --dirty)
programs=(uipe uipe_bench tests/test_cuda)
c_library='^(ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|linux-vdso)\.so'

# An RPATH, unlike a RUNPATH, also holds for the libraries of the libraries. Tests run in the root of the repository.
# shellcheck disable=SC2016
cmake -S . -B build/bundling -G Ninja -DCMAKE_BUILD_TYPE=Release -DUIPE_CUDA=ON -DUIPE_MPI=OFF -DUIPE_NATIVE=OFF \
    -DCMAKE_CXX_FLAGS=-march=x86-64-v3 -DCMAKE_CUDA_ARCHITECTURES="$architectures" \
    -DCMAKE_BUILD_RPATH='$ORIGIN' -DCMAKE_EXE_LINKER_FLAGS=-Wl,--disable-new-dtags \
    -DUIPE_TEST_FIXTURES=tests/fixtures -DUIPE_TEST_PROGRAM=build/bundle/uipe
cmake --build build/bundling -j "${JOBS:-$(nproc)}" --target uipe uipe_bench test_cuda

rm -rf build/bundle
mkdir -p build/bundle
for program in "${programs[@]}"; do strip -o "build/bundle/${program##*/}" "build/bundling/$program"; done
ldd "${programs[@]/#/build/bundling/}" | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }' | sort -u |
    while read -r name path; do
        if [[ ! $name =~ $c_library ]]; then cp -L "$path" "build/bundle/$name"; fi
    done
printf '{"commit": "%s", "architectures": "%s"}\n' "$commit" "$architectures" >build/bundle/about.json
tar -C build -c bundle | xz -3 >build/bundle.tar.xz
du -sh --apparent-size build/bundle build/bundle.tar.xz

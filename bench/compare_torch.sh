#!/usr/bin/env bash
# Times the training step of the small model here and in PyTorch, in turns, and prints medians and their ratio.
#   bench/compare_torch.sh [uipe_bench]
# PYTHON names a python with torch and transformers (default python3); ROUNDS how often each runs (default 3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

program=${1:-build/release/uipe_bench}
python=${PYTHON:-python3}
rounds=${ROUNDS:-3}
stop() {
    printf 'compare_torch.sh: %s\n' "$1" >&2
    exit 2
}
[[ -x $program ]] || stop "there is no $program; build it with ./run build"
"$python" -c 'import torch, transformers' 2>/dev/null || stop "$python lacks torch or transformers; set PYTHON"

# Both take every core they may run on; nproc would obey these instead.
unset OMP_NUM_THREADS OMP_THREAD_LIMIT
# The sizes of bench/small_model.cpp and bench/step_bench.cpp.
sizes=(--C 288 --F 768 --L 6 --H 6 --V 32000 --tied --T 1024 --B 4 --threads "$(nproc)")

# Each prints "dtype engine tok/s share-of-its-GEMM-roof".
ours() {
    "$program" --benchmark_filter="^step/$1/" --benchmark_min_time=3 --benchmark_format=json 2>/dev/null |
        "$python" -c 'import json, sys
run = json.load(sys.stdin)["benchmarks"][0]
print(sys.argv[1], "uipe", run["tok/s"], run["share_of_roof"])' "$1"
}
theirs() {
    "$python" bench/torch_step.py "${sizes[@]}" --dtype "$1" |
        "$python" -c 'import json, sys
run = json.load(sys.stdin)
print(sys.argv[1], "torch", run["tok_s"], 100 * run["share_of_gemm"])' "$1"
}

for ((round = 1; round <= rounds; ++round)); do
    for dtype in f32 bf16; do
        printf 'round %d of %d, %s\n' "$round" "$rounds" "$dtype" >&2
        ours "$dtype"
        theirs "$dtype"
    done
done | "$python" -c 'import statistics, sys
lines = [line.split() for line in sys.stdin]
def median(dtype, engine, column):
    return statistics.median(float(l[column]) for l in lines if l[:2] == [dtype, engine])
print("| dtype | uipe tok/s | share of its GEMM roof | PyTorch tok/s | share of its GEMM roof | ratio |")
print("|---|---|---|---|---|---|")
for dtype in dict.fromkeys(l[0] for l in lines):
    u, t = (median(dtype, e, 2) for e in ("uipe", "torch"))
    us, ts = (median(dtype, e, 3) for e in ("uipe", "torch"))
    print(f"| {dtype} | {u:.0f} | {us:.0f} % | {t:.0f} | {ts:.0f} % | {u / t:.2f} |")'

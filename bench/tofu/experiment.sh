#!/usr/bin/env bash
# Figures 6 and 7 of the paper for forget01 on real TOFU: a model from scratch learns TOFU, four methods unlearn forget01
# with several seeds, UIPE goes further, and the same runs trained on are the control.
#
#   bench/tofu/experiment.sh DATA OUT      DATA: a copy of TOFU (full.json, retain99.json, forget01_perturbed.json, …)
#
# 13.7 M parameters, unless WIDTH, LAYERS, HEADS and FFN say otherwise; ALPHAS: figure 7's. Results: ../results/experiments-*.
set -euo pipefail
data=$1 out=$2
: "${WIDTH:=384}" "${LAYERS:=6}" "${HEADS:=6}" "${FFN:=1024}"
source "$(dirname "${BASH_SOURCE[0]}")/models.sh"
evaluate "$out/retain99/model" retain99 open-unlearning

for figure in "tradeoff --splits" "alpha ${ALPHAS:+--alpha $ALPHAS} --split"; do
    # shellcheck disable=SC2086
    "$uipe" experiment $figure forget01 --model "$out/full/model" --tofu "$data" \
        --retain-log "$out/eval/retain99/open-unlearning/TOFU_EVAL.json" --lr "${UNLEARN_LR:-2e-4}" \
        --seed "${FIRST_SEED:-1}" --seeds "${SEEDS:-5}" --dtype "$dtype" --out "$out/experiment"
done

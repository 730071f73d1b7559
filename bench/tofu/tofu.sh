#!/usr/bin/env bash
# The story on real TOFU: a small Llama from scratch learns TOFU's fictional authors, a second one all but the last 1 %;
# the first then forgets that 1 % by four methods, UIPE goes further, and both protocols judge.
#
#   bench/tofu/tofu.sh DATA OUT      DATA: a copy of TOFU (full.json, retain99.json, forget01_perturbed.json, …)
#
# Results, with the machine they were measured on: results.md beside this file.
set -euo pipefail
data=$1 out=$2
source "$(dirname "${BASH_SOURCE[0]}")/models.sh"
unlearn_lr=${UNLEARN_LR:-2e-4}
judge=(--tofu "$data" --split forget01 --eval-rows 100 --eval-tokens 100)

# The retain model's logs, one for each protocol and one of the size that is used while unlearning.
for protocol in open-unlearning tofu; do evaluate "$out/retain99/model" retain99 "$protocol"; done
log() { if [[ $1 == tofu ]]; then echo "$out/eval/retain99/tofu/eval_log_aggregated.json"; else echo "$out/eval/retain99/$1/TOFU_EVAL.json"; fi; }

for method in ga grad_diff kl_min npo; do
    [[ -e $out/$method/selection.json ]] || "$uipe" unlearn --model "$out/full/model" --method "$method" \
        --epochs 8 --batch-size 8 --lr "$unlearn_lr" --schedule constant "${judge[@]}" \
        --retain-log "$(log open-unlearning)" "${common[@]}" --out "$out/$method"
    epoch=$(grep -o '"epoch": *[0-9]*' "$out/$method/selection.json" | grep -o '[0-9]*')
    early=$((epoch > 2 ? epoch - 2 : 1))
    [[ -e $out/$method/extrapolations ]] || "$uipe" extrapolate --unlearned "$out/$method" --epoch "$early" \
        --alpha 0.25 0.5 1 --dtype "$dtype"
done

# The table: the models above under both protocols, on all rows.
table="$out/table.md"
printf '| model | protocol | forget quality | model utility | forget ROUGE | forget probability |\n|---|---|---|---|---|---|\n' >"$table"
row() { # TITLE MODEL NAME
    for protocol in open-unlearning tofu; do
        evaluate "$2" "$3" "$protocol" "$(log "$protocol")" >/dev/null
        "$uipe" score --log "$out/eval/$3/$protocol" --retain-log "$(log "$protocol")" --protocol "$protocol" |
            awk -v title="$1" -v protocol="$protocol" '{ v[$1] = $2 } END { printf "| %s | %s | %.3g | %.3f | %.3f | %.3f |\n", title,
                protocol, v["forget_quality"], v["model_utility"], v["forget_Q_A_ROUGE"], v["forget_Q_A_Prob"] }' >>"$table"
    done
}
row "retain99" "$out/retain99/model" retain99
row "full" "$out/full/model" full
for method in ga grad_diff kl_min npo; do
    epoch=$(grep -o '"epoch": *[0-9]*' "$out/$method/selection.json" | grep -o '[0-9]*')
    early=$((epoch > 2 ? epoch - 2 : 1))
    row "$method, epoch $epoch (selected)" "$out/$method/epochs/$epoch/model" "$method-$epoch"
    row "$method, epoch $early" "$out/$method/epochs/$early/model" "$method-$early"
    for alpha in 0.5 1; do
        row "$method, epoch $early, UIPE α $alpha" "$out/$method/extrapolations/epoch${early}_alpha$alpha/model" "$method-$early-$alpha"
    done
done
"$uipe" report "$out"/{full,ga,grad_diff,kl_min,npo} --retain "$out/eval/retain99/open-unlearning" --out "$out/report.html"
cat "$table"

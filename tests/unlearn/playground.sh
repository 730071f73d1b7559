# What the check_* scripts beside this share, which source it with the program as their first argument: a scratch folder
# that they run in, what they expect of a command, and a small world with a small model.
set -uo pipefail
shopt -s nullglob
export LC_ALL=C OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" OMP_WAIT_POLICY=passive
# Open MPI's, and nothing to others: ranks may be more than the processors, and root's.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_hwloc_base_binding_policy=none OMPI_MCA_mpi_yield_when_idle=1
uipe=$(realpath "$1")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch" || exit

fail() {
    printf 'FAILED: %s\n' "$*"
    if [[ -s said ]]; then sed 's/^/    /' said; fi
    exit 1
}
# expect STATUS COMMAND…: ends within 60 seconds with this status; what it says is kept in the file `said`.
expect() {
    local want=$1 status=0
    shift
    timeout 60 "$@" >said 2>&1 || status=$?
    if [[ $status != "$want" ]]; then fail "status $status, not $want, of: $*"; fi
}
# says TEXT…: what was said last has them all.
says() {
    local text
    for text in "$@"; do if ! grep -qF -- "$text" said; then fail "not said: $text"; fi; done
}
# says_one_line: the program said one line (a launcher may have said more), and it has these texts.
says_one_line() {
    if [[ $(grep -c '^uipe: ' said) != 1 ]]; then fail "more or less than one line of the program"; fi
    says "$@"
}

# A model of two layers and a world of 10 authors; `base`, a short training run; `retain`, an evaluation of it.
make_playground() {
    cat >init.json <<'END'
{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 16,
 "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 512,
 "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2}
END
    evaluation=(--tofu world --split forget10 --eval-rows 4 --eval-tokens 6)
    training=(train --init init.json --tokenizer world/tokenizer.model --data world/full.json --lr 1e-2 --batch-size 8
        --threads 1)
    unlearning=(unlearn --model base/model --method npo_rt --batch-size 2 --lr 3e-3 --retain-log retain --protocol tofu
        --threads 1)
    expect 0 "$uipe" world --out world --authors 10 --questions 4 --people 8 --related-people 10 --vocab-size 512
    expect 0 "$uipe" "${training[@]}" --epochs 3 --out base
    expect 0 "$uipe" eval --model base/model --out retain "${evaluation[@]}"
}

# Writes under way in a run.
temporaries() { printf '%s\n' "$1"/*.tmp-* "$1"/*/*.tmp-* | grep .; }
# Steps of metrics.jsonl without what depends on a clock.
figures() { sed 's/,"tok_per_s":[^}]*//' "$1/metrics.jsonl"; }
# same_run RUN STRAIGHT: both have ended, with the same bits in every file.
same_run() {
    temporaries "$1" >said && fail "$1: left behind"
    diff <(figures "$1") <(figures "$2") >said || fail "$1 and $2: other metrics"
    diff -rq -x config.json -x metrics.jsonl "$1" "$2" >said || fail "$1 and $2 differ"
    cmp "$1/model/config.json" "$2/model/config.json" &>said || [[ ! -e $2/model ]] || fail "$1 and $2: other models"
}
# newest RUN: the step of its last checkpoint; nothing where it has none.
newest() { (cd "$1/checkpoints" 2>/dev/null && printf '%s\n' [0-9]*) | grep -v tmp | sort -n | tail -n 1; }
# whole_so_far RUN STRAIGHT: whatever has its own name there is as the run that was left alone has it.
whole_so_far() {
    local made
    for made in "$1"/epochs/* "$1/model" "$1/selection.json" "$1/finished.json"; do
        if [[ $made == *.tmp-* || ! -e $made ]]; then continue; fi
        diff -r "$made" "$2/${made#"$1"/}" >said || fail "$made is not whole"
    done
}
# go_on RUN STRAIGHT COMMAND…: a run that was cut off ends, by the command and --resume, as the other did.
# `begun` says how: anew, where nothing had been begun; from the start; from a checkpoint; or ended already.
go_on() {
    local run=$1 straight=$2 step
    shift 2
    whole_so_far "$run" "$straight"
    step=$(newest "$run")
    if [[ ! -e $run/config.json ]]; then
        begun=anew
        expect 2 "$@" --out "$run" --resume
        says "there is no run to resume"
        expect 0 "$@" --out "$run" --overwrite
    elif [[ -e $run/finished.json && -z $step ]]; then
        begun=ended
        expect 2 "$@" --out "$run" --resume
        says "has finished"
    else
        begun=start
        expect 0 "$@" --out "$run" --resume
        if [[ -n $step ]]; then begun=checkpoint && says "going on after step $step of "; fi
    fi
    same_run "$run" "$straight"
}

# kill_all PID: a command, and the ranks that it launched, at once. They are gone when it returns.
kill_all() {
    local children=() child
    read -ra children 2>/dev/null </proc/"$1"/task/"$1"/children
    kill -9 "$1" "${children[@]}" 2>/dev/null
    { wait "$1"; } 2>/dev/null
    local status=$?
    for child in "${children[@]}"; do while [[ -e /proc/$child/exe ]]; do sleep 0.01; done; done
    return $status
}

# A number below $1, of a thousandth of it.
part_of() { printf '%d.%06d' $(($1 * (RANDOM % 1000) / 1000 / 1000000)) $(($1 * (RANDOM % 1000) / 1000 % 1000000)); }
now() { echo "${EPOCHREALTIME/./}"; } # in microseconds

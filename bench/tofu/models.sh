# Sourced by the scripts beside it, with `data` and `out` set: a small Llama from scratch that has learned TOFU (full), a
# second one that has not seen its last 1 % (retain99), and how their logs are made.
#
# A model from scratch knows no real authors and no world facts, so their 217 questions are learned along with TOFU.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
uipe=${UIPE:-$root/build/release/uipe}
seed=${SEED:-42} dtype=${DTYPE:-bf16} epochs=${EPOCHS:-12} lr=${LR:-1e-3}
# 5.8 M parameters, and a vocabulary of 4,000 learned from the data.
width=${WIDTH:-256} layers=${LAYERS:-5} heads=${HEADS:-8} ffn=${FFN:-640}
common=(--seed "$seed" --dtype "$dtype")
mkdir -p "$out"

"$uipe" tokenize --train "$data"/{full,real_authors,world_facts}.json --vocab-size 4000 --out "$out/tokenizer.model"
cat >"$out/model-config.json" <<END
{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
    "hidden_size": $width, "intermediate_size": $ffn, "num_hidden_layers": $layers,
    "num_attention_heads": $heads, "num_key_value_heads": $heads, "vocab_size": 4000,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"
}
END

learn() { # NAME FILE
    [[ -e $out/$1/finished.json ]] && return
    "$uipe" train --init "$out/model-config.json" --tokenizer "$out/tokenizer.model" \
        --data "$data/$2.json" "$data/real_authors.json" "$data/world_facts.json" \
        --epochs "$epochs" --batch-size 16 --lr "$lr" --warmup-epochs 1 --adam-beta2 0.98 "${common[@]}" --out "$out/$1"
}
learn retain99 retain99
learn full full

evaluate() { # MODEL NAME PROTOCOL [RETAIN_LOG]
    [[ -e $out/eval/$2/$3 ]] && return
    "$uipe" eval --model "$1" --tofu "$data" --split forget01 --protocol "$3" ${4:+--retain-log "$4"} "${common[@]}" \
        --out "$out/eval/$2/$3"
}

"""Times one training step of a Llama model in PyTorch on the CPU: a peer for uipe's own benchmark.

    python bench/torch_step.py --C 256 --F 688 --L 8 --H 8 --V 4096 --T 512 --B 8 --dtype bf16

transformers' LlamaForCausalLM, eager (not compiled), random weights and tokens, forward + backward + clipping + AdamW.
T counts all tokens of the batch; its B sequences have T/B tokens each, so nothing is padded. bf16 means autocast:
products in bf16, weights, gradients and moments in f32 (weights in bf16 would stall at the rates TOFU uses).
Prints one JSON line. The roof is the rate of a square product in the same dtype, measured in the same run on random
data; FLOPs are 6 per token and weight of every matrix, the head's once and the embedding's never, plus causal
attention's.
"""

import argparse
import json
import os
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [("C", 256, "width"), ("F", 688, "FFN width"), ("L", 8, "layers"), ("H", 8, "query heads"),
             ("V", 4096, "vocabulary"), ("T", 512, "tokens in the batch"), ("B", 8, "sequences in the batch")]
    for name, default, text in sizes:
        p.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default {default})")
    p.add_argument("--K", type=int, help="KV heads (default H)")
    p.add_argument("--tied", action="store_true", help="the head is the embedding")
    p.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    p.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa", help="(default sdpa)")
    p.add_argument("--threads", type=int, default=os.cpu_count(), help="(default all)")
    p.add_argument("--steps", type=int, default=10, help="timed steps (default 10)")
    p.add_argument("--warmup", type=int, default=2, help="steps before (default 2)")
    p.add_argument("--seed", type=int, default=0)
    a = p.parse_args()
    a.K = a.H if a.K is None else a.K
    lowest = {"warmup": 0, "seed": 0}
    for name, value in vars(a).items():
        if type(value) is int and value < lowest.get(name, 1):
            p.error(f"--{name} must be at least {lowest.get(name, 1)}")
    if a.T % a.B or a.T < 2 * a.B:
        p.error("T must be a multiple of B, with two tokens or more in a sequence")
    if a.C % a.H or a.C // a.H % 2 or a.H % a.K:
        p.error("C must be a multiple of H with an even quotient, and H a multiple of K")
    return a


def make_model(a):
    return LlamaForCausalLM(LlamaConfig(
        hidden_size=a.C, intermediate_size=a.F, num_hidden_layers=a.L, num_attention_heads=a.H, num_key_value_heads=a.K,
        vocab_size=a.V, max_position_embeddings=a.T // a.B, use_cache=False, bos_token_id=None, eos_token_id=None,
        tie_word_embeddings=a.tied, attn_implementation=a.attention)).train()


def step_flops(model, a):
    """Forward is 2 FLOPs a token and weight, backward twice that; causal attention is two products over n²/2 pairs."""
    blocks = sum(w.numel() for w in model.model.layers.parameters() if w.dim() == 2)
    matrices = blocks + a.V * a.C
    n = a.T // a.B
    return 6 * a.T * matrices + 6 * a.L * a.T * n * a.C


def seconds(work, warmup, repeats):
    """The median time of one call."""
    times = []
    for i in range(warmup + repeats):
        start = time.perf_counter()
        work()
        if i >= warmup:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def gemm_flops_per_second(dtype, size=1024):
    x, y = torch.randn(2, size, size).to(dtype)
    return 2 * size**3 / seconds(lambda: x @ y, 3, 10)


def main():
    a = parse()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    bf16 = a.dtype == "bf16"
    model = make_model(a)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01)
    ids = torch.randint(0, a.V, (a.B, a.T // a.B))

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    took = seconds(step, a.warmup, a.steps)
    rate = step_flops(model, a) / took
    roof = gemm_flops_per_second(torch.bfloat16 if bf16 else torch.float32)
    print(json.dumps({
        "engine": "torch", "version": torch.__version__, **vars(a),
        "parameters": sum(w.numel() for w in model.parameters()),
        "step_ms": round(took * 1e3, 3), "tok_s": round(a.T / took, 1),
        "gflop_s": round(rate / 1e9, 2), "gemm_gflop_s": round(roof / 1e9, 2), "share_of_gemm": round(rate / roof, 3),
    }))


if __name__ == "__main__":
    main()

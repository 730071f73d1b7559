"""PyTorch doing the work of uipe's GPU benchmarks: the peer that bench/gpu.py talks to.

    python bench/torch_gpu_peer.py [--tiny]     --tiny: on the CPU, each call once, to see that it works

Reads a JSON object a line, {"do": "attention", …}, and answers each with a JSON line, {"seconds": …} or {"error": …};
`do` names a function below, of torch_gpu_checks.py or of torch_gpu_models.py, the rest are its arguments. Times are
taken as bench/cuda_measure.h takes ours: the median of five batches of at least 20 ms, each between two events, after
calls that warm up. Memory goes back after each answer, but for models, which wait for the next request or "forget".
"""

import gc
import importlib.util
import inspect
import json
import os
import sys
import warnings

import torch
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel

from torch_gpu_base import BACKENDS, DEVICE, TINY, compiled, memory, peaks, random, reset_peak, seconds
from torch_gpu_checks import checks

def forward_and_backward(f, inputs, dout):
    """One call of f, then the gradients by inputs."""
    return seconds(lambda: torch.autograd.grad(f(*inputs), inputs, dout))


def backward_alone(f, inputs, dout):
    out = f(*inputs)
    return seconds(lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True))


kept = {}


def in_way(f, way):
    """f, or f compiled once."""
    if way == "eager":
        return f
    if f not in kept:
        kept[f] = compiled(f)
    return kept[f]


# --- Roofs --------------------------------------------------------------------------------------------------------


def gemm(M, N, K):
    a, b, y = random(M, K), random(N, K), random(M, N)
    return seconds(lambda: torch.matmul(a, b.T, out=y))


def copy(n):
    x, y = random(n), random(n)
    return seconds(lambda: y.copy_(x))


# --- Attention ----------------------------------------------------------------------------------------------------


def attention(backend, lengths, H, D, backward):
    """Causal, H heads of D. Several lengths that differ are rows padded on the right: a row's real tokens see no
    padding, so causality is mask enough and the quickest kernels serve. backend "varlen": packed rows."""
    if backend == "varlen":
        return packed_attention(lengths, H, D, backward)
    T = max(lengths)
    q, k, v = (random(len(lengths), T, H, D).transpose(1, 2).requires_grad_(backward) for _ in range(3))
    with sdpa_kernel(BACKENDS[backend]):
        f = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
        if backward:
            return backward_alone(f, (q, k, v), random(len(lengths), T, H, D).transpose(1, 2))
        return seconds(lambda: f(q, k, v))


def packed_attention(lengths, H, D, backward):
    from torch.nn.attention.varlen import varlen_attn
    # Versions say "causal" in two ways.
    names = inspect.signature(varlen_attn).parameters
    causal = {"is_causal": True} if "is_causal" in names else {"window_size": (-1, 0)}
    cu = torch.tensor([sum(lengths[:i]) for i in range(len(lengths) + 1)], dtype=torch.int32, device=DEVICE)
    q, k, v = (random(sum(lengths), H, D, grad=backward) for _ in range(3))
    f = lambda q, k, v: varlen_attn(q, k, v, cu, cu, max(lengths), max(lengths), **causal)
    if backward:
        return backward_alone(f, (q, k, v), random(sum(lengths), H, D))
    return seconds(lambda: f(q, k, v))


# --- The head -----------------------------------------------------------------------------------------------------


def head_loss(hidden, w, targets):
    return F.cross_entropy(F.linear(hidden, w).float(), targets)


def head(T, V, C, way):
    hidden, w = random(T, C, grad=True), random(V, C, std=0.02, grad=True)
    targets = torch.randint(V, (T,), device=DEVICE)
    f = in_way(head_loss, way)
    before = memory()
    reset_peak()
    answer = forward_and_backward(lambda h, w: f(h, w, targets), (hidden, w), None)
    return answer | {"extra_MB": peaks().get("allocated_MB", 0.0) - before / 1e6}


# --- What waits for memory ----------------------------------------------------------------------------------------


def rms(x, w):
    return F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def rmsnorm(T, C, backward, way):
    x, w, f = random(T, C, grad=backward), random(C, grad=backward), in_way(rms, way)
    return backward_alone(f, (x, w), random(T, C)) if backward else seconds(lambda: f(x, w))


def gated(gate, up):
    return F.silu(gate) * up


def swiglu(T, F, backward, way):
    gate, up, f = random(T, F, grad=backward), random(T, F, grad=backward), in_way(gated, way)
    return backward_alone(f, (gate, up), random(T, F)) if backward else seconds(lambda: f(gate, up))


def angles(T, D):
    """cos and sin [T, 1, D], both halves of a head alike, positions from 0 in sequences of 2,048."""
    frequency = 10000.0 ** (-torch.arange(0, D, 2, device=DEVICE) / D)
    angle = (torch.arange(T, device=DEVICE) % 2048)[:, None] * frequency
    angle = torch.cat((angle, angle), -1)[:, None]
    return angle.cos().bfloat16(), angle.sin().bfloat16()


def rotated(x, cos, sin):
    """As transformers does it: element i of a head pairs with i + D/2. x is [..., T, heads, D]."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rope(T, C, D, way):
    x, f = random(T, C // D, D), in_way(rotated, way)
    cos, sin = angles(T, D)
    return seconds(lambda: f(x, cos, sin))


def add(T, C):
    x, r = random(T, C), random(T, C)
    return seconds(lambda: x + r)


def adamw(n):
    """The fused step on f32 masters, then the bf16 weights."""
    master, param = random(n, dtype=torch.float32), random(n)
    master.grad = random(n, dtype=torch.float32)
    optimizer = torch.optim.AdamW([master], lr=1e-5, weight_decay=0.01, fused=True)

    def step():
        optimizer.step()
        param.copy_(master)

    return seconds(step)


# --- A layer ------------------------------------------------------------------------------------------------------


def block(x, norm1, q, k, v, o, norm2, gate, up, down, cos, sin):
    B, T, C = x.shape
    D = cos.shape[-1]
    n = rms(x, norm1)
    heads = [F.linear(n, w).view(B, T, C // D, D) for w in (q, k, v)]
    heads[:2] = [rotated(h, cos, sin) for h in heads[:2]]
    a = F.scaled_dot_product_attention(*(h.transpose(1, 2) for h in heads), is_causal=True)
    h = x + F.linear(a.transpose(1, 2).reshape(B, T, C), o)
    n = rms(h, norm2)
    return h + F.linear(gated(F.linear(n, gate), F.linear(n, up)), down)


def layer(B, T, C, F, D, way):
    vector, matrix = (lambda: random(C, grad=True)), (lambda *shape: random(*shape, std=0.02, grad=True))
    inputs = (random(B, T, C, grad=True), vector(), *(matrix(C, C) for _ in range(4)), vector(), matrix(F, C),
              matrix(F, C), matrix(C, F))
    cos, sin = angles(T, D)
    f = in_way(block, way)
    return forward_and_backward(lambda *x: f(*x, cos, sin), inputs, random(B, T, C))


# --- The worker ---------------------------------------------------------------------------------------------------


def about():
    cuda = {} if TINY else {"gpu": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    versions = {m: importlib.import_module(m).__version__ for m in ("transformers",) if importlib.util.find_spec(m)}
    return {"torch": torch.__version__, **versions, "cuda": torch.version.cuda, **cuda}


def main():
    # What libraries print goes to standard error, so that standard output holds answers alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    known = {f.__name__: f for f in (gemm, copy, attention, head, rmsnorm, swiglu, rope, add, adamw, layer, about,
                                     checks)}
    if importlib.util.find_spec("transformers"):
        import torch_gpu_models
        known |= torch_gpu_models.KNOWN
    for line in sys.stdin:
        request = json.loads(line)
        try:
            do = request.pop("do")
            if do not in known:
                raise ImportError("this python has no transformers")
            answer = known[do](**request)
        except Exception as e:  # a variant that fails here is a result, not the end of the run
            answer = {"error": f"{type(e).__name__}: {e}".splitlines()[0][:160]}
        gc.collect()
        if not TINY:
            torch.cuda.empty_cache()
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()

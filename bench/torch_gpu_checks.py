"""What uipe computed of small problems, beside PyTorch: bench/gpu.py asks for it before anything is timed."""

import pathlib

import torch
import torch.nn.functional as F

from torch_gpu_base import DEVICE


def far(a, b):
    """The norm of a - b over that of b."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()


def true_attention(q, k, v, cu):
    """In f32, sequence by sequence; operands are [T, H, D]."""
    out = []
    for begin, end in zip(cu[:-1], cu[1:]):
        one = (x[begin:end].transpose(0, 1) for x in (q, k, v))
        q1, k1, v1 = one
        scores = q1 @ k1.transpose(1, 2) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(1)
        out.append((scores.masked_fill(later, -torch.inf).softmax(-1) @ v1).transpose(0, 1))
    return torch.cat(out)


def torch_attention(q, k, v, cu):
    """The same by scaled_dot_product_attention, in the operands' type."""
    return torch.cat([F.scaled_dot_product_attention(*(x[None, b:e].transpose(1, 2) for x in (q, k, v)),
                                                     is_causal=True)[0].transpose(0, 1)
                      for b, e in zip(cu[:-1], cu[1:])])


def gradients(f, operands, dout, *more):
    inputs = [x.detach().requires_grad_() for x in operands]
    out = f(*inputs, *more)
    return [out.detach(), *torch.autograd.grad(out, inputs, dout)]


def attention_checks(name, t):
    """Ours, and PyTorch's in bf16, against f32; both round p and the outcomes to bf16, 2^-8."""
    operands, cu = [t[x] for x in "qkv"], t["cu"].tolist()
    truth = gradients(true_attention, [x.float() for x in operands], t["dout"].float(), cu)
    theirs = gradients(torch_attention, operands, t["dout"], cu)
    return [{"what": f"{name}, {x}: uipe from f32", "difference": far(t[x], a), "bound": 2e-2, "PyTorch": far(b, a)}
            for x, a, b in zip(("out", "dq", "dk", "dv"), truth, theirs)]


def head_checks(t):
    """Against f32. The losses are of a few nats, and logits are products of bf16."""
    def nll(hidden, w):
        return F.cross_entropy(hidden @ w.T, t["targets"].long(), reduction="none")

    n = len(t["targets"])
    weight = torch.full((n,), 1.0 / n, device=DEVICE)
    loss, dhidden, dw = gradients(nll, (t["hidden"].float(), t["w"].float()), weight)
    return [{"what": "head, loss: largest difference from f32", "difference": (t["logp"].float() + loss).abs().max().item(),
             "bound": 2e-2},
            {"what": "head, gradient of the hidden states: uipe from f32", "difference": far(t["dhidden"], dhidden),
             "bound": 2e-2},
            {"what": "head, gradient of the weight: uipe from f32", "difference": far(t["dw"], dw), "bound": 2e-2}]


def optimizer_checks(t):
    """Two steps with clipping, f32 in both engines: what is left is the order of a few operations."""
    weight = t["master"].clone().requires_grad_()
    adamw = torch.optim.AdamW([weight], lr=1e-3, weight_decay=0.01, fused=True)
    for _ in range(2):
        weight.grad = t["grad"].clone()
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        adamw.step()
    moved = weight.detach() - t["master"]
    return [{"what": "optimizer, what two steps changed: uipe from PyTorch",
             "difference": far(t["stepped"] - t["master"], moved), "bound": 1e-4}]


def checks(fixture):
    from safetensors.torch import load_file
    cases = {}
    for name, tensor in load_file(pathlib.Path(fixture) / "checks.safetensors", device=DEVICE).items():
        case, part = name.split("/")
        cases.setdefault(case, {})[part] = tensor
    found = head_checks(cases.pop("head")) + optimizer_checks(cases.pop("optimizer"))
    for case, tensors in cases.items():
        found += attention_checks(case.replace("_", " "), tensors)
    return {"checks": [c | {"good": c["difference"] <= c["bound"]} for c in found]}

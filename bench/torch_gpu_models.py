"""LLaMA of transformers doing what uipe's GPU benchmarks do with whole models: steps of training and unlearning, and
generation, all from the weights and token ids of a fixture (bench/cuda_fixture.h)."""

import contextlib
import copy
import gc
import json
import pathlib
import time

import torch
import torch.nn.functional as F
import transformers
from torch.nn.attention import sdpa_kernel

from torch_gpu_base import BACKENDS, DEVICE, TINY, compiled, peaks, random, reset_peak, seconds

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
if hasattr(torch._dynamo.config, "recompile_limit"):
    torch._dynamo.config.recompile_limit = 64  # layers that differ in a number must not fall back to eager


def load(fixture, layers, dtype):
    model = transformers.LlamaForCausalLM.from_pretrained(
        pathlib.Path(fixture) / "model", num_hidden_layers=layers, dtype=torch.bfloat16, attn_implementation="sdpa")
    return model.to(DEVICE).to(dtype)


def rows(fixture):
    return json.loads((pathlib.Path(fixture) / "rows.json").read_text())


kept = {}


def keep(key, make):
    """What was made for this key, or made now, instead of what was kept for another: two models do not fit."""
    if key not in kept:
        forget()
        kept[key] = make()
    return kept[key]


def forget():
    if kept:
        kept.clear()
        torch.compiler.reset()  # what was compiled of a model keeps it
        gc.collect()
    reset_peak()
    return {}


# --- Weights and their optimizer ----------------------------------------------------------------------------------


class Trained:
    """A model with f32 masters and moments, clipped to a norm of 1 and updated by fused AdamW.

    precision "weights": the model is bf16 and so are its gradients, of which the optimizer makes f32 ones layer by
    layer, so that they never exist all at once. "autocast": weights are f32, products are bf16.
    """

    def __init__(self, fixture, layers, precision):
        self.autocast = precision == "autocast"
        self.model = load(fixture, layers, torch.float32 if self.autocast else torch.bfloat16).train()
        self.model.config.use_cache = False
        self.weights = list(self.model.parameters())
        inner = self.model.model
        parts = [[inner.embed_tokens], *([layer] for layer in inner.layers), [inner.norm, self.model.lm_head]]
        self.parts = [self.part([p for m in part for p in m.parameters()]) for part in parts]
        reset_peak()

    def part(self, weights):
        masters = weights if self.autocast else [w.detach().float() for w in weights]
        groups = [{"params": [m for m in masters if m.dim() > 1]},
                  {"params": [m for m in masters if m.dim() == 1], "weight_decay": 0.0}]
        groups = [g for g in groups if g["params"]]
        return weights, masters, torch.optim.AdamW(groups, lr=1e-5, weight_decay=0.01, fused=True)

    def update(self):
        """The gradient's norm, as a tensor; gradients are gone afterwards."""
        norm = torch.nn.utils.clip_grad_norm_(self.weights, 1.0, foreach=True)
        for weights, masters, optimizer in self.parts:
            if not self.autocast:
                for w, m in zip(weights, masters):
                    m.grad, w.grad = w.grad.float(), None
            optimizer.step()
            optimizer.zero_grad()
            if not self.autocast:
                with torch.no_grad():
                    torch._foreach_copy_(weights, masters)
        return norm

    @contextlib.contextmanager
    def all_or_nothing(self):
        """A step that fails, for want of memory perhaps, leaves no gradient to the next."""
        try:
            yield
        except Exception:
            for w in self.weights:
                w.grad = None
            raise

    def in_precision(self):
        return torch.autocast(DEVICE, torch.bfloat16) if self.autocast else contextlib.nullcontext()


def optimizer(fixture, layers):
    """Clipping, the fused step on f32 masters with f32 gradients, then the bf16 weights; of a model's weights."""
    config = transformers.AutoConfig.from_pretrained(pathlib.Path(fixture) / "model", num_hidden_layers=layers)
    with torch.device("meta"):
        shapes = [p.shape for p in transformers.LlamaForCausalLM(config).parameters()]
    forget()
    masters = [random(*shape, dtype=torch.float32, std=0.02) for shape in shapes]
    params = [torch.empty_like(m, dtype=torch.bfloat16) for m in masters]
    for m in masters:
        m.grad = random(*m.shape, dtype=torch.float32)
    adamw = torch.optim.AdamW(masters, lr=1e-5, weight_decay=0.01, fused=True)

    def step():
        torch.nn.utils.clip_grad_norm_(masters, 1.0, foreach=True)
        adamw.step()
        torch._foreach_copy_(params, masters)

    return seconds(step)


# --- A training step ----------------------------------------------------------------------------------------------


def head_loss(hidden, w, targets):
    return F.cross_entropy(F.linear(hidden, w).float().flatten(0, 1), targets.flatten())


class Step(Trained):
    """On one sequence. Compiled, every layer is a graph of its own, the same for all, and the head with its loss."""

    def __init__(self, fixture, layers, precision):
        super().__init__(fixture, layers, precision)
        ids = torch.tensor([rows(fixture)["step"]], device=DEVICE)
        self.tokens, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        self.layers = self.model.model.layers
        self.compiled_layers = torch.nn.ModuleList(compiled(layer) for layer in self.layers)
        self.compiled_head = compiled(head_loss)
        self.first = {}

    def loss(self, way):
        self.model.model.layers = self.compiled_layers if way == "compiled" else self.layers
        with self.in_precision():
            if way == "eager":  # shift_labels: every token has a target
                return self.model(input_ids=self.tokens, labels=self.targets, shift_labels=self.targets).loss
            hidden = self.model.model(input_ids=self.tokens).last_hidden_state
            return self.compiled_head(hidden, self.model.lm_head.weight, self.targets)

    def __call__(self, way, backend):
        with self.all_or_nothing():
            with sdpa_kernel(BACKENDS[backend]):
                loss = self.loss(way)
                loss.backward()
            norm = self.update()
        if not self.first:
            self.first = {"loss": loss.item(), "grad_norm": norm.item()}


def step(fixture, layers, precision, way, backend):
    """Steps. The first of a model that has just been loaded gives the loss and norm to compare with ours."""
    one = keep(("step", layers, precision), lambda: Step(fixture, layers, precision))
    before = one.first
    reset_peak()
    answer = seconds(lambda: one(way, backend)) | peaks()
    return answer if before else answer | one.first


# --- A step of unlearning -----------------------------------------------------------------------------------------


def padded(rows):
    """As open-unlearning's collator: ids padded on the right to the longest, a mask, and labels of the answers."""
    longest = max(len(r["ids"]) for r in rows)
    ids, mask, labels = [], [], []
    for r in rows:
        n, first, pad = len(r["ids"]), r["first_target"], longest - len(r["ids"])
        ids.append(r["ids"] + [2] * pad)
        mask.append([1] * n + [0] * pad)
        labels.append([-100] * first + r["ids"][first:] + [-100] * pad)
    return [torch.tensor(x, device=DEVICE) for x in (ids, mask, labels)]


def row_losses(model, batch):
    """The sum over each row's targets, as open-unlearning's NPO takes it, and how many targets there are."""
    ids, mask, labels = batch
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
    losses = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], ignore_index=-100, reduction="none")
    return losses.sum(1), (labels[:, 1:] != -100).sum()


class Unlearning(Trained):
    """GradDiff, or NPO with the retain loss, on rows to forget and their partners, `micro` pairs of rows a pass.

    As open-unlearning does it: padded to the longest row of a pass, a pass of its own for the forget and the retain
    rows, means over a micro-batch, logits of every position; for NPO a reference model in memory that reads the forget
    rows of every step. bf16 weights with f32 masters.
    """

    beta = 0.1

    def __init__(self, fixture, layers, method):
        super().__init__(fixture, layers, "weights")
        data = rows(fixture)
        self.forget, self.retain, self.method = data["forget"], data["retain"], method
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False) if method == "npo_rt" else None
        self.batches = {}

    def in_passes(self, micro):
        if micro not in self.batches:
            self.batches[micro] = [(padded(self.forget[i:i + micro]), padded(self.retain[i:i + micro]))
                                   for i in range(0, len(self.forget), micro)]
        return self.batches[micro]

    def forget_loss(self, batch):
        """And how much of a mean over the whole step it is a mean of: targets, or rows."""
        losses, targets = row_losses(self.model, batch)
        if self.method == "grad_diff":
            return -losses.sum() / targets, targets
        with torch.no_grad():
            before, _ = row_losses(self.reference, batch)
        return -2.0 / self.beta * F.logsigmoid(self.beta * (losses - before)).mean(), len(losses)

    def retain_loss(self, batch):
        losses, targets = row_losses(self.model, batch)
        return losses.sum() / targets, targets

    def backward(self, micro):
        """Each of the two losses goes back at once, which takes less memory than their sum, and no longer."""
        with self.all_or_nothing():
            batches = self.in_passes(micro)
            for forget, retain in batches:
                for loss in (lambda: self.forget_loss(forget), lambda: self.retain_loss(retain)):
                    (loss()[0] / len(batches)).backward()

    def __call__(self, micro):
        self.backward(micro)
        self.update()

    def first(self, micro=4):
        """Loss and norm of the gradient as uipe defines them: means over the whole step, not over passes. No update."""
        answer, parts = 0.0, ([f for f, _ in self.in_passes(micro)], [r for _, r in self.in_passes(micro)])
        with self.all_or_nothing():
            for batches, loss in zip(parts, (self.forget_loss, self.retain_loss)):
                with torch.no_grad():
                    whole = sum(float(loss(b)[1]) for b in batches)
                for b in batches:
                    part, of = loss(b)
                    part = part * of / whole
                    part.backward()
                    answer += part.item()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, float("inf")).item()
        self.model.zero_grad()
        return {"loss": answer, "grad_norm": norm}


def unlearning(fixture, layers, method, micro):
    """Steps. The first request for a method also gives the loss and norm to compare with ours."""
    key = ("unlearning", layers, method)
    made = key not in kept
    one = keep(key, lambda: Unlearning(fixture, layers, method))
    first = one.first() if made else {}
    micro = min(micro, len(one.forget))
    reset_peak()
    return seconds(lambda: one(micro)) | peaks() | first


# --- Generation ---------------------------------------------------------------------------------------------------


def generator(fixture, layers):
    model = load(fixture, layers, torch.bfloat16).eval()
    model.generation_config.eos_token_id = None  # random weights do not end where an answer would
    model.generation_config.pad_token_id = 0
    return model


def wait():
    if not TINY:
        torch.cuda.synchronize()


@torch.inference_mode()
def generate(fixture, layers, n, batch, alone=False):
    """n new tokens, greedy, with a cache, in batches padded on the left. alone: of one prompt. ids: all new tokens of
    the only prompt, or the first of each."""
    model = keep(("generate", layers), lambda: generator(fixture, layers))
    data = rows(fixture)
    prompts = [data["prompt"]] if alone else data["prompts"]

    def new_tokens(part, n):
        longest = max(map(len, part))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in part], device=DEVICE)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in part], device=DEVICE)
        return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False,
                              use_cache=True)[:, longest:].tolist()

    new_tokens(prompts[:batch], 2)
    wait()
    start = time.perf_counter()
    out = [ids for i in range(0, len(prompts), batch) for ids in new_tokens(prompts[i:i + batch], n)]
    wait()
    took = time.perf_counter() - start
    return {"seconds": took, "ids": out[0] if alone else [ids[0] for ids in out]}


KNOWN = {f.__name__: f for f in (optimizer, step, unlearning, generate, forget)}

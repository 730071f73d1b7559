"""PyTorch and transformers doing the work of uipe's benchmarks on the CPU: the peer that bench/compare.py talks to.

    python bench/torch_peer.py FIXTURE        FIXTURE: the folder that `uipe_bench --fixture=` wrote

Reads a JSON object a line, {"do": "step", …}, and answers each with a JSON line; `do` names a function below, the rest
are its arguments. What was loaded or compiled for a request is kept for the next of its kind.
"""

import gc
import json
import os
import pathlib
import resource
import sys
import time
import warnings

import torch
import torch.nn.functional as F
import transformers

FIXTURE = pathlib.Path(sys.argv[1])
EOS = 2  # also what pads


def fixture(name):
    return json.loads((FIXTURE / name).read_text())


def load(model, dtype=torch.float32):
    return transformers.LlamaForCausalLM.from_pretrained(
        FIXTURE / model, dtype=dtype, attn_implementation="sdpa", use_cache=False)


def seconds(call, times):
    """The mean time of a call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


# --- A training step ----------------------------------------------------------------------------------------------


class Step:
    """Forward, backward, clipping and AdamW of a LlamaForCausalLM on the fixture's four sequences of 256 tokens.

    compile: torch.compile of forward and loss, and so of backward. precision, for bf16: "autocast", products in bf16
    over f32 weights; or "weights", bf16 weights and gradients with f32 masters in the optimizer. optimizer: "fused" or
    "foreach".
    """

    def __init__(self, model, dtype, compile, precision, optimizer):
        self.autocast = dtype == "bf16" and precision == "autocast"
        rounded = dtype == "bf16" and precision == "weights"
        self.model = load(model, torch.bfloat16 if rounded else torch.float32).train()
        self.weights = list(self.model.parameters())
        self.masters = [w.detach().float() for w in self.weights] if rounded else self.weights
        groups = [{"params": [w for w in self.masters if w.dim() > 1]},
                  {"params": [w for w in self.masters if w.dim() == 1], "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-5, weight_decay=0.01, **{optimizer: True})
        ids = torch.tensor(fixture("step.json"))
        self.tokens, self.targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
        self.forward = torch.compile(self.loss) if compile else self.loss
        self.losses = []

    def loss(self, tokens, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            # shift_labels: every token has a target, as in uipe; `labels` alone would drop each sequence's last.
            return self.model(input_ids=tokens, labels=targets, shift_labels=targets).loss

    def __call__(self):
        loss = self.forward(self.tokens, self.targets)
        loss.backward()
        if self.masters is not self.weights:
            for master, weight in zip(self.masters, self.weights):
                master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.masters is not self.weights:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.masters)
        self.losses.append(loss.item())


kept = {}


def step(threads, times, **kind):
    """Times `times` steps. The first call for a model of a kind also makes and, perhaps, compiles it and runs a step that
    is not timed (first_s). losses: of all steps of the kind so far, from the fixture's weights on."""
    torch.set_num_threads(threads)
    key = json.dumps(kind, sort_keys=True)
    if key not in kept:
        start = time.perf_counter()
        kept[key] = Step(**kind)
        kept[key]()
        kept[key].first_s = time.perf_counter() - start
    took = seconds(kept[key], times)
    return {"tok_s": kept[key].tokens.numel() / took, "losses": kept[key].losses, "first_s": kept[key].first_s}


def forget():
    """Drops the models of earlier steps."""
    kept.clear()
    torch.compiler.reset()
    gc.collect()
    return {}


# --- Attention ----------------------------------------------------------------------------------------------------


def attention(threads, times, dtype, lengths):
    """scaled_dot_product_attention, causal, 12 heads of 64, forward and backward. Several lengths are rows padded on
    the right: a row's real tokens see no padding, so causality is mask enough and the quickest kernel serves."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = (len(lengths), 12, max(lengths), 64)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    q, k, v = (torch.randn(shape, dtype=dtype, requires_grad=True) for _ in range(3))
    dout = torch.randn(shape, dtype=dtype)
    took = {"forward_s": 0.0, "backward_s": 0.0}
    for i in range(times + 1):
        start = time.perf_counter()
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        middle = time.perf_counter()
        out.backward(dout)
        end = time.perf_counter()
        q.grad = k.grad = v.grad = None
        if i > 0:
            took["forward_s"] += (middle - start) / times
            took["backward_s"] += (end - middle) / times
    return took


# --- A TOFU evaluation --------------------------------------------------------------------------------------------


def batches(rows, size):
    return [rows[i:i + size] for i in range(0, len(rows), size)]


def padded(rows, value, left=False):
    longest = max(map(len, rows))
    pads = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([pad + row if left else row + pad for row, pad in zip(rows, pads)])


def average_losses(model, answers, batch):
    """The mean loss of each answer's targets, in batches padded on the right, as open-unlearning computes it."""
    out = []
    for part in batches(answers, batch):
        ids = padded([a["ids"] for a in part], EOS)
        mask = padded([[1] * len(a["ids"]) for a in part], 0)
        # Shifted labels over whole logits: open-unlearning cuts and transposes the logits, which takes longer.
        labels = padded([[-100] * (a["first_target"] - 1) + a["ids"][a["first_target"]:] for a in part], -100)
        labels = F.pad(labels, (0, ids.shape[1] - labels.shape[1]), value=-100)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
        out += (loss.sum(1) / (labels != -100).sum(1)).tolist()
    return out


def continuations(model, prompts, batch):
    """200 new tokens of each prompt, or those before its end of sequence, greedy, in batches padded on the left, with
    a cache."""
    out = []
    for part in batches(prompts, batch):
        ids = padded(part, EOS, left=True)
        mask = padded([[1] * len(prompt) for prompt in part], 0, left=True)
        new = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=200, do_sample=False, use_cache=True,
                             pad_token_id=EOS)[:, ids.shape[1]:]
        out += [ids[:ids.index(EOS)] if EOS in ids else ids for ids in new.tolist()]
    return out


def tofu_rows(count):
    """The 15M model in f32 and the fixture's rows, all or the first `count`."""
    if "tofu" not in kept:
        kept["tofu"] = load("15M").eval(), fixture("tofu.json")
    model, rows = kept["tofu"]
    return model, rows[:count]


# Token ids go in and come out: unlike uipe's, these times hold no tokenizing and no ROUGE.


@torch.inference_mode()
def tofu_score(threads, batch, rows=None):
    torch.set_num_threads(threads)
    model, data = tofu_rows(rows)
    start = time.perf_counter()
    losses = average_losses(model, [a for row in data for a in row["answers"]], batch)
    return {"seconds": time.perf_counter() - start, "losses": losses}


@torch.inference_mode()
def tofu_generate(threads, batch, rows=None):
    torch.set_num_threads(threads)
    model, data = tofu_rows(rows)
    start = time.perf_counter()
    new = continuations(model, [row["prompt"] for row in data], batch)
    return {"seconds": time.perf_counter() - start, "new": new}


# --- The worker ---------------------------------------------------------------------------------------------------


def about():
    return {"torch": torch.__version__, "transformers": transformers.__version__, "python": sys.version.split()[0],
            "cpu_capability": torch.backends.cpu.get_cpu_capability()}


def peak():
    """The process's resident memory at its highest."""
    return {"peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6}


def main():
    # What libraries print goes to standard error, so that standard output holds answers alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    known = {f.__name__: f for f in (step, forget, attention, tofu_score, tofu_generate, about, peak)}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = known[request.pop("do")](**request)
        except Exception as e:  # a variant that fails here is a result, not the end of the run
            answer = {"error": f"{type(e).__name__}: {e}"}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The tables of a run of bench/gpu.py: what was measured beside PyTorch and the roofs, and which goals it meets.

    bench/gpu_report.py bench/results/GPU/DATE.json     prints the tables of a run again
"""

import dataclasses
import json
import pathlib
import re
import statistics
import sys

# bf16, dense, f32 sums, TFLOP/s, from the makers' data sheets: the first words that are in the name count.
PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "A800": 312, "RTX 4090": 165.2}
OPS = ("head", "optimizer", "step", "unlearning", "decode", "generate", "start", "layer", "rmsnorm", "swiglu", "rope",
       "add", "adamw")


# --- Rows and answers ----------------------------------------------------------------------------------------------


def sizes_of(name):
    """{"T": 2048, …}: the parts of a name that are a letter, or a word, and a number."""
    return {k: int(v) for k, v in re.findall(r"/([A-Za-z]+)(\d+)(?=/|$)", name)}


def op_of(name):
    return name.split("/")[1]


def twin(name):
    """What rows that the same work of the peer stands beside have in common: levels of attention share theirs."""
    return re.sub(r"^(cuda/attention_\w+)/\w+/", r"\1/", name)


def median(answers, key="seconds"):
    """The median over the rounds that have it; None where none has."""
    values = [a[key] for a in answers if key in a]
    return statistics.median(values) if values else None


def reason(answers):
    return next((a["error"] for a in answers if "error" in a), "it was not reached")


# --- Goals ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Figure:
    """A goal and what came of it. unit "×": ours over PyTorch's, in speed; "× memory": in memory, where less is better,
    as of "ms" and "s"; others are rates and shares. value: None where it was not measured."""
    what: str
    ours: str
    beside: str
    roof: str
    value: float
    unit: str
    must: float = None
    aim: float = None
    dry: bool = False  # a dry run's value says nothing

    def met(self):
        if self.dry or self.value is None:
            return "dry run" if self.dry else "not measured"
        less = self.unit in ("× memory", "ms", "s")
        reached = lambda goal: goal is not None and (self.value <= goal if less else self.value >= goal)
        return "aim" if reached(self.aim) else "must" if reached(self.must) else "no" if self.must else "short of aim"

    def text(self, value):
        if value is None:
            return ""
        return f"{value:.2f}{self.unit}" if self.unit.startswith("×") else f"{value:.3g} {self.unit}"

    def cells(self):
        return (self.what, self.ours, self.beside, self.roof, self.text(self.value), self.text(self.must),
                self.text(self.aim), self.met())


class Goals:
    """The goals of a run on one H200; another GPU is only seen to be so far from them."""

    def __init__(self, tables):
        self.t, self.ours, self.theirs, self.figures = tables, tables.ours, tables.theirs, []
        self.attention()
        self.rows()
        self.head()
        self.optimizer()
        self.step()
        self.unlearning()
        self.generation()
        self.start()

    def add(self, what, ours, beside, roof, value, unit, must, aim):
        self.figures.append(Figure(what, ours or "not measured", beside or "", roof, value, unit, must, aim,
                                   "name" not in self.t.results["gpu"]))

    def named(self, prefix):
        """Of rows like this, the one of most layers that was measured, or else the first."""
        names = [n for n in self.ours if n.startswith(f"cuda/{prefix}/")]
        measured = [n for n in names if median(self.ours[n])]
        return max(measured, key=lambda n: sizes_of(n).get("L", 0), default=names[0] if names else None)

    def against(self, what, name, must, aim, count=lambda name, seconds: f"{1e3 * seconds:.3g} ms"):
        """Ours beside the quickest way of the peer's. Where an attempt of it failed, the tables say so."""
        if name is None:
            return None
        ours = median(self.ours[name])
        way, other = self.t.best_of(self.theirs.get(twin(name), {}))
        self.add(with_layers(what, name), ours and count(name, ours), other and f"{count(name, other)} ({way})",
                 self.t.roof_text(self.ours[name]), other / ours if ours and other else None, "×", must, aim)
        return ours

    def attention(self):
        for direction, must, aim in (("forward", 0.95, 1.05), ("backward", 0.9, 1.05)):
            rows = [n for n in self.ours if n.startswith(f"cuda/attention_{direction}/") and "T" in sizes_of(n)]
            lengths = sorted({sizes_of(n)["T"] for n in rows})
            for T in [n for n in lengths if n >= 2048] or lengths[-1:]:
                name = self.quickest(n for n in rows if sizes_of(n)["T"] == T)
                self.against(f"attention {direction}, causal, T {T}", name, must, aim)

    def quickest(self, names):
        return min(names, key=lambda n: median(self.ours[n]) or float("inf"), default=None)

    def rows(self):
        """Forward and backward of the packed rows: the peer does both in one of its ways."""
        forward, backward = (
            self.quickest(n for n in self.ours if n.startswith(f"cuda/attention_{d}/") and "rows" in sizes_of(n))
            for d in ("forward", "backward"))
        if forward is None:
            return
        both = [median(self.ours[n]) for n in (forward, backward)]
        ours = sum(both) if all(both) else None
        ways = {w: median(a) + median(self.theirs[twin(backward)].get(w, []))
                for w, a in self.theirs.get(twin(forward), {}).items()
                if median(a) and median(self.theirs.get(twin(backward), {}).get(w, []))}
        way = min(ways, key=ways.get, default=None)
        flops = sum((median(self.ours[n], "GFLOP/s") or 0) * 1e9 * (t or 0) for n, t in zip((forward, backward), both))
        self.add("attention of rows, forward and backward", ours and f"{1e3 * ours:.3g} ms",
                 way and f"{1e3 * ways[way]:.3g} ms ({way})",
                 f"{self.t.share(flops / ours, self.t.gemm)} of gemm" if ours else "",
                 ways[way] / ours if ours and way else None, "×", 1.5, 3.0)

    def head(self):
        name = self.named("head")
        ours = self.against("LM head and loss, forward and backward", name, 1.3, None)
        if name is None:
            return
        rate = median(self.ours[name], "GFLOP/s")
        self.add("the same, rate", rate and f"{rate / 1e3:.3g} TFLOP/s", "", self.t.roof_text(self.ours[name]),
                 rate and rate / 1e3, "TFLOP/s", None, 650.0)
        way, _ = self.t.best_of(self.theirs.get(twin(name), {}))
        other = median(self.theirs[twin(name)][way], "extra_MB") if way else None
        extra = median(self.ours[name], "extra_MB") if ours else None
        self.add("the same, memory beside its inputs, gradients included", extra and f"{extra:.4g} MB",
                 other and f"{other:.4g} MB ({way})", "", extra / other if extra and other else None, "× memory", 1.0,
                 None)

    def optimizer(self):
        name = self.named("optimizer")
        ours = self.against("clip, AdamW, bf16 weights", name, 1.4, None)
        if name is None:
            return
        rate = median(self.ours[name], "GB/s")
        self.add(with_layers("the same, of copy bandwidth", name), rate and f"{rate:.4g} GB/s", "",
                 self.t.roof_text(self.ours[name]), 1e11 * rate / self.t.copy if rate and self.t.copy else None, "%",
                 85.0, None)
        whole = sizes_of(name)["L"] == 32  # of fewer weights the time says nothing
        self.add(with_layers("the same, time", name), ours and f"{1e3 * ours:.3g} ms", "", "",
                 1e3 * ours if ours and whole else None, "ms", None, 39.3)

    def step(self):
        name = self.named("step")
        ours = self.against("training step", name, 1.2, None)
        if name is None:
            return
        flops = median(self.ours[name], "GFLOP/s")
        mfu = 1e11 * flops / self.t.peak if flops and self.t.peak else None
        self.add(with_layers("the same, MFU", name), flops and f"{flops / 1e3:.3g} TFLOP/s", "",
                 self.t.roof_text(self.ours[name]), mfu, "%", 60.0, 65.0)
        way, _ = self.t.best_of(self.theirs.get(name, {}))
        peaks = {w: median(a, "peak_MB") for w, a in self.theirs.get(name, {}).items() if median(a, "peak_MB")}
        mine, other = median(self.ours[name], "peak_MB") if ours else None, peaks.get(way)
        least = min(peaks, key=peaks.get, default=None)
        beside = other and f"{other / 1e3:.4g} GB ({way}); the least {peaks[least] / 1e3:.4g} GB ({least})"
        self.add(with_layers("the same, peak memory", name), mine and f"{mine / 1e3:.4g} GB", beside, "",
                 mine / other if mine and other else None, "× memory", 0.75, 0.6)

    def unlearning(self):
        for method, title_ in (("grad_diff", "GradDiff"), ("npo_rt", "NPO with retain loss")):
            self.against(f"unlearning step, {title_}", self.named(f"unlearning/{method}"), 3.0, 6.0)

    def generation(self):
        tokens = lambda name, seconds: f"{self.new_tokens(name) / seconds:,.0f} tok/s"
        name = self.named("decode")
        ours = self.against("decoding, one sequence", name, 6.0, None, tokens)
        if name is not None:
            rate = self.new_tokens(name) / ours if ours else None
            self.add("the same, rate", ours and tokens(name, ours), "", self.t.roof_text(self.ours[name]), rate,
                     "tok/s", 300.0, 330.0)
        self.against("generation for a TOFU evaluation's prompts", self.named("generate"), 6.0, None, tokens)

    def new_tokens(self, name):
        answers = self.ours[name]
        return (median(answers, "tok/s") or 0.0) * (median(answers) or 0.0)

    def start(self):
        name = self.named("start")
        if name is not None:
            ours = median(self.ours[name])
            self.add(with_layers("start to first step done, page cache warm", name), ours and f"{ours:.3g} s", "", "",
                     ours, "s", 15.0, 10.0)

    def table(self):
        lines = ["| | uipe | beside it | of the roof | result | must | aim | met |", "|---" * 8 + "|"]
        return lines + [f"| {' | '.join(f.cells())} |" for f in self.figures] if self.figures else []


def with_layers(what, name):
    """What is not of the whole model says so."""
    L = sizes_of(name).get("L", 32)
    return what if L == 32 else f"{what}, {L} layers"


# --- The tables -----------------------------------------------------------------------------------------------------


class Tables:
    """Markdown of a run. What could not be measured is "not measured" in its place, and below the tables why."""

    def __init__(self, results):
        self.results, self.ours, self.theirs, self.why = results, results["ours"], results["theirs"], {}
        rate = lambda op, key, source, factor=1.0: max(
            (factor * (median(a, key) or 0.0) for n, a in source.items() if op in n), default=0.0)
        # The better engine's shows what the GPU can do.
        flops = rate("cuda/gemm", "GFLOP/s", self.ours) * 1e9
        copy = rate("cuda/copy_", "GB/s", self.ours) * 1e9
        self.gemm = max(flops, self.peer_rate("cuda/gemm", "GFLOP/s"))
        self.copy = max(copy, self.peer_rate("cuda/copy_cuda", "GB/s"))
        name = results["gpu"].get("name", "")
        self.peak = next((1e12 * p for word, p in PEAKS.items() if word in name), None)

    def peer_rate(self, prefix, key):
        """The peer's rate of a row, from the work that our own figure stands for."""
        for name, ways in self.theirs.items():
            ours = next((a for n, a in self.ours.items() if twin(n) == name), [])
            if name.startswith(prefix) and median(ours) and (t := self.best_of(ways)[1]):
                return median(ours, key) * 1e9 * median(ours) / t
        return 0.0

    def best_of(self, ways):
        """(way, seconds) of the quickest; (None, None) where none was measured."""
        measured = {way: t for way, a in ways.items() if (t := median(a))}
        best = min(measured, key=measured.get, default=None)
        return best, measured.get(best)

    def cell(self, row, what, answers, text):
        if median(answers):
            return text(median(answers))
        self.why.setdefault(f"{what}: {reason(answers)}", []).append(title(row))
        return "not measured"

    def share(self, rate, roof):
        return f"{100 * rate / roof:.0f} %" if roof else "no roof"

    def rows(self, *ops):
        return {n: a for n, a in self.ours.items() if op_of(n).startswith(ops)}

    def roof_table(self):
        lines = ["| roof | uipe | PyTorch |", "|---|---|---|"]
        for name, answers in self.rows("gemm", "copy").items():
            key, unit = ("GFLOP/s", "TFLOP/s") if op_of(name) == "gemm" else ("GB/s", "TB/s")
            text = self.cell(name, "uipe", answers, lambda _: f"{median(answers, key) / 1e3:.4g} {unit}")
            ways, other = self.theirs.get(twin(name), {}), ""
            if ways and median(answers):
                other = self.cell(name, "PyTorch", ways["torch"],
                                  lambda t: f"{median(answers, key) * median(answers) / t / 1e3:.4g} {unit}")
            lines.append(f"| {title(name)} | {text} | {other} |")
        return lines

    def attention_tables(self):
        lines = []
        for direction in ("forward", "backward"):
            rows = self.rows(f"attention_{direction}")
            twins = list(dict.fromkeys(twin(n) for n in rows))
            levels = list(dict.fromkeys(n.split("/")[2] for n in rows))
            ways = list(dict.fromkeys(w for t in twins for w in self.theirs.get(t, {})))
            if twins:
                lines += ["", f"| attention {direction}, ms (TFLOP/s) | " + " | ".join(
                    levels + [f"PyTorch {w}" for w in ways] + ["ours / PyTorch's best, speed"]) + " |",
                    "|---" * (len(levels) + len(ways) + 2) + "|"]
            for t in twins:
                lines.append(self.attention_row(t, rows, levels, ways))
        return lines

    def attention_row(self, t, rows, levels, ways):
        mine = {level: a for n, a in rows.items() if twin(n) == t for level in [n.split("/")[2]]}
        flops = next((median(a, "GFLOP/s") * 1e9 * median(a) for a in mine.values() if median(a)), 0.0)
        text = lambda seconds: f"{1e3 * seconds:.3g} ({flops / seconds / 1e12:.0f})"
        cells = [self.cell(t, level, mine[level], text) if level in mine else "" for level in levels]
        others = self.theirs.get(t, {})
        cells += [self.cell(t, f"PyTorch {w}", others[w], text) if w in others else "" for w in ways]
        best, other = self.best_of(mine)[1], self.best_of(others)[1]
        cells.append(f"{other / best:.2f}×" if best and other else "")
        return f"| {title(t)} | {' | '.join(cells)} |"

    def op_table(self):
        lines = ["", "| | ms | rate | of the roof | PyTorch | ours / PyTorch, speed |", "|---|---|---|---|---|---|"]
        for name, answers in self.rows(*OPS).items():
            ways = self.theirs.get(twin(name), {})
            others = ", ".join(self.cell(name, f"PyTorch {w}", a, lambda t: f"{w} {1e3 * t:.3g} ms")
                               for w, a in ways.items())
            ours, other = median(answers), self.best_of(ways)[1]
            text = self.cell(name, "uipe", answers, lambda t: f"{1e3 * t:.3g}")
            lines.append(f"| {title(name)} | {text} | {self.rate_and_share(answers)} | {others} | "
                         f"{f'{other / ours:.2f}×' if ours and other else ''} |")
        return lines if len(lines) > 3 else []

    def roof_text(self, answers):
        return self.rate_and_share(answers).split(" | ")[1]

    def rate_and_share(self, answers):
        if flops := median(answers, "GFLOP/s"):
            return f"{flops / 1e3:.0f} TFLOP/s | {self.share(flops * 1e9, self.gemm)} of gemm"
        if bytes_ := median(answers, "GB/s"):
            return f"{bytes_:.0f} GB/s | {self.share(bytes_ * 1e9, self.copy)} of copy"
        return " | "

    def text(self):
        r = self.results
        goals = Goals(self).table()
        tables = self.roof_table() + self.attention_tables() + self.op_table()
        checked = [check_text(c) for c in r["checks"]]
        checks = [f"* {what}: {outcome(answer)}" for what, answer in r["tests"].items()]
        notes = [f"* {n}" for n in r["notes"]]
        notes += [f"* not measured, {why} ({'; '.join(rows)})" for why, rows in self.why.items()]
        about = [f"{k} {v}" for k, v in r["gpu"].items() if k != "name"]
        about = ", ".join([*about, f"CUDA {r['uipe'].get('cuda', 'unknown')}"])
        return "\n".join([
            f"# uipe on {r['gpu'].get('name', 'the emulator: times say nothing')}", "",
            f"{about}; {peer_text(r['peer'])}; commit {r['commit'][:12]}; {r['date']}; "
            f"medians of {r['rounds']} round(s). What the rows mean: bench/README.md.", "", *goals, "",
            "## Checked first", "", *(checked or ["* nothing"]), "", "## All of it", "", *tables, "", "## Tests", "",
            *(checks or ["* not run"]), "", "## Notes", "", *(notes or ["* none"]), ""])


def outcome(answer):
    if "error" in answer:
        return f"not measured: {answer['error']}"
    return f"{'passed' if answer['passed'] else 'FAILED'} ({answer['said'][-1] if answer['said'] else ''})"


def title(name):
    """cuda/attention_forward/B8/T2048/H32 as "attention forward, B 8, T 2048, H 32"."""
    _, op, *rest = name.split("/")
    return ", ".join([op.replace("_", " "), *(re.sub(r"^([A-Za-z]+)(\d+)$", r"\1 \2", part) for part in rest)])


def peer_text(peer):
    if "torch" not in peer:
        return f"PyTorch not measured: {peer['error']}"
    names = {"torch": "PyTorch", "transformers": "transformers", "cuda": "its CUDA", "cudnn": "cuDNN"}
    return ", ".join(f"{name} {peer[key]}" for key, name in names.items() if peer.get(key))


def check_text(c):
    theirs = f", PyTorch {c['PyTorch']:.2g}" if "PyTorch" in c else ""
    return f"* {c['what']} {c['difference']:.2g}{theirs}, bound {c['bound']:g}: {'good' if c['good'] else 'NOT GOOD'}"


def figures(results):
    """The goals as plain values, for the results' file."""
    return [dataclasses.asdict(f) | {"met": f.met()} for f in Goals(Tables(results)).figures]


if __name__ == "__main__":
    print(Tables(json.loads(pathlib.Path(sys.argv[1]).read_text())).text())

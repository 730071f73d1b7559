#!/usr/bin/env python3
"""Measures uipe's CPU engine beside PyTorch and beside the machine's own roofs, in the same run, and writes the table.

    ./run bench --peers                     builds, then runs this: about 25 minutes on two cores
    bench/compare.py --only step attention  some groups; --quick: one short round
    bench/compare.py --readme               rewrites the table in README.md from the newest results

PYTHON names a python with torch and transformers; without one, a virtual environment is made under build/ and both are
installed there with pip. UIPE_DATA or --data names the folder of the real TOFU data; without it the TOFU row is left
out. A whole run writes bench/results/cpu-DATE-PROCESSOR.json, every number of every round, and a .md table of the same;
a part of one goes to build/bench.

Ours and the peer's are measured in turns, round by round, and medians are compared. What one engine computes is first
checked against the other. The peer gets its best settings, and is shown with a tuned malloc too: see bench/README.md.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DTYPES = ("f32", "bf16")


def stop(text):
    print(f"compare.py: {text}", file=sys.stderr)
    sys.exit(2)


def say(text):
    print(text, file=sys.stderr, flush=True)


# --- The two engines ----------------------------------------------------------------------------------------------


class Engine:
    """Our benchmark program, a process a call."""

    def __init__(self, program, data, quick):
        if not program.exists():
            stop(f"there is no {program}; build it with ./run build")
        self.program = str(program)
        self.short = quick
        # Every core, whatever the shell says: the peer chooses its threads itself.
        self.environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT")}
        self.environment.pop("UIPE_DATA", None)
        if data:
            self.environment["UIPE_DATA"] = str(data)
        self.roofs = []
        self.about = {}

    def call(self, *arguments):
        done = subprocess.run([self.program, *arguments], env=self.environment, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True)
        if done.returncode:
            stop(f"uipe_bench {' '.join(arguments)} failed: {done.stderr.strip()}")
        return done.stdout

    def run(self, pattern, roofs=False):
        """The benchmarks whose name the pattern finds: {name: its counters, and its time as "seconds"}. With roofs,
        which are measured first, also share_of_roof; without, time and memory are the benchmarks' own."""
        out = json.loads(self.call(f"--benchmark_filter={pattern}", "--benchmark_format=json",
                                   f"--benchmark_min_time={0.05 if self.short else 0.25}",
                                   f"--roofs={'on' if roofs else 'off'}"))
        context = out["context"]
        self.about = {name: context[name] for name in ("onednn", "threads") if name in context}
        if roofs:
            self.roofs.append({k: float(v.split()[0]) for k, v in context.items() if k.startswith("roof_")})
        found = {}
        for b in out["benchmarks"]:
            name = re.sub(r"(/iterations:\d+)?/real_time$", "", b["name"])
            found[name] = {k: v for k, v in b.items() if isinstance(v, float)} | {"seconds": b["real_time"] / 1e3}
        if not found:
            stop(f"no benchmark is called {pattern}")
        return found


class Peer:
    """bench/torch_peer.py, one process that answers many requests."""

    # glibc gives large blocks back to the system and takes them anew, page by page, at every step. Told to keep them,
    # PyTorch is up to a third quicker, and its peak of memory is higher.
    TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 35)}

    def __init__(self, python, fixture, log, tuned=False):
        unset = ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", *self.TUNED)
        environment = {k: v for k, v in os.environ.items() if k not in unset} | (self.TUNED if tuned else {})
        environment["CUDA_VISIBLE_DEVICES"] = ""
        self.log = log
        self.process = subprocess.Popen([python, str(ROOT / "bench" / "torch_peer.py"), str(fixture)], text=True,
                                        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(log, "a"))

    def ask(self, do, may_fail=False, **arguments):
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            stop(f"torch_peer.py ended during {do} {arguments}; see {self.log}")
        answer = json.loads(line)
        if "error" in answer and not may_fail:
            stop(f"torch_peer.py could not do {do} {arguments}: {answer['error']}")
        return answer

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def has_torch(python):
    return subprocess.run([python, "-c", "import torch, transformers"], stderr=subprocess.DEVNULL).returncode == 0


def newest_cpu_build(python):
    """torch, or a build of it for the CPU alone where the package index offers one: a tenth of the download."""
    listed = subprocess.run([python, "-m", "pip", "index", "versions", "torch"], capture_output=True, text=True).stdout
    cpu = re.search(r"[\w.]+\+cpu\b", listed)
    return f"torch=={cpu[0]}" if cpu else "torch"


def find_python():
    """A python with torch and transformers: PYTHON, this one, or one made under build/."""
    given = os.environ.get("PYTHON")
    for python in filter(None, (given, sys.executable)):
        if has_torch(python):
            return python
    if given:
        stop(f"{given} lacks torch or transformers; install them or unset PYTHON")
    folder = ROOT / "build" / "peers"
    python = str(folder / "bin" / "python")
    if not (folder / "bin" / "python").exists():
        say(f"Making {folder} with torch and transformers.")
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            stop("python cannot make a virtual environment; install python3-venv, or set PYTHON")
    if not has_torch(python):
        install = [python, "-m", "pip", "install", "--quiet", newest_cpu_build(python), "transformers"]
        if subprocess.run(install).returncode or not has_torch(python):
            stop("pip could not install torch and transformers; set PYTHON to a python that has them")
    return python


# --- What a run gathers -------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Figure:
    """A row of the table. value: ours over the peer's in speed (kind "times"), ours over the roof (kind "share"), or
    ours over the peer's in memory (kind "memory", where less is better)."""
    group: str
    what: str
    ours: str
    other: str
    value: float
    kind: str
    must: float = None
    aim: float = None

    def met(self):
        if self.must is None:
            return ""
        reached = (lambda goal: self.value <= goal) if self.kind == "memory" else (lambda goal: self.value >= goal)
        return "aim" if reached(self.aim) else "must" if reached(self.must) else "no"

    def text(self, value):
        if value is None:
            return ""
        return f"{100 * value:.0f} %" if self.kind == "share" else f"{value:.2f}×"


class Run:
    """new_peer(tuned) starts a process of the peer's. Rows compare with PyTorch as it comes, `peer`, and tell beside it
    what it does with a tuned allocator."""

    def __init__(self, engine, new_peer, rounds, quick):
        self.engine, self.new_peer, self.rounds, self.quick = engine, new_peer, rounds, quick
        self.peer, self.tuned = new_peer(False), new_peer(True)
        self.figures, self.checks, self.notes, self.raw = [], [], [], {}
        self.settings = None

    def each_round(self, group):
        for number in range(1, self.rounds + 1):
            say(f"{group}: round {number} of {self.rounds}")
            yield number

    def keep(self, name, numbers):
        self.raw.setdefault(name, []).append(numbers)
        return numbers

    def beside(self, group, what, unit, ours, plain, tuned, goals=(None, None)):
        """A row beside PyTorch: its numbers by name, as it comes, of which the best counts, and tuned."""
        rate, memory = unit == "tok/s", group == "memory"
        best = lambda numbers: (max if rate else min)(numbers.values())
        value = lambda other: ours / other if rate or memory else other / ours
        text = ", ".join(f"{name} {thousands(x)}".strip() for name, x in plain.items()) + f" {unit}"
        if tuned:
            text += f"; tuned {thousands(best(tuned))} {unit} ({value(best(tuned)):.2f}×)"
        self.figures.append(Figure(group, what, f"{thousands(ours)} {unit}", text, value(best(plain)),
                                   "memory" if memory else "times", *goals))

    def check(self, what, difference, bound):
        good = difference <= bound
        self.checks.append({"what": what, "difference": difference, "bound": bound, "good": good})
        if not good:
            say(f"the engines do not agree: {what} {difference:.3g}, more than {bound:g}")

    def note(self, text):
        say(text)
        self.notes.append(text)


def thousands(x):
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


# --- Shares of a roof ---------------------------------------------------------------------------------------------

V = 32000
MODELS = {"15M": {"C": 288, "F": 768, "L": 6}, "110M": {"C": 768, "F": 2048, "L": 12}}


def step_products(model):
    """(from, to) of the weights that a step multiplies by, and how many there are; each by three products."""
    C, F, L = (MODELS[model][k] for k in "CFL")
    return {(C, C): 4 * L, (C, F): 2 * L, (F, C): L, (C, V): 1}


def gemm(run):
    """The share of the roof that a step's products reach together: all their FLOPs over all their time."""
    shapes = "|".join(f"C:{c}/N:{n}" for model in MODELS for c, n in step_products(model))
    goals = {"f32": (0.80, 0.85), "bf16": (0.65, 0.75)}
    rates = {}
    for _ in run.each_round("gemm"):
        found = run.keep("gemm", run.engine.run(rf"^gemm/(f32|bf16)_../T:1024/({shapes})/", roofs=True))
        for dtype in DTYPES:
            for model in MODELS:
                flops = time = 0.0
                for (c, n), count in step_products(model).items():
                    for layout in ("NT", "NN", "TN"):
                        flops += count * 2.0 * 1024 * c * n
                        time += count * found[f"gemm/{dtype}_{layout}/T:1024/C:{c}/N:{n}"]["seconds"]
                rates.setdefault((dtype, model), []).append(flops / time / 1e9)
    for (dtype, model), rounds in rates.items():
        # What the processor did in registers once, it can do: the best of the rounds, not their median.
        rate, roof = statistics.median(rounds), max(r[f"roof_{dtype}"] for r in run.engine.roofs)
        run.figures.append(Figure("gemm", f"matrix products of a {model} step, {dtype}", f"{rate:.0f} GFLOP/s",
                                  f"roof {roof:.0f} GFLOP/s", rate / roof, "share", *goals[dtype]))


def shares(run, group, pattern, roof, goals, what=lambda name: name):
    """Rates of the round whose share of its own roof is the median."""
    rounds = [run.keep(group, run.engine.run(pattern, roofs=True)) for _ in run.each_round(group)]
    roofs = [r[roof] for r in run.engine.roofs[-run.rounds:]]
    for name in rounds[0]:
        share, rate, of = sorted((r[name]["share_of_roof"] / 100, r[name]["GB/s"], at)
                                 for r, at in zip(rounds, roofs, strict=True))[run.rounds // 2]
        run.figures.append(Figure(group, what(name), f"{rate:.1f} GB/s", f"roof {of:.1f} GB/s", share, "share", *goals))


def layers(run):
    """What waits for memory, at sizes beyond the caches."""
    shares(run, "layers", r"^(rmsnorm|swiglu|rope|embedding|add)/.*/T:32000/|^adamw/|^softmax_", "roof_copy",
           (0.80, 0.80), lambda name: re.sub(r"/(T|n):\d+$", "", name).replace("/", " ").replace("_", " "))


def decode(run):
    shares(run, "decode", "^decode/110M_f32/", "roof_read", (0.80, 0.90), lambda _: "decoding, batch 1, 110M, f32")


# --- Beside PyTorch -----------------------------------------------------------------------------------------------


def thread_counts():
    cores = len(os.sched_getaffinity(0))
    return sorted({1, min(2, cores), cores})


def quickest(run, what, candidates, seconds):
    """The candidate that takes PyTorch the least time; a run of one candidate is no trial."""
    candidates = list(candidates)
    if len(candidates) == 1:
        return candidates[0]
    tried = {json.dumps(c): seconds(c) for c in candidates}
    run.keep(f"trials: {what}", tried)
    best = min(tried, key=tried.get)
    run.note(f"PyTorch, {what}: {best} is the quickest of {', '.join(tried)}")
    return json.loads(best)


def step_seconds(run, threads, **kind):
    """The shortest of three steps: a trial looks for what can be, where rounds look for what is usual."""
    answers = [run.peer.ask("step", may_fail=True, threads=threads, times=1, **kind) for _ in range(3)]
    return min(1024 / a["tok_s"] if "tok_s" in a else float("inf") for a in answers)


def peer_settings(run):
    """PyTorch's best number of threads and form of AdamW, tried on steps of the 15M model."""
    if run.settings is None:
        kind = {"model": "15M", "dtype": "f32", "compile": False, "precision": "autocast"}
        threads = quickest(run, "threads", thread_counts(),
                           lambda n: step_seconds(run, n, **kind, optimizer="fused"))
        optimizer = quickest(run, "AdamW", ("fused", "foreach"),
                             lambda o: step_seconds(run, threads, **kind, optimizer=o))
        run.peer.ask("forget")
        run.settings = {"threads": threads, "optimizer": optimizer}
    return run.settings


def step_kinds(run, model, dtype):
    """PyTorch's ways of doing a step, by name; bf16 in the better of its two precisions."""
    settings = peer_settings(run)
    kind = {"model": model, "dtype": dtype, "precision": "autocast", "optimizer": settings["optimizer"]}
    if dtype == "bf16":
        kind["precision"] = quickest(
            run, f"bf16 of a {model} step", ("autocast", "weights"),
            lambda p: step_seconds(run, settings["threads"], **(kind | {"precision": p, "compile": False})))
        run.peer.ask("forget")
    return {"eager": kind | {"compile": False}, "compiled": kind | {"compile": True}}


def check_losses(run, model, dtype, ours, theirs, way):
    """The first loss is the forward pass's; in f32 the last, after the same steps, is the gradients' and AdamW's too.
    (In bf16 the two engines round weights at different places, and a step of 1e-5 is less than those roundings.)"""
    bound = 1e-4 if dtype == "f32" else 2e-2
    both = f"losses of {model} {dtype}, uipe and PyTorch {way}: difference"
    run.check(f"first {both}", abs(ours["first_loss"] - theirs[0]), bound)
    if dtype == "f32":
        run.check(f"last {both}", abs(ours["last_loss"] - theirs[-1]), 10 * bound)


def step_rounds(run, model, dtype):
    """tok/s, medians of the rounds: ours, and PyTorch's, as it comes and tuned, by each way that works."""
    times = {"15M": 10, "110M": 3}[model]  # those of bench/step_bench.cpp, for losses of the same step
    ways = {(peer, way): kind for way, kind in step_kinds(run, model, dtype).items() for peer in ("peer", "tuned")}
    ours, theirs = [], {"peer": {}, "tuned": {}}
    for number in run.each_round(f"step {model} {dtype}"):
        found = run.keep(f"step {model} {dtype}, uipe",
                         run.engine.run(f"^step/{model}_{dtype}/")[f"step/{model}_{dtype}"])
        ours.append(found["tok/s"])
        for (peer, way), kind in list(ways.items()):
            name = f"tuned {way}" if peer == "tuned" else way
            answer = getattr(run, peer).ask("step", may_fail=True, threads=run.settings["threads"], times=times, **kind)
            run.keep(f"step {model} {dtype}, PyTorch {name}", answer)
            if "error" in answer:
                run.note(f"PyTorch, step {model} {dtype} {name}: failed, {answer['error'].splitlines()[0]}")
                del ways[peer, way]
                continue
            theirs[peer].setdefault(way, []).append(answer["tok_s"])
            if number == 1:
                check_losses(run, model, dtype, found, answer["losses"], name)
    run.peer.ask("forget")
    run.tuned.ask("forget")
    rate = statistics.median(ours)
    plain, tuned = ({way: statistics.median(found) for way, found in theirs[peer].items()} for peer in theirs)
    if run.engine.roofs and plain:  # they are measured by the groups before: gemm, layers, decode
        roof = max(r[f"roof_{dtype}"] for r in run.engine.roofs) / (found["GFLOP/s"] / found["tok/s"])
        best = max([*plain.values(), *tuned.values()])
        run.note(f"Training step, {model}, {dtype}: ours reaches {100 * rate / roof:.0f} % of the roof; its products and "
                 f"attention's alone, at that roof, would be {roof / best:.2f}× PyTorch's best")
    return rate, plain, tuned


def step(run):
    for model in MODELS:
        ours = {}
        for dtype in DTYPES:
            ours[dtype], plain, tuned = step_rounds(run, model, dtype)
            if plain:  # what failed is in the notes
                run.beside("step", f"training step, {model}, {dtype}", "tok/s", ours[dtype], plain, tuned, (1.3, 1.6))
        run.figures.append(Figure("step", f"training step, {model}, bf16 against our own f32",
                                  f"{thousands(ours['bf16'])} tok/s", f"{thousands(ours['f32'])} tok/s",
                                  ours["bf16"] / ours["f32"], "times", 1.5, 1.8))


def attention_cases():
    """name: (text, lengths, (must, aim))"""
    rows = json.loads((fixture_folder() / "rows.json").read_text())
    return {"T512": ("one sequence of 512", [512], (1.5, 2.0)),
            "T2048": ("one sequence of 2,048", [2048], (1.5, 2.0)),
            "64_rows": ("64 rows of 40 to 170, packed against padded", rows, (None, None))}


def attention(run):
    """Forward and backward; PyTorch with each number of threads, the best of which counts."""
    known = attention_cases()
    cases = [(dtype, name) for name in known for dtype in DTYPES]
    ours, theirs = {}, {}
    for _ in run.each_round("attention"):
        found = run.keep("attention, uipe", run.engine.run("^attention_"))
        for dtype, name in cases:
            both = [found[f"attention_{way}/{dtype}_{name}"]["seconds"] for way in ("forward", "backward")]
            ours.setdefault((dtype, name), []).append(1e3 * sum(both))
            for peer in ("peer", "tuned"):
                for threads in thread_counts():
                    answer = getattr(run, peer).ask("attention", threads=threads, times=2 if run.quick else 8,
                                                    dtype=dtype, lengths=known[name][1])
                    run.keep(f"attention {dtype} {name}, PyTorch {peer}, {threads} threads", answer)
                    theirs.setdefault((dtype, name, peer), {}).setdefault(threads, []).append(
                        1e3 * (answer["forward_s"] + answer["backward_s"]))
    for dtype, name in cases:
        text, _, goals = known[name]
        plain, tuned = ({"": min(statistics.median(times) for times in theirs[dtype, name, peer].values())}
                        for peer in ("peer", "tuned"))
        run.beside("attention", f"attention, {text}, {dtype}", "ms", statistics.median(ours[dtype, name]), plain, tuned,
                   goals)


def peak_of_step(run, tuned, **kind):
    """MB of a process of PyTorch's that did a step and nothing else; nothing where the step fails."""
    peer = run.new_peer(tuned)
    answer = peer.ask("step", may_fail=True, threads=run.settings["threads"], times=1, model="110M", **kind)
    peak = None if "error" in answer else peer.ask("peak")["peak_MB"]
    peer.close()
    return peak


def memory(run):
    """Peaks of resident memory of a process that does steps of the 110M model; once, for they hardly vary."""
    peer_settings(run)
    for dtype in DTYPES:
        say(f"memory: {dtype}")
        ours = run.engine.run(f"^step/110M_{dtype}/")[f"step/110M_{dtype}"]["peak_MB"]
        ways = {(tuned, f"{way}, {optimizer}" + (", bf16 weights" if precision == "weights" else "")):
                peak_of_step(run, tuned, dtype=dtype, compile=way == "compiled", precision=precision,
                             optimizer=optimizer)
                for precision in (("autocast", "weights") if dtype == "bf16" else ("autocast",))
                for optimizer in ("fused", "foreach") for way in ("eager", "compiled") for tuned in (False, True)}
        run.keep(f"memory {dtype}", {"uipe": ours} | {f"{'tuned ' * t}{way}": peak for (t, way), peak in ways.items()})
        plain, tuned = ({way: peak for (t, way), peak in ways.items() if t == which and peak} for which in (False, True))
        if not plain:
            run.note(f"PyTorch, memory {dtype}: no step worked")
            continue
        least = min(plain, key=plain.get)
        plain = {least: plain[least]}
        run.beside("memory", f"peak memory of a 110M training step, {dtype}", "MB", ours, plain, tuned, (0.6, 0.5))
        variant, flags = {"f32": ("recompute", "--recompute"),
                          "bf16": ("recompute_moments", "--recompute --moments bf16")}[dtype]
        found = run.engine.run(f"^step/110M_{dtype}_{variant}/")[f"step/110M_{dtype}_{variant}"]
        run.keep(f"memory {dtype}, {flags}", found)
        run.beside("memory", f"the same with `{flags}`, at {1024 / found['seconds']:,.0f} tok/s", "MB",
                   found["peak_MB"], plain, tuned)


def tofu_settings(run):
    """PyTorch's best batch sizes, and threads, for scoring and for generating."""
    threads = peer_settings(run)["threads"]
    trial = 4 if run.quick else 16
    score = quickest(run, "batch of TOFU scoring", (8, 32, 64),
                     lambda n: run.peer.ask("tofu_score", threads=threads, batch=n, rows=trial)["seconds"])
    generate = 80 if run.quick else quickest(
        run, "batch of TOFU generation", (32, 80),
        lambda n: run.peer.ask("tofu_generate", threads=threads, batch=n)["seconds"])
    return threads, score, generate


def check_tofu(run, rows, losses, new):
    expected = [a["avg_loss"] for row in rows for a in row["answers"]]
    run.check("average losses of TOFU answers, uipe and PyTorch: largest difference",
              max(abs(a - b) for a, b in zip(expected, losses, strict=True)), 1e-4)
    # A near tie of two tokens may fall either way, and all that follows then differs.
    equal = sum(row["new"] == theirs for row, theirs in zip(rows, new, strict=True))
    run.check("TOFU generations, uipe and PyTorch: share that is not the same", 1 - equal / len(rows), 0.1)


def tofu(run):
    if "UIPE_DATA" not in run.engine.environment:
        run.note("TOFU evaluation: left out, as there is no data; set UIPE_DATA or give --data")
        return
    rows = json.loads((fixture_folder() / "tofu.json").read_text())
    threads, score, generate = tofu_settings(run)
    ours, theirs = [], {"peer": [], "tuned": []}
    for number in run.each_round("tofu"):
        found = run.keep("tofu, uipe", run.engine.run("^tofu/15M_f32")["tofu/15M_f32"])
        ours.append(found["seconds"])
        for peer, seconds in theirs.items():
            scored = getattr(run, peer).ask("tofu_score", threads=threads, batch=score)
            generated = getattr(run, peer).ask("tofu_generate", threads=threads, batch=generate)
            seconds.append(scored["seconds"] + generated["seconds"])
            run.keep(f"tofu, PyTorch {peer}", {"score_s": scored["seconds"], "generate_s": generated["seconds"]})
            if number == 1 and peer == "peer":
                check_tofu(run, rows, scored["losses"], generated["new"])
    plain, tuned = ({"": statistics.median(seconds)} for seconds in theirs.values())
    run.beside("tofu", "TOFU evaluation, forget01 and 40 retain rows, 15M, f32", "s", statistics.median(ours), plain,
               tuned, (3.0, 5.0))


# Shares come first, and with them the roofs.
GROUPS = {f.__name__: f for f in (gemm, layers, decode, attention, step, memory, tofu)}


# --- Results ------------------------------------------------------------------------------------------------------


def fixture_folder():
    return ROOT / "build" / "bench" / "fixture"


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()


def machine():
    info = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: (re.search(rf"^{name}\s*:\s*(.*)$", info, re.M) or [None, "unknown"])[1]
    flags = set(field("flags").split())
    of_note = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16")
    memory = re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {"cpu": field("model name"), "family": field("cpu family"), "model": field("model"),
            "cores": len(os.sched_getaffinity(0)), "flags": [f for f in of_note if f in flags],
            "cache": field("cache size"), "memory_GB": round(int(memory[1]) * 1024 / 1e9),
            "system": platform.platform()}


def report(run, started, load, whole):
    return {"date": started.strftime("%Y-%m-%d %H:%M"), "commit": git("rev-parse", "HEAD"),
            "changed_files": git("status", "--porcelain").splitlines(), "whole": whole, "rounds": run.rounds,
            "machine": machine(), "load": {"before": load, "after": os.getloadavg()},
            "versions": {"uipe": run.engine.about, "peer": run.peer.ask("about")}, "peer_settings": run.settings,
            "roofs": run.engine.roofs, "checks": run.checks, "notes": run.notes,
            "figures": [dataclasses.asdict(f) | {"met": f.met()} for f in run.figures], "raw": run.raw}


def figures_of(results):
    return [Figure(**{k: v for k, v in f.items() if k != "met"}) for f in results["figures"]]


def table(figures):
    lines = ["| | uipe | beside it | result | must | aim | met |", "|---|---|---|---|---|---|---|"]
    for f in figures:
        cells = (f.what, f.ours, f.other, f.text(f.value), f.text(f.must), f.text(f.aim), f.met())
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def machine_line(results):
    m, v = results["machine"], results["versions"]
    onednn = f", oneDNN {v['uipe']['onednn']}" if "onednn" in v["uipe"] else ""
    return (f"{m['cpu']} (family {m['family']}, model {m['model']}; {', '.join(m['flags'])}), {m['cores']} cores, "
            f"{m['memory_GB']} GB; PyTorch {v['peer']['torch']}, transformers "
            f"{v['peer']['transformers']}{onednn}; {results['date']}")


def markdown(results):
    checks = "\n".join(f"* {c['what']} {c['difference']:.2g}, bound {c['bound']:g}: "
                       f"{'good' if c['good'] else 'NOT GOOD'}" for c in results["checks"])
    notes = "\n".join(f"* {n}" for n in results["notes"])
    return (f"# uipe beside its peers\n\n{machine_line(results)}; commit {results['commit'][:12]}; medians of "
            f"{results['rounds']} round(s); load before and after {results['load']['before'][0]:.1f} and "
            f"{results['load']['after'][0]:.1f}. What the rows mean: [bench/README.md](../README.md).\n\n"
            f"{table(figures_of(results))}\n\n## Checked first\n\n{checks or '* nothing'}\n\n## Notes\n\n"
            f"{notes or '* none'}\n")


def write(results, folder):
    folder.mkdir(parents=True, exist_ok=True)
    m = results["machine"]
    slug = re.sub(r"[^a-z0-9]+", "-", f"{m['cpu']} {m['cores']} cores".lower()).strip("-")
    path = folder / f"cpu-{results['date'].split()[0]}-{slug}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(results))
    return path


# --- The README's table -------------------------------------------------------------------------------------------

BEGIN, END = "<!-- speed: bench/compare.py --readme -->", "<!-- end of speed -->"


def readme_figures(results):
    """The results' figures, the many layers as one: the lowest share among them."""
    figures = figures_of(results)
    several = [f for f in figures if f.group == "layers"]
    rest = [f for f in figures if f.group != "layers"]
    if several:
        lowest = min(several, key=lambda f: f.value)
        rest.append(dataclasses.replace(lowest, what=f"lowest of {len(several)} that wait for memory: {lowest.what}"))
    return rest


def rewrite_readme():
    files = sorted(RESULTS.glob("cpu-*.json"), key=lambda f: (json.loads(f.read_text())["date"], f.name))
    if not files:
        stop(f"there are no results in {RESULTS}; measure first: ./run bench --peers")
    results = json.loads(files[-1].read_text())
    path = ROOT / "README.md"
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        stop(f"README.md needs the lines {BEGIN} and {END}, once each and in this order")
    link = f"[bench/results/{files[-1].with_suffix('.md').name}](bench/results/{files[-1].with_suffix('.md').name})"
    block = f"{BEGIN}\n{table(readme_figures(results))}\n\n{machine_line(results)}. All of it: {link}.\n{END}"
    path.write_text(text[:text.index(BEGIN)] + block + text[text.index(END) + len(END):])
    say(f"README.md: the table of {files[-1].name}")


# --- The command --------------------------------------------------------------------------------------------------


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP", help=f"some of: {', '.join(GROUPS)}")
    p.add_argument("--rounds", type=int, default=3, help="of each measurement (default 3)")
    p.add_argument("--quick", action="store_true", help="one round, short: to see that it works")
    p.add_argument("--data", type=pathlib.Path, default=os.environ.get("UIPE_DATA") or None,
                   help="folder of the real TOFU data (default: UIPE_DATA)")
    p.add_argument("--program", type=pathlib.Path, default=ROOT / "build" / "release" / "uipe_bench")
    p.add_argument("--out", type=pathlib.Path, help="folder of the results")
    p.add_argument("--readme", action="store_true", help="rewrite README.md's table from the newest results, and end")
    a = p.parse_args()
    if a.rounds < 1:
        p.error("--rounds must be at least 1")
    if a.quick:
        a.rounds = 1
    return a


def main():
    a = parse()
    if a.readme:
        return rewrite_readme()
    started, load = datetime.datetime.now(), os.getloadavg()
    whole = not (a.quick or a.only)
    engine = Engine(a.program, a.data, a.quick)
    python = find_python()
    say("Writing the models and token ids that both engines use.")
    engine.call(f"--fixture={fixture_folder()}")
    log = ROOT / "build" / "bench" / "torch_peer.log"
    run = Run(engine, lambda tuned: Peer(python, fixture_folder(), log, tuned), a.rounds, a.quick)
    if load[0] > 0.5:
        run.note(f"The machine was busy before the run began (load {load[0]:.1f}): its figures are not to be trusted.")
    for name, measure in GROUPS.items():
        if not a.only or name in a.only:
            measure(run)
    results = report(run, started, load, whole)
    run.peer.close()
    run.tuned.close()
    path = write(results, a.out or (RESULTS if whole else ROOT / "build" / "bench"))
    print(path.with_suffix(".md").read_text())
    say(f"{path} and .md, {(datetime.datetime.now() - started).seconds / 60:.1f} minutes")
    if not all(c["good"] for c in run.checks):
        stop("the engines do not agree; see above")


if __name__ == "__main__":
    main()

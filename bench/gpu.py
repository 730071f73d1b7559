#!/usr/bin/env python3
"""Builds uipe for the GPU that is here, tests it there, and measures it beside PyTorch and beside the GPU's own roofs.

    ./run bench --gpu                       the whole: build, `ctest -L cuda`, measure, in 8 minutes
    bench/gpu.py --only attention head      some groups; --no-tests: at once
    bench/gpu.py --sanitize                 also compute-sanitizer's memcheck and racecheck over some tests
    bench/gpu.py --prebuilt build/bundle    a build carried here (bench/bundle.sh): nothing is compiled
    bench/gpu.py --emulated                 on the emulator, tiny sizes, no GPU: to test this script and the benchmarks

PYTHON names a python whose torch sees the GPU; the one that runs the script serves where it does. Without one the peer
is not measured. Writes bench/results/GPU/DATE.json, every number of every round, and a .md table of the same; a part of
a run goes to build/bench. Ours and the peer's are measured in turns, round by round, and medians are compared:
bench/README.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import select
import shutil
import statistics
import subprocess
import sys
import tarfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
# bf16, dense, f32 sums, TFLOP/s, from the makers' data sheets: the first words that are in the name count.
PEAKS = {"H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "A800": 312, "RTX 4090": 165.2}
GROUPS = {"roofs": "gemm|copy_", "attention": "attention_", "head": "head/", "memory": "rmsnorm|swiglu|rope|add/|adamw",
          "layer": "layer/", "step": "step/"}
SANITIZED = "*CudaElementwise*:*CudaLayers*:*CudaReduce*:*CudaAttentionLevels*:*CudaHeads*:*CudaPrimitives*"


def stop(text):
    print(f"gpu.py: {text}", file=sys.stderr)
    sys.exit(2)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Clock:
    """What is left of the time; a build takes what it needs, and only what is left then is measured in."""

    def __init__(self, seconds):
        self.end = time.monotonic() + seconds

    def left(self):
        return max(0.0, self.end - time.monotonic())


# --- The GPU ------------------------------------------------------------------------------------------------------


def ask_nvidia_smi(fields):
    """The first GPU's fields; those it does not tell are left out. Empty where there is no nvidia-smi or no GPU."""
    if not shutil.which("nvidia-smi"):
        return {}
    found = {}
    for field in fields:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "--id=0"],
                              capture_output=True, text=True)
        text = done.stdout.strip()
        if done.returncode == 0 and text and "[" not in text:
            found[field] = text
    return found


def gpu():
    return ask_nvidia_smi(["name", "compute_cap", "driver_version", "memory.total", "power.limit", "clocks.max.sm",
                           "clocks.max.mem"])


def clocks():
    return ask_nvidia_smi(["clocks.sm", "clocks.mem", "power.draw", "temperature.gpu"])


def architecture(compute_capability):
    """CMake's name: 9.0 is built as 90a, for what only that chip has."""
    digits = compute_capability.replace(".", "")
    return f"{digits}a-real" if digits == "90" else f"{digits}-real"


# --- Build and tests ----------------------------------------------------------------------------------------------


class Build:
    """Where the programs are. folder/uipe_bench and the tests: of a preset, or a bundle's."""

    def __init__(self, a, about_gpu, environment):
        self.environment = environment
        if a.prebuilt and a.prebuilt.is_file():
            a.prebuilt = unpacked(a.prebuilt)
        self.preset = None if a.prebuilt else "emulated" if a.emulated else "cuda"
        self.folder = (a.prebuilt or ROOT / "build" / self.preset).resolve()
        self.tests = self.folder / "test_cuda" if a.prebuilt else self.folder / "tests" / "test_cuda"
        self.commit = git("rev-parse", "HEAD")
        if self.preset:
            more = [] if a.emulated else [f"-DCMAKE_CUDA_ARCHITECTURES={architecture(about_gpu['compute_cap'])}"]
            tested = ["uipe", "test_cuda"] if a.sanitize or not a.no_tests else []
            self.build(more, ["uipe_bench", *tested], a.jobs)
        elif not (self.folder / "uipe_bench").exists():
            stop(f"there is no {self.folder}/uipe_bench; make it with bench/bundle.sh where there is a compiler")
        else:
            self.commit = json.loads((self.folder / "about.json").read_text())["commit"]

    def build(self, more, targets, jobs):
        say(f"Building {self.preset} ({' '.join(more)}).")
        log = ROOT / "build" / "gpu-build.log"
        log.parent.mkdir(exist_ok=True)
        with open(log, "w") as out:
            for command in (["cmake", "--preset", self.preset, *more],
                            ["cmake", "--build", "--preset", self.preset, "-j", str(jobs), "--target", *targets]):
                if subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT).returncode:
                    stop(f"{' '.join(command)} failed; see {log}")

    def run_tests(self, seconds):
        """ctest -L cuda, or the program itself where there is no CMake build: {"passed": …, "said": the end}."""
        command = ["ctest", "--preset", self.preset, "-L", "^cuda$", "-j", "4"]
        if not self.preset:
            command = [str(self.tests), "--gtest_brief=1"]
        return self.judged("tests", command, seconds)

    def sanitize(self, seconds):
        if not shutil.which("compute-sanitizer"):
            return {"memcheck": not_measured("there is no compute-sanitizer"),
                    "racecheck": not_measured("there is no compute-sanitizer")}
        return {tool: self.judged(tool, ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9",
                                         str(self.tests), f"--gtest_filter={SANITIZED}", "--gtest_brief=1"], seconds)
                for tool in ("memcheck", "racecheck")}

    def judged(self, what, command, seconds):
        say(f"{what}: {' '.join(command)}")
        try:
            done = subprocess.run(command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=seconds)
        except FileNotFoundError as e:
            return not_measured(str(e))
        except subprocess.TimeoutExpired:
            return not_measured(f"not done after {seconds:.0f} s")
        end = done.stdout.strip().splitlines()[-12:]
        say("\n".join(end))
        return {"passed": done.returncode == 0, "said": end}


def unpacked(archive):
    """build/bundle, where tests look for the program, from bundle.tar.xz."""
    shutil.rmtree(ROOT / "build" / "bundle", ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(ROOT / "build")
    return ROOT / "build" / "bundle"


def not_measured(why):
    return {"error": why}


def git(*arguments):
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()


# --- The two engines ----------------------------------------------------------------------------------------------


class Engine:
    """Our benchmark program, a process a group; a row that ends its process costs no other row its figure."""

    def __init__(self, build, clock):
        self.program, self.clock, self.about = str(build.folder / "uipe_bench"), clock, {}
        self.environment = build.environment

    def call(self, pattern, *arguments):
        return subprocess.run([self.program, "--roofs=off", f"--benchmark_filter={pattern}", *arguments],
                              env=self.environment, capture_output=True, text=True, timeout=max(1.0, self.clock.left()))

    def names(self, pattern):
        done = self.call(f"^cuda/({pattern})", "--benchmark_list_tests")
        if done.returncode:
            stop(f"uipe_bench failed: {done.stderr.strip()}")
        return [plain(line) for line in done.stdout.splitlines() if line.startswith("cuda/")]

    def run(self, pattern):
        """{name: its seconds and counters, or its error}; and why there may be rows missing."""
        try:
            done = self.call(pattern, "--benchmark_format=json")
        except subprocess.TimeoutExpired:
            return {}, "no time was left"
        try:
            out = json.loads(done.stdout)
        except json.JSONDecodeError:
            said = done.stderr.strip().splitlines() or [f"uipe_bench ended with {done.returncode}"]
            return {}, said[-1]
        self.about = {k: v for k, v in out["context"].items() if k in ("gpu", "cuda")}
        found = {}
        for b in out["benchmarks"]:
            row = {"label": b["label"]} if b.get("label") else {}
            if b.get("error_occurred"):
                found[plain(b["name"])] = row | not_measured(b["error_message"])
            else:
                found[plain(b["name"])] = row | {"seconds": b["real_time"] / 1e3} | {
                    k: b[k] for k in ("GFLOP/s", "GB/s", "tok/s") if k in b}
        return found, ""

    def measure(self, names):
        """All rows in one process; where that ends early, each that is missing in one of its own."""
        found, _ = self.run("|".join(f"^{re.escape(n)}/" for n in names))
        for name in names:
            if name not in found:
                alone, why = self.run(f"^{re.escape(name)}/")
                found[name] = alone.get(name) or not_measured(why)
        return found


def plain(name):
    return re.sub(r"/iterations:1/manual_time$", "", name.strip())


class Peer:
    """bench/torch_gpu_peer.py, one process that answers many requests."""

    def __init__(self, python, clock, tiny, log):
        self.clock, self.failed = clock, ""
        command = [python, str(ROOT / "bench" / "torch_gpu_peer.py"), *(["--tiny"] if tiny else [])]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(log, "w"))
        self.about = self.ask({"do": "about"})

    def ask(self, request):
        if self.failed:
            return not_measured(self.failed)
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # its output has ended too, which the next lines see
        ready, _, _ = select.select([self.process.stdout], [], [], self.clock.left())
        line = self.process.stdout.readline() if ready else ""
        if not line:
            self.failed = "PyTorch's process ended before" if ready else "no time was left"
            return not_measured(self.failed)
        return json.loads(line)

    def close(self):
        self.process.kill()
        self.process.wait()


def find_python(tiny):
    """A python whose torch works here; None where there is none."""
    test = "import torch" if tiny else "import torch; assert torch.cuda.is_available()"
    for python in filter(None, (os.environ.get("PYTHON"), sys.executable, shutil.which("python3"))):
        if subprocess.run([python, "-c", test], capture_output=True).returncode == 0:
            return python
    return None


def environment_with_cublas(python):
    """Ours, and where PyTorch's cuBLAS is on a machine whose CUDA toolkit has none."""
    environment = dict(os.environ)
    if python and not any(pathlib.Path("/usr/local/cuda/lib64").glob("libcublasLt.so.1[23]")):
        code = ("import glob, sysconfig; "
                "print(*glob.glob(sysconfig.get_path('purelib') + '/nvidia/*/lib/libcublasLt.so.1[23]'))")
        found = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.split()
        folders = [environment.get("LD_LIBRARY_PATH"), *sorted({str(pathlib.Path(f).parent) for f in found})]
        environment["LD_LIBRARY_PATH"] = ":".join(filter(None, folders))
    return environment


# --- What the peer does for a row ---------------------------------------------------------------------------------


def sizes_of(name):
    """{"T": 2048, …}: the parts of a name that are a letter, or a word, and a number."""
    return {k: int(v) for k, v in re.findall(r"/([A-Za-z]+)(\d+)(?=/|$)", name)}


def op_of(name):
    return name.split("/")[1]


def requests(name, label):
    """{way: what to ask the peer}, for one of our rows; none where it has no twin."""
    op, s = op_of(name), sizes_of(name)
    either = lambda do, **more: {way: {"do": do, "way": way, **more} for way in ("eager", "compiled")}
    op, _, direction = op.partition("_")
    backward = direction == "backward"
    if op == "gemm":
        return {"torch": {"do": "gemm", **s}}
    if name.startswith("cuda/copy_cuda"):
        return {"torch": {"do": "copy", **s}}
    if op == "attention":
        lengths = [int(n) for n in label.split()]
        backends = ["flash", "cudnn", "efficient"]
        backends += ["math"] if max(lengths) <= 2048 else []  # it holds the whole square of every head
        backends += ["varlen"] if "rows" in s else []
        return {b: {"do": "attention", "backend": b, "lengths": lengths, "H": s["H"], "D": s["D"], "backward": backward}
                for b in backends}
    if op in ("rmsnorm", "swiglu"):
        return either(op, backward=backward, **s)
    if op in ("rope", "head", "layer"):
        return either(op, **s)
    if op in ("add", "adamw"):
        return {"torch": {"do": op, **s}}
    return {}


def twin(name):
    """What rows that the same work of the peer stands beside have in common: levels of attention share theirs."""
    return re.sub(r"^(cuda/attention_\w+)/\w+/", r"\1/", name)


# --- The rounds ---------------------------------------------------------------------------------------------------


class Run:
    """ours: {row: [its answer of each round]}; theirs: {twin: {way: [the peer's answer of each round]}}."""

    def __init__(self, engine, peer, clock):
        self.engine, self.peer, self.clock, self.ours, self.theirs, self.notes = engine, peer, clock, {}, {}, []

    def group(self, names):
        for name, row in self.engine.measure(names).items():
            self.ours.setdefault(name, []).append(row)
        if not self.peer:
            return
        asked = {}
        for name in names:
            for way, request in requests(name, self.ours[name][-1].get("label", "")).items():
                asked[twin(name), way] = request
        for (row, way), request in asked.items():
            earlier = self.theirs.setdefault(row, {}).setdefault(way, [])
            if not earlier or "seconds" in earlier[-1]:  # what has failed once is not tried again
                earlier.append(self.peer.ask(request))

    def rounds(self, groups, most):
        took = 0.0
        for number in range(1, most + 1):
            if self.clock.left() < took:
                self.notes.append(f"{number - 1} of {most} rounds: no time was left for more")
                break
            begin = self.clock.left()
            for group, names in groups.items():
                say(f"round {number} of {most}: {group}, {self.clock.left():.0f} s left")
                self.group(names)
            took = begin - self.clock.left()


def median(answers, key="seconds"):
    """The median over the rounds that have it; None where none has."""
    values = [a[key] for a in answers if key in a]
    return statistics.median(values) if values else None


def reason(answers):
    return next((a["error"] for a in answers if "error" in a), "it was not reached")


# --- The tables ---------------------------------------------------------------------------------------------------


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
        for name, answers in self.rows("head", "rmsnorm", "swiglu", "rope", "add", "adamw", "layer").items():
            ways = self.theirs.get(twin(name), {})
            others = ", ".join(self.cell(name, f"PyTorch {w}", a, lambda t: f"{w} {1e3 * t:.3g} ms")
                               for w, a in ways.items())
            ours, other = median(answers), self.best_of(ways)[1]
            text = self.cell(name, "uipe", answers, lambda t: f"{1e3 * t:.3g}")
            lines.append(f"| {title(name)} | {text} | {self.rate_and_share(answers)} | {others} | "
                         f"{f'{other / ours:.2f}×' if ours and other else ''} |")
        return lines if len(lines) > 3 else []

    def rate_and_share(self, answers):
        if flops := median(answers, "GFLOP/s"):
            return f"{flops / 1e3:.0f} TFLOP/s | {self.share(flops * 1e9, self.gemm)} of gemm"
        if bytes_ := median(answers, "GB/s"):
            return f"{bytes_:.0f} GB/s | {self.share(bytes_ * 1e9, self.copy)} of copy"
        return " | "

    def step_table(self):
        lines = ["", "| training step, bf16, f32 masters and moments | tok/s | MFU | of gemm |", "|---|---|---|---|"]
        for name, answers in self.rows("step").items():
            text = self.cell(name, "uipe", answers, lambda _: f"{median(answers, 'tok/s'):,.0f}")
            flops = (median(answers, "GFLOP/s") or 0.0) * 1e9
            mfu = "" if not flops else f"{100 * flops / self.peak:.1f} %" if self.peak else "no data sheet's peak"
            lines.append(f"| {title(name)} | {text} | {mfu} | {self.share(flops, self.gemm) if flops else ''} |")
        return lines if len(lines) > 3 else []

    def text(self):
        r = self.results
        tables = self.roof_table() + self.attention_tables() + self.op_table() + self.step_table()
        checks = [f"* {what}: {outcome(answer)}" for what, answer in r["tests"].items()]
        notes = [f"* {n}" for n in r["notes"]]
        notes += [f"* not measured, {why} ({'; '.join(rows)})" for why, rows in self.why.items()]
        peer = r["peer"]
        peer = f"PyTorch {peer['torch']}" if "torch" in peer else f"PyTorch not measured: {peer['error']}"
        about = [f"{k} {v}" for k, v in r["gpu"].items() if k != "name"]
        about = ", ".join([*about, f"CUDA {r['uipe'].get('cuda', 'unknown')}"])
        return "\n".join([
            f"# uipe on {r['gpu'].get('name', 'the emulator: times say nothing')}", "",
            f"{about}; {peer}; commit {r['commit'][:12]}; {r['date']}; "
            f"medians of {r['rounds']} round(s). What the rows mean: bench/README.md.", "", *tables, "", "## Tests", "",
            *(checks or ["* not run"]), "", "## Notes", "", *(notes or ["* none"]), ""])


def outcome(answer):
    if "error" in answer:
        return f"not measured: {answer['error']}"
    return f"{'passed' if answer['passed'] else 'FAILED'} ({answer['said'][-1] if answer['said'] else ''})"


def title(name):
    """cuda/attention_forward/B8/T2048/H32 as "attention forward, B 8, T 2048, H 32"."""
    _, op, *rest = name.split("/")
    return ", ".join([op.replace("_", " "), *(re.sub(r"^([A-Za-z]+)(\d+)$", r"\1 \2", part) for part in rest)])


# --- The command --------------------------------------------------------------------------------------------------


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", choices=GROUPS, metavar="GROUP",
                   help=f"the roofs and some of: {', '.join(GROUPS)}")
    p.add_argument("--rounds", type=int, default=3, help="of each measurement, at most (default 3)")
    p.add_argument("--minutes", type=float, default=8.0,
                   help="for build, tests and measurements together (default 8)")
    p.add_argument("--prebuilt", type=pathlib.Path, help="programs built elsewhere: build/bundle or build/bundle.tar.xz")
    p.add_argument("--emulated", action="store_true", help="on the emulator, to test the script")
    p.add_argument("--no-tests", action="store_true")
    p.add_argument("--sanitize", action="store_true", help="compute-sanitizer over some tests")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="of the build")
    p.add_argument("--out", type=pathlib.Path, help="folder of the results")
    return p.parse_args()


def tests(build, a, clock):
    """A third of the time at most for each kind, so that measurements are made whatever tests do."""
    found = {}
    if not a.no_tests:
        found["test_cuda"] = build.run_tests(clock.left() / 3)
    if a.sanitize:
        found |= build.sanitize(clock.left() / 6)
    return found


def write(results, a):
    slug = re.sub(r"[^a-z0-9]+", "-", results["gpu"].get("name", "emulator").lower()).strip("-")
    whole = not (a.only or a.emulated)
    folder = a.out or (ROOT / "bench" / "results" / slug if whole else ROOT / "build" / "bench" / slug)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{results['date'].split()[0]}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    text = Tables(results).text()
    path.with_suffix(".md").write_text(text)
    return path, text


def main():
    a = parse()
    about_gpu = {} if a.emulated else gpu()
    if not a.emulated and "name" not in about_gpu:
        stop("nvidia-smi shows no GPU; --emulated tests this script without one")
    python = find_python(a.emulated)
    clock = Clock(60 * a.minutes)
    build = Build(a, about_gpu, environment_with_cublas(python))
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    checked = tests(build, a, clock)
    engine = Engine(build, clock)
    (ROOT / "build" / "bench").mkdir(parents=True, exist_ok=True)
    peer = Peer(python, clock, a.emulated, ROOT / "build" / "bench" / "torch_gpu_peer.log") if python else None
    run = Run(engine, peer, clock)
    before = clocks()
    groups = [g for g in GROUPS if not a.only or g == "roofs" or g in a.only]
    run.rounds({g: engine.names(GROUPS[g]) for g in groups}, a.rounds)
    results = {"date": date, "commit": build.commit, "changed_files": git("status", "--porcelain").splitlines(),
               "gpu": about_gpu, "clocks": {"before": before, "after": clocks()}, "uipe": engine.about,
               "peer": peer.about if peer else not_measured("no python here has a torch that sees the GPU (PYTHON)"),
               "rounds": max((len(r) for r in run.ours.values()), default=0), "notes": run.notes, "tests": checked,
               "ours": run.ours, "theirs": run.theirs}
    if peer:
        peer.close()
    path, text = write(results, a)
    print(text)
    say(f"{path} and .md")
    if any(t.get("passed") is False for t in checked.values()):
        stop("tests failed; see above")


if __name__ == "__main__":
    main()

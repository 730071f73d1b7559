#!/usr/bin/env python3
"""Builds uipe for the GPU that is here, tests it there, and measures it beside PyTorch and beside the GPU's own roofs.

    ./run bench --gpu                       the whole: build, `ctest -L cuda`, measure, in 8 minutes
    bench/gpu.py --only attention head      some groups, or rows by their names (optimizer/L32); --no-tests: at once
    bench/gpu.py --sanitize                 also compute-sanitizer's memcheck and racecheck over some tests
    bench/gpu.py --prebuilt build/bundle    a build carried here (bench/bundle.sh): nothing is compiled
    bench/gpu.py --dry-run                  every row at a tiny size, ours on the emulator, PyTorch's on the CPU: no GPU

PYTHON names a python whose torch sees the GPU, with transformers for whole models; the one that runs the script serves
where it does. Without one the peer is not measured. Writes bench/results/GPU/DATE.json, every number of every round and
which goals were met, and a .md table of the same; a part of a run goes to build/bench. What the engines compute is
compared first. Ours and the peer's are measured in turns, round by round, and medians are compared: bench/README.md.
"""

import argparse
import datetime
import json
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

from gpu_report import Tables, figures, median, op_of, sizes_of, twin

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Those with goals come first: what there is no time for is left out from the end.
GROUPS = {"roofs": "gemm|copy_", "step": "step/", "unlearning": "unlearning/", "optimizer": "optimizer/",
          "attention": "attention_", "head": "head/", "generation": "decode/|generate/", "start": "",
          "layer": "layer/", "memory": "rmsnorm|swiglu|rope|add/|adamw"}
OF_A_MODEL = ("step", "unlearning", "optimizer", "generation", "start")  # what needs its files
COMPARED = ("attention", "head", *OF_A_MODEL)
KEPT = ("GFLOP/s", "GB/s", "tok/s", "first_loss", "grad_norm", "peak_MB", "extra_MB")
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
        self.environment, self.fixture, self.layers = build.environment, None, None

    def call(self, pattern, *arguments):
        return subprocess.run([self.program, "--roofs=off", f"--benchmark_filter={pattern}", *arguments],
                              env=self.environment, capture_output=True, text=True, timeout=max(1.0, self.clock.left()))

    def names(self, pattern):
        done = self.call(f"^cuda/({pattern})", "--benchmark_list_tests")
        if done.returncode:
            stop(f"uipe_bench failed: {done.stderr.strip()}")
        names = [plain(line) for line in done.stdout.splitlines() if line.startswith("cuda/")]
        return [n for n in names if self.fits(n)]

    def fits(self, name):
        """Training is measured of one model: the whole one, or as much of it as the GPU holds."""
        trains = op_of(name) in ("step", "unlearning", "optimizer")
        return not (trains and self.layers) or sizes_of(name)["L"] == self.layers

    def write_fixture(self, folder, model):
        """Why it was not written, or nothing. The peer's numbers come from it; without `model` it has no weights."""
        say(f"writing the numbers that both engines use to {folder}")
        try:
            done = subprocess.run([self.program, f"--gpu-{'fixture' if model else 'checks'}={folder}"],
                                  env=self.environment, text=True, capture_output=True,
                                  timeout=max(1.0, self.clock.left()))
        except subprocess.TimeoutExpired:
            return "no time was left"
        self.fixture = None if done.returncode else folder
        return (done.stderr.strip().splitlines() or ["uipe_bench failed"])[-1] if done.returncode else ""

    def first_step(self):
        """From the start of a process to the end of its first step of training."""
        if not self.fixture:
            return not_measured("there is no fixture")
        begin = time.monotonic()
        process = subprocess.Popen([self.program, f"--first-step={self.fixture}"], env=self.environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ready, _, _ = select.select([process.stdout], [], [], self.clock.left())
        line = process.stdout.readline() if ready else ""
        took = time.monotonic() - begin
        if not line:
            process.kill()
        said = process.communicate()[1].strip().splitlines()
        if not line:
            return not_measured(said[-1] if said else "no time was left")
        answer = json.loads(line)
        return {"seconds": took, "first_loss": answer["loss"], "grad_norm": answer["grad_norm"]}

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
            if op_of(b["name"]) in ("decode", "generate"):
                row = {"ids": [int(i) for i in row.get("label", "").split()]}
            if b.get("error_occurred"):
                found[plain(b["name"])] = row | not_measured(b["error_message"])
            else:
                found[plain(b["name"])] = row | {"seconds": b["real_time"] / 1e3} | {k: b[k] for k in KEPT if k in b}
        return found, ""

    def measure(self, names):
        """All rows in one process; where that ends early, each that is missing in one of its own."""
        found = {n: self.first_step() for n in names if op_of(n) == "start"}
        timed = [n for n in names if n not in found]
        if timed:
            found |= self.run("|".join(f"^{re.escape(n)}/" for n in timed))[0]
        for name in timed:
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
        # Memory in segments that grow: the least that its allocator takes. On the CPU nothing is timed.
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if tiny else
                                    {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
        command = [python, str(ROOT / "bench" / "torch_gpu_peer.py"), *(["--tiny"] if tiny else [])]
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=open(log, "w"), env=environment)
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
    made = ROOT / "build" / "peers" / "bin" / "python"  # bench/compare.py's
    known = (os.environ.get("PYTHON"), sys.executable, shutil.which("python3"), str(made) if made.exists() else None)
    for needed in ("transformers, torch", "torch"):
        for python in filter(None, known):
            if subprocess.run([python, "-c", f"import {needed}; {test}"], capture_output=True).returncode == 0:
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


def requests(name, label, fixture):
    """{way: what to ask the peer}, for one of our rows; none where it has no twin."""
    op, s = op_of(name), sizes_of(name)
    either = lambda do, **more: {way: {"do": do, "way": way, **more} for way in ("eager", "compiled")}
    op, _, direction = op.partition("_")
    backward = direction == "backward"
    if op == "gemm":
        return {"torch": {"do": "gemm", **s}}
    if name.startswith("cuda/copy_cuda"):
        return {"torch": {"do": "copy", **s}}
    if op == "attention" and label:  # a row that has not run says nothing of its lengths
        lengths = [int(n) for n in label.split()]
        backends = ["flash", "cudnn", "efficient"]
        backends += ["math"] if max(lengths) <= 2048 else []  # it holds the whole square of every head
        backends += ["varlen"] if "rows" in s else []
        return {b: {"do": "attention", "backend": b, "lengths": lengths, "H": s["H"], "D": s["D"], "backward": backward}
                for b in backends}
    if op in ("rmsnorm", "swiglu"):
        return either(op, backward=backward, **s)
    if op in ("step", "unlearning", "optimizer", "decode", "generate"):
        return requests_of_models(op, name, {"fixture": str(fixture), "layers": s["L"]}) if fixture else {}
    if op in ("rope", "head", "layer"):
        return either(op, **s)
    if op in ("add", "adamw"):
        return {"torch": {"do": op, **s}}
    return {}


def requests_of_models(op, name, model):
    if op == "optimizer":
        return {"fused": {"do": "optimizer", **model}}
    if op == "step":
        return {f"eager, {precision}, {backend}": {"do": "step", "precision": precision, "way": "eager",
                                                   "backend": backend, **model}
                for precision in ("weights", "autocast") for backend in ("flash", "cudnn", "efficient")}
    if op == "unlearning":  # all rows in a pass; a half; and four, as the recipe has it
        return {f"{micro} rows a pass": {"do": "unlearning", "method": name.split("/")[2], "micro": micro, **model}
                for micro in (32, 16, 4)}
    n = sizes_of(name)["n"]
    if op == "decode":
        return {"generate": {"do": "generate", "n": n, "batch": 1, "alone": True, **model}}
    return {f"batches of {batch}": {"do": "generate", "n": n, "batch": batch, **model} for batch in (256, 512)}


def compiled_step(ways):
    """The quickest way of PyTorch's step, compiled: compiling all of them would take longer than there is."""
    for way in ways:
        if way.startswith("compiled"):
            _, precision, backend = way.split(", ")
            return way, {"do": "step", "precision": precision, "way": "compiled", "backend": backend}
    eager = {w: median(a) for w, a in ways.items() if w.startswith("eager") and median(a)}
    if not eager:
        return None, None
    _, precision, backend = min(eager, key=eager.get).split(", ")
    return f"compiled, {precision}, {backend}", {"do": "step", "precision": precision, "way": "compiled",
                                                 "backend": backend}


# --- The rounds ---------------------------------------------------------------------------------------------------


class Run:
    """ours: {row: [its answer of each round]}; theirs: {twin: {way: [the peer's answer of each round]}}."""

    def __init__(self, engine, peer, clock):
        self.engine, self.peer, self.clock, self.ours, self.theirs = engine, peer, clock, {}, {}
        self.notes, self.checks = [], []

    def compare(self):
        """What both engines make of small problems, before anything is timed."""
        answer = self.peer.ask({"do": "checks", "fixture": str(self.engine.fixture)})
        if "error" in answer:
            self.notes.append(f"nothing was compared first: {answer['error']}")
        self.checks += answer.get("checks", [])

    def group(self, names):
        ours = [n for n in names if self.is_worth(self.ours, n, [m for m in self.ours if twin(m) == twin(n)])]
        for name, row in self.engine.measure(ours).items():
            self.ours.setdefault(name, []).append(row)
        if not self.peer:
            return
        asked = {}
        for name in names:
            label = self.ours[name][-1].get("label", "")
            for way, request in requests(name, label, self.engine.fixture).items():
                asked[twin(name), way] = request
        for (row, way), request in asked.items():
            self.ask(row, way, request)
        for name in names:
            if op_of(name) == "step" and self.engine.fixture:
                way, request = compiled_step(self.theirs.get(name, {}))
                model = {"fixture": str(self.engine.fixture), "layers": sizes_of(name)["L"]}
                if way:
                    self.ask(name, way, request | model)
        self.peer.ask({"do": "forget"})

    def ask(self, row, way, request):
        ways = self.theirs.setdefault(row, {})
        if self.is_worth(ways, way, list(ways)):
            ways.setdefault(way, []).append(self.peer.ask(request))

    @staticmethod
    def is_worth(answers, one, others):
        """What has failed once is not tried again, nor what was a quarter slower than another way of the same."""
        if one not in answers:
            return True
        best = min((median(answers[o]) for o in others if median(answers[o])), default=0.0)
        return "seconds" in answers[one][-1] and median(answers[one]) <= 1.25 * best

    def check_models(self):
        """Losses and norms of first steps, and first tokens, of both engines. Then tokens are dropped."""
        for name, answers in self.ours.items():
            theirs = [a[0] for a in self.theirs.get(name, {}).values() if a and "seconds" in a[0]]
            mine = answers[0]
            for peer in theirs:
                if "loss" in peer and "first_loss" in mine:
                    both = f"{name.removeprefix('cuda/')}, first step, uipe and PyTorch"
                    self.check(f"{both}: difference of losses", abs(peer["loss"] - mine["first_loss"]), 2e-2)
                    self.check(f"{both}: relative difference of gradients' norms",
                               abs(peer["grad_norm"] / mine["grad_norm"] - 1), 3e-2)
                if peer.get("ids") and mine.get("ids"):
                    self.check_tokens(name, mine["ids"], peer["ids"])
            if theirs and op_of(name) in ("step", "unlearning") and not any("loss" in peer for peer in theirs):
                self.notes.append(f"{name.removeprefix('cuda/')}: losses were not compared")
        for source in (self.ours, *self.theirs.values()):
            for answer in (a for answers in source.values() for a in answers):
                answer.pop("ids", None)

    def check_tokens(self, name, mine, theirs):
        """A near tie may fall either way, and all that follows of a sequence then differs."""
        if op_of(name) == "decode":
            same = next((i for i, (a, b) in enumerate(zip(mine, theirs)) if a != b), len(mine))
            self.notes.append(f"decoding, uipe and PyTorch: the first {same} of {len(mine)} tokens are the same")
        else:
            share = sum(a != b for a, b in zip(mine, theirs)) / len(mine)
            self.check("generation, first tokens: share that uipe and PyTorch do not agree on", share, 0.1)

    def check(self, what, difference, bound):
        self.checks.append({"what": what, "difference": difference, "bound": bound, "good": difference <= bound})

    def rounds(self, groups, most):
        took = {}
        for number in range(1, most + 1):
            left_out = []
            for group, names in groups.items():
                if self.clock.left() < took.get(group, 0.0) / 2:  # a later round compiles less and tries less
                    left_out.append(group)
                    continue
                begin = self.clock.left()
                say(f"round {number} of {most}: {group}, {begin:.0f} s left")
                self.group(names)
                took[group] = begin - self.clock.left()
            if number == 1:
                self.check_models()
                self.notes.append("seconds of the first round: " + ", ".join(f"{g} {s:.0f}" for g, s in took.items()))
            if left_out:
                self.notes.append(f"no time was left in round {number} for: {', '.join(left_out)}")
            if len(left_out) == len(groups):
                break


# --- The command --------------------------------------------------------------------------------------------------


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", nargs="+", metavar="GROUP",
                   help=f"the roofs and some of: {', '.join(GROUPS)}; or rows that a pattern finds, such as step/L32")
    p.add_argument("--rounds", type=int, default=3, help="of each measurement, at most (default 3)")
    p.add_argument("--minutes", type=float, default=8.0,
                   help="for build, tests and measurements together (default 8)")
    p.add_argument("--prebuilt", type=pathlib.Path,
                   help="programs built elsewhere: build/bundle or build/bundle.tar.xz")
    p.add_argument("--dry-run", "--emulated", dest="emulated", action="store_true",
                   help="every row at a tiny size, ours on the emulator and PyTorch's on the CPU; no GPU is needed")
    p.add_argument("--fixture", type=pathlib.Path,
                   help="folder for 14 GB that both engines read; by default in memory (/dev/shm) where there is room")
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


def fixture_folder(a):
    """A folder of this run's own: in memory where there is room, so that what is read from it is no disk's speed."""
    if a.fixture:
        a.fixture.mkdir(parents=True, exist_ok=True)
        return pathlib.Path(tempfile.mkdtemp(prefix="uipe-", dir=a.fixture))
    memory = pathlib.Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > (1e9 if a.emulated else 20e9)
    return pathlib.Path(tempfile.mkdtemp(prefix="uipe-", dir=memory if roomy else ROOT / "build" / "bench"))


def wanted_groups(a, engine):
    """{group: its rows}: the roofs, and what --only names."""
    groups = {g: engine.names(pattern) if g != "start" else ["cuda/start/L2" if a.emulated else "cuda/start/L32"]
              for g, pattern in GROUPS.items()}
    if not a.only:
        return groups
    patterns = [o for o in a.only if o not in groups]
    found = {g: names if g == "roofs" or g in a.only else [n for n in names if any(re.search(o, n) for o in patterns)]
             for g, names in groups.items()}
    for o in patterns:
        if not any(re.search(o, n) for names in groups.values() for n in names):
            stop(f"--only {o}: there is no such group and no such row; groups: {', '.join(GROUPS)}")
    return {g: names for g, names in found.items() if names}


def layers_that_fit(about_gpu):
    """Of LLaMA-2-7B in training: 117 GB, or 61."""
    memory = int(re.search(r"\d+", about_gpu.get("memory.total", "0"))[0])  # MiB
    return 32 if memory > 120_000 else 16


def measure(a, build, python, about_gpu, clock):
    """The run, and what the peer says of itself."""
    engine = Engine(build, clock)
    engine.layers = None if a.emulated else layers_that_fit(about_gpu)
    (ROOT / "build" / "bench").mkdir(parents=True, exist_ok=True)
    peer = Peer(python, clock, a.emulated, ROOT / "build" / "bench" / "torch_gpu_peer.log") if python else None
    run = Run(engine, peer, clock)
    groups = wanted_groups(a, engine)
    folder = fixture_folder(a)
    try:
        if any(g in COMPARED for g in groups):
            failed = engine.write_fixture(folder, any(g in OF_A_MODEL for g in groups))
            if failed:
                run.notes.append(f"no fixture, so no whole models of PyTorch's and nothing compared first: {failed}")
            elif peer:
                run.compare()
        run.rounds(groups, a.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if peer:
            peer.close()
    return run, engine, peer.about if peer else not_measured("no python here has a torch that sees the GPU (PYTHON)")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the fixture, 14 GB, is removed on the way out
    a = parse()
    about_gpu = {} if a.emulated else gpu()
    if not a.emulated and "name" not in about_gpu:
        stop("nvidia-smi shows no GPU; --dry-run tests this script without one")
    python = find_python(a.emulated)
    clock = Clock(60 * a.minutes)
    build = Build(a, about_gpu, environment_with_cublas(python))
    date = datetime.datetime.now().strftime("%Y-%m-%d %H:%M")
    checked = tests(build, a, clock)
    before = clocks()
    run, engine, about_peer = measure(a, build, python, about_gpu, clock)
    results = {"date": date, "commit": build.commit, "changed_files": git("status", "--porcelain").splitlines(),
               "gpu": about_gpu, "clocks": {"before": before, "after": clocks()}, "uipe": engine.about,
               "peer": about_peer, "rounds": max((len(r) for r in run.ours.values()), default=0), "notes": run.notes,
               "tests": checked, "checks": run.checks, "ours": run.ours, "theirs": run.theirs}
    results["figures"] = figures(results)
    path, text = write(results, a)
    print(text)
    say(f"{path} and .md")
    if any(t.get("passed") is False for t in checked.values()):
        stop("tests failed; see above")
    if not all(c["good"] for c in run.checks):
        stop("the engines do not agree; see above")


if __name__ == "__main__":
    main()

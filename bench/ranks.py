#!/usr/bin/env python3
"""Training on 1, 2 and 4 ranks of this machine, beside what `uipe plan` says of it.

    bench/ranks.py                 # builds, measures (four minutes on two cores) and writes results/ranks-DATE.md
    bench/ranks.py --rounds 1      # one round instead of three; --out FILE writes elsewhere

Ranks share the processors, so more of them are not faster here: what is checked is the plan's assumptions, before they
are trusted for machines that are not here. Bytes must be equal; a step's time is a prediction.
"""
import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "release" / "uipe"
MODEL = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu", "hidden_size": 512,
         "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 8,
         "vocab_size": 1500, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
         "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}
LENGTH, BATCH, STEPS = 257, 8, 10
CELLS = [(1, 0)] + [(ranks, zero) for ranks in (2, 4) for zero in (0, 1, 2, 3)]
# Open MPI: more ranks than cores, of root too, none bound to a core, waiting ones not in the way.
LAUNCHER = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMPI_MCA_hwloc_base_binding_policy": "none",
            "OMPI_MCA_mpi_yield_when_idle": "1", "OMP_WAIT_POLICY": "passive"}


def uipe(*words, ranks=1):
    launcher = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
    done = subprocess.run([*launcher, str(PROGRAM), *map(str, words)], env={**os.environ, **LAUNCHER},
                          capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"ranks.py: uipe {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def make_inputs(folder):
    uipe("world", "--out", folder / "world")
    (folder / "config.json").write_text(json.dumps(MODEL))
    text = " ".join(" ".join(json.loads(line).values()) for line in (folder / "world" / "pretrain.jsonl").open())
    words, rows = text.split(), BATCH * STEPS  # every row is cut to LENGTH tokens
    (folder / "text.txt").write_text("\n".join(" ".join(words[i * 311:i * 311 + 600]) for i in range(rows)))


def measured(folder, ranks, zero):
    """Seconds of a step: the median but for the first two."""
    uipe("train", "--init", folder / "config.json", "--tokenizer", folder / "world" / "tokenizer.model", "--data",
         folder / "text.txt", "--max-length", LENGTH, "--batch-size", BATCH, "--epochs", 1, "--zero", zero, "--out",
         folder / "run", "--overwrite", ranks=ranks)
    steps = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").open()]
    if {s["tokens"] for s in steps} != {BATCH * (LENGTH - 1)}:
        raise SystemExit("ranks.py: rows are shorter than planned")
    return statistics.median(s["tokens"] / s["tok_per_s"] for s in steps[2:])


def planned(folder, ranks, zero):
    out = json.loads(uipe("plan", "--init", folder / "config.json", "--seq", LENGTH, "--batch-size", BATCH, "--ranks",
                          ranks, "--zero", zero, "--measure", "--json"))
    return out["step"]["seconds"], out["step"]["ranks"]["bytes"], out["memory"]["peak"]


def table(rows):
    lines = ["| ranks | ZeRO | a step, measured | planned | measured / planned | exchanged a step | peak of a rank |",
             "|---|---|---|---|---|---|---|"]
    for (ranks, zero), (times, plans, moved, peak) in rows.items():
        t, p = statistics.median(times), statistics.median(plans)
        lines.append(f"| {ranks} | {zero} | {t:.3f} s | {p:.3f} s | {t / p:.2f} | {moved / 1e6:.0f} MB | "
                     f"{peak / 1e6:.0f} MB |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / f"ranks-{datetime.date.today()}.md")
    args = parser.parse_args()
    subprocess.run([ROOT / "run", "build", "release"], check=True, stderr=subprocess.DEVNULL)
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        for _ in range(args.rounds):
            for cell in CELLS:
                times, plans, _, _ = rows.setdefault(cell, ([], [], 0, 0))
                seconds, moved, peak = planned(folder, *cell)
                plans.append(seconds)
                times.append(measured(folder, *cell))
                rows[cell] = (times, plans, moved, peak)
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True).stdout
    model = " ".join(line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                     if line.startswith(("model name", "cpu family")))
    processor = " ".join(dict.fromkeys(model.split()))
    args.out.write_text(
        f"# Training among ranks, and the plan's prediction\n\n{processor}, {os.cpu_count()} cores, "
        f"{platform.system()}; {datetime.datetime.now():%Y-%m-%d %H:%M}; commit {commit.strip()}; f32, "
        f"{MODEL['hidden_size']} wide, {MODEL['num_hidden_layers']} layers, {BATCH} rows of {LENGTH} tokens; medians of "
        f"{args.rounds} rounds. Ranks share the processors. `bench/ranks.py` writes this file.\n\n{table(rows)}\n\n"
        "The bytes and the peak are the plan's, which the tests of `tests/ranks` hold against real ranks.\n")
    print(args.out.read_text())


if __name__ == "__main__":
    main()

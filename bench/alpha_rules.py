#!/usr/bin/env python3
"""How well `--alpha auto` chooses: its rules beside the best alpha of a ladder, over seeds of the demo's world.

    bench/alpha_rules.py --seeds 1 2 3     # measures and writes results/alpha-rules-DATE.md
    bench/alpha_rules.py --table           # writes the table again, of the seeds in --work

The best alpha of the ladder is what tuning by hand on the test metric finds: the highest forget quality with the model
utility within the budget. A rule lands when it is at most one step of the ladder away. Only the program is called.
"""
import argparse
import collections
import datetime
import itertools
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build" / "release" / "uipe"
LADDER = [0, 0.25, 0.5, 1, 2, 4]
RULES = ["quality", "truth-ratio", "truth-ratio-before", "attack", "attack-before"]
METHODS = {"ga": [], "grad_diff": [], "kl_min": [], "npo": ["--beta", 1], "npo_rt": ["--beta", 1]}
EPOCHS = [4, 2, 8]  # early, very early, and past the best
FINE_EPOCHS, UNLEARN_EPOCHS = 18, 8
BUDGETS = [0.05, 0.2]  # the program's own, and one that leaves the choice to the gap


def provenance():
    """What a cell is measured by, kept beside it; the program is taken to be built from the tree as it stands."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], cwd=ROOT,
                            capture_output=True, text=True).stdout.strip()
    return {"commit": commit, "date": f"{datetime.date.today()}", "machine": platform.machine(),
            "command": shlex.join(["bench/alpha_rules.py", *sys.argv[1:]])}


def uipe(*words, seed, threads):
    done = subprocess.run([str(PROGRAM), *map(str, words), "--seed", str(seed), "--threads", str(threads), "--json"],
                          capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode:
        raise SystemExit(f"alpha_rules.py: uipe {words[0]}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout)


def models(at, run):
    """The demo's world and models; evaluated is only what serves as the retain log."""
    run("world", "--out", at / "world")
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 96,
              "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
              "vocab_size": 1500, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "bos_token_id": 1,
              "eos_token_id": 2, "tie_word_embeddings": False}
    (at / "init.json").write_text(json.dumps(config))
    run("train", "--init", at / "init.json", "--tokenizer", at / "world/tokenizer.model", "--data",
        at / "world/pretrain.jsonl", "--epochs", 5, "--batch-size", 32, "--lr", 3e-3, "--warmup-epochs", 0.25,
        "--weight-decay", 0, "--adam-beta2", 0.98, "--out", at / "base")
    for name, data in (("retain", "retain90"), ("full", "full")):
        run("train", "--model", at / "base/model", "--data", at / f"world/{data}.json", "--replay",
            at / "world/pretrain.jsonl", "--replay-ratio", 1, "--epochs", FINE_EPOCHS, "--batch-size", 32, "--lr", 1e-3,
            "--warmup-epochs", 1, "--adam-beta2", 0.98, "--out", at / name)
    run("eval", "--model", at / "retain/model", *evaluation(at), "--out", at / "retain-log")
    for method, options in METHODS.items():
        run("unlearn", "--model", at / "full/model", "--method", method, *options, "--epochs", UNLEARN_EPOCHS,
            "--batch-size", 16, "--lr", 3e-4, "--schedule", "constant", "--warmup-epochs", 1, "--tofu", at / "world",
            "--split", "forget10", "--no-eval", "--out", at / method)


def evaluation(at):
    return ["--tofu", at / "world", "--split", "forget10", "--eval-rows", 40, "--eval-tokens", 40]


def figures(point):
    return {"alpha": point["alpha"], "quality": point["scores"]["forget_quality"],
            "utility": point["scores"]["model_utility"]}


def measured(at, run, method, epoch, budget):
    """The ladder from one epoch, and what each rule chose within a budget."""
    def extrapolated(name, *words):
        return run("extrapolate", "--unlearned", at / method, "--epoch", epoch, *words, "--no-models",
                   *evaluation(at), "--retain-log", at / "retain-log", "--out", at / "points" / method / name,
                   "--overwrite")
    cell = {"method": method, "epoch": epoch, "budget": budget, "rules": {},
            "ladder": [figures(p) for p in extrapolated("ladder", "--alpha", *LADDER)["points"]]}
    for rule in RULES:
        r = extrapolated(rule, "--alpha", "auto", "--alpha-rule", rule, "--utility-budget", budget)
        cell["rules"][rule] = {**figures(r["points"][0]), "evaluations": r["chosen"]["evaluations"],
                               "seconds": r["chosen"]["seconds"]}
    print(at.name, method, epoch, budget, *(f"{k} {v['alpha']:g}" for k, v in cell["rules"].items()), flush=True)
    return cell


def measure(work, seed, threads, epochs, budgets):
    """Goes on where it was stopped, but for the models, which it makes again unless all are there."""
    at, ready = work / f"seed{seed}", work / f"seed{seed}" / "ready"
    def run(*words):
        return uipe(*words, seed=seed, threads=threads)
    if not ready.exists():
        shutil.rmtree(at, ignore_errors=True)
        at.mkdir(parents=True)
        models(at, run)
        ready.touch()
    file = at / "cells.json"
    cells = json.loads(file.read_text()) if file.exists() else []
    for key in itertools.product(budgets, epochs, METHODS):
        if key not in [(c["budget"], c["epoch"], c["method"]) for c in cells]:
            cells.append({**measured(at, run, key[2], key[1], key[0]), "measured": provenance()})
            file.write_text(json.dumps(cells, indent=1))


def best(cell):
    floor = (1 - cell["budget"]) * cell["ladder"][0]["utility"]
    return max((p for p in cell["ladder"] if p["utility"] >= floor), key=lambda p: (p["quality"], -p["alpha"]))


def step(alpha):
    """Where an alpha stands on the ladder; between its rungs by the logarithm."""
    return alpha / 0.25 if alpha < 0.25 else 1 + math.log2(alpha / 0.25)


def by_hand(cells_of_seeds):
    """One alpha for a method and epoch, as a paper tunes it: the best geometric mean of the quality over all seeds,
    with the mean utility within the budget."""
    groups = {}
    for cell in cells_of_seeds:
        groups.setdefault((cell["method"], cell["epoch"]), []).append(cell)
    for group in groups.values():
        def mean(i, key, of=lambda x: x):
            return statistics.mean(of(c["ladder"][i][key]) for c in group)
        floor = (1 - group[0]["budget"]) * mean(0, "utility")
        fit = [i for i in range(len(LADDER)) if mean(i, "utility") >= floor]
        i = max(fit, key=lambda i: mean(i, "quality", lambda q: math.log(max(q, 1e-300))))
        for cell in group:
            cell["rules"]["by hand"] = cell["ladder"][i]


def summary(name, points, tops, bases):
    landed = sum(abs(step(p["alpha"]) - step(t["alpha"])) <= 1 for p, t in zip(points, tops))
    passed = sum(p["quality"] > 0.05 for p in points)
    lost = statistics.mean(1 - p["utility"] / b["utility"] for p, b in zip(points, bases))
    quality = 10 ** statistics.mean(math.log10(max(p["quality"], 1e-300)) for p in points)
    def mean(key, form):
        return form.format(statistics.mean(p[key] for p in points)) if key in points[0] else "–"
    return (f"| {name} | {landed} of {len(points)} | {passed} | {quality:.2g} | {100 * lost:.1f} % | "
            f"{mean('evaluations', '{:.1f}')} | {mean('seconds', '{:.1f} s')} |")


HEAD = ["| rule | within one step of the ladder's best | forget quality > 0.05 | its geometric mean | utility lost, mean | "
        "evaluations | time of the search |", "|---" * 7 + "|"]


def summaries(cells):
    tops, bases = [best(c) for c in cells], [c["ladder"][0] for c in cells]
    return [*HEAD, summary("alpha 0 (no extrapolation)", bases, tops, bases),
            *(summary(n, [c["rules"][n] for c in cells], tops, bases) for n in [*RULES, "by hand"]),
            summary("the ladder's best in each cell", tops, tops, bases), ""]


def shown(p):
    return f"{p['alpha']:g}: {p['quality']:.2g} / {p['utility']:.3f}"


def every_cell(cells):
    names = [*RULES, "by hand"]
    lines = ["| seed | method | epoch | alpha 0 | the ladder's best | " + " | ".join(names) + " |",
             "|---" * (5 + len(names)) + "|"]
    for c in cells:
        points = [c["ladder"][0], best(c), *(c["rules"][n] for n in names)]
        lines.append(f"| {c['seed']} | {c['method']} | {c['epoch']} | " + " | ".join(map(shown, points)) + " |")
    return [*lines, ""]


def sources(cells):
    """How many cells were measured when and by what, a line each."""
    def said(cell):
        m = cell.get("measured")
        return f"`{m['command']}`, {m['date']}, commit {m['commit']}, {m['machine']}" if m else "not recorded"
    return [f"* {n} cells: {source}" for source, n in sorted(collections.Counter(map(said, cells)).items())]


def table(work, out):
    found = sorted(work.glob("seed*/cells.json"), key=lambda p: int(p.parent.name[4:]))
    seeds = [int(p.parent.name[4:]) for p in found]
    cells = [{**c, "seed": s} for s, p in zip(seeds, found) for c in json.loads(p.read_text())]
    cells.sort(key=lambda c: (c["seed"], c["epoch"], list(METHODS).index(c["method"])))
    lines = ["# Choosing alpha", "",
             f"The demo's world and model, {len(seeds)} seeds ({', '.join(map(str, seeds))}), {len(METHODS)} methods. "
             f"Forget quality over 80 rows, utility over 3 x 40. A cell is a seed, a method and the epoch that is "
             f"extrapolated; the grid has the epochs {', '.join(map(str, EPOCHS))}. `bench/alpha_rules.py` writes this file. "
             "Cells were measured by", "",
             *sources(cells), "",
             "`quality` sees the retain model; the other rules see only held-out rows. `by hand` is one alpha for a "
             "method and epoch, the best over all seeds on the test metric itself; the ladder's best is tuned so in "
             "every cell. Both know what no user can.", ""]
    detail = []
    for budget in sorted({c["budget"] for c in cells}):
        part = [c for c in cells if c["budget"] == budget]
        by_hand(part)
        alike = sum(len({c["rules"][r]["alpha"] for r in RULES}) == 1 for c in part)
        kept = sum(best(c)["alpha"] == 0 and all(c["rules"][r]["alpha"] == 0 for r in RULES) for c in part)
        lines += [f"## {100 * budget:g} % of the utility at alpha 0 may be lost: {len(part)} of "
                  f"{len(seeds) * len(EPOCHS) * len(METHODS)} cells of the grid", "",
                  *summaries(part), f"In {alike} of {len(part)} cells all rules choose alike; in {kept} of "
                  f"them alpha 0 is the ladder's best and every rule keeps it.", ""]
        detail += [f"## Every cell at {100 * budget:g} %", "", "alpha: forget quality / model utility.", "",
                   *every_cell(part)]
    out.write_text("\n".join(lines + detail))
    print("\n".join(lines))
    print(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS, help="of each run, to extrapolate from")
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "alpha-rules", help="worlds, models and points")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path,
                        default=ROOT / "bench" / "results" / f"alpha-rules-{datetime.date.today()}.md")
    a = parser.parse_args()
    for seed in [] if a.table else a.seeds:
        measure(a.work, seed, a.threads, a.epochs, a.budgets)
    table(a.work, a.out)


if __name__ == "__main__":
    main()

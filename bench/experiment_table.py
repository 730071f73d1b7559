#!/usr/bin/env python3
"""The claims of experiments as a table: bench/experiment_table.py RUN/related.json RUN/tradeoff.json …"""

import json
import pathlib
import sys


def value(claim):
    if claim["n"] == 0:
        return "–"
    interval = "" if claim["n"] == 1 else f" ± {claim['half_width_95']:.3f}"
    seeds = len(claim["values"])
    return f"{claim['mean']:.3f}{interval}" + ("" if claim["n"] == seeds else f" ({claim['n']} of {seeds} seeds)")


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    for path in map(pathlib.Path, sys.argv[1:]):
        found = json.loads(path.read_text())
        print(f"\n### {path.stem}, {len(found['seeds'])} seeds\n")
        print("| paper | claim | difference measured | value | verdict |\n|---|---|---|---|---|")
        for c in found["claims"]:
            print(f"| {c['paper']} | {c['claim']} | {c['measure']} | {value(c)} | {c['verdict']} |")


if __name__ == "__main__":
    main()

"""The four nets of the textbooks on JapaneseVowels: simple, bidirectional, stacked, stacked bidirectional; three seeds.

    .venv/bin/python benchmarks/classify.py                 runs what is missing (minutes on one core)
    .venv/bin/python benchmarks/classify.py --table         prints the table of docs/classify.md

Each run is `gatewise train classify …` by its Python call, with the default settings but for what makes the net. What
it measured is added to results/classify.jsonl as soon as it is done.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import torch

from gatewise.tasks import classify

RESULTS = Path(__file__).parent / "results" / "classify.jsonl"
SEEDS = (0, 1, 2)
# (title, flags)
NETS = [
    ("simple", {"bidirectional": False}),
    ("bidirectional (the default)", {}),
    ("stacked", {"bidirectional": False, "layers": 2, "dropout": 0.3}),
    ("stacked bidirectional", {"layers": 2, "dropout": 0.3}),
]
CELLS = ("gru", "lstm", "rnn")


def measured() -> dict[tuple, dict]:
    """What is there already, by net, cell and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(r["net"], r["cell"], r["seed"]): r for r in map(json.loads, lines)}


def run(cells: tuple[str, ...]) -> None:
    for cell in cells:
        for net, flags in NETS:
            for seed in SEEDS:
                if (net, cell, seed) not in measured():
                    record = {"net": net, "cell": cell, "seed": seed, **judged({**flags, "cell": cell, "seed": seed})}
                    with RESULTS.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(record) + "\n")


def judged(flags: dict) -> dict:
    """One training: how many of the test sequences are right, and what else the run tells."""
    settings = classify.ClassifySettings.of(accelerator="cpu", **flags)
    with tempfile.TemporaryDirectory() as folder:
        result = classify.train(settings, Path(folder) / "run")
        lines = (Path(folder) / "run" / "predictions.csv").read_text(encoding="utf-8").splitlines()
        report = (Path(folder) / "run" / "report.txt").read_text(encoding="utf-8")
        model = classify.load(Path(folder) / "run")
    rows = list(csv.DictReader(lines))
    return {
        "right": sum(row["label"] == row["predicted"] for row in rows),
        "count": len(rows),
        "macro_f1": float(report.split("macro F1")[1].split()[0]),
        "epochs": len(result.history),
        "train_loss": round(result.history[-1]["train_loss"], 5),
        "parameters": sum(p.numel() for p in model.parameters()),
        "settings": settings.to_dict()["model"],
        "torch": torch.__version__,
    }


def table() -> str:
    found = measured()
    lines = ["| net | cell | parameters | seed 0 | seed 1 | seed 2 |", "|---|---|---|---|---|---|"]
    for cell in CELLS:
        for net, _ in NETS:
            records = [found.get((net, cell, seed)) for seed in SEEDS]
            if any(records):
                shown = " | ".join(
                    "not measured" if r is None else f"{100 * r['right'] / r['count']:.1f}" for r in records
                )
                size = next(r["parameters"] for r in records if r)
                lines.append(f"| {net} | `{cell}` | {size:,} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--cells", nargs="+", default=["gru"], choices=CELLS, help="which cells")
    options = parser.parse_args()
    if not options.table:
        run(tuple(options.cells))
    print(table())

"""The four nets of the textbooks on JapaneseVowels: simple, bidirectional, stacked, stacked bidirectional; three seeds.

    .venv/bin/python benchmarks/classify.py                 runs what is missing (minutes on one core)
    .venv/bin/python benchmarks/classify.py --table         prints the tables of docs/classify.md
    .venv/bin/python benchmarks/classify.py --choices       what the defaults were chosen by: five folds of the training
                                                            part, two seeds, the test part unseen (an hour on one core)

Each run is `gatewise train classify …` by its Python call, with the default settings but for what makes the net. What
it measured is added to results/classify.jsonl as soon as it is done.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import tempfile
from pathlib import Path

import torch

from gatewise.tasks import classify

RESULTS = Path(__file__).parent / "results" / "classify.jsonl"
CHOICES = Path(__file__).parent / "results" / "classify-choices.jsonl"
SEEDS = (0, 1, 2)
# (title, flags)
NETS = [
    ("simple", {"bidirectional": False}),
    ("bidirectional (the default)", {}),
    ("stacked", {"bidirectional": False, "layers": 2, "dropout": 0.3}),
    ("stacked bidirectional", {"layers": 2, "dropout": 0.3}),
]
CELLS = ("gru", "lstm", "rnn")
# What was tried in place of the defaults: (title, flags)
TRIED = [
    ("the default", {}),
    ("no noise", {"noise": 0.0}),
    ("a constant rate", {"schedule": "constant"}),
    ("one direction", {"bidirectional": False}),
    ("64 units", {"hidden": 64}),
    ("mean over the steps", {"pool": "mean"}),
]
FOLDS = 5


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def add(path: Path, record: dict) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def measured() -> dict[tuple, dict]:
    """What is there already, by net, cell and seed."""
    return {(r["net"], r["cell"], r["seed"]): r for r in records(RESULTS)}


def run(cells: tuple[str, ...]) -> None:
    for cell in cells:
        for net, flags in NETS:
            for seed in SEEDS:
                if (net, cell, seed) not in measured():
                    found = judged({**flags, "cell": cell, "seed": seed})
                    add(RESULTS, {"net": net, "cell": cell, "seed": seed, **found})


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


def try_choices() -> None:
    """Each choice on five folds of the training part, with two seeds for folds, first weights and order."""
    given = classify.read().learned
    for title, flags in TRIED:
        for seed in SEEDS[:2]:
            if (title, seed) in {(r["choice"], r["seed"]) for r in records(CHOICES)}:
                continue
            found = [fold_judged(given, flags, seed, k) for k in range(FOLDS)]
            right, loss = (sum(values) for values in zip(*found, strict=True))
            count = len(given)
            add(
                CHOICES, {"choice": title, "seed": seed, "right": right, "count": count, "loss": round(loss / count, 5)}
            )


def fold_judged(given: classify.Sequences, flags: dict, seed: int, k: int) -> tuple[int, float]:
    """How many sequences of fold k are right after the last epoch, and the sum of their losses."""
    random = torch.Generator().manual_seed(seed)
    order = sorted(torch.randperm(len(given), generator=random).tolist(), key=lambda i: given.y[i])
    rest, fold = (
        given.take(i for place, i in enumerate(order) if (place % FOLDS == k) is own) for own in (False, True)
    )
    settings = classify.ClassifySettings.of(accelerator="cpu", seed=seed, **flags)
    data = classify.ClassifyData(rest, fold)
    torch.manual_seed(seed)
    sizes = dataclasses.asdict(settings.model)
    model = classify.Classifier(sizes.pop("cell"), data, **sizes)
    with tempfile.TemporaryDirectory() as folder:
        classify.fit(model, data, out=Path(folder) / "run", **dataclasses.asdict(settings.fit))
    p = torch.stack([p[data.facts.labels.index(y)] for p, y in zip(model.predict_proba(fold), fold.y, strict=True)])
    right = sum(a == b for a, b in zip(model.predict(fold), fold.y, strict=True))
    return right, float(-p.double().log().sum())


def choices_table() -> str:
    lines = ["| choice | right, % | loss |", "|---|---|---|"]
    for title, _ in TRIED:
        found = [r for r in records(CHOICES) if r["choice"] == title]
        if found:
            right, loss = (sum(r[name] for r in found) for name in ("right", "loss"))
            lines.append(f"| {title} | {100 * right / sum(r['count'] for r in found):.1f} | {loss / len(found):.3f} |")
    return "\n".join(lines)


def table() -> str:
    found = measured()
    lines = ["| net | cell | parameters | seed 0 | seed 1 | seed 2 |", "|---|---|---|---|---|---|"]
    for cell in CELLS:
        for net, _ in NETS:
            runs = [found.get((net, cell, seed)) for seed in SEEDS]
            if any(runs):
                shown = " | ".join(
                    "not measured" if r is None else f"{100 * r['right'] / r['count']:.1f}" for r in runs
                )
                size = next(r["parameters"] for r in runs if r)
                lines.append(f"| {net} | `{cell}` | {size:,} | {shown} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--cells", nargs="+", default=["gru"], choices=CELLS, help="which cells")
    parser.add_argument("--choices", action="store_true", help="cross-validate the choices instead")
    options = parser.parse_args()
    torch.set_num_threads(1)  # at these sizes a second thread gains nothing
    if options.choices:
        try_choices()
    elif not options.table:
        run(tuple(options.cells))
    print(f"{table()}\n\n{choices_table()}")

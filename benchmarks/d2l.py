"""The d2l book's Time Machine experiment, all of it: every network, both samplings, three seeds.

    .venv/bin/python benchmarks/d2l.py                 runs what is missing (an hour or two on one core)
    .venv/bin/python benchmarks/d2l.py --table         prints the table of docs/time-machine.md

Each run is `gatewise train text --recipe d2l …` by its Python call. What it measured is added to
results/d2l.jsonl as soon as it is done, so a run that is broken off loses nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from gatewise.tasks import text

RESULTS = Path(__file__).parent / "results" / "d2l.jsonl"
SEEDS = (0, 1, 2)
LAST = 20  # the figure is the median of the last so many epochs: with lr 1 single epochs jump

# (title, what the book reports, cell, hidden size, init, sampling)
NETWORKS = [
    ("GRU from scratch", "1.1", "gru_reset_before", 256, "d2l", "sequential"),
    ("nn.GRU", "1.0", "gru", 256, "torch", "sequential"),
    ("nn.LSTM", "1.1", "lstm", 256, "torch", "sequential"),
    ("nn.RNN", "1.3", "rnn", 256, "torch", "sequential"),
    ("RNN from scratch, H = 512", "1.0", "rnn", 512, "d2l", "sequential"),
    ("RNN from scratch, H = 512", "1.5", "rnn", 512, "d2l", "random"),
    ("nn.GRU", "", "gru", 256, "torch", "random"),
    ("GRU from scratch", "", "gru_reset_before", 256, "d2l", "random"),
    ("nn.LSTM", "", "lstm", 256, "torch", "random"),
    ("nn.RNN", "", "rnn", 256, "torch", "random"),
    ("GRU from scratch, H = 512", "", "gru_reset_before", 512, "d2l", "random"),
]


def measured() -> dict[tuple, dict]:
    """What is there already, by network and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(r["cell"], r["hidden"], r["init"], r["sampling"], r["seed"]): r for r in map(json.loads, lines)}


def run(data_dir: Path | None) -> None:
    torch.set_num_threads(1)  # at these sizes a second thread gains nothing
    for _, _, cell, hidden, init, sampling in NETWORKS:
        for seed in SEEDS:
            if (cell, hidden, init, sampling, seed) in measured():
                continue
            settings = text.TextSettings.of(
                "d2l", cell=cell, hidden=hidden, init=init, sampling=sampling, seed=seed, accelerator="cpu"
            )
            with tempfile.TemporaryDirectory() as folder:
                result = text.train(settings, Path(folder) / "run", data_dir)
                sample = (Path(folder) / "run" / "sample.txt").read_text(encoding="utf-8")
            perplexities = [epoch["train_perplexity"] for epoch in result.history]
            record = {
                "cell": cell,
                "hidden": hidden,
                "init": init,
                "sampling": sampling,
                "seed": seed,
                "epochs": len(perplexities),
                "perplexity": round(statistics.median(perplexities[-LAST:]), 4),
                "last_epoch": round(perplexities[-1], 4),
                "continuations": sample.split("\n\n"),
                "torch": torch.__version__,
            }
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def table() -> str:
    found = measured()
    lines = ["| network | cell | sampling | the book | seed 0 | seed 1 | seed 2 |", "|---|---|---|---|---|---|---|"]
    for title, book, cell, hidden, init, sampling in NETWORKS:
        records = [found.get((cell, hidden, init, sampling, seed)) for seed in SEEDS]
        figures = " | ".join("not measured" if r is None else f"{r['perplexity']:.2f}" for r in records)
        lines.append(f"| {title} | `{cell}` | {sampling} | {book or '–'} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--data-dir", type=Path, help="where timemachine.txt lies already")
    options = parser.parse_args()
    if options.table:
        print(table())
    else:
        run(options.data_dir)

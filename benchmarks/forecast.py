"""The forecasts of docs/forecast.md: how the defaults were chosen, and what they come to on the test origins.

    .venv/bin/python benchmarks/forecast.py --choose        trains what is missing, judged on the held-out part alone
    .venv/bin/python benchmarks/forecast.py --test          the defaults and other nets on the test origins
    .venv/bin/python benchmarks/forecast.py --table         prints the tables of docs/forecast.md

Each run is `gatewise train forecast …` by its Python call, in float32 with one thread; three seeds, and of them the
median. While choosing, `--test` stays as it is, so the test origins are never learned, and never looked at.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

from gatewise.tasks import forecast
from gatewise.tasks.forecast import evaluation
from gatewise.tasks.forecast.task import TASK
from gatewise.tasks.forecast.windows import ForecastData

RESULTS = Path(__file__).parent / "results" / "forecast.jsonl"
SEEDS = (0, 1, 2)
SOURCES = ("sunspots", "co2", "elnino", "nile")

# What was tried around the defaults, one change at a time; the first line is the defaults.
TRIED: list[dict[str, Any]] = [
    {},
    {"normalise": "window"},
    {"normalise": "series"},
    {"residual": "none"},
    {"residual": "seasonal"},
    {"features": "none"},
    {"features": "level,phase"},
    {"hidden": 32},
    {"hidden": 128},
    {"layers": 2, "dropout": 0.3},
    {"window": 24},
    {"window": 48},
    {"lr": 1e-3},
    {"lr": 1e-2},
    {"cell": "lstm"},
    {"decode": "autoregressive"},
]
NETS: dict[str, dict[str, Any]] = {
    "GRU": {},
    "LSTM": {"cell": "lstm"},
    "RNN": {"cell": "rnn"},
    "GRU, autoregressive": {"decode": "autoregressive"},
}
BASELINES = ("seasonal naive", "naive", "ETS")


def baselines_once() -> None:
    """Fit the ETS of each data set once, not again for each net."""
    fitted: dict[str, Any] = {}
    fit = evaluation._ets

    def cached(data: ForecastData, *rest: Any) -> Any:
        if data.sha256 not in fitted:
            fitted[data.sha256] = fit(data, *rest)
        return fitted[data.sha256]

    evaluation._ets = cached


def measured() -> dict[tuple[str, str, str, int], dict[str, Any]]:
    """What is there already, by purpose, source, choices and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(r["purpose"], r["source"], json.dumps(r["choices"]), r["seed"]): r for r in map(json.loads, lines)}


def train(purpose: str, source: str, choices: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run: its held-out figures, and its test figures where they are asked for."""
    settings = forecast.ForecastSettings.of(data=source, seed=seed, accelerator="cpu", **choices)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        if purpose == "choose":
            # The same parts as in a whole run, but no back-test at the end of it.
            TASK.finish = lambda result, *_: result.run.write(TASK.report, "")  # type: ignore[method-assign]
        result = forecast.train(settings, run)
        best = result.best
        row = {"purpose": purpose, "source": source, "choices": choices, "seed": seed, "epoch": best["epoch"]}
        row |= {name: round(best[f"held_out_{name}"], 5) for name in ("loss", "mase")}
        if purpose == "test":
            with open(run / "backtest.csv", encoding="utf-8") as file:
                row["test"] = {found.pop("method"): found for found in csv.DictReader(file)}
    return row


def run(purpose: str, wanted: list[dict[str, Any]]) -> None:
    for choices in wanted:
        for source in SOURCES:
            for seed in SEEDS:
                if (purpose, source, json.dumps(choices), seed) not in measured():
                    row = train(purpose, source, choices, seed)
                    with RESULTS.open("a", encoding="utf-8") as file:
                        print(json.dumps(row), file=file, flush=True)


def median(purpose: str, source: str, choices: dict[str, Any], figure: str) -> float | None:
    """The median of the seeds; None where one is missing."""
    found = [measured().get((purpose, source, json.dumps(choices), seed)) for seed in SEEDS]
    return None if None in found else statistics.median(row[figure] for row in found if row)


def naive_held_out(source: str) -> float:
    """The better naive forecast's MASE on the held-out part, to compare the choices with."""
    data = ForecastData(forecast.read(source))
    truth = data.batch(data.held).future
    errors = []
    for season in {1, data.season}:
        made = [forecast.naive(data.panel.series[k].values[:known], data.horizon, season) for k, known in data.held]
        unit = data.batch(data.held).unit
        errors.append(
            sum(float(abs(truth[:, i] - truth.new_tensor(y)).div(unit[i]).mean()) for i, y in enumerate(made))
        )
    return min(errors) / len(data.held)


def tables() -> None:
    """Both tables, as Markdown."""
    print("| change | " + " | ".join(SOURCES) + " | geometric mean |\n|---|" + "---|" * (len(SOURCES) + 1))
    print(
        "| better naive forecast: MASE | " + " | ".join(f"{naive_held_out(source):.3f}" for source in SOURCES) + " | |"
    )
    for choices in TRIED:
        cells = [(median("choose", s, choices, "loss"), median("choose", s, choices, "mase")) for s in SOURCES]
        if any(loss is None for loss, _ in cells):
            continue
        name = ", ".join(f"`--{flag} {value}`" for flag, value in choices.items()) or "**the defaults**"
        mean = math.exp(statistics.fmean(math.log(loss) for loss, _ in cells if loss))
        print(f"| {name} | " + " | ".join(f"{loss:.3f} ({mase:.3f})" for loss, mase in cells) + f" | {mean:.3f} |")
    for source in SOURCES:
        print(f"\n{source}\n\n| method | MAE | RMSE | MASE | sMAPE % | in the 80 % band |\n|---|---|---|---|---|---|")
        for name, choices in NETS.items():
            rows = [measured().get(("test", source, json.dumps(choices), seed)) for seed in SEEDS]
            if None in rows:
                continue
            found = [row["test"]["net"] for row in rows if row]
            print(f"| {name} | {line({key: statistics.median(float(f[key]) for f in found) for key in KEYS})}")
            if name == "GRU" and rows[0]:
                others = {method: rows[0]["test"][method] for method in BASELINES if method in rows[0]["test"]}
        for method, figures in others.items():
            print(f"| {method} | {line({key: float(figures[key]) for key in KEYS if figures[key]})}")


KEYS = ("MAE", "RMSE", "MASE", "sMAPE", "coverage")


def line(figures: dict[str, float]) -> str:
    cells = [f"{figures[key]:.3f}" for key in KEYS[:3]] + [f"{figures['sMAPE']:.2f}"]
    return " | ".join([*cells, f"{100 * figures['coverage']:.0f} %" if "coverage" in figures else "–"]) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("choose", "test", "table"):
        parser.add_argument(f"--{flag}", action="store_true")
    chosen = parser.parse_args()
    if chosen.test:
        baselines_once()
        run("test", list(NETS.values()))
    if chosen.choose:
        run("choose", TRIED)
    if chosen.table:
        tables()

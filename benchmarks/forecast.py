"""The forecasts of docs/forecast.md: how the defaults were chosen, and what they come to on the test origins.

    .venv/bin/python benchmarks/forecast.py --choose        tries settings on data before the test part alone
    .venv/bin/python benchmarks/forecast.py --test          the defaults and other nets on the test origins
    .venv/bin/python benchmarks/forecast.py --table         prints the tables of docs/forecast.md

What is missing in results/forecast.jsonl is run and added; three seeds each, float32, one thread. `--choose` cuts the
series before their test part, at 60, 80 and 100 % of what is there, and treats each piece as a user's whole series is
treated: learn, choose the epoch, test on its last fifth. So no test origin of the real series is seen.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gatewise.tasks import forecast
from gatewise.tasks.forecast import evaluation
from gatewise.tasks.forecast.model import loss_of
from gatewise.tasks.forecast.windows import ForecastData

RESULTS = Path(__file__).parent / "results" / "forecast.jsonl"
SEEDS = (0, 1, 2)
SOURCES = ("sunspots", "co2", "elnino", "nile")

# What was tried; the first line is the defaults.
TRIED: list[dict[str, Any]] = [
    {},
    {"lr": 1e-2},
    {"hidden_size": 32},
    {"hidden_size": 32, "residual": "none"},
    {"hidden_size": 32, "residual": "seasonal"},
    {"hidden_size": 32, "normalise": "window"},
    {"hidden_size": 32, "normalise": "window", "residual": "none"},
    {"hidden_size": 32, "normalise": "window", "features": "none"},
    {"hidden_size": 32, "normalise": "window", "residual": "seasonal"},
    {"hidden_size": 32, "normalise": "window", "residual": "none", "features": "phase"},
    {"hidden_size": 32, "normalise": "window", "residual": "none", "features": "none"},
]
SHARES = (0.6, 0.8, 1.0)
CHOSEN_ON = ("sunspots", "co2", "elnino")  # a part of the Nile's hundred years is too short
NETS: dict[str, dict[str, Any]] = {
    "GRU": {},
    "LSTM": {"cell": "lstm"},
    "RNN": {"cell": "rnn"},
    "GRU, autoregressive": {"decode": "autoregressive"},
}
KEYS = ("MAE", "RMSE", "MASE", "sMAPE", "coverage")


def baselines_once() -> None:
    """Fit the ETS of each data set once, not again for each net."""
    fitted: dict[str, Any] = {}
    fit = evaluation._ets

    def cached(data: ForecastData, *rest: Any) -> Any:
        if data.sha256 not in fitted:
            fitted[data.sha256] = fit(data, *rest)
        return fitted[data.sha256]

    evaluation._ets = cached


def measured() -> dict[tuple[str, str, str], dict[str, Any]]:
    """What is there already, by purpose, source and choices."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(r["purpose"], r["source"], json.dumps(r["choices"])): r for r in map(json.loads, lines)}


def piece(source: str, share: float, seasons: int) -> ForecastData:
    """The first part of what lies before a series' test part, as a series of its own."""
    whole = ForecastData(forecast.read(source))
    (series,) = whole.panel.series
    steps = int(whole.test_from * share)
    part = replace(series, values=series.values[:steps], covariates=series.covariates[:steps])
    return ForecastData(replace(whole.panel, series=(part,)), window=seasons * whole.season)


def learn(data: ForecastData, seed: int, cell: str = "gru", lr: float = 3e-3, **choices: Any) -> tuple[float, float]:
    """The loop of a training, plainly: test loss and MASE of the epoch whose held-out loss is the lowest."""
    torch.manual_seed(seed)
    net = forecast.Forecaster(cell, data.facts(), **{"hidden_size": 64, **choices})
    adam = torch.optim.Adam(net.parameters(), lr=lr)
    batches, held, test = data.training(seed), data.batch(data.held), data.batch(data.tested)
    best, figures = math.inf, (math.nan, math.nan)
    for epoch in range(60):
        batches.set_epoch(epoch)
        for batch in batches:
            adam.zero_grad()
            judged(net, batch)[0].backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()
        with torch.no_grad():
            loss = judged(net, held)[0].item()
            if loss < best:
                best, figures = loss, tuple(figure.item() for figure in judged(net, test))
    return figures


def judged(net: forecast.Forecaster, window: forecast.Window) -> tuple[torch.Tensor, torch.Tensor]:
    made = net(window.past, window.first, window.location, window.deviation)
    return loss_of(made, window.future, window.unit, net.levels)


def choose() -> None:
    for choices in TRIED:
        for source in CHOSEN_ON:
            if ("choose", source, json.dumps(choices)) in measured():
                continue
            given = dict(choices)
            seasons = given.pop("seasons", 3)
            medians = []
            for share in SHARES:
                found = [learn(piece(source, share, seasons), seed, **given) for seed in SEEDS]
                medians.append([round(statistics.median(figures), 3) for figures in zip(*found, strict=True)])
            add({"purpose": "choose", "source": source, "choices": choices, "loss_and_mase": medians})


def test() -> None:
    baselines_once()
    for choices in NETS.values():
        for source in SOURCES:
            if ("test", source, json.dumps(choices)) in measured():
                continue
            runs = []
            for seed in SEEDS:
                settings = forecast.ForecastSettings.of(data=source, seed=seed, accelerator="cpu", **choices)
                with tempfile.TemporaryDirectory() as folder:
                    forecast.train(settings, Path(folder) / "run")
                    with open(Path(folder) / "run" / "backtest.csv", encoding="utf-8") as file:
                        runs.append({row["method"]: row for row in csv.DictReader(file)})
            rows = {method: [[run[method][key] for key in KEYS] for run in runs] for method in runs[0]}
            add({"purpose": "test", "source": source, "choices": choices, "measures": rows})


def add(row: dict[str, Any]) -> None:
    with RESULTS.open("a", encoding="utf-8") as file:
        print(json.dumps(row), file=file, flush=True)


def tables() -> None:
    """All tables, as Markdown."""
    print("| settings | " + " | ".join(CHOSEN_ON) + " | geometric mean |\n|---|---|---|---|---|")
    for choices in TRIED:
        rows = [measured().get(("choose", source, json.dumps(choices))) for source in CHOSEN_ON]
        if None in rows:
            continue
        figures = [row["loss_and_mase"] for row in rows if row]
        name = ", ".join(f"{flag} {value}" for flag, value in choices.items()) or "**the defaults**"
        cells = [", ".join(f"{mase:.2f}" for _, mase in parts) for parts in figures]
        mean = math.exp(statistics.fmean(math.log(loss) for parts in figures for loss, _ in parts))
        print(f"| {name} | " + " | ".join(cells) + f" | {mean:.3f} |")
    for source in SOURCES:
        print(
            f"\n**{source}**\n\n| method | MAE | RMSE | MASE | sMAPE % | in the 80 % band |\n|---|---|---|---|---|---|"
        )
        others: dict[str, list[list[str]]] = {}
        for name, choices in NETS.items():
            row = measured().get(("test", source, json.dumps(choices)))
            if row is not None:
                print(f"| {name} | {line(row['measures']['net'])} |")
                others = {method: seeds for method, seeds in row["measures"].items() if method != "net"}
        for method, seeds in others.items():
            print(f"| {method} | {line(seeds)} |")


def line(seeds: list[list[str]]) -> str:
    """The medians of the seeds."""
    cells = []
    for key, figures in zip(KEYS, zip(*seeds, strict=True), strict=True):
        value = statistics.median(map(float, figures)) if all(figures) else None
        cells.append("–" if value is None else f"{100 * value:.0f} %" if key == "coverage" else f"{value:.3f}")
    return " | ".join(cells)


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for flag in ("choose", "test", "table"):
        parser.add_argument(f"--{flag}", action="store_true")
    chosen = parser.parse_args()
    if chosen.choose:
        choose()
    if chosen.test:
        test()
    if chosen.table:
        tables()

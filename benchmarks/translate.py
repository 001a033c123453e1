"""The translations of docs/translate.md: the default task, and the d2l book's on its 600 pairs; three seeds each.

    .venv/bin/python benchmarks/translate.py                 runs what is missing (some twenty minutes on one core)
    .venv/bin/python benchmarks/translate.py --table         prints the tables of docs/translate.md

Each run is `gatewise train translate …` by its Python call. What it measured is added to results/translate.jsonl as
soon as it is done, so a run that is broken off loses nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from gatewise.tasks import translate
from gatewise.tasks.translate.data import PairData

RESULTS = Path(__file__).parent / "results" / "translate.jsonl"
SEEDS = (0, 1, 2)
NEXT = 300  # pairs of fra-eng behind the recipe's, for a look at sentences that were not learned

# (recipe, cell, attention)
RUNS = [
    ("d2l", "gru", "none"),
    ("d2l", "gru", "additive"),
    (None, "gru", "additive"),
    (None, "gru", "none"),
    (None, "lstm", "additive"),
]


def measured() -> dict[tuple, dict]:
    """What is there already, by experiment and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return {(r["recipe"], r["cell"], r["attention"], r["seed"]): r for r in map(json.loads, lines)}


def run(data_dir: Path | None) -> None:
    torch.set_num_threads(1)  # at these sizes a second thread gains nothing
    for recipe, cell, attention in RUNS:
        for seed in SEEDS:
            if (recipe, cell, attention, seed) in measured():
                continue
            settings = translate.TranslateSettings.of(
                recipe, cell=cell, attention=attention, seed=seed, accelerator="cpu"
            )
            with tempfile.TemporaryDirectory() as folder:
                result = translate.train(settings, Path(folder) / "run", data_dir)
                model = translate.load(result.run.path)  # the best where pairs are held out, the last in the recipe
            last = result.history[-1]
            record = {"recipe": recipe, "cell": cell, "attention": attention, "seed": seed, "epochs": last["epoch"]}
            record |= {"loss": round(last["train_loss"], 4), "accuracy": round(last["train_accuracy"], 4)}
            data = PairData(translate.read(settings.data.source, settings.data.pairs, data_dir), settings.data)
            held_out = data.held_out if recipe is None else following(settings, data, data_dir)
            judged = translate.judge(model, held_out)
            record |= {"held_out": len(judged.translations), "exact": round(judged.exact, 4)}
            record |= {"bleu": round(judged.bleu, 4), "sacrebleu": round(judged.sacrebleu, 2)}
            if recipe is not None:
                record |= book(model, settings)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record | {"torch": torch.__version__}, ensure_ascii=False) + "\n")


def following(settings: translate.TranslateSettings, data: PairData, data_dir: Path | None) -> list:
    """The pairs behind those of the recipe, without sentences that it learned; words it does not know are <unk>."""
    first = settings.data.pairs
    learned = {tuple(example.source) for example in data.learned}
    cut = [
        (data.source.cutter.split(s), data.target.cutter.split(t))
        for s, t in translate.read(settings.data.source, first + NEXT, data_dir)[first:]
    ]
    return data.examples([(s, t) for s, t in cut if tuple(s) not in learned])


def book(model: translate.Translator, settings: translate.TranslateSettings) -> dict:
    """The book's four sentences."""
    asked = settings.sample
    made = [str(model.translate(source)) for source in asked.sources]
    pairs = list(zip(made, asked.references, strict=True))
    return {
        "four": made,
        "four_bleu": [round(translate.bleu(m.split(), r.split()), 3) for m, r in pairs],
        "four_sacrebleu": round(translate.sacrebleu(made, [[r] for r in asked.references]).score, 1),
    }


def table() -> str:
    found = measured()
    lines = ["| cell | attention | seed | exact match | BLEU (k = 2) | sacrebleu |", "|---|---|---|---|---|---|"]
    for (recipe, cell, attention, seed), r in found.items():
        if recipe is None:
            lines.append(
                f"| `{cell}` | {attention} | {seed} | {r['exact']:.1%} | {r['bleu']:.3f} | {r['sacrebleu']:.1f} |"
            )
    lines += [
        "",
        "| attention | seed | loss a token | as the book counts | right tokens | BLEU (k = 2) of the four | mean"
        " | sacrebleu of the four | BLEU (k = 2), new sentences | sacrebleu, new sentences |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (recipe, _, attention, seed), r in found.items():
        if recipe == "d2l":
            four = ", ".join(f"{score:.3f}" for score in r["four_bleu"])
            lines.append(
                f"| {attention} | {seed} | {r['loss']:.3f} | {r['loss'] / 10:.3f} | {r['accuracy']:.1%} | {four}"
                f" | {statistics.mean(r['four_bleu']):.3f} | {r['four_sacrebleu']:.1f} | {r['bleu']:.3f}"
                f" | {r['sacrebleu']:.1f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print the tables, run nothing")
    parser.add_argument("--data-dir", type=Path, help="where fra-eng.zip lies already")
    options = parser.parse_args()
    if options.table:
        print(table())
    else:
        run(options.data_dir)

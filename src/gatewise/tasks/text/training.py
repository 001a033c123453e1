"""Training a language model: `fit` from Python, `train` from settings, `resume` after a stop."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gatewise.tasks.errors import InputError
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.fit import Result, finished, is_first_process
from gatewise.tasks.fit import fit as fit_module
from gatewise.tasks.plot import curves
from gatewise.tasks.run import Run
from gatewise.tasks.text.data import TextData, read
from gatewise.tasks.text.model import LanguageModel, generate
from gatewise.tasks.text.saved import CELL, TASK, VOCABULARY, build, cell_of, load, settings_of
from gatewise.tasks.text.settings import SampleSettings, TextSettings, fit_settings
from gatewise.tasks.text.windows import InOrder, Window, Windows
from gatewise.tasks.trainee import Trainee


class TextTrainee(Trainee):
    """A language model in training: Lightning's view of it.

    Args:
        model: the language model.
        data: the text.
        settings: all choices; those of the data and the model are in force already.
    """

    terms = "characters"
    model: LanguageModel

    def __init__(self, model: LanguageModel, data: TextData, settings: TextSettings) -> None:
        super().__init__(model, settings.fit)
        self.data = data
        self.examples = settings.sample

    def loss(self, batch: Window, state: Any) -> tuple[Tensor, int, Any]:
        scores, state = self.model(batch.x, None if batch.fresh else state)
        return F.cross_entropy(scores.flatten(0, 1), batch.y.flatten()), batch.y.numel(), state

    def metrics(self, loss: float) -> dict[str, float]:
        """Perplexity, exp of the mean cross-entropy, and bits per character, the same in powers of two."""
        # A diverged training has a loss whose exp is beyond a float: that is infinity, not an error.
        return {"perplexity": math.exp(loss) if loss < 700 else math.inf, "bits_per_char": loss / math.log(2)}

    def sample(self, length: int) -> str:
        return continuations(self.model, replace(self.examples, length=min(length, self.examples.length)))[0]

    def describe(self) -> str:
        data, layer = self.data, self.model.layer
        held_out = f", {len(data.held_out_text):,} held out" if data.held_out_text else ""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"text   {data.settings.source or 'given'}: {len(data.text):,} characters to learn{held_out},"
            f" {len(data.vocabulary)} different\n"
            f"model  {layer.cell.name}, {layer.num_layers} x {layer.hidden_size} units, {parameters:,} parameters"
        )

    def train_dataloader(self) -> Windows:
        trainer = self.trainer
        return self.data.training(self.settings.seed, trainer.global_rank, trainer.world_size)

    def val_dataloader(self) -> InOrder | tuple[()]:
        return self.data.held_out() or ()


def continuations(model: LanguageModel, examples: SampleSettings) -> list[str]:
    """Each prompt with what the model makes of it."""
    length, temperature, seed = examples.length, examples.temperature, examples.seed
    return [prompt + generate(model, prompt, length, temperature=temperature, seed=seed) for prompt in examples.prompts]


def fit(
    model: LanguageModel,
    data: TextData,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    logger: Any = False,
    **choices: Any,
) -> Result:
    """Train a model, and keep the run in a folder.

    Args:
        model: the model; it is trained in place and ends with the last weights (`load` gives the best ones).
        data: the text.
        out: the folder, new or empty; None takes the next free `runs/text-N`.
        resume: go on with the run in `out`, whose model and data were the same.
        logger: one for Lightning's Trainer, several, or False.
        choices: `optimizer`, `lr`, `clip`, `epochs`, `minutes`, `seed`, `precision`, `devices`, `accelerator`,
            `threads`; see `FitSettings`.

    Returns:
        The run's folder and its history.

    Raises:
        InputError: a choice is out of its range, the folder holds a run, or a run that is to go on does not fit.
        KeyboardInterrupt: stopped by Ctrl-C; the text says how to go on.
        OSError: the folder cannot be written.
    """
    settings = TextSettings(data.settings, model.settings(), fit_settings(**choices))
    if not resume:
        return _begin(model, data, settings, out, logger)
    if out is None:
        raise InputError("resume=True needs out=…, the folder of the run that is to go on")
    return _go_on(model, data, settings, Run.open(out, TASK), logger)


def train(settings: TextSettings, out: Path | None = None, data_dir: Path | None = None) -> Result:
    """Read the text, build the model and train it, as the settings say.

    Args:
        settings: all choices.
        out: the folder, new or empty; None takes the next free `runs/text-N`.
        data_dir: the folder of downloaded texts; see `read`.

    Raises:
        As `read` and `fit`; nothing is written before all that can be checked has been.
    """
    cell = find_cell(settings.model.cell)
    data = TextData(read(settings.data.source, data_dir), settings.data)
    torch.manual_seed(settings.fit.seed)
    return _begin(build(cell, data.vocabulary, settings), data, settings, out)


def resume(path: Path, data_dir: Path | None = None, **flags: Any) -> Result:
    """Go on with a run that was stopped or killed, from its last checkpoint; without one, from the beginning.

    Args:
        path: the run's folder.
        data_dir: the folder of downloaded texts; see `read`.
        flags: as for `TextSettings.of`. `epochs` and `minutes` replace the run's limits; any other must be what
            the run was begun with.

    Raises:
        InputError: there is no such run, a flag contradicts it, its text has changed, or it is finished.
    """
    run = Run.open(path, TASK)
    settings = settings_of(run)
    given = {flag: value for flag, value in flags.items() if value is not None}
    limits = {flag: given.pop(flag) for flag in ("epochs", "minutes") if flag in given}
    for flag, value in given.items():
        if value != settings.flag(flag):
            raise InputError(
                f"--{flag} {value} contradicts the run in {run.path}, begun with {settings.flag(flag)}: leave it out"
            )
    if limits:
        settings = replace(settings, fit=replace(settings.fit, **{"epochs": None, "minutes": None, **limits}))
    if not settings.data.source:
        raise InputError(f"{run.path} was begun from Python with a text of its own: go on there, fit(…, resume=True)")
    data = TextData(read(settings.data.source, data_dir), settings.data)
    torch.manual_seed(settings.fit.seed)
    return _go_on(build(cell_of(run), data.vocabulary, settings), data, settings, run)


def _begin(
    model: LanguageModel,
    data: TextData,
    settings: TextSettings,
    out: str | os.PathLike[str] | None,
    logger: Any = False,
) -> Result:
    settings = replace(settings, sample=_checked(settings.sample, data))
    data.training(world=settings.fit.devices)  # a batch that cannot be shared out is refused before all else
    if not is_first_process():
        return fit_module(TextTrainee(model, data, settings), Run(out or "runs"), settings.fit, logger=logger)
    run = Run.create(out, TASK)
    run.write(CELL, model.layer.cell.text)
    run.write(VOCABULARY, json.dumps(data.vocabulary.tokens, ensure_ascii=False))
    _write_settings(run, data, settings)
    result = fit_module(TextTrainee(model, data, settings), run, settings.fit, logger=logger)
    return _finish(result, model, settings)


def _go_on(model: LanguageModel, data: TextData, settings: TextSettings, run: Run, logger: Any = False) -> Result:
    if data.sha256 != run.settings()["text_sha256"]:
        raise InputError(f"the text {data.settings.source} is not the one that the run in {run.path} was begun with")
    settings = replace(settings, sample=_checked(settings.sample, data))
    if is_first_process():
        if run.last.exists():
            finished(run, settings.fit)  # refuses a run that has nothing to do, before its settings are changed
        _write_settings(run, data, settings)
    result = fit_module(TextTrainee(model, data, settings), run, settings.fit, resume=True, logger=logger)
    return _finish(result, model, settings) if is_first_process() else result


def _finish(result: Result, model: LanguageModel, settings: TextSettings) -> Result:
    """Write the figure and the sample, by the best model where data was held out, else by the last."""
    run = result.run
    title = f"{model.layer.cell.name}, H = {model.layer.hidden_size}, on {settings.data.source or 'a text'}"
    run.write(run.curves.name, curves(result.history, "perplexity", title))
    shown = load(run.path) if settings.data.holdout else model
    run.write(run.sample.name, "\n\n".join(continuations(shown, settings.sample)) + "\n")
    return result


def _checked(examples: SampleSettings, data: TextData) -> SampleSettings:
    """The examples, with a prompt and with prompts that can be read; better refused now than after hours."""
    examples = replace(examples, prompts=examples.prompts or (data.opening(),))
    for prompt in examples.prompts:
        data.vocabulary.encode(prompt)
    return examples


def _write_settings(run: Run, data: TextData, settings: TextSettings) -> None:
    run.write_settings(TASK, {"text_sha256": data.sha256, **settings.to_dict()})

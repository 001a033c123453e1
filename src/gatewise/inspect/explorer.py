"""The explorer: one HTML page that shows a model's gates over a text, step by step, and moves."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gatewise.errors import InputError, MissingPackageError
from gatewise.graph.graph import Graph
from gatewise.inspect import equations
from gatewise.inspect.measures import keepers, time_constants
from gatewise.inspect.recording import Recording, record
from gatewise.inspect.words import describe
from gatewise.layer import Layer
from gatewise.tasks.text.model import LanguageModel

try:
    from gatewise.inspect.page import Array, Prediction, Quantity, Track, page
except ImportError as error:
    raise MissingPackageError(
        f'the explorer needs {error.name}, which is not installed: pip install "gatewise[explore]"'
    ) from error

LONGEST = 2000  # steps; beyond, the page is slow and weighs tens of megabytes
SHOWN = 4  # values that have a map at first; of more, the gates and the states


def explore(
    models: nn.Module | Mapping[str, nn.Module],
    x: str | Tensor,
    tokens: Sequence[str] | None = None,
    *,
    sample: int = 0,
    title: str | None = None,
) -> str:
    """A self-contained HTML page of what the gates of a model's layers are while it reads x.

        Path("gates.html").write_text(gatewise.inspect.explore(model, "The cat"), encoding="utf-8")

    Args:
        models: a layer of gatewise's, or a module that has some; or several by name, to be compared on the same x.
        x: what the model is called with, (T, B, …), or (B, T, …) where its layers are batch-first; or a text, for
            models of `gatewise.tasks.text`, whose predictions are then shown, too.
        tokens: (T,) what was read at each step, for people; None means the step's number, or the text's characters.
        sample: which one of the batch.
        title: of the page.

    Returns:
        The page. All numbers are in it, to the four decimals that it shows (fewer from 3.2767 in size on).

    The models run in evaluation, without gradients, and are left as they were.

    Raises:
        InputError: the text is empty, too long or has characters that a model does not know; a tensor has no such
            sample, or tokens are not T. ValueError: a model has no layer of gatewise's.
        MissingPackageError: Bokeh, whose script draws the page, or scipy is not installed.
    """
    named = models if isinstance(models, Mapping) else {"": models}
    if not named:
        raise InputError("explore: there is no model, expected at least one")
    if isinstance(x, str):
        _check_length(len(x), "the text has {} characters")
        tokens = list(x) if tokens is None else tokens
    tracks = [track for name, model in named.items() for track in _tracks(name, model, x, sample)]
    steps = len(tracks[0].values[tracks[0].quantities[-1].key])
    labels = [str(t) for t in range(steps)] if tokens is None else list(tokens)
    if len(labels) != steps:
        raise InputError(f"explore: tokens has {len(labels)} entries, expected {steps}, one for each step of x")
    title = title or ", ".join(name for name in named if name) or "gatewise: inside the gates"
    return page(labels, tracks, title, text=tokens is not None)


def from_runs(runs: Sequence[str | os.PathLike[str]], text: str | None = None, checkpoint: str | None = None) -> str:
    """The page of trained language models, by their folders; text None is what the first run wrote as its sample.

    Raises:
        InputError: a folder holds no run, or the text can't be read by its model; see `explore`.
    """
    from gatewise.tasks.text.task import TASK

    models: dict[str, nn.Module] = {}
    for run in runs:
        name = os.path.basename(os.path.normpath(run)) or str(run)
        models[name if name not in models else str(run)] = TASK.load(run, checkpoint)
    if text is None:
        text = TASK.open(runs[0]).read(TASK.report).strip("\n")[:LONGEST]
    return explore(models, text, title=f"{' and '.join(models)}: inside the gates")


def _check_length(steps: int, what: str) -> None:
    if not steps:
        raise InputError(f"explore: {what.format(0)}, expected at least one")
    if steps > LONGEST:
        raise InputError(f"explore: {what.format(f'{steps:,}')}, at most {LONGEST:,} are allowed: give a shorter one")


def _tracks(name: str, model: nn.Module, x: str | Tensor, sample: int) -> list[Track]:
    """What one model's layers do, as tracks of the page."""
    text_model = model if isinstance(model, LanguageModel) else None
    if isinstance(x, str):
        if text_model is None:
            raise InputError(
                f"explore: a text needs a model of gatewise.tasks.text, got {type(model).__name__}: give a tensor"
            )
        device = next(model.parameters()).device
        x = text_model.vocabulary.encode(x).unsqueeze(1).to(device)
    cells = [layer._running_cell if not layer.training else layer.cell.expected for layer in _layers(model)]
    wanted = dict.fromkeys(f"%{i}" for cell in cells for i in _nodes(cell))
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), record(model, wanted) as seen:
            result = model(x)
    finally:
        for module, was in training.items():
            module.training = was
    prediction = None
    _check_sample(seen, sample)
    if text_model is not None:
        scores = result[0][:, sample].float()
        prediction = Prediction(scores.softmax(-1).cpu().numpy(), text_model.vocabulary.tokens)
    tracks = []
    for key, values in seen.items():
        cell = seen.cells[key]
        of_layer = {key: value[:, sample].float().cpu().numpy() for key, value in values.items()}
        title = " · ".join(part for part in (name, key) if part)
        tracks.append(_track(title, cell, of_layer, prediction))
    return tracks


def _check_sample(seen: Recording, sample: int) -> None:
    for values in seen.values():
        steps, batch = next(iter(values.values())).shape[:2]
        _check_length(steps, "x has {} steps")
        if not 0 <= sample < batch:
            raise InputError(f"explore: sample is {sample}, expected 0 to {batch - 1}, one of the {batch} of the batch")


def _layers(model: nn.Module) -> list[Layer]:
    return [module for module in model.modules() if isinstance(module, Layer)]


def _nodes(cell: Graph) -> dict[int, None]:
    """The nodes that the equations show, and those that have names."""
    lines = equations.parts(cell)
    shown = [part["node"] for line in lines for part in line["parts"] if isinstance(part, dict)]
    return dict.fromkeys([*cell.named.values(), *(line["node"] for line in lines), *shown])


def _track(title: str, cell: Graph, values: dict[str, Array], prediction: Prediction | None) -> Track:
    hidden = max(value.shape[1] for value in values.values())
    words = describe(cell)
    nodes = cell.named
    # A row of a map is a unit, so what a projection made has none; the output comes last.
    names = [name for name in words if values[f"%{nodes[name]}"].shape[1] == hidden]
    names.sort(key=lambda name: (name in cell.states, name == cell.states[0]))
    few = len(names) <= SHOWN
    quantities = [
        Quantity(
            key=f"%{nodes[name]}", name=name, title=words[name].title, kind=words[name].kind, about=words[name].about,
            opens=words[name].opens, shuts=words[name].shuts,
            shown=few or words[name].kind == "gate" or name in cell.states,
        )
        for name in names
    ]  # fmt: skip
    lines: list[list[str | tuple[str, str, bool]]] = []
    for line in equations.parts(cell):
        right = (p if isinstance(p, str) else (p["text"], f"%{p['node']}", p["bracket"]) for p in line["parts"])
        lines.append([(line["symbol"], f"%{line['node']}", False), " = ", *right])
    constants = {}
    for state, (gate, turned) in keepers(cell).items():
        values_of_gate = torch.from_numpy(values[f"%{nodes[gate]}"]).unsqueeze(1)
        constants[f"time constant of {state}"] = time_constants(
            1 - values_of_gate if turned else values_of_gate
        ).numpy()
    kept = {key: values[key] for key in sorted({*(q.key for q in quantities), *_references(lines)}, key=_number)}
    return Track(title, cell.name, quantities, kept, lines, prediction, constants)


def _number(key: str) -> int:
    return int(key.removeprefix("%"))


def _references(lines: Sequence[Sequence[str | tuple[str, str, bool]]]) -> list[str]:
    return [part[1] for line in lines for part in line if isinstance(part, tuple)]

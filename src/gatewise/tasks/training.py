"""Training a task's model: from settings, from Python, and a run that goes on. See `Task`, whose methods these are."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gatewise.errors import InputError
from gatewise.tasks.batches import check_shares
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.fit import Result, finished, is_first_process
from gatewise.tasks.fit import fit as train_module
from gatewise.tasks.models import evaluating
from gatewise.tasks.plot import curves
from gatewise.tasks.run import Run
from gatewise.tasks.settings import TaskSettings
from gatewise.tasks.task import CELL, Task

LIMITS = ("epochs", "minutes")

AnyTask = Task[Any, Any, Any]


def train(task: AnyTask, settings: TaskSettings, out: Path | None, data_dir: Path | None) -> Result:
    """See `Task.train`."""
    cell = find_cell(settings.model.cell)
    data = task.read(settings, data_dir)
    torch.manual_seed(settings.fit.seed)
    return _begin(task, task.built(cell, task.facts(data), settings), data, settings, out)


def fit(
    task: AnyTask,
    model: Any,
    data: Any,
    out: str | os.PathLike[str] | None,
    resume: bool,
    logger: Any,
    choices: dict[str, Any],
) -> Result:
    """See `Task.fit`."""
    if (wrong := task.misfit(model, data)) is not None:
        raise InputError(f"the model was not made for these data, {wrong} differs: make it from them")
    sections = {"data": data.settings, "model": task.model_settings(model)}
    if not resume:
        settings = task.Settings(**sections, fit=task.Settings.fit_settings(**choices))
        return _begin(task, model, data, settings, out, logger)
    if out is None:
        raise InputError("resume=True needs out=…, the folder of the run that is to go on")
    run = task.open(out)
    settings = task.settings_of(run)
    if model.layer.cell.text != run.read(CELL):
        raise InputError(f"the model's cell is not that of the run in {run.path}: give the model that was trained")
    for section, now in sections.items():
        for name, value in vars(now).items():
            if name not in ("cell", "source"):  # names, of what has been compared or will be
                _same(name, value, getattr(getattr(settings, section), name), run)
    limits = {name: choices.pop(name) for name in LIMITS if name in choices}
    for name, value in choices.items():
        _same(name, value, getattr(settings.fit, name, None), run)
    return _go_on(task, model, data, _limited(settings, limits), run, logger)


def resume(task: AnyTask, path: str | os.PathLike[str], data_dir: Path | None, flags: dict[str, Any]) -> Result:
    """See `Task.resume`."""
    run = task.open(path)
    settings = task.settings_of(run)
    given = settings.given(flags)
    limits = {flag: given.pop(flag) for flag in LIMITS if flag in given}
    for flag, value in given.items():
        _same(f"--{flag}", value, settings.flag(flag), run)
    settings = _limited(settings, limits)
    if not settings.data.source:
        raise InputError(f"{run.path} was begun from Python with data of its own: go on there, fit(…, resume=True)")
    data = task.read(settings, data_dir)
    torch.manual_seed(settings.fit.seed)
    return _go_on(task, task.built(task.cell_of(run), task.facts(data), settings), data, settings, run)


def _begin(
    task: AnyTask,
    model: Any,
    data: Any,
    settings: TaskSettings,
    out: str | os.PathLike[str] | None,
    logger: Any = False,
) -> Result:
    settings = _checked(task, settings, data)
    if not is_first_process():
        run = Run(out or "runs", task.report)
        return train_module(task.trainee(model, data, settings), run, settings.fit, logger=logger)
    run = Run.create(out, task.name, task.report)
    run.write(CELL, model.layer.cell.text)
    run.write(task.facts_file, json.dumps(task.facts(data), ensure_ascii=False))
    _write_settings(task, run, data, settings)
    result = train_module(task.trainee(model, data, settings), run, settings.fit, logger=logger)
    return _finish(task, result, model, data, settings)


def _go_on(task: AnyTask, model: Any, data: Any, settings: TaskSettings, run: Run, logger: Any = False) -> Result:
    if data.sha256 != run.settings().get("data_sha256"):
        source = data.settings.source or "the data"
        raise InputError(f"{source} is not what the run in {run.path} was begun with: restore it, or begin a new run")
    if task.facts_of(run) != json.loads(json.dumps(task.facts(data))):
        raise InputError(f"{run.path / task.facts_file} is damaged: restore it, or train anew")
    settings = _checked(task, settings, data)
    if is_first_process():
        if run.last.exists():
            finished(run, settings.fit)  # refuses a run that has nothing to do, before its settings are changed
        _write_settings(task, run, data, settings)
    result = train_module(task.trainee(model, data, settings), run, settings.fit, resume=True, logger=logger)
    return _finish(task, result, model, data, settings) if is_first_process() else result


def _checked(task: AnyTask, settings: TaskSettings, data: Any) -> TaskSettings:
    check_shares(settings.data.batch, settings.fit.devices)
    return task.checked(settings, data)  # type: ignore[no-any-return]


def _finish(task: AnyTask, result: Result, model: Any, data: Any, settings: TaskSettings) -> Result:
    result.run.write(result.run.curves.name, curves(result.history, task.metric, task.title(model, settings)))
    with evaluating(model):
        task.finish(result, task.load(result.run.path) if task.holds_out(settings) else model, data, settings)
    return result


def _write_settings(task: AnyTask, run: Run, data: Any, settings: TaskSettings) -> None:
    run.write_settings(task.name, {"data_sha256": data.sha256, **settings.to_dict()})


def _limited(settings: TaskSettings, limits: dict[str, Any]) -> TaskSettings:
    """The settings with new limits, which take the place of both, if any is given."""
    if not limits:
        return settings
    return replace(settings, fit=replace(settings.fit, **{**dict.fromkeys(LIMITS), **limits}))


def _same(what: str, value: Any, begun: Any, run: Run) -> None:
    if value != begun:
        raise InputError(
            f"{what} {_shown(value)} contradicts the run in {run.path}, begun with {_shown(begun)}: leave it out"
        )


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)

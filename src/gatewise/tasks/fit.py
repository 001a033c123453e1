"""Training: Lightning's Trainer, set up as every task needs it."""

import errno
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # type: ignore[attr-defined]

from gatewise.errors import InputError, one_line
from gatewise.tasks import checkpoint
from gatewise.tasks.keeper import Keeper, Row, Stopped
from gatewise.tasks.progress import Progress
from gatewise.tasks.run import Run
from gatewise.tasks.settings import FitSettings
from gatewise.tasks.trainee import Trainee


@dataclass(frozen=True)
class Result:
    """What a training leaves behind.

    Args:
        run: its folder.
        history: one row an epoch: `epoch`, `steps`, `seconds`, `train_loss`, `held_out_loss` and the task's metrics.
    """

    run: Run
    history: list[Row]

    @property
    def best(self) -> Row:
        """The epoch of the best checkpoint: the lowest held-out loss, or training loss where none is held out."""
        return min(self.history, key=lambda row: row.get("held_out_loss", row["train_loss"]))


class SafetensorsIO(CheckpointIO):
    """Lightning's checkpoints as safetensors files, written whole or not at all; nothing is unpickled."""

    def save_checkpoint(self, checkpoint_: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See `gatewise.tasks.checkpoint.save`; there are no storage options."""
        if storage_options is not None:
            raise TypeError(f"SafetensorsIO has no storage options; got {storage_options!r}")
        checkpoint.save(checkpoint_, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """See `gatewise.tasks.checkpoint.load`: tensors come on the CPU, and there is nothing but data to load."""
        return checkpoint.load(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete the file."""
        Path(path).unlink()


def fit(module: Trainee, run: Run, settings: FitSettings, *, resume: bool = False, logger: Any = False) -> Result:
    """Train, and write checkpoints and history into the run's folder.

    Args:
        module: what is trained.
        run: the folder, created already.
        settings: how.
        resume: go on from the run's last checkpoint; without one, begin.
        logger: for Lightning's Trainer: a logger, several, or False.

    Returns:
        The run and its history. The module holds the last weights.

    Raises:
        InputError: a setting does not fit the machine, the checkpoint is damaged, all is done already,
            or the disk is full.
        KeyboardInterrupt: stopped by Ctrl-C or SIGTERM; the text says how to go on.
        OSError: a file cannot be written; the last checkpoint still stands.
    """
    keeper = Keeper(run, settings.minutes)
    restart = run.last if resume and run.last.exists() else None
    if restart is not None and (history := finished(run, settings)) is not None:
        # Killed between the last step and the report, which a task writes last: the rest can be made up for.
        module.load_state_dict(checkpoint.load(restart)["state_dict"])
        return Result(run, history)
    if is_first_process():
        run.report.unlink(missing_ok=True)  # of an earlier, lower limit
    with _quiet(), _threads_restored():
        try:
            trainer = Trainer(
                accelerator=settings.accelerator,
                devices=settings.devices,
                precision=settings.precision,  # type: ignore[arg-type]  # checked by FitSettings
                max_epochs=-1 if settings.epochs is None else settings.epochs,
                gradient_clip_val=settings.clip or None,
                callbacks=[keeper, Progress(keeper)],
                plugins=[SafetensorsIO()],
                logger=logger,
                num_sanity_val_steps=0,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=run.path,
            )
        except (MisconfigurationException, RuntimeError) as error:
            raise InputError(f"Lightning cannot train like this: {one_line(error)}") from error
        handling = threading.current_thread() is threading.main_thread()
        try:
            with keeper.stopping_on_signals() if handling else nullcontext():
                trainer.fit(module, ckpt_path=restart)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{error.filename}: {error.strerror}; what was saved before stands:"
                f" free some space, then go on with --resume {run.path}"
            ) from error
        except Stopped:
            if not run.last.exists():
                raise KeyboardInterrupt(f"stopped before the first checkpoint; {run.path} can be deleted") from None
            raise KeyboardInterrupt(f"stopped; to go on: --resume {run.path}") from None
    return Result(run, keeper.rows)


def is_first_process() -> bool:
    """Whether this process is the one that writes; Lightning starts the others of a DDP run as copies of it."""
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]  # set when Lightning is imported


def finished(run: Run, settings: FitSettings) -> list[Row] | None:
    """The history of a run that has reached its limit but lacks its report; None if there is more to train.

    Args:
        run: a run with a last checkpoint.
        settings: with the limits, perhaps new ones.

    Raises:
        InputError: there is nothing to do at all.
    """
    (kept,) = (state for name, state in checkpoint.load(run.last)["callbacks"].items() if name == Keeper.__name__)
    history: list[Row] = kept["rows"]
    epochs, minutes = len(history), kept["seconds"] / 60
    if settings.epochs is not None and epochs >= settings.epochs:
        done, limit = f"done its {epochs} epochs", f"--epochs {2 * epochs}"
    elif settings.minutes is not None and minutes >= settings.minutes:
        done, limit = f"had its {minutes:.1f} minutes", f"--minutes {math.ceil(minutes + settings.minutes)}"
    else:
        return None
    if run.report.exists():
        raise InputError(f"{run.path} has {done}: raise the limit to go on, {limit}")
    return history


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners, tips and advice; warnings of others pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

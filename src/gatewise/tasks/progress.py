"""What is shown while a model is trained: one bar over the whole run, or plain lines where there is no terminal."""

import math
import time
from typing import Any

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from gatewise.tasks.keeper import Keeper
from gatewise.tasks.trainee import Trainee

BAR_PAUSE = 0.25  # seconds between two looks of the bar
LINE_PAUSE = 10.0  # seconds between two lines where there is no terminal
SAMPLE_PAUSE = 15.0  # seconds between two samples
SAMPLE_LENGTH = 120


class Progress(Callback):
    """Shows how far the training is, how well it does, and samples of what it has learned.

    Args:
        keeper: knows the time spent and the limits.
        console: where to write; None means standard output.
    """

    def __init__(self, keeper: Keeper, console: Console | None = None) -> None:
        self.keeper = keeper
        self.console = console or Console(highlight=False, emoji=False)
        self._bar: Bar | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, module: Trainee) -> None:  # type: ignore[override]
        now = time.monotonic()
        self._shown = self._sampled = self._began = now
        if trainer.is_global_zero:
            self._print(f"{module.describe()}\nrun    {self.keeper.run.path}")
        if trainer.is_global_zero and self.console.is_terminal:
            self._bar = Bar(BarColumn(24), TextColumn("{task.description}"), console=self.console, auto_refresh=False)
            self._task = self._bar.add_task("", total=1.0)
            self._bar.start()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, module: Trainee, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        pause = LINE_PAUSE if self._bar is None else BAR_PAUSE
        if trainer.is_global_zero and time.monotonic() - self._shown >= pause:
            self._show(trainer, module)

    def on_train_epoch_end(self, trainer: Trainer, module: Trainee) -> None:  # type: ignore[override]
        if trainer.is_global_zero and time.monotonic() - self._sampled >= SAMPLE_PAUSE:
            if sample := module.sample(SAMPLE_LENGTH):
                self._print(f"  epoch {trainer.current_epoch + 1}: {sample!r}")
            self._sampled = time.monotonic()

    def on_train_end(self, trainer: Trainer, module: Trainee) -> None:  # type: ignore[override]
        self._stop()

    def on_exception(self, trainer: Trainer, module: Trainee, exception: BaseException) -> None:  # type: ignore[override]
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, trainer: Trainer, module: Trainee) -> None:
        now = time.monotonic()
        self._shown = now
        means = module.trained.values()
        epochs = trainer.global_step / trainer.num_training_batches
        pace = self.keeper.seconds / epochs
        total = self._epochs_in_all(trainer, pace)
        parts = [f"epoch {trainer.current_epoch + 1}/{total:.0f}", f"loss {means['loss']:.3f}"]
        parts += [f"{name.replace('_', ' ')} {value:.2f}" for name, value in module.metrics(means).items()]
        parts += [f"{module.seen * trainer.world_size / (now - self._began):,.0f} {module.terms}/s"]
        parts += [f"{_clock((total - epochs) * pace)} left"]
        if self._bar is None:
            self._print("  ".join([f"{100 * epochs / total:3.0f} %", *parts]))
        else:
            self._bar.update(self._task, completed=epochs / total, description="  ".join(parts), refresh=True)

    def _epochs_in_all(self, trainer: Trainer, pace: float) -> float:
        """The epochs of the whole run, at `pace` seconds each; minutes end with the epoch in which they run out."""
        limits = []
        if trainer.max_epochs is not None and trainer.max_epochs > 0:
            limits.append(float(trainer.max_epochs))
        if self.keeper.minutes is not None:
            limits.append(math.ceil(60 * self.keeper.minutes / pace))
        return max(min(limits), trainer.current_epoch + 1)

    def _print(self, text: str) -> None:
        """A line, above the bar where there is one; as it is: text of a model is no markup."""
        self.console.print(text, markup=False, soft_wrap=self._bar is None)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"

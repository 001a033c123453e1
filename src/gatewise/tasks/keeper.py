"""The callback that keeps a run: its history, its checkpoints, and a clean stop."""

import csv
import io
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lightning import Callback, Trainer

from gatewise.errors import InputError
from gatewise.tasks.run import Run
from gatewise.tasks.trainee import Trainee

EPOCH_PAUSE = 5.0  # seconds between two saves at epochs' ends: a run of tiny epochs must not live to save
BATCH_PAUSE = 30.0  # seconds between two saves within a long epoch: what a kill may cost

Row = dict[str, float]


class Stopped(BaseException):
    """The user stopped the training, by Ctrl-C or SIGTERM.

    Not a KeyboardInterrupt, which Lightning turns into `sys.exit(1)`; and no Exception, so that nothing on
    the way takes it for a fault.
    """


class Keeper(Callback):
    """Keeps a run's history and checkpoints, and stops it cleanly.

    `last` is saved at the ends of epochs and every half minute within them, `best` whenever the held-out loss
    (the training loss where nothing is held out) is lower than ever. A checkpoint is never saved at an epoch's
    last batch: there Lightning would, on resuming, take the validation to be done.

    Args:
        run: where all is written.
        minutes: end after the first epoch that reaches this; None for no limit.
    """

    def __init__(self, run: Run, minutes: float | None) -> None:
        self.run = run
        self.minutes = minutes
        self.rows: list[Row] = []
        self.best = math.inf
        self.stop_signal: int | None = None
        self._earlier = 0.0  # seconds of training in earlier sittings
        self._began = self._saved = self._epoch_began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training so far, those of earlier sittings included."""
        return self._earlier + time.monotonic() - self._began

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.best, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best, self._earlier = state_dict["rows"], state_dict["best"], state_dict["seconds"]

    def on_train_start(self, trainer: Trainer, module: Trainee) -> None:  # type: ignore[override]
        self._began = self._saved = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, module: Trainee, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == trainer.num_training_batches:
            return
        stop = self._agree(trainer, self.stop_signal is not None)
        if stop or self._agree(trainer, time.monotonic() - self._saved > BATCH_PAUSE):
            self._save_last(trainer)
        if stop:
            raise Stopped

    def on_train_epoch_end(self, trainer: Trainer, module: Trainee) -> None:  # type: ignore[override]
        self._add_row(trainer, module)
        judged = self.rows[-1].get("held_out_loss", self.rows[-1]["train_loss"])
        if not all(map(math.isfinite, self.rows[-1].values())):  # also a loss whose perplexity is beyond a float
            raise InputError(
                f"the loss is {judged} after epoch {trainer.current_epoch + 1}: begin anew with a lower --lr"
            )
        if judged < self.best:
            self.best = judged
            trainer.save_checkpoint(self.run.best)
        if self.minutes is not None and self._agree(trainer, self.seconds >= 60 * self.minutes):
            trainer.should_stop = True
        stop = self._agree(trainer, self.stop_signal is not None)
        ends = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if stop or ends or self._agree(trainer, time.monotonic() - self._saved > EPOCH_PAUSE):
            self._save_last(trainer)
        if stop and not ends:
            raise Stopped

    def _add_row(self, trainer: Trainer, module: Trainee) -> None:
        trained, held_out = module.epoch_means()
        row: Row = {"epoch": trainer.current_epoch + 1, "steps": trainer.global_step, "seconds": round(self.seconds, 3)}
        for name, means in (("train", trained), ("held_out", held_out)):
            if means is not None:
                row[f"{name}_loss"] = means["loss"]
                row.update({f"{name}_{metric}": value for metric, value in module.metrics(means).items()})
        self.rows.append(row)

    def _save_last(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.run.last)
        if trainer.is_global_zero:
            self.run.write(self.run.metrics.name, as_csv(self.rows))
        self._saved = time.monotonic()

    def _agree(self, trainer: Trainer, decision: bool) -> bool:
        """What any process wants, all do: saving takes all of them, and their clocks and signals differ."""
        return trainer.strategy.reduce_boolean_decision(decision, all=False)

    @contextmanager
    def stopping_on_signals(self) -> Iterator[None]:
        """Within: the first Ctrl-C (or SIGTERM) ends the training after the batch, the second at once.

        Raises:
            ValueError: not called in the main thread, the only one that may handle signals.
        """

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stop_signal is not None:
                raise Stopped
            self.stop_signal = number

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def as_csv(rows: list[Row]) -> str:
    """The history as CSV, one line an epoch, with the numbers in full."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()

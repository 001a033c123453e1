"""What is trained: the part of a LightningModule that every task shares."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn

from gatewise.tasks.errors import InputError
from gatewise.tasks.settings import FitSettings

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "sgd": torch.optim.SGD,
}


def each(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`change` applied to each tensor in nested tuples and dicts; None stays."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: each(change, item) for key, item in value.items()}
    return None if value is None else tuple(each(change, item) for item in value)


class Mean:
    """The mean of a loss over many batches, kept on the device so that no step waits for it.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss * count, count

    def add(self, loss: Tensor, count: int) -> None:
        """Take in the mean loss () of `count` terms."""
        self.sums += torch.stack((loss.detach().double() * count, loss.new_tensor(count, dtype=torch.float64)))

    def value(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> float:
        """The mean; `reduce` adds up the sums of several processes. NaN where nothing was taken in."""
        total, count = reduce(self.sums.clone()).tolist()
        return total / count if count else float("nan")


class Trainee(LightningModule):
    """A model in training. A task derives from it, gives the data and says what a loss is.

    It counts the epoch's losses and puts into the checkpoint what Lightning leaves out: the random state, the
    state carried from batch to batch, and the losses counted so far. All three differ between the processes of
    a DDP run, so the checkpoint holds them once for each.

    A task sets `terms` and overrides `loss`, `metrics`, `sample`, `describe`, `train_dataloader` and, where
    data is held out, `val_dataloader`.

    Args:
        model: the network.
        settings: how it is trained.
    """

    terms = "terms"  # what a loss is the mean of, in the plural: "characters"

    def __init__(self, model: nn.Module, settings: FitSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.carried: Any = None  # a tensor, a tuple of tensors, or None
        self.trained = Mean(torch.device("cpu"))
        self.validated: Mean | None = None
        self.seen = 0  # terms of the loss in this sitting and process
        self._restored: Any = None

    def loss(self, batch: Any, state: Any) -> tuple[Tensor, int, Any]:
        """The mean loss () of a batch, the number of terms in that mean, and the state to carry on."""
        raise NotImplementedError

    def metrics(self, loss: float) -> Mapping[str, float]:
        """What a mean loss means in the task's own units, by name; the first is the one that is plotted."""
        raise NotImplementedError

    def sample(self, length: int) -> str:
        """What the model does now, to be read by a human; it leaves torch's random state alone."""
        raise NotImplementedError

    def describe(self) -> str:
        """The data and the model in a few lines, shown before the training."""
        raise NotImplementedError

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _OPTIMIZERS[self.settings.optimizer](self.parameters(), lr=self.settings.lr)  # type: ignore[call-arg]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, count, state = self.loss(batch, self.carried)
        self.carried = each(Tensor.detach, state)
        self.trained.add(loss, count)
        self.seen += count
        self.log("train_loss", loss.detach(), batch_size=count)  # for the user's loggers; the history is ours
        return loss

    def on_train_start(self) -> None:
        torch.set_num_threads(self.settings.threads)  # here, since Lightning's DDP launcher sets another number
        self.trained = Mean(self.device)
        if self._restored is None:
            torch.manual_seed(self.settings.seed + self.trainer.global_rank)  # or all would drop the same units
            return
        mine = self._restored
        torch.set_rng_state(mine["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(mine["random_device"], self.device)
        self.carried = each(lambda state: state.to(self.device), mine["carried"])
        self.trained.sums.copy_(mine["trained"])
        self._restored = None

    def on_validation_start(self) -> None:
        self.validated = Mean(self.device)
        self._held_state: Any = None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.validated is not None
        loss, count, self._held_state = self.loss(batch, self._held_state)
        self.validated.add(loss, count)

    def epoch_losses(self) -> tuple[float, float | None]:
        """The epoch's mean training loss over all processes, and the held-out loss or None; starts counting anew."""
        trained = self.trained.value(lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"))
        self.trained = Mean(self.device)
        return trained, None if self.validated is None else self.validated.value()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        mine = {"random": torch.get_rng_state(), "carried": self.carried, "trained": self.trained.sums}
        if self.device.type == "cuda":
            mine["random_device"] = torch.cuda.get_rng_state(self.device)
        # Gathered over the processes along a new first axis; for one process, Lightning adds no such axis.
        alone = self.trainer.world_size == 1
        checkpoint["processes"] = each(lambda value: value[None] if alone else self._gathered(value), mine)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        processes = checkpoint["processes"]
        found = len(processes["random"])
        if found != self.trainer.world_size:
            raise InputError(
                f"the checkpoint is of {found} processes, expected {self.trainer.world_size}: --devices {found}"
            )
        # Cloned: torch.set_rng_state ignores a view's offset, and crashes on the garbage (torch 2.13).
        self._restored = each(lambda value: value[self.trainer.global_rank].clone(), processes)

    def _gathered(self, value: Tensor) -> Tensor:
        gathered = self.all_gather(value.to(self.device))
        assert isinstance(gathered, Tensor)
        return gathered

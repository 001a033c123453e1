"""What is trained: the part of a LightningModule that every task shares."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from lightning import LightningModule
from torch import Tensor, nn

from gatewise.errors import InputError
from gatewise.tasks.settings import TaskSettings

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


class Step(NamedTuple):
    """What a batch comes to.

    Args:
        loss: () the mean loss over the batch's terms, to be minimised.
        terms: their number.
        state: what is carried to the next batch: a tensor, nested tuples of them, or None.
        also: other means over the same terms, each (), by the name that the history gives them.
    """

    loss: Tensor
    terms: int
    state: Any = None
    also: Mapping[str, Tensor] = {}


class Means:
    """The means of a loss, and of what comes with it, over many batches; kept on the device so that no step waits.

    Args:
        device: where the losses are.
        also: the names of the other means; see `Step`.
    """

    def __init__(self, device: torch.device, also: Sequence[str] = ()) -> None:
        self.names = ("loss", *also)
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)  # each mean * count, count

    def add(self, step: Step) -> None:
        """Take in a batch."""
        means = torch.stack([step.loss.detach(), *(step.also[name].detach() for name in self.names[1:])])
        self.sums += torch.cat((means.double(), means.new_ones(1, dtype=torch.float64))) * step.terms

    def values(self, reduce: Callable[[Tensor], Tensor] = lambda sums: sums) -> dict[str, float]:
        """The means by name; `reduce` adds up the sums of several processes. NaN where nothing was taken in."""
        *totals, count = reduce(self.sums.clone()).tolist()
        return {name: total / count if count else math.nan for name, total in zip(self.names, totals, strict=True)}


def sizes(model: nn.Module) -> str:
    """The sizes of a model that has one layer of gatewise, in a few words."""
    layer: Any = model.layer
    directions = "bidirectional " if layer.bidirectional else ""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return f"{directions}{layer.cell.name}, {layer.num_layers} x {layer.hidden_size} units, {parameters:,} parameters"


class Trainee(LightningModule):
    """A model in training. A task derives from it, gives the data and says what a loss is.

    It counts the epoch's losses and puts into the checkpoint what Lightning leaves out: the random state, the
    state carried from batch to batch, and the losses counted so far. All three differ between the processes of
    a DDP run, so the checkpoint holds them once for each.

    A task sets `terms` and overrides `loss` and `data_line`; `also`, `metrics`, `sample` and `describe` where it has
    something to tell; and the two loaders where its data have no `training` and `held_out`, which give batches.

    Args:
        model: the network.
        data: what it learns from.
        settings: all choices; those of the data and the model are in force already.
    """

    terms = "terms"  # what a loss is the mean of, in the plural: "characters"
    also: tuple[str, ...] = ()  # the names of the means that come with a loss

    def __init__(self, model: nn.Module, data: Any, settings: TaskSettings) -> None:
        super().__init__()
        self.model = model
        self.data = data
        self.settings = settings.fit
        self.carried: Any = None  # a tensor, a tuple of tensors, or None
        self.trained = Means(torch.device("cpu"), self.also)
        self.validated: Means | None = None
        self.seen = 0  # terms of the loss in this sitting and process
        self._restored: Any = None

    def loss(self, batch: Any, state: Any) -> Step:
        """What a batch comes to, from the state that the batch before left (None at first)."""
        raise NotImplementedError

    def metrics(self, means: Mapping[str, float]) -> Mapping[str, float]:
        """What the means of `loss` and `also` are in the task's own units, by name, beside the loss itself."""
        return {name: means[name] for name in self.also}

    def sample(self, length: int) -> str:
        """What the model does now, for a human, or nothing; it leaves torch's random state alone."""
        return ""

    def data_line(self) -> str:
        """The data in a line, shown before the training."""
        raise NotImplementedError

    def describe(self) -> str:
        """The data and the model in a few lines, shown before the training."""
        return f"{self.data_line()}\nmodel  {sizes(self.model)}"

    def train_dataloader(self) -> Any:
        return self.data.training(self.settings.seed, self.trainer.global_rank, self.trainer.world_size)

    def val_dataloader(self) -> Any:
        return self.data.held_out() or ()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _OPTIMIZERS[self.settings.optimizer](self.parameters(), lr=self.settings.lr)  # type: ignore[call-arg]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        settings = self.settings
        if settings.schedule == "linear" and settings.epochs is not None:  # at each batch: an epoch may be taken up
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = settings.lr * (1 - self.current_epoch / settings.epochs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        step = self.loss(batch, self.carried)
        self.carried = each(Tensor.detach, step.state)
        self.trained.add(step)
        self.seen += step.terms
        self.log("train_loss", step.loss.detach(), batch_size=step.terms)  # for the user's loggers; the history is ours
        if self.trainer.world_size == 1:
            return step.loss
        # Gradients are averaged over the processes: each loss counts by its share of the terms.
        terms = self.all_gather(step.loss.new_tensor(step.terms))
        assert isinstance(terms, Tensor)
        return step.loss * (step.terms / terms.float().mean())

    def on_train_start(self) -> None:
        torch.set_num_threads(self.settings.threads)  # here, since Lightning's DDP launcher sets another number
        self.trained = Means(self.device, self.also)
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
        self.validated = Means(self.device, self.also)
        self._held_state: Any = None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert self.validated is not None
        step = self.loss(batch, self._held_state)
        self._held_state = step.state
        self.validated.add(step)

    def epoch_means(self) -> tuple[dict[str, float], dict[str, float] | None]:
        """The epoch's means over all processes, and the held-out ones or None; starts counting anew."""
        trained = self.trained.values(lambda sums: self.trainer.strategy.reduce(sums, reduce_op="sum"))
        self.trained = Means(self.device, self.also)
        return trained, None if self.validated is None else self.validated.values()

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

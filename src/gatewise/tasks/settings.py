"""How a model is trained: the settings that every task shares."""

from dataclasses import dataclass

from gatewise.tasks.errors import InputError, choose

OPTIMIZERS = ("adam", "adamw", "rmsprop", "sgd")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
ACCELERATORS = ("auto", "cpu", "gpu")


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a model is trained.

    Args:
        optimizer: `"adam"`, `"adamw"`, `"rmsprop"` or `"sgd"`, each as in `torch.optim`.
        lr: learning rate.
        clip: the gradients' norm over all parameters is clipped to this; 0 leaves them alone.
        epochs: passes over the training data, or None for no limit.
        minutes: training stops at the end of the first epoch after so many minutes, those of earlier
            sittings of a resumed run included; None for no limit. With both, the first limit ends it.
        seed: of the order of the data and of dropout.
        precision: as Lightning's Trainer names it.
        devices: how many devices share each batch (Lightning's DDP for more than one).
        accelerator: `"auto"` takes a GPU where there is one.
        threads: of the CPU, for each device. Sums depend on it in their last bits, so it belongs to the run; and
            a network of a few hundred units gains little by a second one, but loses much on a busy machine.

    Raises:
        InputError: a value is out of its range, or neither limit is given.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    clip: float = 1.0
    epochs: int | None = None
    minutes: float | None = None
    seed: int = 0
    precision: str = "32-true"
    devices: int = 1
    accelerator: str = "auto"
    threads: int = 1

    def __post_init__(self) -> None:
        choose("optimizer", self.optimizer, OPTIMIZERS)
        choose("precision", self.precision, PRECISIONS)
        choose("accelerator", self.accelerator, ACCELERATORS)
        positive("lr", self.lr)
        positive("devices", self.devices)
        positive("threads", self.threads)
        if not self.clip >= 0:
            raise InputError(f"clip must be 0 (none) or more; got {self.clip}")
        if self.epochs is None and self.minutes is None:
            raise InputError("give epochs or minutes, else training would never end")
        if self.epochs is not None:
            positive("epochs", self.epochs)
        if self.minutes is not None:
            positive("minutes", self.minutes)
        check_seed(self.seed)


def check_seed(seed: int) -> None:
    """Check that torch's generators take a number as their seed.

    Raises:
        InputError: it is negative or has more than 63 bits.
    """
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2**63 - 1; got {seed}")


def positive(what: str, value: float) -> None:
    """Check that a number is above zero and finite.

    Raises:
        InputError: it is not.
    """
    if not 0 < value < float("inf"):
        raise InputError(f"{what} must be above 0; got {value}")

"""Batches in an order that a seed and the epoch decide alone, and that can be taken up in mid-epoch."""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

from gatewise.errors import InputError

B = TypeVar("B")


class Epochs(Generic[B]):
    """The batches of an epoch, epoch after epoch. A task derives from it and says what its batches are.

    The place in the data is told by two numbers, see `state_dict`. Lightning sets the epoch, restores the place, and
    calls `iter`.

    Args:
        length: batches in each epoch.
        seed: of the order.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self._length = length
        self._done = 0  # batches handed out in this epoch
        self._start = 0  # where the next `iter` begins

    def batches(self, random: torch.Generator) -> Callable[[int], B]:
        """What gives an epoch's batches by their numbers, in an order that is drawn from `random`."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[B]:
        # A generator: what follows runs at the first batch, when Lightning has set the epoch.
        start, self._start = self._start, 0
        random = torch.Generator().manual_seed(self.seed)
        # One stream of numbers for all epochs would have to be replayed; a seed for each need not.
        random.manual_seed(int(torch.randint(2**62, (), generator=random)) + self.epoch)
        batch = self.batches(random)
        for k in range(start, self._length):
            self._done = k + 1
            yield batch(k)

    @property
    def sampler(self) -> "Epochs[B]":
        """Itself: Lightning calls `sampler.set_epoch` before each epoch, as it does for a DataLoader's."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The place in the data: the epoch, and the batches handed out in it."""
        return {"epoch": self.epoch, "batch": self._done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a place: the next iteration starts there, later ones at the front."""
        self.epoch, self._start = state["epoch"], state["batch"]
        self._done = self._start


class Shuffled(Epochs[B]):
    """Samples in an order drawn anew in each epoch; the last batch takes the rest.

    Args:
        samples: N, how many there are.
        batch: how many a batch has.
        make: gives a batch from the samples' numbers, (at most batch,) int64.
        seed: of the order.
        rank, world: this process gets share `rank` of `world` of every batch.

    Raises:
        InputError: there are no samples, or a batch cannot be shared out.
    """

    def __init__(
        self,
        samples: int,
        batch: int,
        make: Callable[[torch.Tensor], B],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_shares(batch, world)
        if not samples:
            raise InputError("there is nothing to learn from: give more data, or hold out less")
        # Several processes must take equally many steps, so that of them none may be left without a sample.
        super().__init__(-(-samples // batch) if world == 1 else max(1, samples // batch), seed)
        if samples < world:
            raise InputError(f"{samples} samples cannot be shared by {world} devices")
        self.samples, self.batch, self.make, self.rank, self.world = samples, batch, make, rank, world

    def batches(self, random: torch.Generator) -> Callable[[int], B]:
        order = torch.randperm(self.samples, generator=random)

        def batch(k: int) -> B:
            return self.make(order[k * self.batch : (k + 1) * self.batch][self.rank :: self.world])

        return batch


class InOrder(Generic[B]):
    """Samples in order, for an evaluation.

    Args:
        samples: N, how many there are.
        batch: how many a batch has; the last takes the rest.
        make: gives a batch from the samples' numbers, (at most batch,) int64.
    """

    def __init__(self, samples: int, batch: int, make: Callable[[torch.Tensor], B]) -> None:
        self.samples, self.batch, self.make = samples, batch, make

    def __len__(self) -> int:
        return -(-self.samples // self.batch)

    def __iter__(self) -> Iterator[B]:
        for first in range(0, self.samples, self.batch):
            yield self.make(torch.arange(first, min(first + self.batch, self.samples)))


def check_shares(batch: int, world: int) -> None:
    """Check that a batch can be shared out evenly.

    Raises:
        InputError: it cannot.
    """
    if batch % world:
        raise InputError(f"the batch is shared by {world} devices, so it must be a multiple of {world}; got {batch}")

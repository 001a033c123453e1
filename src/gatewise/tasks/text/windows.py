"""A text cut into windows: batches of (x, y), in sequence or shuffled, and able to start in mid-epoch."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.errors import InputError, choose
from gatewise.tasks.batches import Epochs, check_shares
from gatewise.tasks.text.settings import SAMPLINGS


class Window(NamedTuple):
    """One batch.

    Args:
        x: (T, B) characters, as numbers (int64).
        y: (T, B) the characters that follow each of them.
        fresh: the state starts from zero here; else it is the one that the batch before ended with.
    """

    x: Tensor
    y: Tensor
    fresh: bool


class Windows(Epochs[Window]):
    """The batches of an epoch, as the d2l book samples them (d2l.ai, section 9.3 and the code of 0.17).

    `"sequential"`: behind a random offset of 0 to T, the text is cut into B rows; batch k holds the k-th
    window of every row, so the state can be carried from one batch to the next. `"random"`: behind a random
    offset of 0 to T - 1, the text is cut into windows, which are shuffled; each starts from a zero state. What
    does not fill a batch is left out, at other places in each epoch. Every epoch has as many batches as fit
    behind the largest offset, so their number never changes (the book may have one more at times).

    Args:
        ids: (N,) the text as numbers.
        steps: T.
        batch: B.
        sampling: `"sequential"` or `"random"`.
        seed: of the offsets and the shuffling.
        rank, world: this process gets share `rank` of `world` of every batch's rows.

    Raises:
        InputError: the text is too short for one batch, or the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        ids: Tensor,
        steps: int,
        batch: int,
        sampling: str = "sequential",
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        choose("sampling", sampling, SAMPLINGS)
        check_shares(batch, world)
        if sampling == "sequential":
            length, needed = (len(ids) - steps - 1) // batch // steps, batch * steps + steps + 1
        else:
            length, needed = (len(ids) - steps) // steps // batch, (batch + 1) * steps
        if length < 1:
            raise InputError(
                f"the text has {len(ids)} characters to learn, and one batch of {batch} windows of {steps} steps"
                f" takes {needed}: give a longer text, or lower --batch or --steps"
            )
        super().__init__(length, seed)
        self.ids, self.steps, self.batch, self.sampling = ids, steps, batch, sampling
        self.rank, self.world = rank, world

    def batches(self, random: torch.Generator) -> Callable[[int], Window]:
        windows = self._sequential(random) if self.sampling == "sequential" else self._shuffled(random)
        mine = slice(self.rank * self.batch // self.world, (self.rank + 1) * self.batch // self.world)

        def batch(k: int) -> Window:
            x, y, fresh = windows(k)
            return Window(x[mine].T, y[mine].T, fresh)

        return batch

    def _sequential(self, random: torch.Generator) -> Callable[[int], tuple[Tensor, Tensor, bool]]:
        offset = int(torch.randint(self.steps + 1, (), generator=random))
        row = (len(self.ids) - offset - 1) // self.batch
        x, y = (self.ids[offset + late :][: row * self.batch].view(self.batch, row) for late in (0, 1))

        def batch(k: int) -> tuple[Tensor, Tensor, bool]:
            window = slice(k * self.steps, (k + 1) * self.steps)
            return x[:, window], y[:, window], k == 0

        return batch

    def _shuffled(self, random: torch.Generator) -> Callable[[int], tuple[Tensor, Tensor, bool]]:
        offset = int(torch.randint(self.steps, (), generator=random))
        windows = (len(self.ids) - offset - 1) // self.steps
        order = torch.randperm(windows, generator=random)
        x, y = (self.ids[offset + late :][: windows * self.steps].view(windows, self.steps) for late in (0, 1))

        def batch(k: int) -> tuple[Tensor, Tensor, bool]:
            chosen = order[k * self.batch : (k + 1) * self.batch]
            return x[chosen], y[chosen], True

        return batch


class InOrder:
    """A text as windows that cover it from front to end, for an evaluation with carried states.

    Args:
        ids: (N,) the text as numbers.
        steps: T, of every window but the last, which takes the rest.
        batch: rows to cut the text into; fewer where they would be shorter than a window.

    Raises:
        InputError: there are fewer than two characters.
    """

    def __init__(self, ids: Tensor, steps: int, batch: int) -> None:
        if len(ids) < 2:
            raise InputError(
                f"the held-out text has {len(ids)} characters, at least 2 are needed: raise --holdout, or set it to 0"
            )
        rows = max(1, min(batch, (len(ids) - 1) // steps))
        self.steps, self.row = steps, (len(ids) - 1) // rows
        self.x, self.y = (ids[late:][: rows * self.row].view(rows, self.row).T for late in (0, 1))

    def __len__(self) -> int:
        return -(-self.row // self.steps)

    def __iter__(self) -> Iterator[Window]:
        for t in range(0, self.row, self.steps):
            yield Window(self.x[t : t + self.steps], self.y[t : t + self.steps], t == 0)

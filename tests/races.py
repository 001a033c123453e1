"""What two programs of one launch must not both do to a byte of memory; for lockstep.py, which runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import triton.language as tl
from numpy.typing import NDArray

PAGE = 4096
WRITER, READER, OTHER = range(3)  # of a byte: who stored it, who read it by a plain load, and who did besides


class Fault(BaseException):
    """What the checks found. No Exception: Triton would wrap it on its way out."""


class Races:
    """Remembers who stored and who read each byte, by plain stores and loads; volatile loads are none of its business.

    Programs are told by their number in `places`, their indices in the grid; `args` are the kernel's.
    """

    def __init__(
        self, places: list[tuple[int, int, int]], args: dict[str, Any], races: bool, double_stores: bool
    ) -> None:
        self.places, self.args, self.races, self.double_stores = places, args, races, double_stores
        self.pages: dict[int, NDArray[np.int16]] = {}

    def load(self, p: int, ptrs: Any, mask: Any) -> None:
        if not self.races:
            return
        for start, page, at in self.bytes(ptrs, mask):
            writer, reader, other = page[:, at]
            self.check(p, start + at, writer, lambda q: f"race: {self.name(p)} reads, by a plain load, what {q} stored")
            page[READER, at] = np.where(reader < 0, p, reader)
            page[OTHER, at] = np.where((reader < 0) | (reader == p), other, p)

    def store(self, p: int, ptrs: Any, mask: Any) -> None:
        name = self.name(p)
        for start, page, at in self.bytes(ptrs, mask):
            writer, *readers = page[:, at]
            if self.double_stores:
                self.check(p, start + at, writer, lambda q: f"double store: {q} and then {name} stored")
            for reader in readers:
                self.check(p, start + at, reader, lambda q: f"race: {q} read, by a plain load, what {name} stores")
            page[WRITER, at] = p

    def bytes(self, ptrs: Any, mask: Any) -> Iterator[tuple[int, NDArray[np.int16], NDArray[np.int64]]]:
        """All bytes that an access means, by pages: their first address, what is known of them, and which are meant."""
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        chosen = ptrs.data[np.broadcast_to(np.asarray(mask.data, dtype=bool), ptrs.data.shape)].astype(np.int64)
        addresses = (chosen[:, None] + np.arange(size)).ravel()
        number = addresses // PAGE
        for n in map(int, np.unique(number)):
            if n not in self.pages:
                self.pages[n] = np.full((3, PAGE), -1, np.int16)
            yield n * PAGE, self.pages[n], addresses[number == n] - n * PAGE

    def check(self, p: int, addresses: NDArray[np.int64], known: NDArray[np.int16], says: Callable[[str], str]) -> None:
        """Refuse addresses that another program than p is known for."""
        wrong = (known >= 0) & (known != p)
        if wrong.any():
            i = int(wrong.argmax())
            raise Fault(f"{says(self.name(int(known[i])))} in the same launch, {self.place(int(addresses[i]))}")

    def name(self, p: int) -> str:
        x, y, z = self.places[p]
        return f"program {x}" if not (y or z) else f"program {(x, y, z)}"

    def place(self, address: int) -> str:
        """Told from the pointer among the kernel's arguments that lies before the address and nearest to it."""
        starts = {
            int(a.handle.data[0]): name
            for name, a in self.args.items()
            if isinstance(a, tl.tensor) and a.dtype.is_ptr() and int(a.handle.data[0]) <= address
        }
        return f"{address - max(starts)} bytes after {starts[max(starts)]}" if starts else f"at address {address}"

"""The memories of ptx.py's emulator: where tensors lie, and who touched what since which barrier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from ptx_ops import Array
from torch import Tensor

BASE = 0x7F0000000000  # the address at which memory begins
GAP = 512  # bytes between tensors
MANY = -2  # of who has read: several


class Fault(AssertionError):  # noqa: N818
    """What would be an error on a GPU, or chance."""


class Memory:
    """The arguments' tensors in one array of bytes, and what lies outside of them."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.numel()}
        self.begins: dict[int, int] = {}
        self.views: list[tuple[int, Array]] = []
        end = GAP
        for pointer, storage in sorted(storages.items()):
            begin = end + (pointer - end) % 256  # as aligned as it is
            view = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            self.begins[pointer], end = begin, begin + len(view) + GAP
            self.views.append((begin, view))
        self.bytes = np.zeros(-(-end // 256) * 256, np.uint8)
        self.inside = np.zeros(len(self.bytes), np.bool_)
        for begin, view in self.views:
            self.bytes[begin : begin + len(view)] = view
        for t in tensors:
            if t.numel():
                begin = self.pointer(t) - BASE
                numbers = 1 + sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True))
                self.inside[begin : begin + numbers * t.element_size()] = True

    def pointer(self, t: Tensor) -> int:
        storage = t.untyped_storage().data_ptr()
        return BASE + self.begins[storage] + t.data_ptr() - storage if t.numel() else 0

    def back(self) -> None:
        for begin, view in self.views:
            view[:] = self.bytes[begin : begin + len(view)]


class Shadow:
    """Who touched what since which barrier, of both memories, in units of the smallest access's bytes.

    A stamp is a program's barriers so far x 64 + the warp, which tells warps of one program apart.
    """

    def __init__(self, size: int, unit: int, of_all: bool) -> None:
        self.unit = unit
        self.stored, self.loaded = (np.full(-(-size // unit), -1, np.int32) for _ in range(2))
        # In memory that all programs have in common also which program it was.
        self.stored_by, self.loaded_by = (np.full(-(-size // unit) if of_all else 0, -1, np.int16) for _ in range(2))
        self.of_all = of_all

    def load(self, index: Array, size: int, stamp: Array, program: Array) -> str:
        units, stamp, program = self._units(index, size, stamp, program)
        was = self.stored[units]
        same = (was >> 6 == stamp >> 6) & (was != stamp) & (was >= 0)
        if self.of_all:
            by = self.stored_by[units]
            if ((by != program) & (by >= 0)).any():
                return "loads what another program stores, as if it were there"
            same &= by == program
            readers = self.loaded_by[units]
            self.loaded_by[units] = np.where((readers == program) | (readers == -1), program, MANY)
        elif (was < 0).any():
            return "loads what nobody stored"
        if same.any():
            return "loads what another warp stored, without a barrier between"
        last = self.loaded[units]
        self.loaded[units] = np.where((last >> 6 == stamp >> 6) & (last != stamp) & (last >= 0), stamp | 63, stamp)
        # Of several warps that load now in one instruction one was noted.
        noted = self.loaded[units]
        self.loaded[units[(noted != stamp)]] |= 63
        if self.of_all:
            self.loaded_by[units[self.loaded_by[units] != program]] = MANY
        return ""

    def store(self, index: Array, size: int, stamp: Array, program: Array, anew: Array) -> str:
        """anew: whether it is another value than was there; warps may well store one value twice."""
        units, stamp, program = self._units(index, size, stamp, program)
        anew = np.repeat(anew, len(units) // len(anew))
        was, last = self.stored[units], self.loaded[units]
        over = (was >> 6 == stamp >> 6) & (was != stamp) & (was >= 0)
        under = (last >> 6 == stamp >> 6) & (last != stamp) & (last >= 0)
        if self.of_all:
            by, readers = self.stored_by[units], self.loaded_by[units]
            if ((by != program) & (by != -1)).any():
                return "stores where another program does"
            if ((readers != program) & (readers != -1)).any():
                return "stores what another program loads as if it were there"
            over, under = over & (by == program), under & (readers == program)
            self.stored_by[units] = program
        self.stored[units] = stamp
        if (over & anew).any():
            return "stores where another warp stored, without a barrier between"
        if self.of_all and (self.stored_by[units] != program).any():
            return "stores where another program does"
        return "stores what another warp loads, without a barrier between" if (under & anew).any() else ""

    def _units(self, index: Array, size: int, stamp: Array, program: Array) -> tuple[Array, Array, Array]:
        count = max(1, size // self.unit)
        units = (index[:, None] // self.unit + np.arange(count)).ravel()
        return units, np.repeat(stamp, count), np.repeat(program, count)

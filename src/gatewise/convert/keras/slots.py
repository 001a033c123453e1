"""Which arrays belong to which layer, in files of both kinds.

Keras 3 stores arrays by a path that follows the model, such as layers/lstm/cell; Keras 2 stores those of a layer, all
that is inside of it included, in one list. Either way they are found here by the path that Keras 3 gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from gatewise.convert.keras.config import Config, UnknownError
from gatewise.convert.keras.files import Contents
from gatewise.convert.keras.operations import is_operation
from gatewise.convert.keras.recurrent import KINDS, variables
from gatewise.convert.keras.table import ROWS

WORDS = ("kernel", "bias", "gamma", "beta", "mean", "variance", "embeddings", "alpha")  # how arrays' names end
MODELS = ("Sequential", "Functional", "Model")


@dataclass(frozen=True)
class Slot:
    """A layer's place for arrays: its path, their names, and which of them are trained."""

    path: str
    names: tuple[str, ...]
    trained: tuple[bool, ...]


def snake(name: str) -> str:
    """A class's name as Keras writes it in paths."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def members(configs: Sequence[Config], path: str) -> list[tuple[str, Config]]:
    """The layers of a list, each with its path."""
    seen: dict[str, int] = {}
    made = []
    for config in configs:
        if is_operation(config):
            made.append((f"{path}/({config.name})", config))  # which has no arrays, and no place among the layers
            continue
        name = snake(config.kind)
        count = seen[name] = seen.get(name, -1) + 1
        made.append((f"{path}/{name}_{count}" if count else f"{path}/{name}", config))
    return made


def layers_of(config: Config, path: str) -> list[tuple[str, Config]]:
    """The layers of a model, each with its path."""
    below = f"{path}/layers" if path else "layers"
    return members(config.several("layers"), below)


def slots(config: Config, path: str, trained: bool = True) -> Iterator[Slot]:
    """A layer's places for arrays, in the order in which Keras counts them.

    Raises: UnknownError: there is a layer that nothing is known of.
    """
    trained = trained and config.settings.get("trainable", True) is not False
    kind = config.kind
    if is_operation(config):
        return
    if kind in MODELS:
        for place, inner in layers_of(config, path):
            yield from slots(inner, place, trained)
    elif kind == "Bidirectional":
        yield from slots(config.inner("layer"), f"{path}/forward_layer", trained)
        other = "backward_layer" if config.settings.get("backward_layer") else "layer"
        yield from slots(config.inner(other), f"{path}/backward_layer", trained)
    elif kind == "TimeDistributed":
        yield from slots(config.inner("layer"), f"{path}/layer", trained)
    elif kind == "RNN":
        inner = cell_config(config)
        yield from slots(inner, f"{path}/cell", trained)
    elif kind == "StackedRNNCells":
        for place, inner in members(config.several("cells"), f"{path}/cells"):
            yield from slots(inner, place, trained)
    elif kind in KINDS and not config.foreign:
        names = variables(config)
        place = path if "Cell" in kind or kind.startswith("CuDNN") else f"{path}/cell"
        yield Slot(place, names, (trained,) * len(names))
    elif kind in ROWS and not config.foreign:
        names = ROWS[kind].arrays(config)
        if names:
            yield Slot(path, tuple(n.strip("~") for n in names), tuple(trained and n[0] != "~" for n in names))
    elif kind not in ("InputLayer", "Masking"):
        raise UnknownError("a layer that is not in the table" if not config.foreign else "a class of its author's own")


def cell_config(config: Config) -> Config:
    """The cell of an RNN, cells of a list in a StackedRNNCells."""
    cell = config.settings.get("cell")
    if isinstance(cell, list):
        cell = {"class_name": "StackedRNNCells", "config": {"cells": cell}}
    return Config(cell, config.where)


class Arrays:
    """A file's arrays by path.

    Args: contents: the file. layers: of the outermost model, each with its path.

    Raises: InputError: a layer has another number of arrays than its configuration says.
    """

    def __init__(self, contents: Contents, layers: Sequence[tuple[str, Config]]) -> None:
        self.found: dict[str, list[Tensor]] = dict(contents.tree)
        self.named = not contents.tree
        for path, config in layers:
            label = contents.labels.get(path)
            if label is not None and label != config.name and config.kind != "InputLayer":
                raise config.bad(f"its arrays at {path} are those of {label}; the file's two halves do not fit")
            if contents.tree:
                continue
            if is_operation(config):
                continue
            if config.name not in contents.flat:
                self._missing(config)
                continue
            self._deal(config, path, contents.flat[config.name])

    def _missing(self, config: Config) -> None:
        try:
            wanted = list(slots(config, ""))
        except UnknownError:
            return
        if any(slot.names for slot in wanted):
            raise config.bad("the file has no arrays for it")

    def _deal(self, config: Config, path: str, arrays: Sequence[tuple[str, Tensor]]) -> None:
        """A layer's list, dealt out to what is inside of it: what is trained comes first."""
        try:
            wanted = list(slots(config, path))
        except UnknownError:
            return  # what it is made of is not known; it is left out where it is met
        places = [(slot.path, k, slot.names[k], slot.trained[k]) for slot in wanted for k in range(len(slot.names))]
        places.sort(key=lambda place: not place[3])
        if len(places) != len(arrays):
            raise config.bad(f"it has {len(arrays)} arrays in the file, expected {len(places)}: "
                             f"{', '.join(place[2] for place in places) or 'none'}")  # fmt: skip
        for slot in wanted:
            self.found[slot.path] = [arrays[0][1]] * len(slot.names)
        for (place, k, name, _), (stored, array) in zip(places, arrays, strict=True):
            last = re.sub(r"(_\d+)?(:\d+)?$", "", stored.rpartition("/")[2])
            if (word := last.split("_")[-1]) in WORDS and word != name.split("_")[-1]:
                raise config.bad(f"the file has {stored} where its {name} is expected")
            self.found[place][k] = array

    def of(self, config: Config, path: str, names: Sequence[str]) -> list[Tensor]:
        """The arrays at a path, which have these names."""
        found = self.found.get(path, [])
        if len(found) != len(names):
            raise config.bad(f"it has {len(found)} arrays in the file at {path}, expected {len(names)}: "
                             f"{', '.join(names) or 'none'}")  # fmt: skip
        return found

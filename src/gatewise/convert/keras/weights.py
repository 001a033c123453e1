"""A file of weights without an architecture: its recurrent layers by name, or a module that it fits."""

from __future__ import annotations

from torch import nn

from gatewise.convert.keras.files import Contents
from gatewise.convert.report import Conversion


def read_weights(contents: Contents) -> Conversion:
    raise NotImplementedError


def fill(contents: Contents, like: nn.Module) -> Conversion:
    raise NotImplementedError

"""A file of Keras's, or a live layer or model, as a torch module."""

from __future__ import annotations

from typing import Any

from torch import nn

from gatewise.convert.keras.files import contents
from gatewise.convert.keras.model import read_model
from gatewise.convert.keras.weights import fill, read_weights
from gatewise.convert.report import Conversion


def read(source: Any, like: nn.Module | None = None) -> Conversion:
    """A model of Keras's as a torch module, batch first as there; its recurrent layers are gatewise's.

    Args:
        source: a `.keras`, `.h5` or `.weights.h5` file, or a live layer or model.
        like: the module that the file's weights are for; it is filled in, layer by layer in order, and returned.

    Returns:
        The model, as a `torch.fx.GraphModule`; of a file of weights alone, or of a model with parts that are not
        known here, its recurrent layers as `Layers`.

    Raises:
        InputError: the file is damaged or hostile, contradicts itself, or does not fit `like`.
        MissingPackageError: h5py is not installed.
    """
    found = contents(source)
    if like is not None:
        return fill(found, like)
    return read_weights(found) if found.config is None else read_model(found)

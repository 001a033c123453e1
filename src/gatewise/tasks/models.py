"""What every task asks of a model: a layer that fits, and a while in evaluation mode."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

import gatewise


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: dropout is off; afterwards each part of the model trains or not, as before."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def check_layer(model: str, layer: Any, inputs: int, meaning: str, unfit: Sequence[str], why: str) -> None:
    """Check that a layer that a user made fits a task's model.

    Args:
        model: its class, for the message.
        layer: the layer.
        inputs: the `input_size` that the data ask for.
        meaning: what that number is, for the message.
        unfit: what the layer must not be, such as `"batch_first"`.
        why: the reason.

    Raises:
        ValueError: it does not fit; the text says what was expected and what came.
    """
    if not isinstance(getattr(layer, "cell", None), gatewise.Graph):
        raise ValueError(f"{model}: expected a layer of gatewise, such as gatewise.GRU; got {type(layer).__name__}")
    if layer.input_size != inputs:
        raise ValueError(f"{model}: the layer has input_size {layer.input_size}, expected {inputs}{meaning}")
    for name in unfit:
        if getattr(layer, name):
            raise ValueError(f"{model}: the layer has {name}=True, expected False: {why}")

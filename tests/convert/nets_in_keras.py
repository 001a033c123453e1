"""The four nets in Keras, built, trained and saved; no other library is imported, so that any Python can run it.

    python nets_in_keras.py MODULE IN.npz FOLDER

MODULE is `keras`, or `tf_keras`, which is Keras 2. IN has the batches, x (steps, B, T, I) and y (steps, B), and each
net's weights in the order in which Keras takes them, as `CELL/NET/NUMBER`. Of each entry of `RUNS`, FOLDER gets the
trained models, and an .npz: the losses, as `CELL/NET/losses`, the trained weights, named as in IN, and what the trained
net makes of the first batch, as `CELL/NET/output`. The last line printed names the versions.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

H, CLASSES = 4, 3
# All exact in float32, in which Keras keeps the rate and takes the betas' powers: 1 - 0.999 would be off by 5e-5.
# Epsilon is large, so that it shows where it enters.
RATE = 0.125
BETAS = (0.875, 0.96875)
EPSILON = 0.0009765625


class Size(NamedTuple):
    layers: int
    both: bool


NETS = {
    "simple": Size(1, False),
    "bidirectional": Size(1, True),
    "stacked": Size(2, False),
    "stacked bidirectional": Size(2, True),
}
CELLS: dict[str, dict[str, Any]] = {"SimpleRNN": {}, "GRU": {}, "GRU before": {"reset_after": False}, "LSTM": {}}
# One optimiser in each dtype: what is wrong shows in both, and TensorFlow takes seconds to compile a training. Keras
# on torch multiplies matrices in float32 whatever it is told (Keras 3.15), so float64 is TensorFlow's alone.
RUNS = {"SGD": "float32", "Adam": "float64"}
ENDINGS = (".keras", ".h5")


def use(keras: Any, dtype: str) -> None:
    """From here on: the policy is the layers' dtype, floatx that of the losses and their mean."""
    keras.backend.set_floatx(dtype)
    keras.mixed_precision.set_global_policy(dtype)


def build(keras: Any, cell: str, net: str, inputs: int) -> Any:
    """One of the nets: its recurrent layers, and a Dense that reads their last states."""
    size, made = NETS[net], getattr(keras.layers, cell.split()[0])
    layers = [made(H, return_sequences=k < size.layers - 1, **CELLS[cell]) for k in range(size.layers)]
    if size.both:
        layers = [keras.layers.Bidirectional(layer) for layer in layers]
    return keras.Sequential([keras.Input((None, inputs)), *layers, keras.layers.Dense(CLASSES)])


def train(keras: Any, model: Any, optimizer: str, batches: Mapping[str, Any]) -> list[float]:
    """The loss at each batch, before the step that follows from it."""
    options = {"beta_1": BETAS[0], "beta_2": BETAS[1], "epsilon": EPSILON} if optimizer == "Adam" else {}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(getattr(keras.optimizers, optimizer)(RATE, **options), loss)
    return [float(model.train_on_batch(x, y)) for x, y in zip(batches["x"], batches["y"], strict=True)]


def main(module: str, source: str, folder: str) -> None:
    keras = importlib.import_module(module)
    given = np.load(source)
    for optimizer, dtype in RUNS.items():
        use(keras, dtype)
        results: dict[str, Any] = {}
        for cell in CELLS:
            for net in NETS:
                model = build(keras, cell, net, given["x"].shape[-1])
                model.set_weights([given[f"{cell}/{net}/{k}"] for k in range(len(model.weights))])
                batches = {"x": given["x"].astype(dtype), "y": given["y"]}
                results[f"{cell}/{net}/losses"] = train(keras, model, optimizer, batches)
                results |= {f"{cell}/{net}/{k}": value for k, value in enumerate(model.get_weights())}
                results[f"{cell}/{net}/output"] = np.asarray(model(batches["x"][0]))
                for ending in ENDINGS:
                    model.save(Path(folder) / f"{cell} {net} {optimizer}{ending}")
        np.savez(Path(folder) / f"{optimizer}.npz", **results)
    print(f"{module} {keras.__version__} on {keras.backend.backend()}")


if __name__ == "__main__":
    main(*sys.argv[1:])

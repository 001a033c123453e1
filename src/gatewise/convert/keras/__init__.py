"""Keras 2 and 3: files and live layers in, files out.

files.py       a file or live object -> its configuration and arrays; nothing in it is trusted. hdf5.py reads HDF5
config.py      a layer's configuration, read with care
slots.py       which arrays belong to which layer
recurrent.py   SimpleRNN, GRU, LSTM and their relatives -> layers of gatewise's
running.py     what Keras does around a recurrent layer: masks, directions, what is returned
activations.py Keras's activations by name
operations.py  what a model of Keras 3 has beside layers
table.py       all other layers, a row each; modules.py has what torch lacks for them
graph.py       a model's layers and what they are called on, from either version's configuration
model.py       a whole model -> a torch.fx.GraphModule
weights.py     a file of weights alone
reading.py     which of these a source needs
oracle.py      the model as Keras itself runs it
writing.py     files out
conventions.py gate orders and bias counts
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.convert.keras.oracle import runtime
    from gatewise.convert.keras.reading import read
    from gatewise.convert.keras.writing import write

__getattr__, __dir__ = lazy(__name__, {"oracle": ("runtime",), "reading": ("read",), "writing": ("write",)})
__all__ = ["read", "runtime", "write"]

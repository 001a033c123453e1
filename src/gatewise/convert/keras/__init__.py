"""Keras 2 and 3: files and live layers in, files out.

In:
files.py       a file or live object -> its configuration and arrays; nothing in it is trusted
apart.py       HDF5 in a process of its own, which can be stopped; hdf5.py is the program that runs there
config.py      a layer's configuration, read with care
slots.py       which arrays belong to which layer
recurrent.py   SimpleRNN, GRU, LSTM and their relatives -> layers of gatewise's
running.py     what Keras does around a recurrent layer: masks, directions, what is returned
activations.py Keras's activations by name
operations.py  what a model of Keras 3 has beside layers
table.py       all other layers, a row each; modules.py has what torch lacks for them
graph.py       a model's layers and what they are called on, from either version's configuration
model.py       a whole model -> a torch.fx.GraphModule
masks.py       which of the masks in a model are one
weights.py     a file of weights alone
reading.py     which of these a source needs
oracle.py      the model as Keras itself runs it; cleaned.py says what of a configuration Keras is given

Out:
writing.py     a module -> a model and a file of Keras
builder.py     walks the traced module; inputs.py and uses.py tell what has to be known before
rows.py        torch's modules, a row each; functions.py has functions, back.py what came from Keras
recognise.py   which of Keras's layers a cell is

Both:
conventions.py gate orders, bias counts, which values the two activations make
activations.py Keras's activations by name
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.convert.keras.oracle import layer_runtimes, runtime
    from gatewise.convert.keras.reading import read
    from gatewise.convert.keras.writing import to_keras, write

__getattr__, __dir__ = lazy(
    __name__, {"oracle": ("layer_runtimes", "runtime"), "reading": ("read",), "writing": ("to_keras", "write")}
)
__all__ = ["layer_runtimes", "read", "runtime", "to_keras", "write"]

"""Keras 2 and 3: files and live layers in, files out.

writing.py     a module -> a model and a file of Keras: builder.py walks it, rows.py and functions.py are its tables,
               inputs.py and uses.py what has to be known before, recognise.py finds a cell's layer
conventions.py gate orders, bias counts, which values the two activations make
activations.py Keras's activations by name
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.convert.keras.writing import to_keras, write

__getattr__, __dir__ = lazy(__name__, {"writing": ("to_keras", "write")})
__all__ = ["to_keras", "write"]

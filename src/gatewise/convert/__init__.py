"""Weights in and out, exactly or not at all: a folder or file for each foreign convention.

load, save             a file of Keras, ONNX, torch or numpy -> a torch module, and back; the kind is told by the file
file                   from one kind of file to another, and the proof
prove                  the other library's runtime and gatewise on the same random input
layers                 the recurrent layers of a file alone, by name
from_arrays, to_arrays a layer of matrices that are stacked as any toolkit stacks them, and back
stacked, both_directions   layers on top of each other, and side by side, joined into one
d2l, flax              parameter lists and trees that have no file format of their own
"""

from typing import TYPE_CHECKING

from gatewise.lazy import lazy

if TYPE_CHECKING:
    from gatewise.convert import d2l, flax
    from gatewise.convert.arrays import Arrays, both_directions, from_arrays, stacked, to_arrays
    from gatewise.convert.files import file, layers, load, read, save
    from gatewise.convert.proof import prove
    from gatewise.convert.report import Conversion, Layers, Proof

__getattr__, __dir__ = lazy(
    __name__,
    {
        "arrays": ("Arrays", "both_directions", "from_arrays", "stacked", "to_arrays"),
        "files": ("file", "layers", "load", "read", "save"),
        "proof": ("prove",),
        "report": ("Conversion", "Layers", "Proof"),
    },
    whole=("d2l", "flax"),
)
__all__ = [
    "Arrays", "Conversion", "Layers", "Proof", "both_directions", "d2l", "file", "flax", "from_arrays", "layers",
    "load", "prove", "read", "save", "stacked", "to_arrays",
]  # fmt: skip

"""ONNX: models in, models out.

read, write, runtime   as `gatewise.convert.files` calls them
export                 what torch.onnx.export calls in a layer; needs torch alone
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatewise.errors import require

if TYPE_CHECKING:
    from torch import nn

    from gatewise.convert.report import Conversion, Runtime


def read(source: str | os.PathLike[str], like: nn.Module | None = None) -> Conversion:
    """An ONNX model as a torch module; see `gatewise.convert.onnx.reader.read`."""
    require("onnx", extra="onnx")
    from gatewise.convert.onnx import reader

    return reader.read(source, like)


def write(module: nn.Module, path: str | os.PathLike[str], **options: Any) -> Conversion:
    """A torch module as an ONNX file; see `gatewise.convert.onnx.writer.write`."""
    require("onnx", "onnxscript", extra="onnx")
    from gatewise.convert.onnx import writer

    return writer.write(module, Path(path), **options)


def runtime(source: str | os.PathLike[str]) -> Runtime:
    """onnxruntime with an ONNX model; see `gatewise.convert.onnx.runner.runtime`."""
    require("onnx", "onnxruntime", extra="onnx")
    from gatewise.convert.onnx import runner

    return runner.runtime(source)

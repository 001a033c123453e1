"""An ONNX model, run by onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.convert.onnx import files
from gatewise.convert.report import Runtime
from gatewise.errors import InputError, one_line


def runtime(source: str | os.PathLike[str]) -> Runtime:
    """onnxruntime with a model, on the CPU; its outputs in the model's order.

    Raises:
        InputError: as `read`; or onnxruntime can't run the model. MissingPackageError: there is no onnxruntime.
    """
    import onnxruntime

    path = Path(source)
    model = files.load(path)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # faults are raised
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its faults have no class of their own
        raise InputError(f"{path}: onnxruntime can't run it: {one_line(error)}") from None
    specs = files.inputs_of(model, path)

    def run(inputs: Sequence[Any]) -> Sequence[Any]:
        return list(session.run(None, {s.name: np.asarray(x) for s, x in zip(specs, inputs, strict=True)}))

    return Runtime(f"onnxruntime {onnxruntime.__version__}", specs, run)

"""Files in the `.ts` form of the time series archive (timeseriesclassification.com).

Behind `@data` each line is a sequence: its features, separated by colons, each with its values in the order of time,
separated by commas; and last the label.
"""

from pathlib import Path

import torch

from gatewise.errors import InputError
from gatewise.tasks.classify.sequences import Sequences


def read(path: Path) -> Sequences:
    """The sequences of a file.

    Raises:
        InputError: the file is damaged, has no labels, or has time stamps.
    """
    x, y = [], []
    in_data, labelled = False, False
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        words = line.lower().split()
        if not in_data:
            if words[:2] == ["@timestamps", "true"]:
                raise InputError(f"{path} has time stamps, expected values at even steps: give it as CSV in long form")
            labelled = labelled or words[:2] == ["@classlabel", "true"]
            in_data = words == ["@data"]
        elif words:
            *features, label = line.strip().split(":")
            try:
                values = [[float("nan" if v.strip() == "?" else v) for v in feature.split(",")] for feature in features]
                x.append(torch.tensor(values, dtype=torch.float64).T)
            except ValueError as error:  # no number, or features of unequal lengths
                raise InputError(f"{path}, line {number} is damaged ({error}): restore the file") from error
            y.append(label)
    if not labelled or not x:
        raise InputError(f"{path} holds no labelled sequences (@classLabel true … @data …): give another file")
    return Sequences(x, y)

"""The explorer's page: what was recorded, as plain data, in; one HTML file that needs no network, out.

The page's own code is in explorer.html, explorer.css and explorer*.js beside this file. The drawing is Bokeh's, whose
script is put into the page whole.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
from bokeh.resources import Resources
from scipy.cluster.hierarchy import leaves_list, linkage

Array = npt.NDArray[Any]

MISSING = -32768  # stands for a number that is not finite
SCRIPTS = ("-data.js", "-parts.js", "-plots.js", "-side.js", ".js")
SHOWN = 10  # the likeliest characters of each step that the page holds


@dataclass(frozen=True)
class Quantity:
    """A named value of a layer, to be drawn as a map of units and steps.

    Args:
        key: which of the track's values it is. name: such as "z". title: what people call it, or "".
        kind: "gate" from 0 to 1, "signed" around 0, "positive" from 0.
        about: a sentence that says what it does.
        opens, shuts: what it multiplies, and what 1 minus it does: what the unit gets where it is 1, where 0.
        shown: whether its map is open at first.
    """

    key: str
    name: str
    title: str = ""
    kind: str = "signed"
    about: str = ""
    opens: str = ""
    shuts: str = ""
    shown: bool = True


@dataclass(frozen=True)
class Prediction:
    """What a model expects next at each step: probabilities (T, V) of the V tokens of its vocabulary."""

    probabilities: Array
    vocabulary: Sequence[str]


@dataclass(frozen=True)
class Track:
    """One recorded layer.

    Args:
        title: which one it is, for a person who compares several.
        cell: its cell's name.
        quantities: what has a map, the output state last.
        values: (T, H) by key: of every quantity, and of all else that the lines refer to.
        lines: the equations, each a list of parts: literal text, or a place of a number: its symbol, its key in
            `values`, and whether a negative number needs brackets there.
        prediction: of the model, where it makes one.
        constants: (H,) by name: facts of a unit, such as its time constant, by which units can be sorted.
    """

    title: str
    cell: str
    quantities: Sequence[Quantity]
    values: Mapping[str, Array]
    lines: Sequence[Sequence[str | tuple[str, str, bool]]] = ()
    prediction: Prediction | None = None
    constants: Mapping[str, Array] = field(default_factory=dict)


def page(tokens: Sequence[str], tracks: Sequence[Track], title: str, text: bool = True) -> str:
    """The page as one HTML document.

    Numbers are held in 16 bits, rounded to the digits that the page shows: four decimals up to 3.2766 in size
    (all gates), three up to 32.766, and so on, one scale for each named value.

    Args:
        tokens: the T characters (or words, or labels of steps) that were read.
        tracks: the recorded layers, all of T steps. title: the page's.
        text: whether the tokens are a text, in which one can search.
    """
    data: dict[str, Any] = {"tokens": list(tokens), "text": text, "tracks": [], "predictions": []}
    predictions: list[Prediction] = []
    for track in tracks:
        if track.prediction is not None and not any(track.prediction is p for p in predictions):
            predictions.append(track.prediction)
            data["predictions"].append(_predicted(track.prediction, tokens))
        data["tracks"].append(_packed(track, predictions))
    # Within a script, "<" could begin "</script>" or a comment.
    packed = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    here = files("gatewise.inspect")
    read = {name: (here / f"explorer{name}").read_text(encoding="utf-8") for name in (".html", ".css", *SCRIPTS)}
    fill = {
        "TITLE": html.escape(title), "DATA": packed, "STYLE": read[".css"], "BOKEH": _bokeh(),
        "SCRIPT": "\n".join(read[name] for name in SCRIPTS),
    }  # fmt: skip
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda match: fill[match[1]], read[".html"])


def _bokeh() -> str:
    """Bokeh's script. An end of a script tag in one of its strings is written so that it doesn't end the page's."""
    scripts = Resources(mode="inline", components=["bokeh", "bokeh-api"], log_level="warn").js_raw
    return re.sub(r"//# sourceMappingURL=.*", "", "\n".join(scripts)).replace("</script", "<\\/script")


def _packed(track: Track, predictions: Sequence[Prediction]) -> dict[str, Any]:
    similar = similarity_order(track.values[track.quantities[-1].key])
    return {
        "title": track.title,
        "cell": track.cell,
        "quantities": [vars(quantity) for quantity in track.quantities],
        "values": pack(track.values),
        "lines": track.lines,
        "prediction": next((i for i, p in enumerate(predictions) if p is track.prediction), None),
        "similar": similar.tolist(),
        "constants": {name: [_number(v) for v in values] for name, values in track.constants.items()},
    }


def _number(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None


def pack(values: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """(T, H) numbers, by key, as decimal fractions in 16 bits.

    Returns:
        By key: `decimals` d and, in base64 of little-endian int16, `data`, rows of the numbers times 10^d, rounded.
        Rows that repeat, as those of x do, are stored once; then `rows` tells the row of each step, else it is None.
        What another key `of` has one step earlier (`shift` 1) or later (-1), as old states are, is not stored again:
        `data` is the one row that the other does not have.
    """
    packed: dict[str, dict[str, Any]] = {}
    whole: dict[str, tuple[int, Array]] = {}
    # From the last: new states come after old ones in a graph, and it is the old ones that are left out.
    for key in reversed(list(values)):
        decimals, rows = whole[key] = rounded(values[key])
        other, shift = _shifted(rows, decimals, whole, packed)
        if other:
            packed[key] = {
                "decimals": decimals,
                "of": other,
                "shift": shift,
                "data": _base64(rows[0 if shift > 0 else -1]),
            }
            continue
        distinct, order = np.unique(rows, axis=0, return_inverse=True)
        if len(distinct) <= len(rows) // 2:
            packed[key] = {
                "decimals": decimals,
                "data": _base64(distinct),
                "rows": _base64(order.reshape(-1).astype("<i2")),
            }
        else:
            packed[key] = {"decimals": decimals, "data": _base64(rows), "rows": None}
    return packed


def rounded(values: Array) -> tuple[int, Array]:
    """How many decimals (at most 4) fit in 16 bits, and the numbers times 10^decimals, rounded; NaN is MISSING."""
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    largest = np.abs(values[finite]).max(initial=1e-300)
    decimals = min(4, int(np.floor(np.log10(32766.0 / largest))))
    return decimals, np.where(finite, np.rint(np.where(finite, values, 0.0) * 10.0**decimals), MISSING).astype("<i2")


def _shifted(
    rows: Array, decimals: int, whole: Mapping[str, tuple[int, Array]], packed: Mapping[str, Any]
) -> tuple[str, int]:
    """Which other values these are, one step later or earlier; or "" and 0."""
    for key, already in packed.items():
        d, others = whole[key]
        if d == decimals and others.shape == rows.shape and len(rows) > 1 and already.get("rows", "") is None:
            if np.array_equal(rows[1:], others[:-1]):
                return key, 1
            if np.array_equal(rows[:-1], others[1:]):
                return key, -1
    return "", 0


def _base64(array: Array) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _predicted(prediction: Prediction, tokens: Sequence[str]) -> dict[str, Any]:
    """The likeliest tokens of each step, and how likely the one was that came: its share and its rank from 1."""
    p = np.asarray(prediction.probabilities, dtype=np.float64)
    best = np.argsort(-p, axis=1, kind="stable")[:, :SHOWN]
    ids = {token: i for i, token in enumerate(prediction.vocabulary)}
    came = [ids.get(token) for token in tokens[1:]]
    next_p = [None if i is None else _number(row[i]) for i, row in zip(came, p, strict=False)]
    ranks = [None if i is None else int((row > row[i]).sum()) + 1 for i, row in zip(came, p, strict=False)]
    return {
        "best": [[prediction.vocabulary[i] for i in row] for row in best],
        "p": [[_number(v) for v in row] for row in np.take_along_axis(p, best, axis=1)],
        "next_p": [*next_p, None],
        "next_rank": [*ranks, None],
    }


def similarity_order(values: Array) -> Array:
    """Units in an order in which neighbours behave alike: (H,) unit numbers.

    The leaves of a tree of clusters, by the correlation over time (average linkage), turned so that neighbours are as
    alike as can be (Bar-Joseph, Gifford and Jaakkola, Bioinformatics 17, 2001).

    Args:
        values: (T, H) one value of each unit at each step.
    """
    values = np.nan_to_num(np.asarray(values, dtype=np.float64))
    count = values.shape[1]
    if count < 3:
        return np.arange(count)
    centred = values - values.mean(0)
    norm = np.linalg.norm(centred, axis=0)
    unit = centred / np.where(norm > 0, norm, 1)
    distances = np.maximum(1 - unit.T @ unit, 0)
    return np.asarray(leaves_list(linkage(distances[np.triu_indices(count, 1)], "average", optimal_ordering=True)))

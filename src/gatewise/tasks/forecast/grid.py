"""Times as step numbers: which step a series has, and the first row that breaks it."""

import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatewise.errors import InputError, choose
from gatewise.tasks.table import place

# By the length of a step: what it is called, and after how many steps the pattern usually comes again.
_MONTHS = {
    1: ("monthly", 12),
    2: ("every 2 months", 6),
    3: ("quarterly", 4),
    6: ("every 6 months", 2),
    12: ("yearly", 1),
}
_SECONDS: dict[float, tuple[str, int]] = {
    60: ("every minute", 60),
    600: ("every 10 minutes", 144),
    900: ("every 15 minutes", 96),
    1800: ("every 30 minutes", 48),
    3600: ("hourly", 24),
    86_400: ("daily", 7),
    604_800: ("weekly", 52),
}
_AMBIGUOUS = re.compile(r"\s*\d{1,2}[./-]\d{1,2}[./-]\d{2,4}")  # the day or the month first: nobody can tell
_UNITS = {"seconds": 1_000_000, "microseconds": 1}  # in microseconds


@dataclass(frozen=True)
class Grid:
    """Evenly spaced times: time number k is `anchor` plus k steps.

    Args:
        kind: `"steps"` (whole numbers), `"months"`, `"month ends"`, `"seconds"`, or `"microseconds"`.
        step: the length of a step, in that unit.
        anchor: the time number 0: a whole number, or ISO 8601.
    """

    kind: str
    step: int
    anchor: str

    def __post_init__(self) -> None:  # for a grid that is read from a file
        choose("kind", self.kind, ("steps", "months", "month ends", *_UNITS))
        if type(self.step) is not int or self.step < 1:
            raise InputError(f"step must be a whole number above 0; got {self.step!r}")
        int(self.anchor) if self.kind == "steps" else pd.Timestamp(self.anchor)

    @classmethod
    def of(cls, times: "pd.Series[Any]", earlier: np.ndarray, later: np.ndarray) -> "Grid":
        """The grid on which most neighbouring times lie.

        Args:
            times: whole numbers or timestamps.
            earlier, later: rows of `times` that follow each other in one series.
        """
        if pd.api.types.is_integer_dtype(times):
            values = times.to_numpy()
            return cls("steps", _commonest(values[later] - values[earlier]), str(values[0]))
        stamps = pd.DatetimeIndex(times)
        anchor = stamps[0].isoformat()
        midnight = bool((stamps == stamps.normalize()).all())
        ends = bool(stamps.is_month_end.all())
        if midnight and (ends or stamps.day.nunique() == 1):
            months = (stamps.year * 12 + stamps.month).to_numpy()
            step = _commonest(months[later] - months[earlier])
            return cls("month ends" if ends else "months", step, anchor)
        ticks = _ticks(stamps)
        gap = _commonest(ticks[later] - ticks[earlier])
        whole = (ticks % 1_000_000 == 0).all()
        return cls("seconds", gap // 1_000_000, anchor) if whole else cls("microseconds", gap, anchor)

    def numbers(self, times: "pd.Series[Any]") -> np.ndarray:
        """The number of each time, (N,); it has a fraction where the time lies between two steps."""
        if self.kind == "steps":
            return np.asarray((times.to_numpy() - int(self.anchor)) / self.step)
        stamps, anchor = pd.DatetimeIndex(times), pd.Timestamp(self.anchor)
        if self.kind in _UNITS:
            return np.asarray((_ticks(stamps) - _ticks(pd.DatetimeIndex([anchor]))[0]) / self._ticks)
        months = (stamps.year * 12 + stamps.month).to_numpy() - (anchor.year * 12 + anchor.month)
        aligned = np.asarray(stamps.is_month_end if self.kind == "month ends" else stamps.day == anchor.day)
        return np.where(aligned, months / self.step, np.nan)

    def times(self, numbers: np.ndarray) -> pd.Index:
        """The times of step numbers, as whole numbers or timestamps."""
        if self.kind == "steps":
            return pd.Index(int(self.anchor) + numbers * self.step)
        anchor = pd.Timestamp(self.anchor)
        if self.kind in _UNITS:
            return pd.DatetimeIndex(anchor + pd.to_timedelta(numbers * self._ticks, unit="us"))
        first = pd.DatetimeIndex([anchor + pd.DateOffset(months=int(k) * self.step) for k in numbers])
        return first + pd.offsets.MonthEnd(0) if self.kind == "month ends" else first

    @property
    def name(self) -> str:
        """How often the data come, in words."""
        if self.kind == "steps":
            return "in steps of 1" if self.step == 1 else f"in steps of {self.step}"
        if self.kind in _UNITS:
            seconds = self._ticks / 1_000_000
            words = f"every {seconds:g} seconds" if seconds % 86_400 else f"every {seconds / 86_400:g} days"
            return _SECONDS.get(seconds, (words, 1))[0]
        return _MONTHS.get(self.step, (f"every {self.step} months", 1))[0]

    @property
    def season(self) -> int:
        """After how many steps the pattern usually comes again: a year of months, a week of days, a day of hours."""
        if self.kind == "steps":
            return 1
        usual = _SECONDS.get(self._ticks / 1_000_000) if self.kind in _UNITS else _MONTHS.get(self.step)
        return usual[1] if usual else 1

    @property
    def _ticks(self) -> int:
        return self.step * _UNITS[self.kind]

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain values, for JSON."""
        return asdict(self)


def parse(column: "pd.Series[Any]", what: Path) -> "pd.Series[Any]":
    """A column of times, as whole numbers or timestamps without a zone (UTC where the file gives zones).

    Raises:
        InputError: a row is empty, no time, or a date whose month may be its day; the text names it.
    """
    if pd.api.types.is_numeric_dtype(column):
        found = column.to_numpy(np.float64, na_value=np.nan)
        bad = ~(np.isfinite(found) & (found == np.floor(found)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"{place(what, row)}: expected a whole number or a date, got {column.iloc[row]}")
        return column.astype("int64")
    for row, value in enumerate(column):
        if isinstance(value, str) and _AMBIGUOUS.match(value):
            raise InputError(
                f"{place(what, row)}: {value!r} may have its day or its month first: write dates as 2015-01-31"
            )
    stamps = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    if stamps.isna().all():  # another way to write dates; the first row shows which
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that do not follow it: they are named below
            stamps = pd.to_datetime(column, errors="coerce", utc=True)
    stamps = stamps.dt.tz_localize(None)
    if stamps.isna().any():
        row = int(np.flatnonzero(stamps.isna())[0])
        raise InputError(
            f"{place(what, row)}: expected a date such as 2024-01-31 or 2024-01-31 13:00, got {str(column.iloc[row])!r}"
        )
    return stamps


def shown(time: Any) -> str:
    """A time as it is written in tables and messages: no clock where it is midnight."""
    if isinstance(time, pd.Timestamp):
        return str(time.date()) if time == time.normalize() else time.isoformat(sep=" ")
    return str(time)


def _commonest(gaps: np.ndarray) -> int:
    forward = gaps[gaps > 0]
    if not len(forward):
        return 1
    values, counts = np.unique(forward, return_counts=True)
    return int(values[counts.argmax()])


def _ticks(stamps: pd.DatetimeIndex) -> np.ndarray:
    """Microseconds since 1970."""
    whole = stamps.as_unit("us")
    if (whole != stamps).any():
        raise InputError("times finer than a microsecond are not known: round them, or leave --time and its column out")
    return np.asarray(whole.astype("int64"))

"""A layer's configuration in a file of Keras's, read with care: a stranger wrote it."""

from __future__ import annotations

from typing import Any

from gatewise.errors import InputError

LARGEST = 1 << 24  # of a setting: a window or padding beyond would fill the memory, and no layer has as many units


class UnknownError(Exception):
    """A layer, or a setting of one, for which there is nothing here; the text says what and why."""


class Config:
    """One layer's name, class and settings.

    Args:
        data: {"class_name", "config"} as Keras writes it. where: the file, for errors.

    Raises: InputError: it is something else.
    """

    def __init__(self, data: Any, where: str) -> None:
        self.where = where
        if not isinstance(data, dict) or not isinstance(data.get("class_name"), str):
            raise InputError(f"{where}: its configuration has {_short(data)} in place of a layer")
        self.data = data
        self.kind: str = data["class_name"]
        settings = data.get("config", {})
        if isinstance(settings, list) and self.kind == "Sequential":  # before Keras 2.2.3
            settings = {"layers": settings}
        if not isinstance(settings, dict):
            raise InputError(f"{where}: the settings of a {self.kind} are {_short(settings)}, expected an object")
        self.settings = settings
        registered = data.get("registered_name")
        module = str(data.get("module") or "keras.layers") + "."
        # A class that its author registered carries a package in its name: it is not Keras's, whatever it is called.
        self.foreign = (isinstance(registered, str) and ">" in registered) or not module.startswith(
            ("keras.", "tf_keras.", "tensorflow.", "builtins")
        )
        name = settings.get("name", data.get("name", self.kind.lower()))
        if not isinstance(name, str):
            raise InputError(f"{where}: a {self.kind} is called {_short(name)}, expected a string")
        self.name = name

    def __str__(self) -> str:
        return " ".join(f"{self.name[:100]} ({self.kind[:100]})".split())

    def bad(self, what: str) -> InputError:
        return InputError(f"{self.where}: {self}: {what}")

    def _get(self, key: str, default: Any, kinds: tuple[type, ...], expected: str) -> Any:
        if key not in self.settings:
            if default is ...:
                raise self.bad(f"its configuration has no {key}")
            return default
        value = self.settings[key]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.bad(f"{key} is {_short(value)}, expected {expected}")
        return value

    def number(self, key: str, default: Any = ..., least: int = 1) -> int:
        value = self._get(key, default, (int, float), "a whole number")
        if not least <= value <= LARGEST or value != int(value):
            raise self.bad(f"{key} is {_short(value)}, expected a whole number from {least} to {LARGEST}")
        return int(value)

    def real(self, key: str, default: Any = ...) -> float:
        value = self._get(key, default, (int, float, dict), "a number")
        if isinstance(value, dict):  # Keras 2 writes numpy's numbers so
            value = value.get("value")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self.bad(f"{key} is {_short(value)}, expected a number")
        return self._float(key, value)

    def _float(self, key: str, value: float) -> float:
        try:
            return float(value)
        except OverflowError:
            raise self.bad(f"{key} is {_short(value)}, expected a number that is not as large") from None

    def reals(self, key: str, default: Any = ...) -> float | list[float]:
        """A number, or a list of such."""
        value = self.settings.get(key, default)
        if isinstance(value, dict) and value.get("class_name") == "__numpy__" and isinstance(value.get("config"), dict):
            value = value["config"].get("value")  # as Keras 3 writes numpy's arrays
        if isinstance(value, list):
            if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value):
                raise self.bad(f"{key} is {_short(value)}, expected numbers")
            return [self._float(key, v) for v in value]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return self._float(key, value)
        raise self.bad(f"{key} is {_short(value)}, expected a number, or numbers")

    def flag(self, key: str, default: Any = ...) -> bool:
        return bool(self._get(key, default, (bool, type(None)), "true or false"))

    def word(self, key: str, default: Any = ...) -> str:
        value = self._get(key, default, (str,), "a word")
        assert isinstance(value, str)
        return value

    def numbers(self, key: str, default: Any = ..., count: int | None = None) -> list[int]:
        """Whole numbers; one number stands for `count` of them."""
        value = self._get(key, default, (int, list), "whole numbers")
        value = [value] * (count or 1) if isinstance(value, int) else value
        if not all(isinstance(v, int) and not isinstance(v, bool) for v in value) or len(value) != (
            count or len(value)
        ):
            raise self.bad(f"{key} is {_short(value)}, expected {count or ''} whole numbers")
        if any(abs(v) > LARGEST for v in value):
            raise self.bad(f"{key} is {_short(value)}, expected whole numbers up to {LARGEST}")
        return list(value)

    def activation(self, key: str, default: Any = ...) -> str:
        """The name of an activation; None means linear.

        Raises: InputError: it is none of Keras's functions.
        """
        value = self._get(key, default, (str, dict, type(None)), "the name of an activation")
        if isinstance(value, dict):
            named = value.get("config") if value.get("class_name") == "function" else None
            if not isinstance(named, str) or ">" in str(value.get("registered_name")):
                raise self.bad(f"{key} is {_short(value)}, expected the name of one of Keras's functions")
            value = named
        return "linear" if value is None else str(value)

    def inner(self, key: str) -> Config:
        """A layer inside of this one."""
        return Config(self.settings.get(key), self.where)

    def several(self, key: str) -> list[Config]:
        """Layers inside of this one."""
        value = self._get(key, ..., (list,), "a list of layers")
        return [Config(v, self.where) for v in value]

    def copy(self, **changes: Any) -> Config:
        """The same, with other settings."""
        return Config({**self.data, "config": {**self.settings, **changes}}, self.where)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"

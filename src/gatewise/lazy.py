"""Public names that are imported at their first use: torch and Lightning take seconds, a settings module none."""

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from gatewise.errors import require


def lazy(
    package: str,
    home: Mapping[str, Sequence[str]],
    needs: Mapping[str, Sequence[str]] | None = None,
    whole: Sequence[str] = (),
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's `__getattr__` and `__dir__` (PEP 562).

    Args:
        package: its `__name__`.
        home: by module of the package, the public names that live there.
        needs: by module, the optional packages that it imports.
        whole: modules that are public names themselves.
    """
    modules = {name: module for module, names in home.items() for name in names}
    # Once imported, a module is an attribute of its package, and would hide a function of the same name.
    assert not modules.keys() & home.keys(), modules.keys() & home.keys()

    def get(name: str) -> Any:
        if name in whole:
            return import_module(f"{package}.{name}")
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        require(*(needs or {}).get(modules[name], ()))
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *whole})

    return get, names

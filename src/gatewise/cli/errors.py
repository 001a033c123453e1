"""Errors of the command line: one line each, and an exit status that scripts can read."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gatewise.errors import InputError, MissingPackageError


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within: what the user can mend is told in one line, with exit code 2; a stop ends with 130, as in a shell."""
    try:
        try:
            yield
        except (InputError, MissingPackageError, OSError):
            raise
        except ValueError as error:
            from gatewise import CellError

            if not isinstance(error, CellError):
                raise
            raise InputError(str(error)) from error
        except (MemoryError, RuntimeError) as error:
            # torch's allocators raise RuntimeError, and a subclass of it on a GPU; only the text tells.
            if not isinstance(error, MemoryError) and not re.search(
                "allocate memory|out of memory|[Ss]torage size", str(error)
            ):
                raise
            raise InputError(
                "not enough memory: lower --hidden, --layers or --batch (or --steps, --window, --beam)"
            ) from error
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (InputError, MissingPackageError) as error:
        _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\ngatewise: {str(stop) or 'stopped'}", file=sys.stderr)
        raise typer.Exit(130) from None


def _fail(line: str) -> None:
    print(f"gatewise: {line}", file=sys.stderr)
    raise typer.Exit(2) from None

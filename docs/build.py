"""Make the pages that show results: run the Python of a page, block by block, and write what each prints under it.

    .venv/bin/python docs/build.py docs/gru-from-the-inside.md

The pictures and runs that a page makes go to its folder. `make docs` does this for all of them; the tests do it for
short forms of the same code, elsewhere.
"""

import contextlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?P<printed>\n```text\n.*?```\n)?", re.DOTALL)


def build(page: Path, folder: Path, shorter: Mapping[str, str] | None = None) -> str:
    """The page with what its code prints now.

    Args:
        page: a Markdown file. folder: where its code runs, and so where pictures and runs go.
        shorter: what stands for what in the code, in a short form of it.
    """
    import matplotlib

    matplotlib.use("agg")
    folder = folder.resolve()
    (folder / "images").mkdir(exist_ok=True)
    scope: dict[str, object] = {"__name__": "__main__"}

    def run(block: re.Match[str]) -> str:
        code = block["code"]
        for long, short in (shorter or {}).items():
            code = code.replace(long, short)
        # From a file, as a user's would be: a cell's source is looked up.
        line = source[: block.start("code")].count("\n")
        file = folder / f".{page.stem}-{line}.py"
        file.write_text(code, encoding="utf-8")
        try:
            with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
                exec(compile(code, str(file), "exec"), scope)
        finally:
            file.unlink()
        made = printed.getvalue().rstrip()
        return f"```python\n{block['code']}```\n" + (f"\n```text\n{made}\n```\n" if made else "")

    source = page.read_text(encoding="utf-8")
    with contextlib.chdir(folder):
        return BLOCK.sub(run, source)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        made = build(Path(argument), Path(argument).parent)
        Path(argument).write_text(made, encoding="utf-8")
        print(f"{argument}: {len(BLOCK.findall(made))} blocks ran")

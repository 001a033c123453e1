"""The pages: their Python runs, their output is what is printed, and what they link to is there."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "docs"))
build = importlib.import_module("build").build
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BUILT = ["gru-from-the-inside.md"]  # by `make docs`, which writes what their code prints
ALONE = ["textbook.md"]  # whose blocks run one by one: tests/textbook/test_textbook_page.py
# Short forms of what takes minutes.
SHORTER = {
    'text.read("python-docs")': 'text.read("python-docs")[:20000]',
    "minutes=2": "epochs=1",
    'recipe="d2l"': 'recipe="d2l", data="python-docs", epochs=1',
    '"it will"': '" the "',
}


def code_of(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readmes_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # the run's folder goes there
    blocks = code_of(ROOT / "README.md", "python")
    assert len(blocks) == 3
    scope: dict[str, object] = {}
    for number, block in enumerate(blocks):
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        # From a file, as a user's would be: a cell's errors quote its lines.
        file = tmp_path / f"block_{number}.py"
        file.write_text(block, encoding="utf-8")
        exec(compile(block, str(file), "exec"), scope)
        if number < 2:
            assert capsys.readouterr().out.strip() in (ROOT / "README.md").read_text(encoding="utf-8")
    assert (tmp_path / "runs" / "text-1" / "curves.png").exists()


def test_the_other_pages_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for page in PAGES:
        scope: dict[str, object] = {}
        for block in code_of(page, "python") if page.parent == ROOT / "docs" and page.name not in BUILT + ALONE else []:
            exec(compile(block, str(page), "exec"), scope)
            ran += 1
            for line in capsys.readouterr().out.splitlines():
                assert line in block  # a comment shows what is printed
    assert ran


@pytest.mark.parametrize("page", BUILT)
def test_the_built_pages_code_runs_in_a_short_form(page: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "docs" / page, tmp_path)
    made = build(tmp_path / page, tmp_path, SHORTER)
    shown = re.findall(r"\]\((images/[^)]+)\)", made)
    assert shown
    assert sorted(shown) == sorted(f"images/{file.name}" for file in (tmp_path / "images").iterdir())
    blocks = re.compile(r"```.*?```", re.DOTALL)
    # The words stay, and so does the code; what it prints is another network's.
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert code_of(tmp_path / page, "python") == code_of(ROOT / "docs" / page, "python")
    assert len(blocks.findall(made)) == len(blocks.findall(written))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    words = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", words):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.search(r"@@|TODO|FIXME|XXX", page.read_text(encoding="utf-8"))

"""The scripts under docs/examples: each runs without a warning, writes nothing, and prints what the index says."""

import ast
import re
from pathlib import Path

import pytest
from conftest import run_python

from cymlp import _engine

FOLDER = Path(__file__).parent.parent / "docs" / "examples"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))

# Script -> what stands about it in the index: a heading that links to it, text, and what it prints.
INDEX = {
    name: {"text": text.strip(), "output": output}
    for name, text, output in re.findall(
        r"^## \[\S+\]\((\S+)\)\n(.*?)^```text\n(.*?)^```",
        (FOLDER / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
}


def _printed(name):
    return run_python((FOLDER / name).read_text(encoding="utf-8"), PYTHONWARNINGS="error")


def test_the_index_has_every_script():
    assert SCRIPTS
    assert sorted(INDEX) == SCRIPTS
    assert all(entry["text"] for entry in INDEX.values())


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_print_what_the_index_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert _printed(name) == INDEX[name]["output"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("isa", _engine.available_isas())
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_print_the_same_with_every_instruction_set(name, isa, monkeypatch):
    """As on machines that have no other."""
    monkeypatch.setenv("CYMLP_ISA", isa)
    assert _printed(name) == INDEX[name]["output"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_say_what_they_show(name):
    source = (FOLDER / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 80
    assert ast.get_docstring(ast.parse(source))
    assert re.search(r"^ *(?:assert |np\.testing\.assert_)", source, re.MULTILINE), "what a script claims, it checks"

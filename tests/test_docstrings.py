"""What is public is documented: docstrings, parameters and defaults, examples that run."""

import ast
import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest
from conftest import run_examples
from test_structure import IMPORTS

import cymlp

ROOT = Path(__file__).parent.parent


def _is_function(member):
    return inspect.isfunction(member) or inspect.ismethod(member)


def _members(owner, path):
    """(path, object) of everything public below a module or class."""
    names = owner.__all__ if inspect.ismodule(owner) else [name for name in dir(owner) if not name.startswith("_")]
    for name in names:
        member = getattr(owner, name)
        if _is_function(member) or inspect.isclass(member) or inspect.ismodule(member) or isinstance(member, property):
            yield f"{path}.{name}", member
        ours = getattr(member, "__module__", member.__name__ if inspect.ismodule(member) else "") or ""
        if (inspect.isclass(member) or inspect.ismodule(member)) and ours.startswith("cymlp"):
            yield from _members(member, f"{path}.{name}")


def _is_ours(member):
    return (getattr(member, "__module__", None) or "cymlp").startswith("cymlp")


PUBLIC = {path: member for path, member in _members(cymlp, "cymlp") if _is_ours(member)}
# Exceptions are for catching: who raises one reads its class.
CALLABLE = {
    path: member
    for path, member in PUBLIC.items()
    if _is_function(member) or (inspect.isclass(member) and not issubclass(member, BaseException))
}


def _documented_parameters(docstring):
    """The entries of numpydoc's section of parameters: [(names, what is said about their type)]."""
    parts = re.split(r"^([A-Z]\w+)\n-{3,}$", docstring, flags=re.MULTILINE)
    section = dict(zip(parts[1::2], parts[2::2], strict=True)).get("Parameters", "")
    lines = [line.partition(" : ") for line in section.splitlines() if line and not line.startswith(" ")]
    return [([name.strip().lstrip("*") for name in names.split(",")], kind) for names, _, kind in lines]


@pytest.mark.parametrize("path", PUBLIC)
def test_everything_public_has_a_docstring(path):
    assert (inspect.getdoc(PUBLIC[path]) or "").strip()


@pytest.mark.parametrize("path", CALLABLE)
def test_every_parameter_is_documented(path):
    """In the docstring; or, for what a module has many of with the same parameters, in the module's."""
    member = CALLABLE[path]
    parameters = [name for name in inspect.signature(member).parameters if name not in ("self", "cls")]
    text = f"{inspect.getdoc(member)}\n{inspect.getdoc(inspect.getmodule(member))}"
    assert [name for name in parameters if not re.search(rf"\b{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize("path", CALLABLE)
def test_documented_parameters_and_defaults_are_those_of_the_signature(path):
    signature = inspect.signature(CALLABLE[path]).parameters
    for names, kind in _documented_parameters(inspect.getdoc(CALLABLE[path]) or ""):
        assert set(names) <= set(signature), names
        default = re.search(r", default (.+)$", kind)
        if default:
            assert [signature[name].default for name in names] == [ast.literal_eval(default[1])] * len(names)
        if kind.endswith(", optional"):
            assert [signature[name].default for name in names] == [None] * len(names)


@pytest.mark.parametrize("name", sorted(set(IMPORTS) - {"__main__", "commands"}))
def test_examples_in_docstrings_are_right(name):
    """Of every module; those of commands are pages of help for a terminal."""
    module = importlib.import_module("cymlp" if name == "cymlp" else f"cymlp.{name}")
    assert doctest.testmod(module, verbose=False).failed == 0


def test_examples_in_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_examples(ROOT / "README.md")

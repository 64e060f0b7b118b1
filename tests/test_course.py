"""docs/course: every page runs, says the numbers that its code has, and draws the pictures that stand beside it."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from cymlp import _engine

FOLDER = Path(__file__).parent.parent / "docs" / "course"
COURSE = runpy.run_path(str(FOLDER / "run.py"))
PAGES = {page.name: page for page in COURSE["PAGES"]}
PICTURES = sorted(path.name for path in (FOLDER / "images").glob("*"))
PICTURE_LIMIT = 60_000  # bytes
# Levels of 255 that pixels may differ on average: instruction sets make it 0.01, one line elsewhere 0.9.
PICTURE_TOLERANCE = 0.2


def _text(name):
    return PAGES[name].read_text(encoding="utf-8")


def _pictures_of(name):
    """The pictures that a page shows, by their names."""
    shown = re.findall(r"!\[([^]]+)\]\(images/([^)]+)\)", _text(name))
    assert all(len(said) > 20 for said, _ in shown)  # for those who do not see them
    return [picture for _, picture in shown]


def _pixels(path):
    """A picture as levels of red, green and blue, and the version of matplotlib that drew it."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=np.float64), image.info["Software"]


def _run(name, folder, monkeypatch):
    """Run a page in a folder; the pictures that it draws."""
    monkeypatch.chdir(folder)
    (folder / "images").mkdir()
    COURSE["run"](PAGES[name])
    assert [path.name for path in folder.iterdir()] == ["images"]
    return sorted((folder / "images").iterdir())


@pytest.mark.parametrize("name", PAGES)
def test_pages_run_and_draw_their_pictures(name, tmp_path, monkeypatch):
    drawn = _run(name, tmp_path, monkeypatch)
    assert [path.name for path in drawn] == sorted(_pictures_of(name))
    for path in drawn:
        (now, version), (kept, its_version) = _pixels(path), _pixels(FOLDER / "images" / path.name)
        assert now.shape == kept.shape
        if version == its_version:  # another one may place and draw letters otherwise
            assert np.abs(now - kept).mean() <= PICTURE_TOLERANCE, path.name


@pytest.mark.slow
@pytest.mark.parametrize("isa", _engine.available_isas())
@pytest.mark.parametrize("name", PAGES)
def test_pages_run_with_every_instruction_set(name, isa, tmp_path, monkeypatch):
    """As on machines that have no other."""
    previous = _engine.use_isa(isa)
    try:
        test_pages_run_and_draw_their_pictures(name, tmp_path, monkeypatch)
    finally:
        _engine.use_isa(previous)


def test_every_picture_is_shown_once_and_small():
    assert sorted(picture for name in PAGES for picture in _pictures_of(name)) == PICTURES
    sizes = {picture: (FOLDER / "images" / picture).stat().st_size for picture in PICTURES}
    assert {picture: size for picture, size in sizes.items() if size > PICTURE_LIMIT} == {}


def test_the_index_has_every_page():
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\d\d)\]\((\1-[^)]+)\) \| \S", index, re.MULTILINE) == [(n[:2], n) for n in PAGES]


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_numbered_short_and_lead_on(name):
    text = _text(name)
    assert text.startswith(f"# {name[:2]}. ")
    assert len(text.splitlines()) <= 200
    assert max(map(len, text.splitlines())) <= 140
    following = [other for other in PAGES if other > name][:1]
    links = re.findall(r"\[([^]]+)\]\(([^)]+)\)", text.splitlines()[-1])
    assert [target for _, target in links] == ["README.md", *following]
    assert all(said.startswith(f"{target[:2]}. ") for said, target in links[1:])


@pytest.mark.parametrize("name", PAGES)
def test_numbers_of_the_text_are_those_of_the_code(name):
    """Decimal fractions, but for sections of sources: what no code computes or compares nobody would correct."""
    text = _text(name)
    code = "".join(block["code"] + (block["output"] or "") for block in COURSE["BLOCK"].finditer(text))
    known = {float(number) for number in re.findall(r"\d+\.\d*", code)}
    prose = re.sub(r"\b(?:section|eq\.)\s[\d.]+", "", COURSE["BLOCK"].sub("", text))
    assert [number for number in re.findall(r"(?<![\w.])\d+\.\d+", prose) if float(number) not in known] == []


def test_a_wrong_page_is_found(tmp_path):
    page = tmp_path / "01-wrong.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match="line 2: printed\n2\nwhere the page has\n3"):
        COURSE["run"](page)
    page.write_text("text\n\n```python\nassert 1 + 1 == 3\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError) as failure:
        COURSE["run"](page)
    assert (failure.traceback[-1].path, failure.traceback[-1].lineno) == (page, 3)


def test_the_script_runs_what_it_is_told(monkeypatch, capsys):
    monkeypatch.chdir(FOLDER)
    COURSE["main"](["01", "02"])
    assert capsys.readouterr().out.splitlines() == [f"{name}: all of it is so" for name in list(PAGES)[:2]]
    with pytest.raises(SystemExit, match="no page begins with 99; there are 01, 02, "):
        COURSE["main"](["99"])

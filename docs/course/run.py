"""Run the pages of this folder: ``python docs/course/run.py``, or only some: ``python docs/course/run.py 03 06``.

A page's Python blocks run in order with the same names, and what a block prints must be the text block that follows it,
or nothing.  Figures are drawn into images/ in the working directory, which is this folder unless `run` is imported.
"""

import contextlib
import io
import os
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PAGES = sorted(FOLDER.glob("[0-9][0-9]-*.md"))
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n?^```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def run(page):
    """Run one page; a failing `assert` of it, or another output, is an AssertionError that names the line."""
    import matplotlib
    from matplotlib import pyplot

    text = page.read_text(encoding="utf-8")
    names = {"__name__": page.stem}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # pictures do not depend on the reader's settings
        pyplot.switch_backend("agg")
        try:
            for block in BLOCK.finditer(text):
                line = text.count("\n", 0, block.start("code"))
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("\n" * line + block["code"], page, "exec"), names)
                expected = block["output"] or ""
                if printed.getvalue() != expected:
                    raise AssertionError(
                        f"{page}, line {line + 1}: printed\n{printed.getvalue()}where the page has\n{expected}"
                    )
        finally:
            pyplot.close("all")


def main(numbers):
    os.chdir(FOLDER)
    chosen = [page for page in PAGES if not numbers or page.name[:2] in numbers]
    if not chosen:
        raise SystemExit(f"no page begins with {', '.join(numbers)}; there are {', '.join(p.name[:2] for p in PAGES)}")
    for page in chosen:
        run(page)
        print(f"{page.name}: all of it is so")


if __name__ == "__main__":
    main(sys.argv[1:])

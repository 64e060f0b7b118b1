"""The command ``cymlp``: its entry point, which works without the extra that the commands need, to say so."""

import sys
from importlib.util import find_spec

__all__ = ["main"]


def main():
    """Run the command line and exit; 1 with a message where the packages of ``cymlp[cli]`` are not installed."""
    absent = [name for name in ("typer", "rich", "pandas", "matplotlib") if find_spec(name) is None]
    if absent:
        sys.exit(f'error: the command needs {", ".join(absent)}; install with: pip install "cymlp[cli]"')
    from .commands import app

    app(prog_name="cymlp")

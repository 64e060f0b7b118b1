"""``python -m cymlp``: the same as the command ``cymlp``."""

from .cli import main

main()

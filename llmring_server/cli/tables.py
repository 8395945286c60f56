"""Tables for screens of any width."""

from rich.console import Console
from rich.table import Column, Table

# What callers wrote is text, and never markup.
SCREEN = Console(markup=False, emoji=False)


def folding(*names: str) -> Table:
    """Return a table that folds what is too long, and cuts nothing: an id must be all there."""
    return Table(*(Column(name, overflow="fold") for name in names))

"""Tables for screens of any width."""

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

# What moves a terminal's cursor or colours, its owner has not said.
HARMLESS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")

# What callers wrote is text, and never markup.
SCREEN = Console(markup=False, emoji=False)


def folding(*names: str) -> Table:
    """Return a table that folds what is too long, and cuts nothing: an id must be all there."""
    return Table(*(Column(name, overflow="fold") for name in names))


def harmless(text: str, style: str = "") -> Text:
    """Return a caller's text as it may be shown."""
    return Text(text.translate(HARMLESS), style=style)

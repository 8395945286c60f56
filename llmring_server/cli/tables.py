"""What is shown on a screen of any width, whoever wrote it."""

from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

# What moves a terminal's cursor or colours, its owner has not said.
_HARMLESS = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}"
)


class _Screen(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_HARMLESS), **options)


# What callers wrote is text, and never markup.
SCREEN = _Screen(markup=False, emoji=False, highlight=False)


def folding(*names: str) -> Table:
    """Return a table that folds what is too long, and cuts nothing: an id must be all there."""
    return Table(*(Column(name, overflow="fold") for name in names))

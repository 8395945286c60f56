"""Console output: safe for any terminal, and readable at any width."""

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from llmring_server.core.strict_json import encode_json

# Control characters in data must not move the cursor or change colours of the terminal. Tabs and
# line feeds are harmless.
_CONTROL_CHARACTERS = (*range(9), *range(11, 32), *range(127, 160))
_REPLACEMENTS = dict.fromkeys(_CONTROL_CHARACTERS, "\N{REPLACEMENT CHARACTER}")


class _SafeConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_REPLACEMENTS), **options)


# A UUID.
_MIN_WIDTHS = {"id": 36}

# Data is text, never markup.
CONSOLE = _SafeConsole(markup=False, emoji=False, highlight=False)


def entry(id: object, title: str, *facts: str) -> None:
    """Print one item of a list: its id on one line, to be copied, then title and facts."""
    CONSOLE.print(f"{id}", style="cyan", soft_wrap=True)
    CONSOLE.print(Padding(title or "Untitled", (0, 0, 0, 2)), style="bold")
    if facts:
        CONSOLE.print(Padding(", ".join(facts), (0, 0, 0, 2)))
    CONSOLE.print()


def brief(value: Any, max_length: int) -> str:
    """Return JSON on one line, cut after `max_length` characters; if cut, with its length."""
    text = encode_json(value).decode()
    if len(text) <= max_length:
        return text
    return f"{text[:max_length]}… ({len(text):,} characters)"


def wrapping_table(*names: str) -> Table:
    """Return a table that wraps long cells and cuts nothing: an id must be complete.

    The ids of a column `id` are never wrapped either, to be copied.
    """
    return Table(
        *(Column(name, overflow="fold", min_width=_MIN_WIDTHS.get(name)) for name in names)
    )

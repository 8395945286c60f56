"""What is shown on a screen of any width, whoever wrote it."""

from typing import Any

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from llmring_server.core.strict_json import json_default

# What moves a terminal's cursor or colours, its owner has not said.
_HARMLESS = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}"
)


class _SafeConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_HARMLESS), **options)


# What callers wrote is text, and never markup.
CONSOLE = _SafeConsole(markup=False, emoji=False, highlight=False)


def entry(id: object, title: str, *facts: str) -> None:
    """Print one thing of a list: its id in one piece, to be copied, then what it is."""
    CONSOLE.print(f"{id}", style="cyan", soft_wrap=True)
    CONSOLE.print(Padding(title or "Untitled", (0, 0, 0, 2)), style="bold")
    if facts:
        CONSOLE.print(Padding(", ".join(facts), (0, 0, 0, 2)))
    CONSOLE.print()


def brief(value: Any, most: int) -> str:
    """Write JSON in one line of at most so many characters, and how many there are if it is cut."""
    text = orjson.dumps(value, json_default).decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def wrapping_table(*names: str) -> Table:
    """Return a table that folds what is too long, and cuts nothing: an id must be all there."""
    return Table(*(Column(name, overflow="fold") for name in names))

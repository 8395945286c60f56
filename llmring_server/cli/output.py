"""Console output: safe for any terminal, and readable at any width."""

from typing import Any

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from llmring_server.core.strict_json import json_default

# Control characters in data must not move the cursor or change colours of the terminal.
_HARMLESS = dict.fromkeys(
    (*range(9), *range(11, 32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}"
)


class _SafeConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(text.translate(_HARMLESS), **options)


# Data is text, never markup.
CONSOLE = _SafeConsole(markup=False, emoji=False, highlight=False)


def entry(id: object, title: str, *facts: str) -> None:
    """Print one item of a list: its id on one line, to be copied, then title and facts."""
    CONSOLE.print(f"{id}", style="cyan", soft_wrap=True)
    CONSOLE.print(Padding(title or "Untitled", (0, 0, 0, 2)), style="bold")
    if facts:
        CONSOLE.print(Padding(", ".join(facts), (0, 0, 0, 2)))
    CONSOLE.print()


def brief(value: Any, most: int) -> str:
    """Return JSON on one line, cut after `most` characters; if cut, with its length."""
    text = orjson.dumps(value, json_default).decode()
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def wrapping_table(*names: str) -> Table:
    """Return a table that wraps long cells and cuts nothing: an id must be complete."""
    return Table(*(Column(name, overflow="fold") for name in names))

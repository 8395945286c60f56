"""Console output: safe for any terminal, and readable at any width."""

import time
from typing import Any

import rich_click as click
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from llmring_server.core.strict_json import encode_json

PROGRESS_SECONDS = 2.0

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
    return Table(*map(_column, names))


def _column(name: str) -> Column:
    width = _MIN_WIDTHS.get(name)
    # Only columns that may wrap are made narrower. Otherwise that of the ids would be, in vain, and
    # the columns on the right would be cut off.
    return Column(name, overflow="fold", min_width=width, no_wrap=width is not None)


class Progress:
    """Lines on standard error while long work goes on."""

    def __init__(self) -> None:
        self._next = time.monotonic() + PROGRESS_SECONDS

    def show(self, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_SECONDS
            click.echo(f"{text} ...", err=True)

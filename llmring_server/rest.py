"""The rest: calls that no receipt certifies, the oldest first, as many as one receipt holds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg

from llmring_verify.canonical_json import MAX_SAFE_INTEGER

_NEVER = datetime.max.replace(tzinfo=UTC)


class Day(NamedTuple):
    """A day, how many calls it has by now, and how many of them may be in no receipt."""

    day: datetime
    requests: int
    fresh: int


def parts(days: Sequence[Day], most: int) -> Iterator[list[Day]]:
    """Split days so that no part has more than `most` fresh calls and one day's."""
    part: list[Day] = []
    for each in days:
        part.append(each)
        if sum(day.fresh for day in part) >= most:
            yield part
            part = []
    if part:
        yield part


@dataclass(slots=True)
class Rest:
    """How far it was read. What JSON cannot count is left out, and its days stay open."""

    most: int
    days: list[Day] = field(default_factory=list)
    more: bool = False
    uncountable: int = 0
    taken: int = 0
    _used: int = 0
    _cached: int = 0
    _open: set[datetime] = field(default_factory=set)
    _until: datetime = _NEVER

    def takes(self, row: asyncpg.Record) -> bool:
        """Take a call, if JSON can count it; none from the first on that is too much."""
        used, cached = row["input_tokens"] + row["output_tokens"], row["cached_input_tokens"]
        if self.taken + self.uncountable == self.most:
            self._end(row)
        elif used > MAX_SAFE_INTEGER:
            self.uncountable += 1
            self._open.add(_day(row))
        elif max(self._used + used, self._cached + cached) > MAX_SAFE_INTEGER:
            self._end(row)
        if self.more or used > MAX_SAFE_INTEGER:
            return False
        self._used, self._cached = self._used + used, self._cached + cached
        self.taken += 1
        return True

    def _end(self, row: asyncpg.Record) -> None:
        self.more, self._until = True, min(self._until, _day(row))

    def done(self) -> list[Day]:
        """Return the days of which nothing is left."""
        ended = [each for each in self.days if each.day < self._until]
        return [each for each in ended if each.day not in self._open]


def _day(row: asyncpg.Record) -> datetime:
    moment: datetime = row["logged_at"]
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)

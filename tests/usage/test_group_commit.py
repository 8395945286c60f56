"""Many callers, one commit: what each of them is told when things go wrong."""

import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest

from llmring_server.errors import InvalidRequest, NotMigrated, Overloaded, RingError, Unavailable
from llmring_server.usage.group_commit import GroupCommit, GroupCommitLimits


class Sink:
    """Where items are written: remembers the batches, and misbehaves on demand."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.poison: set[int] = set()
        self.failures: list[Exception] = []
        self.open = asyncio.Event()
        self.open.set()

    async def write(self, items: Sequence[int]) -> list[int | RingError]:
        await self.open.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.poison & set(items):
            raise InvalidRequest
        self.batches.append(list(items))
        return [item * 10 for item in items]

    def combine(
        self, batch: int = 100, flights: int = 1, pending: int = 100
    ) -> GroupCommit[int, int]:
        return GroupCommit(self.write, GroupCommitLimits(batch, flights, pending))


async def under_way(combine: GroupCommit[int, int], item: int) -> asyncio.Task[int]:
    """Begin to write `item`, where the sink keeps it waiting."""
    writing = asyncio.create_task(combine(item))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return writing


async def all_of(combine: GroupCommit[int, int], items: Sequence[int]) -> list[int | BaseException]:
    return await asyncio.gather(*map(combine, items), return_exceptions=True)


async def test_one_caller_is_one_batch() -> None:
    sink = Sink()
    assert await sink.combine()(1) == 10
    assert sink.batches == [[1]]


async def test_whoever_waits_while_a_batch_is_written_shares_the_next() -> None:
    sink = Sink()
    sink.open.clear()
    combine = sink.combine()
    first = await under_way(combine, 1)
    rest = asyncio.create_task(all_of(combine, [2, 3, 4]))
    await asyncio.sleep(0)
    sink.open.set()
    assert (await first, await rest) == (10, [20, 30, 40])
    assert sink.batches == [[1], [2, 3, 4]]


async def test_who_waits_too_long_for_a_batch_goes_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Sink()
    combine = sink.combine(flights=2)
    sink.open.clear()
    slow = await under_way(combine, 1)
    waiting = asyncio.create_task(combine(2))
    await asyncio.sleep(0)
    assert len(combine._flights) == 1
    stuck, sink.open = sink.open, asyncio.Event()
    sink.open.set()
    monkeypatch.setattr("llmring_server.usage.group_commit.SLOW_COMMIT_SECONDS", 0)
    assert (await combine(3), await waiting) == (30, 20)
    assert await combine(4) == 40
    assert not slow.done()
    stuck.set()
    assert await slow == 10
    assert sink.batches == [[2, 3], [4], [1]]


async def test_whoever_lands_last_leaves_nobody_behind() -> None:
    sink = Sink()
    combine = sink.combine(batch=1, flights=2)
    assert len(await all_of(combine, range(20))) == 20
    assert not combine._flights


async def test_a_batch_is_no_larger_than_its_bound() -> None:
    sink = Sink()
    assert len(await all_of(sink.combine(batch=4), range(10))) == 10
    assert [len(batch) for batch in sink.batches] == [4, 4, 2]


async def test_a_poison_item_fails_alone() -> None:
    sink = Sink()
    sink.poison = {3, 7}
    outcomes = await all_of(sink.combine(), range(10))
    assert [type(each) for each in outcomes] == [
        InvalidRequest if n in {3, 7} else int for n in range(10)
    ]
    assert sorted(chain(*sink.batches)) == [0, 1, 2, 4, 5, 6, 8, 9]


async def test_a_lost_connection_is_answered_by_writing_again() -> None:
    sink = Sink()
    sink.failures = [Unavailable(), Unavailable()]
    assert await all_of(sink.combine(), [1, 2]) == [10, 20]


@pytest.mark.parametrize("failure", [Overloaded, NotMigrated])
async def test_other_failures_are_told_to_everyone_at_once(failure: type[RingError]) -> None:
    sink = Sink()
    sink.failures = [failure()]
    assert [type(each) for each in await all_of(sink.combine(), [1, 2])] == [failure, failure]


async def test_beyond_the_bound_the_next_is_refused_at_once() -> None:
    sink = Sink()
    sink.open.clear()
    combine = sink.combine(pending=3)
    waiting = [asyncio.create_task(combine(n)) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await combine(3)
    sink.open.set()
    assert await asyncio.gather(*waiting) == [0, 10, 20]


async def test_a_caller_who_leaves_disturbs_nobody() -> None:
    sink = Sink()
    sink.open.clear()
    combine = sink.combine()
    leader, follower = (asyncio.create_task(combine(n)) for n in (1, 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leader.cancel()
    sink.open.set()
    assert await follower == 20
    assert sink.batches == [[1, 2]]
    assert await combine(3) == 30


async def test_a_bug_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.failures = [ZeroDivisionError()]
    combine = sink.combine()
    assert [type(each) for each in await all_of(combine, [1, 2])] == [RingError, RingError]
    assert "ZeroDivisionError" in caplog.text
    assert await combine(3) == 30


async def test_whoever_waits_behind_a_bug_has_a_turn() -> None:
    sink = Sink()
    sink.failures = [RuntimeError()]
    combine = sink.combine(batch=1, flights=2)
    async with asyncio.timeout(5):
        first, *others = await all_of(combine, [1, 2, 3])
    assert isinstance(first, RingError)
    assert others == [20, 30]


async def test_whoever_waits_behind_a_batch_of_leavers_has_a_turn() -> None:
    sink = Sink()
    sink.open.clear()
    combine = sink.combine(batch=2)
    callers = [asyncio.create_task(combine(number)) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for leaver in callers[2:4]:
        leaver.cancel()
    await asyncio.sleep(0)
    sink.open.set()
    async with asyncio.timeout(5):
        assert await callers[4] == 40
    assert sink.batches == [[0, 1], [4]]


async def test_who_waits_for_a_batch_that_is_stuck_needs_nobody_to_come_after() -> None:
    sink = Sink()
    combine = sink.combine(flights=2)
    sink.open.clear()
    stuck = await under_way(combine, 1)
    held, sink.open = sink.open, asyncio.Event()
    sink.open.set()
    async with asyncio.timeout(5):
        assert await combine(2) == 20
    assert not stuck.done()
    held.set()
    assert await stuck == 10

"""Group commit: batches, and the outcome of each caller when something fails."""

import asyncio
from collections.abc import Sequence
from itertools import chain

import pytest

from llmring_server.errors import InvalidRequest, NotMigrated, Overloaded, RingError, Unavailable
from llmring_server.usage.group_commit import GroupCommit, GroupCommitLimits

PROJECT = "project"


class Sink:
    """A destination that records batches, and fails or blocks on demand."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.invalid: set[int] = set()
        self.failures: list[Exception] = []
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def write(self, items: Sequence[int]) -> list[int | RingError]:
        await self.unblocked.wait()
        if self.failures:
            raise self.failures.pop(0)
        if self.invalid & set(items):
            raise InvalidRequest
        self.batches.append(list(items))
        return [item * 10 for item in items]

    def group_commit(
        self,
        batch_size: int = 100,
        concurrent_commits: int = 1,
        max_pending: int = 100,
        project_share: float = 1,
    ) -> GroupCommit[int, int]:
        limits = GroupCommitLimits(batch_size, concurrent_commits, max_pending, project_share)
        return GroupCommit(self.write, limits)


async def start_blocked(group_commit: GroupCommit[int, int], item: int) -> asyncio.Task[int]:
    """Start to write `item` to a sink that blocks."""
    writing = asyncio.create_task(group_commit(PROJECT, item))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return writing


async def write_all(
    group_commit: GroupCommit[int, int], items: Sequence[int]
) -> list[int | BaseException]:
    writing = (group_commit(PROJECT, item) for item in items)
    return await asyncio.gather(*writing, return_exceptions=True)


async def test_one_caller_is_one_batch() -> None:
    sink = Sink()
    assert await sink.group_commit()(PROJECT, 1) == 10
    assert sink.batches == [[1]]


async def test_callers_during_a_batch_share_the_next_one() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit()
    first = await start_blocked(group_commit, 1)
    others = asyncio.create_task(write_all(group_commit, [2, 3, 4]))
    await asyncio.sleep(0)
    sink.unblocked.set()
    assert (await first, await others) == (10, [20, 30, 40])
    assert sink.batches == [[1], [2, 3, 4]]


async def test_a_slow_batch_gets_another_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sink = Sink()
    group_commit = sink.group_commit(concurrent_commits=2)
    sink.unblocked.clear()
    slow = await start_blocked(group_commit, 1)
    waiting = asyncio.create_task(group_commit(PROJECT, 2))
    await asyncio.sleep(0)
    assert len(group_commit._flushes) == 1
    stuck, sink.unblocked = sink.unblocked, asyncio.Event()
    sink.unblocked.set()
    monkeypatch.setattr("llmring_server.usage.group_commit.SLOW_COMMIT_SECONDS", 0)
    assert (await group_commit(PROJECT, 3), await waiting) == (30, 20)
    assert await group_commit(PROJECT, 4) == 40
    assert not slow.done()
    stuck.set()
    assert await slow == 10
    assert sink.batches == [[2, 3], [4], [1]]


async def test_concurrent_flushes_write_everything() -> None:
    sink = Sink()
    group_commit = sink.group_commit(batch_size=1, concurrent_commits=2)
    assert len(await write_all(group_commit, range(20))) == 20
    assert not group_commit._flushes


async def test_a_batch_is_no_larger_than_its_limit() -> None:
    sink = Sink()
    assert len(await write_all(sink.group_commit(batch_size=4), range(10))) == 10
    assert [len(batch) for batch in sink.batches] == [4, 4, 2]


async def test_only_an_invalid_item_fails() -> None:
    sink = Sink()
    sink.invalid = {3, 7}
    outcomes = await write_all(sink.group_commit(), range(10))
    assert [type(outcome) for outcome in outcomes] == [
        InvalidRequest if n in {3, 7} else int for n in range(10)
    ]
    assert sorted(chain(*sink.batches)) == [0, 1, 2, 4, 5, 6, 8, 9]


async def test_a_batch_is_written_again_after_a_lost_connection() -> None:
    sink = Sink()
    sink.failures = [Unavailable(), Unavailable()]
    assert await write_all(sink.group_commit(), [1, 2]) == [10, 20]


@pytest.mark.parametrize("failure", [Overloaded, NotMigrated])
async def test_other_errors_are_raised_for_the_whole_batch_at_once(
    failure: type[RingError],
) -> None:
    sink = Sink()
    sink.failures = [failure()]
    assert [type(each) for each in await write_all(sink.group_commit(), [1, 2])] == [
        failure,
        failure,
    ]


async def test_beyond_the_limit_of_waiting_items_a_caller_is_rejected_at_once() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(max_pending=3)
    waiting = [asyncio.create_task(group_commit(PROJECT, n)) for n in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await group_commit(PROJECT, 3)
    sink.unblocked.set()
    assert await asyncio.gather(*waiting) == [0, 10, 20]


async def test_projects_take_turns() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(batch_size=4)
    first = await start_blocked(group_commit, 0)
    many = [asyncio.create_task(group_commit("many", n)) for n in range(1, 8)]
    few = [asyncio.create_task(group_commit("few", n)) for n in (10, 20)]
    await asyncio.sleep(0)
    sink.unblocked.set()
    await asyncio.gather(first, *many, *few)
    assert sink.batches == [[0], [1, 10, 2, 20], [3, 4, 5, 6], [7]]


async def test_a_project_is_rejected_only_for_its_own_waiting_items() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(max_pending=8, project_share=0.25)
    waiting = [asyncio.create_task(group_commit("many", n)) for n in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="of your project"):
        await group_commit("many", 2)
    waiting += [asyncio.create_task(group_commit("few", n)) for n in range(2)]
    sink.unblocked.set()
    assert await asyncio.gather(*waiting) == [0, 10, 0, 10]


async def test_a_full_queue_has_room_for_a_project_with_less_than_an_equal_part() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(max_pending=6, project_share=0.5)
    waiting = [await start_blocked(group_commit, 0)]
    waiting += [asyncio.create_task(group_commit(project, 1)) for project in "aaabbbcc"]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await group_commit("c", 1)
    sink.unblocked.set()
    assert await asyncio.gather(*waiting) == [0] + [10] * 8


async def test_no_more_projects_wait_than_items_may() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(max_pending=6)
    waiting = [await start_blocked(group_commit, 0)]
    waiting += [asyncio.create_task(group_commit(str(n), 1)) for n in range(6)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await group_commit("another", 1)
    sink.unblocked.set()
    assert await asyncio.gather(*waiting) == [0] + [10] * 6


async def test_cancelling_a_caller_cancels_no_other() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit()
    leader, follower = (asyncio.create_task(group_commit(PROJECT, n)) for n in (1, 2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leader.cancel()
    sink.unblocked.set()
    assert await follower == 20
    assert sink.batches == [[1, 2]]
    assert await group_commit(PROJECT, 3) == 30


async def test_an_unforeseen_error_leaves_no_caller_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sink = Sink()
    sink.failures = [ZeroDivisionError()]
    group_commit = sink.group_commit()
    assert [type(each) for each in await write_all(group_commit, [1, 2])] == [RingError, RingError]
    assert "ZeroDivisionError" in caplog.text
    assert await group_commit(PROJECT, 3) == 30


async def test_items_behind_an_unforeseen_error_are_written() -> None:
    sink = Sink()
    sink.failures = [RuntimeError()]
    group_commit = sink.group_commit(batch_size=1, concurrent_commits=2)
    async with asyncio.timeout(5):
        first, *others = await write_all(group_commit, [1, 2, 3])
    assert isinstance(first, RingError)
    assert others == [20, 30]


async def test_items_behind_a_batch_of_cancelled_callers_are_written() -> None:
    sink = Sink()
    sink.unblocked.clear()
    group_commit = sink.group_commit(batch_size=2)
    callers = [asyncio.create_task(group_commit(PROJECT, number)) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for caller in callers[2:4]:
        caller.cancel()
    await asyncio.sleep(0)
    sink.unblocked.set()
    async with asyncio.timeout(5):
        assert await callers[4] == 40
    assert sink.batches == [[0, 1], [4]]


async def test_items_behind_a_stuck_batch_are_written_though_no_other_arrives() -> None:
    sink = Sink()
    group_commit = sink.group_commit(concurrent_commits=2)
    sink.unblocked.clear()
    stuck = await start_blocked(group_commit, 1)
    unblocked, sink.unblocked = sink.unblocked, asyncio.Event()
    sink.unblocked.set()
    async with asyncio.timeout(5):
        assert await group_commit(PROJECT, 2) == 20
    assert not stuck.done()
    unblocked.set()
    assert await stuck == 10

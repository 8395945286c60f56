"""Loads on several servers in turn, round after round."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from scripts.benchmark.contenders import Contender
from scripts.benchmark.figures import Sample, ratios, summary
from scripts.benchmark.load import Plan
from scripts.benchmark.measure import Bench, progress

Load = Callable[[Contender], Plan]
WARM_UP = 1.0
CLIENTS = (1, 16, 64)


def by_clients(label: str, plan: Callable[[int], Plan]) -> dict[str, Load]:
    """Name a load for each number of clients, the same for every server."""
    return {f"{label}c={each}": same(plan(each)) for each in CLIENTS}


def same(plan: Plan) -> Load:
    return lambda _: plan


class Race:
    """Each of some loads on each of some servers; `samples` are by load and server."""

    def __init__(
        self, bench: Bench, contenders: Sequence[Contender], loads: Mapping[str, Load]
    ) -> None:
        self._bench = bench
        self._contenders = contenders
        self._loads = loads
        self.samples: dict[tuple[str, str], list[Sample]] = {}
        able = [turn for turn in self._turns() if self._warm_up(*turn)]
        for number in range(1, bench.rounds + 1):
            for label, contender in able:
                sample = bench.measure(contender, loads[label](contender))
                self.samples[label, contender.name].append(sample)
                progress(f"  {label}, {contender.name}, round {number}: {sample}")

    def report(self) -> dict[str, Any]:
        return {label: self._report(label) for label in self._loads}

    def _turns(self) -> Iterator[tuple[str, Contender]]:
        for label in self._loads:
            for contender in self._contenders:
                yield label, contender

    def _warm_up(self, label: str, contender: Contender) -> bool:
        """Begin, and say if there is more to see: not of a server that cannot do this at all."""
        plan = self._loads[label](contender)
        sample = self._bench.measure(contender, replace(plan, seconds=WARM_UP))
        able = sample.figures["per_second"] is not None
        self.samples[label, contender.name] = [] if able else [sample]
        return able

    def _report(self, label: str) -> dict[str, Any]:
        ours, *others = [(each.name, self.samples[label, each.name]) for each in self._contenders]
        found = {name: summary(samples) for name, samples in (ours, *others)}
        return found | {f"{ours[0]}/{name}": ratios(ours[1], other) for name, other in others}

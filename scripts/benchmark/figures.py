"""What was measured: once, in sum, and against each other."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Figures = dict[str, float | None]


@dataclass(frozen=True)
class Sample:
    """What one load on one server gave, as rates and as shares of one call."""

    calls: int
    figures: Figures
    failures: Counter[str]
    # Of a load that logs: acknowledged calls that are not stored, and calls that are stored twice.
    lapses: dict[str, int]

    def __str__(self) -> str:
        found = {
            name: f"{rounded(value):,g}"
            for name, value in self.figures.items()
            if value is not None
        }
        told = [f"{value} {name}" for name, value in found.items()]
        wrong = {**self.lapses, **self.failures}
        return ", ".join(
            told + [f"{count} {name.upper()}" for name, count in wrong.items() if count]
        )


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    known = [each for each in values if each is not None]
    if not known:
        return None
    found = {"median": median(known), "min": min(known), "max": max(known)}
    return {name: rounded(each) for name, each in found.items()}


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Report on all rounds of a load on one server."""
    failures = sum((each.failures for each in samples), Counter[str]())
    return {
        **{name: spread(each.figures[name] for each in samples) for name in samples[0].figures},
        **{name: sum(each.lapses[name] for each in samples) for name in samples[0].lapses},
        "failures": dict(failures),
    }


def ratios(ours: Sequence[Sample], others: Sequence[Sample]) -> dict[str, Any]:
    """Compare round by round: what slows the machine for a while slows both."""
    pairs = [(one.figures, other.figures) for one, other in zip(ours, others, strict=False)]
    names = [name for name in pairs[0][0] if name != "client_us"]
    return {
        name: spread(quotient(one[name], other[name]) for one, other in pairs) for name in names
    }


def quotient(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None

"""Samples: of one measurement, of several rounds, and of one server relative to another."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Sample:
    """One load on one server, measured once; None where the system does not tell."""

    calls: int
    metrics: Mapping[str, float | None]
    failures: Counter[str]
    # After a load that logs calls: how many acknowledged ones are `missing` or `duplicated`.
    storage_errors: Mapping[str, int]

    def __str__(self) -> str:
        metrics = [
            f"{round_figures(value):,g} {name}"
            for name, value in self.metrics.items()
            if value is not None
        ]
        errors = {**self.storage_errors, **self.failures}
        return ", ".join(
            metrics + [f"{count} {name.upper()}" for name, count in errors.items() if count]
        )


def round_figures(value: float) -> float:
    """Round to four significant figures."""
    return float(f"{value:.4g}")


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return the median, the smallest and the largest of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    figures = {"median": median(known), "min": min(known), "max": max(known)}
    return {name: round_figures(value) for name, value in figures.items()}


def summarize(samples: Sequence[Sample]) -> dict[str, Any]:
    """Report all rounds of one load on one server."""
    failures = sum((sample.failures for sample in samples), Counter[str]())
    return {
        **{name: spread(sample.metrics[name] for sample in samples) for name in samples[0].metrics},
        **{
            name: sum(sample.storage_errors[name] for sample in samples)
            for name in samples[0].storage_errors
        },
        "failures": dict(failures),
    }


def ratios(samples: Sequence[Sample], others: Sequence[Sample]) -> dict[str, Any]:
    """Divide round by round: what slows the machine down for a while slows both servers down."""
    pairs = [(one.metrics, other.metrics) for one, other in zip(samples, others, strict=False)]
    names = [name for name in pairs[0][0] if name != "client_us"]
    return {name: spread(ratio(one[name], other[name]) for one, other in pairs) for name in names}


def ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None

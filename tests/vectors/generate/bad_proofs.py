"""Proofs and answers that must not verify, each wrong in one thing."""

from typing import Any

from tests.vectors.generate.good import CALLS, answer
from tests.vectors.generate.second_signer import ACTIVE, STRANGER, Doc, batch, call, proof, usage

SEVEN = ACTIVE.seal(batch(51, CALLS))
GOOD = proof(SEVEN, CALLS, 4)

Bad = tuple[Any, str]


def answers() -> dict[str, Bad]:
    """Return answers whose flat fields say something else than their envelope."""
    good, other = answer(batch(52, CALLS, tags=["x"])), answer(batch(53, CALLS))
    stripped = {name: each for name, each in good.items() if name != "envelope"}
    summary = good["batch_summary"] | {"total_cost": 0.5}
    differ, fit = "differ from the receipt", "beside the envelope does not fit"
    return {
        "answer-altered-cost": (good | {"total_cost": 0.5}, fit),
        "answer-altered-summary": (good | {"batch_summary": summary}, differ),
        "answer-huge-summary": (good | {"batch_summary": {"n": 2**53}}, "not of their form"),
        "answer-without-summary": (good | {"batch_summary": None}, differ),
        "answer-altered-description": (good | {"description": "paid"}, differ),
        "answer-altered-tags": (good | {"tags": []}, differ),
        "answer-altered-type": (good | {"receipt_type": "single"}, differ),
        "answer-around-another-envelope": (good | {"envelope": other["envelope"]}, differ),
        "answer-without-envelope": (good | {"envelope": None}, "lost the envelope"),
        "answer-with-an-empty-envelope": (good | {"envelope": {}}, "envelope lacks"),
        "answer-stripped-of-its-envelope": (stripped, "lost the envelope"),
        "answer-without-signature": (good | {"signature": None}, "signature is not"),
    }


def proofs() -> dict[str, Bad]:
    """Return proofs that lead elsewhere."""
    path = GOOD["path"]
    missing = "not in the batch"
    stranger = STRANGER.seal(batch(51, CALLS, STRANGER))
    other = ACTIVE.seal(batch(56, [*CALLS[1:], call(9)]))
    outside = batch(54, CALLS, **{"from": CALLS[5]["logged_at"]})
    return {
        "proof-altered-call": (_with(call=CALLS[4] | {"model": "gpt-4o"}), missing),
        "proof-of-another-call": (_with(call=call(99)), missing),
        "proof-altered-path": (_with(path=["0" * 64, *path[1:]]), missing),
        "proof-path-too-short": (_with(path=path[:-1]), missing),
        "proof-path-too-long": (_with(path=[*path, "0" * 64]), missing),
        "proof-path-turned": (_with(path=path[::-1]), missing),
        "proof-in-another-place": (_with(leaf_index=5), missing),
        "proof-beyond-the-end": (_with(leaf_index=7), missing),
        "proof-below-the-start": (_with(leaf_index=-1), "leaf_index is not"),
        "proof-for-another-size": (_with(tree_size=8), "another number of calls"),
        "proof-path-endless": (_with(path=["0" * 64] * 65), "path is not"),
        "proof-call-of-other-form": (_with(call=CALLS[4] | {"note": 1}), "call has 1 unknown"),
        "proof-against-one-call": (_with(envelope=ACTIVE.seal(usage(55))), "not that of a batch"),
        "proof-against-another-batch": (_with(envelope=other), missing),
        "proof-by-a-stranger": (_with(envelope=stranger), "not among the keys"),
        "proof-of-a-call-out-of-time": (_with(envelope=ACTIVE.seal(outside)), "outside the time"),
    }


def _with(**changes: Any) -> Doc:
    return GOOD | changes

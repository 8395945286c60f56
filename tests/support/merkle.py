"""Merkle paths of a whole list of leaves."""

from collections.abc import Sequence

from llmring_verify.merkle import InclusionPath


def inclusion_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root; IndexError if there is no leaf."""
    path = InclusionPath(index)
    for leaf in leaves:
        path.add(leaf)
    return path.value()

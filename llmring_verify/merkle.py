"""The Merkle tree of RFC 6962 and 9162: one hash that commits to many entries, and short proofs."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256


def leaf(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Root:
    """The root of leaves that come one by one, in memory for the logarithm of their number."""

    def __init__(self) -> None:
        self.size = 0
        # Roots of the full trees so far, the largest first: one for each bit of `size`.
        self._full: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        bits = self.size
        while bits & 1:
            leaf = node(self._full.pop(), leaf)
            bits >>= 1
        self._full.append(leaf)
        self.size += 1

    def value(self) -> bytes:
        if not self._full:
            return sha256().digest()
        root = self._full[-1]
        for each in reversed(self._full[:-1]):
            root = node(each, root)
        return root


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of these leaves' hashes."""
    made = Root()
    for each in leaves:
        made.add(each)
    return made.value()


class Path:
    """What leads from the leaf at `index` to the root; leaves come one by one, as for a Root."""

    def __init__(self, index: int) -> None:
        self.size = 0
        self._index = index
        self._beside: defaultdict[int, Root] = defaultdict(Root)

    def add(self, leaf: bytes) -> None:
        # The highest bit in which two places differ tells the tree beside the path that it is in.
        if apart := self.size ^ self._index:
            self._beside[apart.bit_length()].add(leaf)
        self.size += 1

    def value(self) -> list[bytes]:
        """Return the hashes, from the leaf up; IndexError if no leaf was there."""
        if not 0 <= self._index < self.size:
            raise IndexError(self._index)
        return [self._beside[height].value() for height in sorted(self._beside)]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Return the hashes that lead from a leaf to the root; IndexError."""
    made = Path(index)
    for each in leaves:
        made.add(each)
    return made.value()


def included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Say whether the path leads from this leaf, in this place, to the root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    place, last, found = index, size - 1, leaf
    for each in path:
        if last == 0:
            return False
        if place & 1 or place == last:
            found = node(each, found)
            while place and not place & 1:
                place, last = place >> 1, last >> 1
        else:
            found = node(found, each)
        place, last = place >> 1, last >> 1
    return last == 0 and found == root

"""The Merkle tree of RFC 6962 and RFC 9162: roots, inclusion paths, and their verification."""

from collections import defaultdict
from collections.abc import Sequence
from hashlib import sha256


def leaf_hash(entry: bytes) -> bytes:
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class MerkleRoot:
    """The root of a tree whose leaf hashes are added one by one. Memory grows logarithmically."""

    def __init__(self) -> None:
        self.size = 0
        # Roots of the perfect subtrees, the largest first: one for each 1 bit of `size`.
        self._subtrees: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        bits = self.size
        while bits & 1:
            leaf = node_hash(self._subtrees.pop(), leaf)
            bits >>= 1
        self._subtrees.append(leaf)
        self.size += 1

    def value(self) -> bytes:
        if not self._subtrees:
            return sha256().digest()
        root = self._subtrees[-1]
        for subtree in reversed(self._subtrees[:-1]):
            root = node_hash(subtree, root)
        return root


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of these leaf hashes."""
    root = MerkleRoot()
    for leaf in leaves:
        root.add(leaf)
    return root.value()


class InclusionPath:
    """The path from the leaf at `index` to the root. Leaf hashes are added one by one."""

    def __init__(self, index: int) -> None:
        self.size = 0
        self._index = index
        self._siblings: defaultdict[int, MerkleRoot] = defaultdict(MerkleRoot)

    def add(self, leaf: bytes) -> None:
        # The highest bit in which two indexes differ is the height of the sibling subtree.
        if difference := self.size ^ self._index:
            self._siblings[difference.bit_length()].add(leaf)
        self.size += 1

    def value(self) -> list[bytes]:
        """Return the hashes from the leaf to the root; raise IndexError if there is no leaf."""
        if not 0 <= self._index < self.size:
            raise IndexError(self._index)
        return [self._siblings[height].value() for height in sorted(self._siblings)]


def is_included(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether the path leads from this leaf at this index to the root.

    The algorithm is that of RFC 9162, section 2.1.3.2, and so are the names `fn` and `sn`.
    """
    if not 0 <= index < size:
        return False
    fn, sn, computed = index, size - 1, leaf
    for sibling in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            computed = node_hash(sibling, computed)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            computed = node_hash(computed, sibling)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and computed == root

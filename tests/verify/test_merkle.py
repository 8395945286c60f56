"""The Merkle tree against another implementation, and against whoever would cheat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree  # type: ignore[import-untyped]

from llmring_verify.merkle import Root, included, leaf, node, path, root

ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=80)


@given(ENTRIES)
def test_roots_and_paths_are_those_of_pymerkle(entries: list[bytes]) -> None:
    other = InmemoryTree.init_from_entries(entries, algorithm="sha256")
    leaves = [leaf(each) for each in entries]
    assert root(leaves) == other.get_root()
    for place, each in enumerate(leaves):
        # Its path begins with the leaf, or has it where it is hashed in.
        theirs = sorted(other.prove_inclusion(place + 1).path)
        assert sorted([each, *path(leaves, place)]) == theirs


@given(ENTRIES)
def test_every_leaf_is_included_in_its_place_alone(entries: list[bytes]) -> None:
    leaves = [leaf(each) for each in entries]
    top, size = root(leaves), len(leaves)
    for place, each in enumerate(leaves):
        proof = path(leaves, place)
        for other in range(-1, size + 2):
            same = other == place or (leaves[other : other + 1] == [each] and other >= 0)
            assert included(each, other, size, proof, top) <= same
        assert included(each, place, size, proof, top)
        assert not included(each, place, size, [*proof, each], top)
        assert not included(each, place, size, proof, each) or size == 1
        assert not proof or not included(each, place, size, proof[:-1], top)


@given(ENTRIES, st.data())
def test_no_bit_of_a_proof_may_change(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf(each) for each in entries]
    place = data.draw(st.integers(0, len(leaves) - 1))
    parts = [leaves[place], root(leaves), *path(leaves, place)]
    part, bit = data.draw(st.integers(0, len(parts) - 1)), data.draw(st.integers(0, 255))
    parts[part] = (int.from_bytes(parts[part]) ^ 1 << bit).to_bytes(32)
    assert not included(parts[0], place, len(leaves), parts[2:], parts[1])


@pytest.mark.parametrize("place", [-1, 3])
def test_where_no_leaf_is_there_is_no_path(place: int) -> None:
    with pytest.raises(IndexError):
        path([leaf(b""), leaf(b"a"), leaf(b"b")], place)


def test_a_node_is_no_leaf() -> None:
    leaves = [leaf(bytes([each])) for each in range(4)]
    inner = node(leaves[0], leaves[1])
    above = path(leaves, 0)[1:]
    assert included(inner, 0, 2, above, root(leaves))
    # Its size is signed, and an entry cannot be made that hashes to a node.
    assert not included(inner, 0, 4, above, root(leaves))
    assert leaf(leaves[0] + leaves[1]) != inner


def test_memory_is_that_of_the_logarithm() -> None:
    tree = Root()
    assert tree.value().hex().startswith("e3b0c44298fc1c149afbf4c8996fb924")
    for each in range(10_000):
        tree.add(leaf(each.to_bytes(4)))
        assert len(tree._full) == tree.size.bit_count()
    assert tree.value() == root([leaf(each.to_bytes(4)) for each in range(10_000)])

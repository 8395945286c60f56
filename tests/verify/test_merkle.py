"""The Merkle tree agrees with another implementation and rejects forged proofs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree  # type: ignore[import-untyped]

from llmring_verify.merkle import MerkleRoot, is_included, leaf_hash, merkle_root, node_hash
from tests.support.merkle import inclusion_path

ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=80)


@given(ENTRIES)
def test_roots_and_paths_agree_with_pymerkle(entries: list[bytes]) -> None:
    tree = InmemoryTree.init_from_entries(entries, algorithm="sha256")
    leaves = [leaf_hash(entry) for entry in entries]
    assert merkle_root(leaves) == tree.get_root()
    for index, leaf in enumerate(leaves):
        # The path of pymerkle contains the leaf itself.
        expected = sorted(tree.prove_inclusion(index + 1).path)
        assert sorted([leaf, *inclusion_path(leaves, index)]) == expected


@given(ENTRIES)
def test_a_leaf_is_included_at_its_index_only(entries: list[bytes]) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    root, size = merkle_root(leaves), len(leaves)
    for index, leaf in enumerate(leaves):
        path = inclusion_path(leaves, index)
        for other in range(-1, size + 2):
            same = other == index or (leaves[other : other + 1] == [leaf] and other >= 0)
            assert is_included(leaf, other, size, path, root) <= same
        assert is_included(leaf, index, size, path, root)
        assert not is_included(leaf, index, size, [*path, leaf], root)
        assert not is_included(leaf, index, size, path, leaf) or size == 1
        assert not path or not is_included(leaf, index, size, path[:-1], root)


@given(ENTRIES, st.data())
def test_changing_any_bit_invalidates_a_proof(entries: list[bytes], data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(leaves) - 1))
    hashes = [leaves[index], merkle_root(leaves), *inclusion_path(leaves, index)]
    changed, bit = data.draw(st.integers(0, len(hashes) - 1)), data.draw(st.integers(0, 255))
    hashes[changed] = (int.from_bytes(hashes[changed]) ^ 1 << bit).to_bytes(32)
    leaf, root, *path = hashes
    assert not is_included(leaf, index, len(leaves), path, root)


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_path_without_a_leaf(index: int) -> None:
    with pytest.raises(IndexError):
        inclusion_path([leaf_hash(b""), leaf_hash(b"a"), leaf_hash(b"b")], index)


def test_a_node_is_not_a_leaf() -> None:
    leaves = [leaf_hash(bytes([number])) for number in range(4)]
    node = node_hash(leaves[0], leaves[1])
    path = inclusion_path(leaves, 0)[1:]
    assert is_included(node, 0, 2, path, merkle_root(leaves))
    # The size is signed, and no entry hashes to a node.
    assert not is_included(node, 0, 4, path, merkle_root(leaves))
    assert leaf_hash(leaves[0] + leaves[1]) != node


def test_the_root_needs_logarithmic_memory() -> None:
    root = MerkleRoot()
    assert root.value().hex().startswith("e3b0c44298fc1c149afbf4c8996fb924")
    leaves = [leaf_hash(number.to_bytes(4)) for number in range(10_000)]
    for leaf in leaves:
        root.add(leaf)
        assert len(root._subtrees) == root.size.bit_count()
    assert root.value() == merkle_root(leaves)

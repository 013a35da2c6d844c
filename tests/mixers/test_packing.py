import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixers.packing import cut, order_keys, pack, partitions

parts = st.lists(st.tuples(st.integers(1, 31), st.integers(0, 1)), max_size=60)


@given(parts)
def test_pieces_cover_a_document_in_order_and_fit(parts):
    tokens, images = [t for t, _ in parts], [n for _, n in parts]
    pieces = cut(tokens, images, seq_len=32, max_images=4)
    assert [i for first, last in pieces for i in range(first, last)] == list(range(len(parts)))
    for first, last in pieces:
        assert sum(tokens[first:last]) + 1 <= 32
        assert sum(images[first:last]) <= 4


def test_a_document_is_cut_only_where_it_must_be():
    assert cut([10, 10, 11], [0, 0, 0], seq_len=32, max_images=4) == [(0, 3)]
    assert cut([10, 10, 12], [0, 0, 0], seq_len=32, max_images=4) == [(0, 2), (2, 3)]
    assert cut([1, 1, 1], [1, 1, 1], seq_len=32, max_images=2) == [(0, 2), (2, 3)]


@given(parts)
def test_no_sequence_is_overfull_and_numbers_have_no_gaps(parts):
    tokens = np.array([t for t, _ in parts], dtype=np.int64)
    images = np.array([n for _, n in parts], dtype=np.int64)
    assigned = pack(tokens, images, seq_len=32, max_images=4)
    numbers = sorted(set(assigned.tolist()))
    assert numbers == list(range(len(numbers)))
    for number in numbers:
        assert tokens[assigned == number].sum() <= 32
        assert images[assigned == number].sum() <= 4


def test_small_pieces_fill_the_room_that_large_ones_left():
    assigned = pack(np.array([30, 30, 2, 2]), np.zeros(4, dtype=np.int64), seq_len=32, max_images=1)
    assert assigned.tolist() == [0, 1, 0, 1]


def test_order_depends_on_id_seed_and_epoch_alone():
    ids = [f"{i:032x}" for i in range(1000)]
    keys = order_keys(ids, seed=1, epoch=0)
    assert order_keys(ids[::-1], seed=1, epoch=0).tolist() == keys[::-1].tolist()
    assert order_keys(ids, seed=2, epoch=0).tolist() != keys.tolist()
    assert order_keys(ids, seed=1, epoch=1).tolist() != keys.tolist()


def test_partitions_are_slices_of_the_order():
    keys = np.sort(order_keys([str(i) for i in range(1000)], seed=0, epoch=0))
    slices = partitions(keys, 7)
    assert (np.diff(slices) >= 0).all()
    assert set(slices.tolist()) == set(range(7))
    assert np.bincount(slices).min() > 100

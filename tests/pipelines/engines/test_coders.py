"""Tables through a shuffle: the rows arrive and nothing but the rows."""

import numpy as np
import pyarrow as pa
import pytest
from apache_beam import coders, typehints
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engines.coders import TableCoder

CODER = TableCoder()

row = st.fixed_dictionaries(
    {
        "key": st.none() | st.text(max_size=5),
        "part": st.none() | st.integers(-(2**31), 2**31 - 1),
        "scores": st.none() | st.lists(st.floats(allow_nan=False, width=32), max_size=3),
    }
)
COLUMNS = pa.schema(
    [("key", pa.string()), ("part", pa.int32()), ("scores", pa.list_(pa.float32()))]
)


@given(st.lists(row, max_size=9), st.integers(0, 9), st.integers(0, 9))
def test_a_slice_comes_back_as_its_rows(rows: list[object], start: int, length: int):
    table = pa.Table.from_pylist(rows, schema=COLUMNS).slice(start, length)
    back = CODER.decode(CODER.encode(table))
    assert back.equals(table)
    assert back.schema.equals(table.schema)


@given(st.lists(st.lists(row, max_size=3), min_size=1, max_size=4))
def test_chunks_come_back_in_order(chunks: list[list[object]]):
    table = pa.concat_tables(pa.Table.from_pylist(c, schema=COLUMNS) for c in chunks)
    assert CODER.decode(CODER.encode(table)).to_pylist() == table.to_pylist()


def test_a_slice_is_as_small_as_its_rows():
    """A pickle of it, and so what Beam would send, holds the whole of what it was cut from."""
    texts = [f"https://a.example/page/{i:06d}" for i in range(100_000)]
    whole = pa.table({"key": texts, "part": np.arange(100_000, dtype=np.int32)})
    few = whole.slice(70_000, 10)
    assert len(CODER.encode(few)) < 1_000 < 500_000 < len(CODER.encode(whole))


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_bytes_of_images_do_not_pass(kind: pa.DataType):
    table = pa.table({"url": ["u"], "body": pa.array([b"\x89PNG"], kind)})
    with pytest.raises(TypeError, match="column 'body' holds bytes, which must not be shuffled"):
        CODER.encode(table)


def test_bytes_do_not_pass_when_there_are_no_rows_either():
    """So that the first part of a run shows it, and not the first part with an image."""
    with pytest.raises(TypeError, match="body"):
        CODER.encode(pa.schema([("body", pa.binary())]).empty_table())


def test_beam_takes_it_for_tables_and_pairs_of_them():
    assert isinstance(coders.registry.get_coder(pa.Table), TableCoder)
    pair = coders.registry.get_coder(typehints.Tuple[int, pa.Table])
    assert [type(c) for c in pair.coders()] == [coders.VarIntCoder, TableCoder]
    assert not pair.is_deterministic()

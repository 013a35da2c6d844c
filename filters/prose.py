"""A batch of documents with what the rules of text read in it."""

from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.words import Vocabulary, Words
from shards import schema


class Prose:
    """A table of documents whose texts are split into words once, for all filters to share.

    A rule can take it where it takes a table: it has the columns.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.num_rows: int = table.num_rows

    def __getitem__(self, column: str) -> pa.ChunkedArray:
        return self.table[column]

    @cached_property
    def texts(self) -> list[str]:
        """The text of each document, as `shards.schema.texts` joins it."""
        return schema.texts(self.table)

    @cached_property
    def lower_texts(self) -> list[str]:
        """The texts in lower case."""
        return [text.lower() for text in self.texts]

    @cached_property
    def characters(self) -> NDArray[np.int64]:
        """How many each text has, of shape [documents]."""
        return np.fromiter(map(len, self.texts), np.int64)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The distinct words, of these and of other texts."""
        return Vocabulary()

    @cached_property
    def words(self) -> Words:
        """The words of the texts."""
        return self.vocabulary.read(self.texts)

    def take(self, rows: NDArray[np.intp]) -> "Prose":
        """Some of the documents, in the order of `rows`, with what is known of them."""
        if len(rows) == self.num_rows and (np.diff(rows) == 1).all():
            return self
        taken = Prose(self.table.take(pa.array(rows)))
        known: dict[str, Any] = self.__dict__
        if "texts" in known:
            taken.texts = [self.texts[row] for row in rows]
        if "words" in known:
            taken.words = self.words.take(rows)
        if "vocabulary" in known:
            taken.vocabulary = self.vocabulary
        return taken


Batch: TypeAlias = pa.Table | Prose


def prose(batch: Batch) -> Prose:
    """The batch as `Prose`, if it is not that already."""
    return batch if isinstance(batch, Prose) else Prose(batch)

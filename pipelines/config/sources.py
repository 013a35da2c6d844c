"""What a recipe says of inputs: URL tables and web pages."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from configs.reading import ConfigError, Positive, Strict
from shards.storage import Location, location, matching
from shards.stores.options import StorageOptions


class Synthetic(Strict):
    """A second caption of each image, written by a model (as of VeCap, Lai et al. 2023)."""

    text: str  # the column that holds it
    source: str = "synthetic"
    weight: Annotated[float, Field(gt=0)] | None = None


class Tables(Strict):
    """A source of image URLs and their captions, in tables; `a.b` is field `b` of column `a`.

    Or of WebDataset shards, whose pictures stay where they are; columns are fields of the samples'
    .json, and `txt` is their .txt.
    """

    files: list[str] = Field(min_length=1)  # paths; a pattern such as data/*.parquet is expanded
    # By each file's suffix, if not given; CSV, TSV and JSONL may be .gz or .zst on top.
    format: Literal["parquet", "csv", "tsv", "jsonl", "tar"] | None = None
    url: str | None = None  # the column of the image's URL; known by its name, if not given
    text: str | None = None  # the column of the caption; known by its name, if not given
    # The column of the sha256 or md5 of the image that was meant; known by its name, if not given.
    # An image with another is dropped; false compares none.
    hash: str | Literal[False] | None = None
    source: str = "captions"  # the name of the data set
    # This source's share of the corpus's sequences, beside the others' weights. With none for all
    # of them, documents are mixed as they come.
    weight: Annotated[float, Field(gt=0)] | None = None
    licence: str | None = None  # the column that holds each row's licence
    default_licence: str | None = None  # of rows that do not name theirs
    extra: list[str] | Literal["all"] = []  # further columns to carry along into the shards
    synthetic: Synthetic | None = None
    rows_per_part: Positive = 1000  # a tar is a part
    max_bytes: Positive = 1_000_000  # of a row

    @property
    def adopts(self) -> bool:
        """Whether pictures are there already."""
        return self.format == "tar" or any(file.endswith(".tar") for file in self.files)


class Columns(Strict):
    """Where a row of JSONL or Parquet holds what; `a.b` is field `b` of `a`."""

    text: str = "text"
    html: str | None = None  # pages to be read like those of a WARC; then `text` is not asked for
    url: str | None = None  # "url" or "metadata.url", if not given
    snapshot: str | None = None  # "dump" or "metadata.dump", if not given
    licence: str | None = None


class Block(Strict):
    """Pages that are not even parsed, by lists of their addresses: files of one entry a line.

    Files may be gzipped or zstd; empty lines and # comments do not count. `filters.urls` says
    what each list blocks.
    """

    domains: list[str] = []  # and all of their subdomains
    urls: list[str] = []
    words: list[str] = []  # whole words of a URL
    soft_words: list[str] = []  # those that ban only together
    min_soft_words: Positive = 2
    substrings: list[str] = []  # wherever they stand in a URL


class Pages(Strict):
    """Web pages, or texts that were extracted before."""

    # Paths, patterns such as warc/**/*.warc.gz, or folders.
    files: list[str] = Field(min_length=1)
    # By each file's suffix, if not given; any of them may be .gz or .zst on top.
    format: Literal["warc", "wet", "html", "jsonl", "parquet"] | None = None
    source: str = "web"
    snapshot: str | None = None  # of all records that do not name one, such as CC-MAIN-2024-10
    columns: Columns = Columns()
    base_url: str | None = None  # of HTML files: it and the path below the folder are their URLs
    rows_per_part: Positive = 10_000  # rows of JSONL and Parquet, or HTML files
    block: Block = Block()
    page_seconds: Annotated[float, Field(gt=0)] = 5.0  # of the processor, to parse and read a page
    max_bytes: Positive = 10_000_000  # of a page or row


class ProsePages(Pages):
    """Web pages of which only the main text is wanted."""

    extractor: Literal["mixwright", "resiliparse", "trafilatura"] = "mixwright"


def expand(patterns: Sequence[str], key: str, storage: StorageOptions) -> list[Location]:
    """The files that a recipe's list of paths and patterns stands for, each list in order.

    Raises `ConfigError`, naming the recipe's `key`, for a pattern without a file.
    """
    files: list[Location] = []
    for pattern in patterns:
        try:
            found = matching(location(pattern, storage))
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
        if not found:
            raise ConfigError(f"{key}: no file matches {pattern!r}")
        files += found
    return files

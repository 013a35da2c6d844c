"""Counting tokens and cutting texts by tokens, with the bundled vocabulary or any other."""

import hashlib
from bisect import bisect_right
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from shards import storage
from shards.storage import Location

# Ids of the special tokens in the bundled vocabulary.
EOS, IMAGE, PAD = 0, 1, 2
SPECIALS = ("<eos>", "<image>", "<pad>")

BUNDLED = "mixwright-8k"
FOLDER = Path(__file__).parent / "tokenizer"


def _read(name: str | Location) -> bytes:
    bundled = str(name) == BUNDLED
    try:
        return storage.read_bytes(FOLDER / f"{name}.json" if bundled else storage.location(name))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise FileNotFoundError(
            f"there is no tokenizer {str(name)!r}: give {BUNDLED!r} or the place of a "
            "tokenizer.json"
        ) from error


def load_tokenizer(name: str | Location = BUNDLED) -> Tokenizer:
    """The bundled tokenizer, or the one in the `tokenizer.json` at the location `name`.

    Raises:
        FileNotFoundError: `name` is neither.
    """
    tokenizer = Tokenizer.from_str(_read(name).decode())
    # A page that says "<image>" must not become an image: only we place special tokens.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_identity(name: str | Location = BUNDLED) -> dict[str, str]:
    """What a manifest says of the tokenizer: {"name", "sha256" of its JSON}."""
    return {"name": str(name), "sha256": hashlib.sha256(_read(name)).hexdigest()}


def count_tokens(tokenizer: Tokenizer, texts: list[str]) -> np.ndarray:
    """The number of tokens of each text, int32 of shape (len(texts),); no special tokens."""
    encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return np.fromiter((len(e) for e in encodings), np.int32, len(texts))


def split_text(tokenizer: Tokenizer, text: str, limit: int) -> list[tuple[str, int]]:
    """Cuts `text` into pieces of at most `limit` tokens, each with its own count.

    Cuts fall before the white space between words; only a word longer than `limit` tokens (or a
    script without spaces) is cut inside. The pieces joined give `text`; an empty text has none.

    Raises:
        ValueError: a single character costs more than `limit` tokens.
    """
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    ends = [end for _, end in offsets]
    pieces, start = [], 0
    while start < len(text):
        first = bisect_right(ends, start)
        # A piece encoded by itself may differ from the same text in context by a token or two,
        # so the offsets only say where to try first.
        stop = len(text) if len(ends) - first <= limit else ends[first + limit - 1]
        piece, count = _fit(tokenizer, text, start, max(stop, start + 1), limit)
        pieces.append((piece, count))
        start += len(piece)
    return pieces


def _fit(tokenizer: Tokenizer, text: str, start: int, stop: int, limit: int) -> tuple[str, int]:
    """The longest `text[start:end]` with `end` <= `stop` that ends at a word and fits `limit`."""
    end = stop if stop == len(text) else _word_end(text, start, stop)
    while True:
        piece = text[start:end]
        count = len(tokenizer.encode(piece, add_special_tokens=False))
        if count <= limit:
            return piece, count
        if end - start <= 1:
            raise ValueError(f"{piece!r} alone is {count} tokens, more than the limit of {limit}")
        end = _word_end(text, start, end - 1)


def _word_end(text: str, start: int, stop: int) -> int:
    """The last place in (start, stop] before white space that follows a word; else `stop`."""
    for end in range(min(stop, len(text) - 1), start, -1):
        if text[end].isspace() and not text[end - 1].isspace():
            return end
    return stop

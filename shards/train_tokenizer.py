"""Trains a byte-level BPE tokenizer on text files, such as the bundled `mixwright-8k`.

    python -m shards.train_tokenizer text.jsonl:text captions.tsv:caption --out mixwright-8k.json

The bundled one was trained on 1.4 MB of text from Debian 12's main section: 346 documents (the
HTML manuals of python3.11-doc, abs-guide, debian-reference, developers-reference and llvm-14-doc
and llvm-16-doc, the manual pages of manpages and its German, Spanish, French, Japanese and Russian
translations, the sayings of fortunes, fortunes-de and fortunes-ru, package changelogs and
copyright files, Python and JavaScript sources) and the 909 picture captions of
openclipart-png, fonts-noto-color-emoji, tuxpaint-stamps-default and
plasma-workspace-wallpapers. Most of it is English. It is
small so that it can be shipped; a real training run brings the tokenizer of its language model.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from shards import storage
from shards.tokens import SPECIALS

VOCABULARY = 8192


def read_texts(file: str) -> Iterator[str]:
    """The texts of `PATH.txt` (one), `PATH.jsonl:FIELD` or `PATH.tsv:FIELD` (one a row)."""
    name, _, field = file.partition(":")
    with Path(name).open(encoding="utf-8", newline="") as lines:
        if name.endswith(".jsonl"):
            yield from (json.loads(line)[field] for line in lines)
        elif name.endswith(".tsv"):
            yield from (row[field] for row in csv.DictReader(lines, delimiter="\t"))
        else:
            yield lines.read()


def train(texts: Iterator[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A lossless byte-level BPE of `vocabulary` tokens whose first ids are the special tokens.

    Byte-level BPE is that of GPT-2 (Radford et al. 2019, section 2.2), with its word pattern.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def main() -> None:
    """Trains on the files of the command line and writes the tokenizer's JSON."""
    parser = argparse.ArgumentParser(description="Train a byte-level BPE tokenizer.")
    parser.add_argument("files", nargs="+", metavar="FILE[:FIELD]", help=".txt, .jsonl or .tsv")
    parser.add_argument("--out", required=True, type=Path, help="the tokenizer.json to write")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="number of tokens")
    arguments = parser.parse_args()
    texts = (text for file in arguments.files for text in read_texts(file))
    tokenizer = train(texts, arguments.vocabulary)
    storage.write_atomic(arguments.out, tokenizer.to_str().encode() + b"\n")


if __name__ == "__main__":
    main()

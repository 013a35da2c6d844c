"""datatrove's side of `benchmarks/text.py`, for a Python that has datatrove and not mixwright.

Reads documents, a JSON object with `text` a line, and writes one JSON object: what the filters that
FineWeb was made with keep and cost, and what each of their rules drops by itself.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4BadWordsFilter,
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LanguageFilter,
    c4_filters,
)
from fasttext.FastText import _FastText

WARM_UP = "This is a sentence that loads what is loaded on first use. " * 20


def main(documents: str, model: str, words: str, result: str) -> None:
    """Run the filters over the documents of a file; `words` has one to flag a line."""
    with open(documents) as lines:
        texts = [json.loads(line)["text"] for line in lines]
    steps = cascade(model)
    list(run(steps, [WARM_UP]))
    started = time.process_time()
    kept = [int(document.id) for document in run(steps, texts)]
    seconds = time.process_time() - started
    figures = {
        "seconds": seconds,
        "peak_kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "kept": kept,
        "dropped": dropped(rules(model, words), texts),
    }
    with open(result, "w") as file:
        json.dump(figures, file)


def cascade(model: str) -> list[Any]:
    """FineWeb's filters in its order."""
    return [
        language_filter(model),
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]


def language_filter(model: str) -> LanguageFilter:
    """English, by a model that is there already."""
    found = LanguageFilter(languages=["en"])
    found.model._model = _FastText(model)
    return found


def run(steps: list[Any], texts: list[str]) -> Iterator[Document]:
    """The documents that pass all filters, as datatrove's executors chain them."""
    stream = (Document(text=text, id=str(i)) for i, text in enumerate(texts))
    for step in steps:
        stream = step.run(stream)
    return stream


def flagged_words(words: str) -> C4BadWordsFilter:
    """C4's filter of bad words, by a list that is there already."""
    c4_filters.cached_asset_path_or_download = lambda *_, **__: words
    return C4BadWordsFilter()


def rules(model: str, words: str) -> dict[str, Any]:
    """A filter for each rule, with all other rules turned off, by our word for it."""
    return {
        "language": language_filter(model),
        **{reason: GopherQualityFilter(**quality(name)) for reason, name in QUALITY.items()},
        **{reason: GopherRepetitionFilter(**rule) for reason, rule in REPETITION.items()},
        **{reason: fineweb(name) for reason, name in FINEWEB.items()},
        "flagged_words_too_many": flagged_words(words),
        "c4_lorem_ipsum": c4(filter_curly_bracket=False, min_num_sentences=-1),
        "c4_curly_bracket": c4(filter_lorem_ipsum=False, min_num_sentences=-1),
        "c4_too_few_sentences": c4(filter_lorem_ipsum=False, filter_curly_bracket=False),
    }


QUALITY = {
    "gopher_too_few_words": "min_doc_words",
    "gopher_too_many_words": "max_doc_words",
    "gopher_words_too_short": "min_avg_word_length",
    "gopher_words_too_long": "max_avg_word_length",
    "gopher_too_many_bullet_lines": "max_bullet_lines_ratio",
    "gopher_too_many_ellipsis_lines": "max_ellipsis_lines_ratio",
    "gopher_too_many_symbols": "max_symbol_word_ratio",
    "gopher_too_few_alphabetic_words": "max_non_alpha_words_ratio",
    "gopher_too_few_stop_words": "min_stop_words",
}
NO_REPETITION: dict[str, Any] = {
    "dup_line_frac": None,
    "dup_para_frac": None,
    "dup_line_char_frac": None,
    "dup_para_char_frac": None,
    "top_n_grams": (),
    "dup_n_grams": (),
}
REPETITION_RULES: dict[str, dict[str, Any]] = {
    "gopher_duplicate_lines": {"dup_line_frac": 0.3},
    "gopher_duplicate_paragraphs": {"dup_para_frac": 0.3},
    "gopher_duplicate_line_characters": {"dup_line_char_frac": 0.2},
    "gopher_duplicate_paragraph_characters": {"dup_para_char_frac": 0.2},
    "gopher_top_2_gram": {"top_n_grams": ((2, 0.20),)},
    "gopher_top_3_gram": {"top_n_grams": ((3, 0.18),)},
    "gopher_top_4_gram": {"top_n_grams": ((4, 0.16),)},
    **{
        f"gopher_duplicate_{n}_grams": {"dup_n_grams": ((n, (20 - n) / 100),)} for n in range(5, 11)
    },
}
REPETITION = {reason: {**NO_REPETITION, **rule} for reason, rule in REPETITION_RULES.items()}
FINEWEB = {
    "fineweb_too_few_terminated_lines": "line_punct_thr",
    "fineweb_too_many_short_lines": "short_line_thr",
    "fineweb_duplicate_line_characters": "char_duplicates_ratio",
    "fineweb_too_many_newlines": "new_line_ratio",
}


def quality(name: str) -> dict[str, Any]:
    """Arguments that leave one of Gopher's quality rules on."""
    return {other: None for other in QUALITY.values() if other != name}


def c4(**options: Any) -> C4QualityFilter:
    """C4 as FineWeb has it, with some rules turned off."""
    return C4QualityFilter(filter_no_terminal_punct=False, **options)


def fineweb(name: str) -> FineWebQualityFilter:
    """One of FineWeb's rules, the others with limits that nothing is outside of."""
    off = {
        "line_punct_thr": 0.0,
        "short_line_thr": 1.0,
        "char_duplicates_ratio": 1.0,
        "new_line_ratio": float("inf"),
    }
    return FineWebQualityFilter(**{key: limit for key, limit in off.items() if key != name})


def dropped(rules: dict[str, Any], texts: list[str]) -> dict[str, list[int]]:
    """Which texts each rule drops; one that it fails on, for want of words, is dropped too."""
    found: dict[str, list[int]] = {reason: [] for reason in rules}
    for i, text in enumerate(texts):  # not rule by rule: datatrove keeps the words of the last text
        for reason, rule in rules.items():
            if not _keeps(rule.filter, text):
                found[reason].append(i)
    return found


def _keeps(decide: Callable[[Document], Any], text: str) -> bool:
    try:
        verdict = decide(Document(text=text, id=""))
    except ZeroDivisionError:
        return False
    return bool(verdict[0] if isinstance(verdict, tuple) else verdict)


if __name__ == "__main__":
    main(*sys.argv[1:])

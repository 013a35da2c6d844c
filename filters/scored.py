"""Filters that decide on what a step of the same name has measured and left in the scores.

A document without the score is kept: a recipe is checked for the step before it runs.
"""

from typing import Any

import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.prose import Batch
from filters.rules import Filter, Rule, above, below


def lines(batch: Batch, *, max_removed: float | None = 0.05) -> list[Rule]:
    """Drops a document that lost a larger share of its words to the last step `lines`.

    RefinedWeb drops above 5 % (Penedo et al. 2023, arXiv 2306.01116, appendix G.2). The paper
    counts the words of the lines that are flagged, this the words that went from them, as DCLM's
    reconstruction of it does.
    """
    return [above("lines_too_much_removed", score(batch, "lines"), max_removed)]


def flagged_words(batch: Batch, *, max_share: float | None = 0.01) -> list[Rule]:
    """Drops a document in which a larger share of the words is on the list of the step.

    OBELICS drops above 1 % (Laurençon et al. 2023, arXiv 2306.16527, appendix A.1). `max_share: 0`
    is C4's rule, which drops a page for any such word (Raffel et al. 2020, section 2.2).
    """
    return [above("flagged_words_too_many", score(batch, "flagged_words"), max_share)]


def quality(batch: Batch, *, min: float | None = 0.5) -> list[Rule]:
    """Drops a document that the classifier finds less probable to be of the good kind.

    0.5 is OBELICS' (Laurençon et al. 2023, appendix A.1). A threshold belongs to a classifier:
    DCLM keeps the best tenth of its documents, which is 0.018 of its own (Li et al. 2024).
    """
    return [below("quality_too_low", score(batch, "quality"), min)]


def perplexity(batch: Batch, *, max: float | None = 1500.0) -> list[Rule]:
    """Drops a document that surprises the language model more.

    OBELICS drops above 1500 under KenLM's model of Wikipedia in SentencePiece tokens, CCNet's
    (Laurençon et al. 2023, appendix A.1; Wenzek et al. 2020): under another model or other tokens
    the scale is another.
    """
    return [above("perplexity_too_high", score(batch, "perplexity"), max)]


def scored(
    batch: Batch, *, name: str = "similarity", min: float | None = None, max: float | None = None
) -> list[Rule]:
    """Drops a document whose score of that name is outside the bounds.

    Of a step `clip` that is the one under the `name` of a model: of a page, that of its best image.
    """
    values = score(batch, name)
    return [below(f"{name}_too_low", values, min), above(f"{name}_too_high", values, max)]


def score(batch: Batch, name: str) -> NDArray[Any]:
    """A score of each document, of shape [documents]; NaN where it has none."""
    found: NDArray[Any] = pc.map_lookup(batch["scores"], name, "first").to_numpy()
    return found


FILTERS: dict[str, Filter] = {
    f.__name__: f for f in (lines, flagged_words, quality, perplexity, scored)
}

"""The step that edits the lines of documents, and accounts for every word that goes."""

from functools import partial

import numpy as np
import pyarrow as pa

from filters.lines import EDITS, Edited, edit
from filters.rules import Rule, flag, reasons, share
from pipelines.config.rules import FilterSpec
from pipelines.stage import Part, Stage, map_parts, measures_of
from shards import ledger, schema

NOTHING_LEFT = "lines_nothing_left"
SCORE = "lines"  # the share of its words that a document lost


def lines_stage(name: str, source: Stage, rule: FilterSpec) -> Stage:
    """Apply an edit to the lines of every document; one that is empty then is dropped.

    The share of its words that a document lost is its score "lines", on which the filter of that
    name decides; how many went for which reason is in the stage's measures.
    """
    return Stage(
        name,
        partial(map_parts, work=partial(edit_documents, rule=rule)),
        rule.model_dump(),
        ("pipelines.lines",),
        inputs=(source.name,),
    )


def edit_documents(documents: pa.Table, rule: FilterSpec) -> tuple[Part, pa.Table]:
    """Documents after an edit, the ledger's rows of those dropped, and the measures.

    Measured are the share of words that went, and the number of words that went for each reason.
    """
    done: list[Edited] = []

    def apply(texts: list[str]) -> list[str]:
        done.append(edit(texts, EDITS[rule.name], rule.thresholds))
        return done[0].texts

    edited = schema.with_texts(documents, apply)
    empty = flag(NOTHING_LEFT, np.array([not text.strip() for text in schema.texts(edited)], bool))
    gone = [Rule(name, schema.text_sums(documents, n)) for name, n in done[0].removed.items()]
    words = schema.text_sums(documents, done[0].words)
    lost = share(np.sum([each.values for each in gone], axis=0), words)
    kept = schema.with_score(edited, SCORE, lost).filter(pa.array(~empty.drops()))
    drops = ledger.drop_rows(documents, reasons([empty]).to_pylist())
    return (kept, drops), measures_of(documents, [empty, Rule(SCORE, lost), *gone])

"""The page: Python counts and places, the template `report.html` draws.

Everything that came from the web is text to the template, which escapes it; the page has no script
and asks nobody for anything.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from shards import ledger, storage
from shards.loader import Shards, open_shards
from shards.measures import Bound
from shards.report.account import costs, funnels, provenance
from shards.report.bars import bars, histogram, histograms, score_edges
from shards.report.dropped import dropped
from shards.report.formats import FORMATS
from shards.report.kept import Documents
from shards.report.lines import training
from shards.report.measured import measured
from shards.report.mixture import document_tokens, mixture, packed_samples
from shards.report.pictures import Pictures
from shards.report.stages import MIX, PARTS_READ, Stage, Table, in_order, read_stages
from shards.storage import Location

REPORT = "report.html"


def write_report(run: str | Location, out: str | Location | None = None) -> Location:
    """Writes the report of a run to `out`, by default `run/report.html`, and returns its place.

    The same run gives the same bytes, up to the seconds that its stages took.

    Raises:
        FileNotFoundError: there is no run, or it has no finished stage.
        ShardError: the run's shards cannot be read.
    """
    run = storage.location(run)
    out = storage.location(out or run / REPORT)
    stages = read_stages(run)
    if not stages:
        raise FileNotFoundError(f"{run} has no finished stage: give the folder of a run")
    storage.write_atomic(out, _render(_gather(run, stages)).encode("utf-8", "replace"))
    return out


def _gather(run: Location, stages: Sequence[Stage]) -> Table:
    """Everything that the page shows."""
    shards = next((open_shards(s.folder) for s in stages if s.name == "shards"), None)
    mix = mixture(shards, stages) if shards else None
    corpora = {s.corpus for s in stages} - {MIX} | (set(mix["corpora"]) if mix else set())
    pictures = Pictures([s for s in stages if "index" in s.about["holds"]])
    by_corpus = {name: [s for s in stages if s.corpus == name] for name in sorted(corpora)}
    documents = {name: Documents(mine) for name, mine in by_corpus.items() if mine}
    kept = {name: found.samples(pictures) for name, found in documents.items()}
    ordered = in_order(stages)
    return {
        "name": run.resolve().name if isinstance(run, Path) else str(run),
        "corpora": {name: f"c{i % 6}" for i, name in enumerate(by_corpus)},
        "mix": mix,
        "funnels": funnels(ordered),
        "kept": kept,
        "packed": packed_samples(shards, mix["firsts"], pictures) if shards and mix else {},
        "dropped": dropped(ordered, pictures),
        "measured": measured(ordered),
        "plots": _plots(shards, documents, mix),
        "languages": {n: found for n, d in documents.items() if (found := d.languages())},
        "parts_read": PARTS_READ,
        "training": training(run / "train" / "metrics.jsonl"),
        "costs": costs(stages, storage.read_json(run / ledger.RUN_FILE).get("core_hour_price")),
        "stages": [provenance(stage) for stage in stages],
        "skipped": pictures.skipped,
    }


def _plots(
    shards: Shards | None, documents: Mapping[str, Documents], mix: Table | None
) -> list[tuple[str, list[Table]]]:
    """Histograms by what they count; one for each corpus that has values."""
    scores: list[Table] = []
    for name, found in documents.items():
        values, least = found.scores()
        scores += histogram(name, values, score_edges(values), Bound("similarity", min=least))
    words = {name: found.words() for name, found in documents.items()}
    sides = {name: found.sides() for name, found in documents.items()}
    groups = [
        ("Image-text similarity (CLIP), before the threshold", scores),
        ("Words per document", histograms(words)),
        ("Shorter side of images, pixels", histograms(sides)),
    ]
    if shards and mix:
        binned, edges = mix["histograms"], mix["histograms"]["token_edges"]
        images = list(range(mix["max_images"] + 2))
        groups += [
            ("Tokens per document in the mixture", histograms(document_tokens(shards))),
            ("Tokens per sequence", [bars(n, c, edges) for n, c in binned["tokens"].items()]),
            ("Images per sequence", [bars(n, c, images) for n, c in binned["images"].items()]),
        ]
    return [(title, plots) for title, plots in groups if plots]


def _render(page: Table) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FORMATS
    return environment.get_template(REPORT).render(page)

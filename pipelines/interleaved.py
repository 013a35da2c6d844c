"""Web pages with their pictures in place: WARCs become documents of text, image, text, ..."""

from pipelines.config import Download, Interleaved
from pipelines.dedupe import dedupe_stage, image_copies_stage
from pipelines.extraction import extract_stage
from pipelines.images import download_stage, image_filter_stage
from pipelines.score import score_stage
from pipelines.scoring import language_stage
from pipelines.stage import Stage, filter_stage
from shards.stores.options import StorageOptions


def stages(recipe: Interleaved, options: Download, storage: StorageOptions) -> list[Stage]:
    """The corpus from top to bottom; pages are judged before their images are fetched."""
    pages = extract_stage("interleaved/extract", recipe.read, "interleaved", storage)
    spoken = language_stage("interleaved/language", pages)
    worded = filter_stage("interleaved/page_filters", spoken, recipe.page_filters, "filters.pages")
    unique = dedupe_stage("interleaved/dedupe", worded, recipe.dedupe)
    fetched = download_stage("interleaved/download", unique, options)
    pictured = image_filter_stage(
        "interleaved/image_filters", fetched, fetched, recipe.image_filters
    )
    rare = image_copies_stage("interleaved/image_copies", pictured, recipe.max_image_copies)
    scored = score_stage("interleaved/score", rare, fetched, recipe.clip)
    kept = image_filter_stage("interleaved/keep", scored, fetched, recipe.keep)
    return [pages, spoken, worded, unique, fetched, pictured, rare, scored, kept]

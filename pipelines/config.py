"""One YAML recipe a run, checked into typed objects before anything starts.

Every key that a recipe may hold is a field here, with its meaning beside it. An unknown key, a
wrong type or an impossible value is a `ConfigError` that names the key and what is allowed.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from configs.reading import ConfigError, Strict, load
from configs.storage import Place, Storage
from filters import captions, images, pages, pii, scored, text
from filters.lines import EDITS
from filters.quality import BUNDLED, GOOD
from filters.rules import Rule
from shards.storage import Location, location, matching
from shards.stores.options import StorageOptions

FilterFunction = Callable[..., list[Rule]]
KeywordFunction = Callable[..., Any]  # a filter, or an edit of lines


class FilterSpec(Strict):
    """A filter by name, with the thresholds that differ from its defaults."""

    name: str
    thresholds: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        """`name` and `{name: {threshold: value}}` are the two ways to write a filter in YAML."""
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and len(value) == 1 and "name" not in value:
            ((name, thresholds),) = value.items()
            return {"name": name, "thresholds": thresholds or {}}
        return value


def _thresholds(function: KeywordFunction) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(function, eval_str=True).parameters
    return {k: p for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def _check_filter(spec: FilterSpec, known: Mapping[str, KeywordFunction]) -> None:
    """The filter exists and every threshold is one of its own, of the right type."""
    if spec.name not in known:
        raise ValueError(f"unknown filter {spec.name!r}; allowed: {', '.join(sorted(known))}")
    allowed = _thresholds(known[spec.name])
    for key, value in spec.thresholds.items():
        if key not in allowed:
            names = ", ".join(allowed) or "none"
            raise ValueError(f"{spec.name} has no threshold {key!r}; allowed: {names}")
        try:
            TypeAdapter(allowed[key].annotation).validate_python(value, strict=True)
        except ValidationError as error:
            wanted = inspect.formatannotation(allowed[key].annotation)
            message = f"{spec.name}.{key} = {value!r} is not {wanted}"
            raise ValueError(message) from error


def _among(known: Mapping[str, FilterFunction]) -> AfterValidator:
    """Check that all filters of a list are in `known`."""

    def check(specs: list[FilterSpec]) -> list[FilterSpec]:
        for spec in specs:
            _check_filter(spec, known)
        return specs

    return AfterValidator(check)


DOCUMENT_FILTERS: dict[str, FilterFunction] = {
    **captions.FILTERS,
    **pages.FILTERS,
    **text.FILTERS,
    **scored.FILTERS,
}
FILTERS: dict[str, FilterFunction] = {**DOCUMENT_FILTERS, **images.FILTERS}
DocumentFilters = Annotated[list[FilterSpec], _among(DOCUMENT_FILTERS)]
ImageFilters = Annotated[list[FilterSpec], _among(images.FILTERS)]

Positive = Annotated[int, Field(gt=0)]
ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


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


class Resize(Strict):
    """Store images no larger than this; the original's hash stays the image's name."""

    shorter_side: Positive = 378  # pixels: what MM1's encoder sees is a square of as many
    quality: Annotated[int, Field(ge=1, le=100)] = 95  # of JPEG


class Download(Strict):
    """How images are asked for. Partitions are by host, so that one place paces each host."""

    user_agent: str = "mixwright/0.1 (+https://github.com/mixwright/mixwright)"
    total_seconds: Annotated[float, Field(gt=0)] = 20.0  # a URL, over redirects, retries and body
    max_bytes: Positive = 20_000_000
    max_redirects: Annotated[int, Field(ge=0)] = 5
    retries: Annotated[int, Field(ge=0)] = 2
    concurrency: Positive = 64  # requests under way in a partition
    per_host_concurrency: Positive = 4
    per_host_rate: Annotated[float, Field(gt=0)] = 10.0  # requests a second
    max_crawl_delay: Annotated[float, Field(ge=0)] = 30.0  # seconds; of what robots.txt may ask for
    max_host_failures: Positive = 20  # in a row, after which a host is not asked any more
    held_bytes: Positive = 256_000_000  # of bodies in memory, in a partition
    respect_robots: bool = True
    # Directives of X-Robots-Tag that refuse an image.
    opt_out_headers: list[str] = ["noai", "noimageai", "noindex", "noimageindex", "noml"]
    resize: Resize | None = Resize()  # null keeps the bytes of every image as they came
    # By host; as many as the corpus has parts, if not given.
    partitions: Positive | None = None
    tar_urls: Positive = 10_000  # of one partition, whose images share a tar
    tar_bytes: Annotated[int, Field(gt=0, le=4 * 2**30)] = 2**30  # after which another is begun
    # Host (or *.host) to address:port: the one way that private addresses are opened.
    connect_to: dict[str, str] = {}


class Clip(Strict):
    """The image-text model: the bundled one, a folder, or one of open_clip's and its weights."""

    model: str = "mixwright-small"  # or a folder that `mixwright train-filter` wrote
    pretrained: str | None = None  # an open_clip tag, or a path to a .safetensors file
    name: ScoreName = "similarity"  # of the score that a document is given
    embeddings: bool = False  # keep those of the images beside the scores
    # What the device is good for, if not given: 16 pairs on a processor, 256 on a GPU, which
    # works in bf16. Another batch or precision may give scores that differ in the last places.
    batch: Positive | None = None
    precision: Literal["fp32", "bf16"] | None = None


def _models(clips: list[Clip]) -> list[Clip]:
    names = [clip.name for clip in clips]
    if again := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two models are called {again[0]}: give one another name")
    if sum(clip.embeddings for clip in clips) > 1:
        raise ValueError("embeddings can be kept of one model")
    return clips


Clips = Annotated[
    list[Clip],
    Field(min_length=1),
    AfterValidator(_models),
    BeforeValidator(lambda value: [value] if isinstance(value, Mapping) else value),
]


class Near(Strict):
    """MinHash over word n-grams; records that share a band are duplicates (FineWeb's 14 x 8)."""

    ngram: Positive = 5
    bands: Positive = 14
    rows: Positive = 8
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 1
    # Or, instead of bands and rows, datasketch's optimum for a wanted Jaccard similarity.
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    permutations: Annotated[int, Field(ge=2)] = 128  # that the optimum may use
    # Link only what has at least this Jaccard similarity, counted; a shared band is enough if not
    # given, as in FineWeb.
    verify: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _banding(self) -> "Near":
        given = {"bands", "rows"} & self.model_fields_set
        if self.threshold is not None and given:
            raise ValueError("give a threshold, or bands and rows, but not both")
        if self.threshold is None and "permutations" in self.model_fields_set:
            raise ValueError("permutations says how many a threshold may use; there is none")
        return self

    @property
    def banding(self) -> tuple[int, int]:
        """Bands and rows, as given or for the threshold."""
        if self.threshold is None:
            return self.bands, self.rows
        from filters.minhash import optimal_bands  # whose libraries take a second to load

        return optimal_bands(self.threshold, self.permutations)


class NearImage(Strict):
    """Pictures that look alike, as `filters.looks` says, are duplicates."""

    distance: Annotated[int, Field(ge=0, le=12)] = 10  # bits of 64 in which hashes may differ


class Semantic(Strict):
    """Pictures whose embeddings are near are duplicates (SemDeDup)."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.95  # the least cosine
    clusters: Positive = 1000  # in which pictures are compared
    sample: Positive = 100_000  # pictures that the centres of clusters are made from

    @model_validator(mode="after")
    def _clusters_have_a_sample(self) -> "Semantic":
        if self.sample < self.clusters:
            raise ValueError(f"{self.clusters} clusters need a sample of at least as many pictures")
        return self


class Dedupe(Strict):
    """What makes two records one; of records that are one, however indirectly, one is kept."""

    exact: list[Literal["url", "content", "image"]] = []
    near: Near | None = None
    near_image: NearImage | None = None
    semantic: Semantic | None = None
    # Compare only records that have this in common; all, if not given.
    scope: Literal["snapshot", "source", "host"] | None = None
    against: list[str] = []  # folders of finished runs, whose survivors count as seen already

    @model_validator(mode="after")
    def _texts_are_there(self) -> "Dedupe":
        if self.against and self.near and self.near.verify is not None:
            raise ValueError("near.verify compares texts, of which runs in against keep only keys")
        return self

    @property
    def kinds(self) -> list[str]:
        """What is compared, by the recipe's names."""
        others = ("near", "near_image", "semantic")
        return [*self.exact, *(name for name in others if getattr(self, name))]

    @model_validator(mode="after")
    def _meanings_are_of_one_run(self) -> "Dedupe":
        if self.semantic and self.against:
            raise ValueError("semantic compares embeddings, of which runs in against keep none")
        return self


class Passages(Strict):
    """Take out lines, paragraphs or runs of sentences that a corpus repeats."""

    unit: Literal["line", "paragraph", "sentence"]
    span: Positive = 1  # units of a passage: C4's are three sentences, which may overlap
    scope: Literal["snapshot", "source", "host"] | None = None  # within which repeats count
    least: Annotated[int, Field(ge=2)] = 2  # occurrences that make a repeat
    keep: Literal["first", "none"] = "first"  # of the occurrences, by id
    min_words: Annotated[int, Field(ge=0)] = 0  # that an edited document has to have left


class Language(Strict):
    """Name each document's language, and score how sure that is; filters decide on it."""


def _edit(spec: FilterSpec) -> FilterSpec:
    _check_filter(spec, EDITS)
    return spec


class FlaggedWords(Strict):
    """Score the share of words that are on a list."""

    # Lists, one entry a line, # for remarks; a short English one that comes with the project, if
    # none is given.
    files: list[str] = []


class Quality(Strict):
    """Score how probable a fastText classifier finds it that a text is of the good kind."""

    model: str = BUNDLED  # the bundled one, or a path to a .bin or .ftz file
    label: str = GOOD  # the label of good texts, without "__label__"


class Perplexity(Strict):
    """Score how much a KenLM language model is surprised, in perplexity a word."""

    model: str  # a path to an ARPA or binary file
    tokens: str | None = None  # a path to the SentencePiece model that it was made with


class Decontaminate(Strict):
    """Drop documents that hold text of evaluation sets (Brown et al. 2020, appendix C)."""

    # The evaluation sets: .txt (an item a line), .jsonl, .json, .csv, .tsv or .parquet, also .gz
    # and .zst.
    files: list[str] = Field(min_length=1)
    fields: list[str] = []  # the keys or columns to look at; every text of a row, if none is given
    ngram: Positive = 13  # words in common that make a document contaminated
    # An item of fewer words is looked for as a whole, unless it has fewer than this.
    shortest: Positive = 8
    max_ngrams: Annotated[int, Field(ge=0)] = 0  # different ones that a document may have
    # N-grams that more documents have are ignored, as common phrases and boilerplate; the paper
    # has 10. Copies of an evaluation set may be as many: dedupe before.
    max_documents: Positive | None = None
    report_only: bool = False  # drop nothing; ledger and measures say what was found


class DecontaminateImages(NearImage):
    """Take out pictures of evaluation sets: the same bytes, or those that look alike."""

    # Pictures, .tar or .parquet files of pictures: paths, patterns such as eval/**/*.png, or
    # folders, which end in a slash on an object store.
    files: list[str] = Field(min_length=1)
    report_only: bool = False  # take out nothing; the ledger says what was found


class Mask(Strict):
    """Put placeholders for personal data."""

    email: bool = True
    ip: bool = True  # public addresses
    phone: bool = True
    key: str = pii.KEY  # of the hash that makes placeholders; a secret one cannot be looked up


class Fetch(Strict):
    """Download the pictures, as the run's section `download` says."""


class Copies(Strict):
    """Take out what the corpus has more often: pictures from wherever they are, captions beyond."""

    of: Literal["image", "caption"] = "image"
    most: Positive = 10  # of images those of OBELICS and MM1


class Nsfw(Strict):
    """Score how probably each picture is pornographic; the filter image_nsfw decides on it."""


class Select(Strict):
    """Keep the best documents of the corpus by a score that a step before has given them.

    A fraction of those that are there: before other filters, of all; after them, of what they keep.
    """

    by: ScoreName = "similarity"  # or quality, perplexity, the name of a model of step clip, ...
    fraction: Annotated[float, Field(gt=0, le=1)]
    lowest: bool = False  # whether low scores are the good ones, as those of perplexity are


class Step(Strict):
    """One step of a corpus: exactly one of these keys."""

    # Of the words of documents.
    language: Language | None = None
    lines: Annotated[FilterSpec, AfterValidator(_edit)] | None = None  # edits: refinedweb, c4
    flagged_words: FlaggedWords | None = None
    quality: Quality | None = None
    perplexity: Perplexity | None = None
    filter: DocumentFilters | None = None
    dedupe: Dedupe | None = None
    passages: Passages | None = None
    decontaminate: Decontaminate | None = None
    mask: Mask | None = None
    select: Select | None = None
    # Of their pictures.
    download: Fetch | None = None
    filter_images: ImageFilters | None = None
    copies: Copies | None = None
    decontaminate_images: DecontaminateImages | None = None
    nsfw: Nsfw | None = None
    clip: Clips | None = None  # one model, or a list: every image is decoded once for all

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`name` is short for `name: {}`."""
        return {value: {}} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_key(self) -> "Step":
        if len(self.model_fields_set) != 1:
            allowed = ", ".join(type(self).model_fields)
            raise ValueError(f"a step has exactly one key of {allowed}")
        return self

    @model_serializer
    def _as_it_is_written(self) -> dict[str, Any]:
        return {self.kind: self.options}

    @property
    def kind(self) -> str:
        """Which step it is."""
        return next(iter(self.model_fields_set))

    @property
    def options(self) -> Any:
        """What stands below its key."""
        return getattr(self, self.kind)


NEEDS = {  # the step that has to stand before
    "step filter_images": "download",
    "step decontaminate_images": "download",
    "step nsfw": "download",
    "step clip": "download",
    "dedupe by image": "download",
    "dedupe by near_image": "download",
    "dedupe by semantic": "clip",
    "filter image_nsfw": "nsfw",
    "filter image_similarity": "clip",
}


SCORERS = ("language", "lines", "flagged_words", "quality", "perplexity")  # of their own name


def _scores(steps: Sequence[Step]) -> list[str]:
    """The scores that steps give to documents."""
    clips = [clip.name for step in steps for clip in step.clip or []]
    return [*(step.kind for step in steps if step.kind in SCORERS), *clips]


def _needs(step: Step) -> dict[str, str]:
    """What a step and its filters need before them; a filter named like a step needs that step."""
    filtering = step.kind in ("filter", "filter_images")
    names = [f"filter {spec.name}" for spec in step.options] if filtering else []
    scores = {name: kind for name in names if (kind := name.split()[1]) in Step.model_fields}
    keys = [f"dedupe by {kind}" for kind in step.dedupe.kinds] if step.dedupe else []
    return scores | {n: NEEDS[n] for n in (f"step {step.kind}", *names, *keys) if n in NEEDS}


def _asked(step: Step) -> list[tuple[str, str]]:
    """Who asks for scores by name, and for which."""
    filters = [spec for spec in step.filter or [] if spec.name == "scored"]
    named = [("filter scored", spec.thresholds.get("name", "similarity")) for spec in filters]
    return named + ([("step select", step.select.by)] if step.select else [])


class Corpus(Strict):
    """Steps in the order that they are written in, after what was read."""

    steps: list[Step] = []
    measure_all: bool = False  # let filters measure what others have dropped, for `mixwright tune`

    @property
    def adopts(self) -> bool:
        """Whether pictures are there before any is downloaded."""
        return False

    @model_validator(mode="after")
    def _scores_are_there(self) -> "Corpus":
        for number, step in enumerate(self.steps):
            known = _scores(self.steps[:number])
            for name, score in _asked(step):
                if score not in known:
                    raise ValueError(
                        f"the {name} needs a step before it that gives the score {score}; "
                        f"those before it give: {', '.join(known) or 'none'}"
                    )
        return self

    @model_validator(mode="after")
    def _what_a_step_needs_comes_first(self) -> "Corpus":
        """Pictures before what looks at them, and scores before the filters that decide on them."""
        before: list[str] = []
        for step in self.steps:
            for name, needed in _needs(step).items():
                if needed not in before:
                    raise ValueError(f"the {name} needs a step {needed} before it")
            before.append(step.kind)
        if before.count("download") > 1:
            raise ValueError("there is more than one step download")
        return self


class Pictured(Corpus):
    """A corpus with pictures, which have to be downloaded."""

    steps: list[Step] = [Step(download=Fetch())]

    @model_validator(mode="after")
    def _pictures_are_fetched(self) -> "Pictured":
        if not any(step.kind == "download" for step in self.steps):
            raise ValueError("there is no step download, and so no picture")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


class Captions(Pictured):
    """Image-caption pairs, of one source or a list of them."""

    read: Annotated[list[Tables], BeforeValidator(_as_list), Field(min_length=1)]

    @property
    def adopts(self) -> bool:
        """Whether pictures of any source are there already."""
        return any(tables.adopts for tables in self.read)

    @property
    def sources(self) -> dict[str, float | None]:
        """The weight of each source by name, in the recipe's order."""
        each = [entry for t in self.read for entry in (t, t.synthetic) if entry is not None]
        return {entry.source: entry.weight for entry in each}

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each source, if the recipe gives them."""
        return {name: weight for name, weight in self.sources.items() if weight is not None}

    @model_validator(mode="after")
    def _sources_differ(self) -> "Captions":
        count = sum(1 + (tables.synthetic is not None) for tables in self.read)
        if len(self.sources) < count:
            raise ValueError("two sources have one name: give each a source of its own")
        weights = self.sources.values()
        if None in weights and any(weights):
            raise ValueError("give all sources a weight, or none")
        return self


class Interleaved(Pictured):
    """Web pages with their pictures in place."""

    read: Pages


class Text(Corpus):
    """Prose of web pages."""

    read: ProsePages

    @model_validator(mode="after")
    def _there_are_no_pictures(self) -> "Text":
        if any(step.kind == "download" for step in self.steps):
            raise ValueError("text has no pictures to download")
        if any(step.copies and step.copies.of == "image" for step in self.steps):
            raise ValueError("text has no pictures; copies may be of: caption")
        return self


class Corpora(Strict):
    """The raw material; a corpus that is left out is not made."""

    captions: Captions | None = None
    interleaved: Interleaved | None = None
    text: Text | None = None

    @property
    def files(self) -> list[str]:
        """What the recipe names as inputs."""
        reads = [corpus.read for _, corpus in self if corpus is not None]
        sources = [s for read in reads for s in (read if isinstance(read, list) else [read])]
        return [path for source in sources for path in source.files]


class Mix(Strict):
    """How documents become training sequences, and in which proportion."""

    weights: dict[str, Annotated[float, Field(gt=0)]]  # by corpus, in sequences
    seq_len: Positive = 4096
    image_tokens: Positive = 144
    max_images: Positive = 16
    tokenizer: str = "mixwright-8k"  # the bundled one, or a path to a tokenizer.json
    max_epochs: Positive = 1  # how often a corpus may be shown before it is exhausted
    documents_per_partition: Positive = 10_000  # of the packing step
    sequences_per_shard: Positive = 1000

    @model_validator(mode="after")
    def _an_image_fits(self) -> "Mix":
        if self.image_tokens + 1 >= self.seq_len:
            raise ValueError(
                f"image_tokens = {self.image_tokens} does not fit into seq_len = {self.seq_len}; "
                "an image, some text and an end token must share a sequence"
            )
        return self


class Cluster(Strict):
    """A Spark or Flink cluster, and how its machines run Python."""

    # Of a Beam job server that is running, as host:port. Without one Beam starts its own, which
    # it has to download, and `master` says for which cluster.
    job_endpoint: str | None = None
    master: str | None = None  # spark://host:7077, or host:8081 of a Flink job manager
    # Python workers: in a container of `image` on each machine; in a Beam worker pool that runs
    # beside each executor, at `pool`; or in this process, for clusters on one machine.
    environment: Literal["docker", "external", "loopback"] = "docker"
    image: str | None = None
    pool: str = "localhost:50000"


class Dataflow(Strict):
    """Google Cloud Dataflow."""

    project: str | None = None
    region: str | None = None
    temp: str | None = None  # gs://bucket/folder for what Dataflow stages
    image: str | None = None  # of the workers; the Dockerfile makes it
    machine_type: str | None = None
    disk_gb: Positive | None = None
    workers: Positive | None = None  # to begin with
    max_workers: Positive | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    public_ips: bool = True
    accelerator: str | None = None  # "type:nvidia-tesla-t4;count:1;install-nvidia-driver"


Engine = Literal["local", "spark", "flink", "dataflow"]


class Runner(Strict):
    """Where the Beam graphs run."""

    engine: Engine = "local"
    workers: Annotated[int, Field(ge=0)] = 0  # local processes; 0 is one a core
    spark: Cluster = Cluster()
    flink: Cluster = Cluster()
    dataflow: Dataflow = Dataflow()
    # Any others of Beam's, as they are; a list gives an option several times.
    options: dict[str, str | int | float | bool | list[str] | None] = {}
    core_hour_price: Annotated[float, Field(ge=0)] | None = None  # for the report's costs, in USD


class Recipe(Strict):
    """A whole run."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")
    storage: Storage = Storage()
    out: Place  # the run's folder
    seed: int = 0  # of the order of documents in the mixture
    corpora: Corpora
    download: Download = Download()
    mix: Mix
    runner: Runner = Runner()
    train: str | None = None  # the training recipe that `mixwright demo` goes on with

    @model_validator(mode="after")
    def _weights_have_corpora(self) -> "Recipe":
        made = {name for name, corpus in self.corpora if corpus is not None}
        if missing := sorted(set(self.mix.weights) - made):
            raise ValueError(
                f"mix.weights names {', '.join(missing)}, but corpora does not; "
                f"made are: {', '.join(sorted(made)) or 'none'}"
            )
        return self


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe, with `--set` assignments applied; raises `ConfigError`."""
    return load(Recipe, path, assignments)


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

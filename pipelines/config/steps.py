"""What a recipe says of each step, and of how pictures are downloaded."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_serializer, model_validator

from configs.reading import Positive, Strict
from filters import pii
from filters.quality import BUNDLED, GOOD
from pipelines.config.rules import DocumentFilters, Edit, ImageFilters

ScoreName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


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
    lines: Edit | None = None  # edits: refinedweb, c4
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

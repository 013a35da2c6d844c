"""A whole recipe."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from configs.reading import Positive, Strict, load
from configs.storage import Place, Storage
from pipelines.config.corpora import Corpora
from pipelines.config.runner import Runner
from pipelines.config.steps import Download


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

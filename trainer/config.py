"""What a training run is: one YAML file, one frozen model for each box of the diagram.

Importing this module does not import torch, so that a command line can check a file at once.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.reading import Strict, load
from configs.storage import Place, Storage
from shards.storage import Location

Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class EncoderConfig(Strict):
    """The image encoder: the bundled CLIP or any open_clip model."""

    model: str = "mixwright-small"
    pretrained: str | None = None  # an open_clip tag or a safetensors file; None: see `freeze`
    # MM1 unfreezes everything (section 4). A frozen encoder must have weights: the bundled
    # ones, or `pretrained`. One that is trained may start from random weights.
    freeze: bool = True
    image_size: Count | None = None  # pixels of a side; None is the encoder's own

    @model_validator(mode="after")
    def _check(self) -> Self:
        bundled = self.model == "mixwright-small"
        if bundled and (self.pretrained is not None or self.image_size is not None):
            raise ValueError("mixwright-small brings its own weights and image size")
        if self.freeze and not bundled and self.pretrained is None:
            raise ValueError("a frozen encoder needs pretrained weights")
        return self


class ConnectorConfig(Strict):
    """How patch tokens become the shards' number of tokens an image."""

    kind: Literal["average"] = "average"


class DecoderConfig(Strict):
    """The language model's shape; its vocabulary is the tokenizer's."""

    width: Count
    layers: Count
    heads: Count
    kv_heads: Count
    ffn_multiple: Annotated[float, Field(gt=0)] = 8 / 3  # hidden width of the FFN over `width`
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError("width must be heads times an even head width")
        if self.heads % self.kv_heads:
            raise ValueError("heads must be a multiple of kv_heads")
        return self


class OptimiserConfig(Strict):
    """AdamW with a linear warm-up and a cosine decay; the defaults are MM1's where it says them."""

    peak_lr: Annotated[float, Field(gt=0)] | Literal["mm1"] = "mm1"
    warmup_steps: Annotated[int, Field(ge=0)] = 2_000
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
    # Each step shrinks weights by learning rate x weight_decay; MM1's rule is 0.1.
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)  # MM1 does not say
    eps: Annotated[float, Field(gt=0)] = 1e-8
    grad_clip: Annotated[float, Field(gt=0)] = 1.0  # largest norm of the whole gradient


class TrainConfig(Strict):
    """One run: which shards, which model, for how long, and where the results go."""

    name: str
    storage: Storage = Storage()
    shards: Place  # that `mixwright` wrote: runs/demo/shards, s3://bucket/run/shards
    out: Place  # metrics.jsonl and checkpoints/ go here
    steps: Count
    batch_size: Count  # packed sequences a step
    held_out: Fraction = 0.1  # share of the positions, at the end of the shards, never trained on
    seed: int = 0  # of the initial weights; the order of the data is the shards' own
    encoder: EncoderConfig = EncoderConfig()
    connector: ConnectorConfig = ConnectorConfig()
    decoder: DecoderConfig
    optimiser: OptimiserConfig = OptimiserConfig()
    checkpoint_every: Count = 1_000  # steps; the last step is always kept
    log_every: Count = 10
    eval_every: Count = 1_000
    eval_batches: Count = 16  # at most; fewer when the held-out positions are fewer
    cache_sequences: Annotated[int, Field(ge=0)] = 0  # prepared sequences kept in memory


def load_config(path: str | Location, assignments: Sequence[str] = ()) -> TrainConfig:
    """Read and check a training recipe, with `--set` assignments applied; raises `ConfigError`."""
    return load(TrainConfig, path, assignments)

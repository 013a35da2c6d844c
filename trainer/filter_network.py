"""Trains a CLIP network that filters image-text pairs on pairs of high quality.

The idea of Data Filtering Networks (Fang et al. 2023, arXiv 2309.17425): what makes a network a
good filter is the quality of the pairs that it was trained on, rather than how well it does
elsewhere. The loss is CLIP's (Radford et al. 2021), over the pairs of all devices together.

Guarantees, each with a test in tests/trainer/test_filter_network.py:
- a run that was stopped and started again arrives at the same weights, bit for bit on a CPU;
- so does one on several devices, up to rounding: a batch is that of all of them;
- no picture that looks like a held-out one is trained on.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import safetensors.torch
import torch
from open_clip.loss import ClipLoss
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from filters.clip import BUNDLED, CONFIG, WEIGHTS, ClipModel, create, load_clip, network_folder
from shards import schema, storage
from shards.images import open_image
from shards.storage import Location
from trainer import checkpoint, optim
from trainer.config import OptimiserConfig
from trainer.metrics import Progress, due, metrics_writer
from trainer.pairs import PairsError, Split, read_image
from trainer.ranks import Ranks
from trainer.separation import separation

METRICS = "metrics.jsonl"
WARMUP = 0.1  # of the steps
SMALLEST_CROP = 0.9  # of a picture's area, as open_clip crops by default
# Radford et al. 2021, section 2.5: the temperature is clipped, for training to be stable.
LARGEST_SCALE = math.log(100)
LOG_EVERY = 10  # steps

Turn = tuple[int | None, int]  # the epoch whose crop is wanted, None for the whole picture; a row
Feed = Callable[[Iterable[list[Turn]]], Iterator[tuple[Tensor, Tensor]]]  # pictures, tokens
Aucs = Mapping[str, float]  # by source, and pooled


@dataclass(frozen=True)
class Settings:
    """What decides, with the pairs, which weights a run arrives at."""

    steps: int
    batch: int  # pairs of one step, on all devices together
    model: str = BUNDLED  # or a network's folder, or an architecture of open_clip
    pretrained: str | None = None  # of an architecture: a tag or a safetensors file; None is none
    learning_rate: float = 1e-4
    lock_image: bool = False  # train only a timm tower's projection and the text tower
    seed: int = 0

    @property
    def from_weights(self) -> bool:
        """Whether the network to start from has learned something."""
        owns = self.model == BUNDLED or network_folder(self.model) is not None
        return owns or self.pretrained is not None


@dataclass(frozen=True)
class Options:
    """What a run may change and yet arrive at the same weights."""

    workers: int = 0  # processes a device that decode pictures; 0: the one that trains
    eval_every: int = 100  # steps
    checkpoint_every: int = 100


@dataclass(frozen=True)
class Run:
    """The parts of a run, built once."""

    settings: Settings
    ranks: Ranks
    pairs: Split
    clip: ClipModel
    towers: "Towers"
    trained: nn.Module  # the towers, wrapped for data parallelism where there are many devices
    optimiser: torch.optim.Optimizer
    contrast: ClipLoss
    feed: Feed  # of the pairs to train on
    held_out: Feed


# The network


class Towers(nn.Module):
    """Both towers of an open_clip model as one call, which is what data parallelism wraps.

    With `locked`, pictures come as what the locked part of the image tower made of them.
    """

    def __init__(self, network: Any, *, locked: bool) -> None:
        super().__init__()
        self.network = network
        self.locked = locked
        if locked:
            network.visual.requires_grad_(False)
            locked_parts(network.visual)[1].requires_grad_(True)
        if getattr(network, "logit_bias", None) is not None:
            network.logit_bias.requires_grad_(False)  # of SigLIP's loss; it cancels out of CLIP's

    def forward(self, pictures: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows float32 [n, d] of pictures and of texts, and what cosines are multiplied by."""
        encode = locked_parts(self.network.visual)[1] if self.locked else self.network.encode_image
        images, texts = encode(pictures), self.network.encode_text(tokens)
        unit = [F.normalize(rows.float(), dim=-1) for rows in (images, texts)]
        return unit[0], unit[1], self.network.logit_scale.exp()


def locked_parts(visual: Any) -> tuple[nn.Module, nn.Module]:
    """The part of an image tower that locking it keeps as it is, and the part that still learns.

    That is the projection of a tower of timm's (Zhai et al. 2022 lock all but it); a tower of
    open_clip's own has none apart.
    """
    return (visual.trunk, visual.head) if hasattr(visual, "trunk") else (visual, nn.Identity())


def start_network(settings: Settings) -> ClipModel:
    """The network to start from; one without weights has random ones, drawn by the seed.

    Raises:
        ValueError, RuntimeError: as `load_clip`.
    """
    torch.manual_seed(settings.seed)
    if settings.from_weights:
        return load_clip(settings.model, settings.pretrained)
    return create(settings.model)


def learning(towers: nn.Module, settings: Settings) -> None:
    """Into training mode, but for batch norm where weights were given.

    The statistics of the many pictures that it has seen are better than those of a few batches.
    """
    towers.train()
    if settings.from_weights:
        for module in towers.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def in_parallel(towers: Towers, settings: Settings, ranks: Ranks) -> nn.Module:
    """The towers as all devices train them together: gradients are averaged."""
    if ranks.world == 1:
        return towers
    if ranks.device.type == "cuda" and not settings.from_weights:
        convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
        towers.network = convert(towers.network)
    return nn.parallel.DistributedDataParallel(towers)


# Pictures and texts


class Decoded(Dataset[tuple[Tensor, Tensor]]):
    """Pairs by turn, their pictures decoded, cropped and prepared as the network wants them."""

    def __init__(self, pairs: pa.Table, clip: ClipModel, seed: int) -> None:
        self.pairs, self.seed = pairs, seed
        self.preprocess, self.tokenizer = clip.preprocess, clip.tokenizer

    def __getitem__(self, turn: Turn) -> tuple[Tensor, Tensor]:
        epoch, row = turn
        pair = self.pairs.slice(row, 1).to_pylist()[0]
        picture = open_image(read_image(pair))
        if epoch is not None:
            picture = crop(picture, schema.digest(str(self.seed), str(epoch), pair["sha256"]))
        return self.preprocess(picture), self.tokenizer([pair["caption"]])[0]


def crop(picture: Image.Image, key: str) -> Image.Image:
    """A part of at least SMALLEST_CROP of the area and of the same shape; `key` decides which."""
    random = np.random.default_rng(int(key[:16], 16))
    share = math.sqrt(random.uniform(SMALLEST_CROP, 1))
    width, height = (max(1, round(side * share)) for side in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def decoding(pairs: pa.Table, clip: ClipModel, seed: int, workers: int) -> Feed:
    """A feed that decodes pictures each time, in processes of their own if there are workers."""
    decoded = Decoded(pairs, clip, seed)
    pinned = str(clip.device).startswith("cuda")

    def feed(turns: Iterable[list[Turn]]) -> Iterator[tuple[Tensor, Tensor]]:
        sampler: Any = turns
        yield from DataLoader(
            decoded, batch_sampler=sampler, num_workers=workers, pin_memory=pinned
        )

    return feed


def remembering(feed: Feed, pairs: pa.Table, clip: ClipModel, ranks: Ranks) -> Feed:
    """A feed of what the locked part of the image tower makes of whole pictures, made once."""
    locked = locked_parts(clip.model.visual)[0].eval()
    captions = pairs["caption"].to_pylist()

    @torch.no_grad()
    def encode(chunks: list[list[int]]) -> Iterator[Tensor]:
        for pictures, _ in feed(whole(chunks)):
            with narrow(ranks):
                yield locked(pictures.to(ranks.device))

    features = ranks.everywhere(len(captions), encode)

    def remembered(turns: Iterable[list[Turn]]) -> Iterator[tuple[Tensor, Tensor]]:
        for turn in turns:
            rows = [row for _, row in turn]
            yield features[rows], clip.tokenizer([captions[row] for row in rows])

    return remembered


def whole(chunks: Iterable[list[int]]) -> Iterator[list[Turn]]:
    """The turns of rows whose pictures are not cropped."""
    return ([(None, row) for row in rows] for rows in chunks)


def narrow(ranks: Ranks) -> AbstractContextManager[Any]:
    """Towers compute in bfloat16 on GPUs; weights and the loss stay float32."""
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=ranks.device.type == "cuda")


def turns(settings: Settings, ranks: Ranks, count: int, start: int) -> Iterator[list[Turn]]:
    """Of the batch of every step from `start` on the share of this device.

    An epoch is a permutation by the seed, and its last pairs that fill no batch are left out.
    """
    size = settings.batch
    for step in range(start, settings.steps):
        epoch, index = divmod(step, count // size)
        rows = permutation(count, settings.seed, epoch)[index * size : (index + 1) * size]
        yield [(epoch, row) for row in ranks.share(list(rows))]


@lru_cache(maxsize=1)
def permutation(count: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of an epoch."""
    generator = torch.Generator().manual_seed(number(seed, epoch))
    return tuple(torch.randperm(count, generator=generator).tolist())


def number(*values: int) -> int:
    """A seed that is one's own for these numbers."""
    return int(schema.digest(*map(str, values))[:15], 16)


# Training


def train(
    settings: Settings,
    options: Options,
    pairs: Split,
    out: Location,
    ranks: Ranks,
    progress: Progress | None = None,
) -> tuple[Aucs, Aucs]:
    """Trains to the last step, going on from the latest checkpoint, and writes the network.

    `out` becomes a network's folder. Lines of metrics have "step" (updates done) and either "auc",
    by source, or "loss" and "lr". Returns the AUCs of the held-out pairs before and after.

    Raises:
        PairsError: there are fewer pairs than a batch has, or devices do not share it evenly.
        ValueError: the checkpoint is of another run; the network cannot be loaded.
        RuntimeError: the gradient is not finite; open_clip knows no such network.
        OSError: a picture is gone.
    """
    check(settings, pairs, ranks)
    run = build_run(settings, options, pairs, ranks)
    state = resume(run, out)
    tell = teller(out, state["step"] if state else -1, ranks, progress)
    if state is None:
        state = {"step": 0, "before": evaluate(run)}
        tell({"step": 0, "auc": state["before"]})
    after: Aucs = state["before"]
    for step, loss, rate in updates(run, state["step"]):
        if due(step, LOG_EVERY, settings.steps):
            tell({"step": step, "loss": ranks.mean(loss), "lr": rate})
        if due(step, options.eval_every, settings.steps):
            after = evaluate(run)
            tell({"step": step, "auc": after})
        if due(step, options.checkpoint_every, settings.steps):
            save(run, out, {**state, "step": step})
    if state["step"] == settings.steps:
        after = evaluate(run)
    if ranks.first:
        export(run, out)
    ranks.wait()
    return state["before"], after


def check(settings: Settings, pairs: Split, ranks: Ranks) -> None:
    """Raises PairsError unless every device gets as many pairs of a batch as the others."""
    if settings.batch > pairs.train.num_rows:
        raise PairsError(
            f"a batch of {settings.batch} of {pairs.train.num_rows} pairs to train on: "
            "give more pairs, or a smaller --batch"
        )
    if settings.batch % ranks.world:
        raise PairsError(f"--batch {settings.batch} is no multiple of {ranks.world} devices")


def build_run(settings: Settings, options: Options, pairs: Split, ranks: Ranks) -> Run:
    """Loads the network and what it will see of the pairs; raises as `train`."""
    clip = start_network(settings)
    clip = replace(clip, model=clip.model.to(ranks.device), device=str(ranks.device))
    feeds = []
    for table in (pairs.train, pairs.held_out):
        feed = decoding(table, clip, settings.seed, options.workers)
        feeds.append(remembering(feed, table, clip, ranks) if settings.lock_image else feed)
    towers = Towers(clip.model, locked=settings.lock_image)
    trained = in_parallel(towers, settings, ranks)
    adam = optim.adamw(towers.parameters(), schedule(settings))
    contrast = ClipLoss(
        local_loss=True,
        gather_with_grad=True,
        cache_labels=True,
        rank=ranks.rank,
        world_size=ranks.world,
    )
    return Run(settings, ranks, pairs, clip, towers, trained, adam, contrast, *feeds)


def schedule(settings: Settings) -> OptimiserConfig:
    """AdamW as CLIP's (Radford et al. 2021, table 20, vision transformers)."""
    return OptimiserConfig(
        peak_lr=settings.learning_rate,
        warmup_steps=round(WARMUP * settings.steps),
        min_lr_ratio=0,
        weight_decay=0.2,
        betas=(0.9, 0.98),
        eps=1e-6,
    )


def updates(run: Run, start: int) -> Iterator[tuple[int, Tensor, float]]:
    """Does one update after another: how many are done, the loss in nats, the learning rate."""
    settings, ranks = run.settings, run.ranks
    mine = turns(settings, ranks, run.pairs.train.num_rows, start)
    for step, (pictures, tokens) in enumerate(run.feed(mine), start):
        rate = optim.learning_rate(step, settings.steps, settings.learning_rate, schedule(settings))
        optim.set_learning_rate(run.optimiser, rate)
        torch.manual_seed(number(settings.seed, step, ranks.rank))  # of dropout
        yield step + 1, update(run, pictures.to(ranks.device), tokens.to(ranks.device)), rate


def update(run: Run, pictures: Tensor, tokens: Tensor) -> Tensor:
    """One step of the optimiser; returns the loss of this device's pairs."""
    learning(run.towers, run.settings)
    with narrow(run.ranks):
        images, texts, scale = run.trained(pictures, tokens)
    loss: Tensor = run.contrast(images, texts, scale)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.towers.parameters(), 1.0, error_if_nonfinite=True)
    run.optimiser.step()
    run.optimiser.zero_grad()
    with torch.no_grad():
        run.towers.network.logit_scale.clamp_(max=LARGEST_SCALE)
    return loss.detach()


@torch.no_grad()
def evaluate(run: Run) -> Aucs:
    """AUC of matched against shuffled captions, of the pairs that are held out."""
    run.towers.eval()

    def encode(chunks: list[list[int]]) -> Iterator[Tensor]:
        for pictures, tokens in run.held_out(whole(chunks)):
            with narrow(run.ranks):
                device = run.ranks.device
                images, texts, _ = run.towers(pictures.to(device), tokens.to(device))
            yield torch.cat([images, texts], 1)

    table = run.pairs.held_out
    images, texts = np.split(run.ranks.everywhere(table.num_rows, encode).numpy(), 2, axis=1)
    sources = [source or "" for source in table["source"].to_pylist()]
    return separation(images, texts, table["caption"].to_pylist(), sources)


# What is written


def teller(out: Location, step: int, ranks: Ranks, progress: Progress | None) -> Progress:
    """Where lines of metrics go: of the first process to a file and to whoever watches."""
    if not ranks.first:
        return lambda line: None
    return metrics_writer(out / METRICS, step, progress)


def identity(run: Run) -> dict[str, Any]:
    """What must be equal for one run to continue another."""
    return asdict(run.settings) | {"pairs": run.pairs.sha256()}


def save(run: Run, out: Location, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint, and removes those before it."""
    if run.ranks.first:
        checkpoint.save(out, run.towers, run.optimiser, state, identity(run))
        for name in storage.names(out / checkpoint.FOLDER):
            if name != checkpoint.folder_of(out, state["step"]).name:
                storage.remove_tree(out / checkpoint.FOLDER / name)
    run.ranks.wait()


def resume(run: Run, out: Location) -> dict[str, Any] | None:
    """Puts the run back to its latest checkpoint; None if there is none."""
    path = checkpoint.latest(out)
    return checkpoint.load(path, run.towers, run.optimiser, identity(run)) if path else None


def export(run: Run, folder: Location) -> None:
    """Writes the network as open_clip reads it from a folder: `clip: {model: FOLDER}`."""
    preprocess = {k: v for k, v in run.clip.model.visual.preprocess_cfg.items() if k != "size"}
    config = {"model_cfg": model_config(run.settings.model), "preprocess_cfg": preprocess}
    weights = {
        name: value.cpu().contiguous() for name, value in run.clip.model.state_dict().items()
    }
    with storage.atomic_path(folder / WEIGHTS) as aside:
        safetensors.torch.save_file(weights, aside)
    if isinstance(run.clip.tokenizer, open_clip.tokenizer.HFTokenizer):
        run.clip.tokenizer.save_pretrained(str(folder))
    storage.write_json(folder / CONFIG, config)


def model_config(model: str) -> dict[str, Any]:
    """The architecture, in open_clip's terms.

    Raises:
        ValueError: open_clip knows none of that name.
    """
    folder = network_folder(model)
    found = storage.read_json(folder / CONFIG)["model_cfg"] if folder else None
    config: dict[str, Any] | None = found or open_clip.get_model_config(model)
    if config is None:
        raise ValueError(
            f"{model}: no architecture of open_clip, which are listed by list_models()"
        )
    return config

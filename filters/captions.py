"""Document filters for captions: alternative text that describes nothing is dropped.

The caption of a document is its text parts joined by newlines, white space around it left out.
"""

import re

import numpy as np

from filters.prose import Batch, prose
from filters.rules import Filter, Mask, Rule, above, below, flag, measured
from filters.text import language

# What content management systems, shops and players write where a description is missing.
PHRASES = [
    "click to enlarge",
    "click to view",
    "click for larger",
    "click here to",
    "click image to",
    "click on image to",
    "click the image to",
    "view larger image",
    "image not available",
    "no image available",
    "image not found",
    "image coming soon",
    "image may contain",
    "image placeholder",
    "placeholder image",
    "no photo description available",
    "no automatic alt text",
    "your browser does not support",
    "please enable javascript",
    "has an empty alt attribute",
    "its file name is",
]
# What stands where a description should: kinds of pictures, parts of a site, and what programs
# write for nothing.
LABELS = [
    *("image", "images", "img", "photo", "photos", "photograph", "picture", "pictures", "pic"),
    *("thumbnail", "thumb", "graphic", "illustration", "clipart", "clip art", "wallpaper"),
    *("background", "screenshot", "slide", "figure", "fig", "photo gallery", "gallery", "video"),
    *("logo", "site logo", "icon", "banner", "avatar", "button", "arrow", "bullet", "spacer"),
    *("header", "footer", "menu", "search", "home", "close", "open", "back", "next", "previous"),
    *("share", "email", "print", "download", "play", "loading", "ad", "advertisement", "rss"),
    *("facebook", "twitter", "instagram", "linkedin", "youtube", "pinterest", "whatsapp"),
    *("user", "author", "profile", "profile picture", "profile photo", "user avatar"),
    *("image description", "product image", "featured image", "main image", "cover image"),
    *("header image", "hero image", "banner image", "post image", "article image", "stock photo"),
    *("alt", "alt text", "caption", "no caption", "default", "placeholder", "blank", "empty"),
    *("null", "none", "n/a", "undefined", "nan", "test", "lorem ipsum", "photo by", "image by"),
]
# What sellers of pictures add to their descriptions.
SELLERS = [
    "stock photo",
    "stock image",
    "stock picture",
    "stock illustration",
    "stock vector",
    "stock footage",
    "royalty free",
    "royalty-free",
    "rights managed",
    "rights-managed",
    "shutterstock",
    "istockphoto",
    "getty images",
    "gettyimages",
    "dreamstime",
    "depositphotos",
    "123rf",
    "alamy",
    "vector illustration of",
]
# At most three words with an image file's extension, or the name that a camera or a phone gives.
FILE_NAME = re.compile(
    r"""
    \S+(?:\s\S+){0,2}\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|heic|avif)
    | (?:img|dsc[nf]?|pict?|pxl|mvi|gopr|dji|sam|imag|image|photo|picture|screen[ ]?shot|scan|file)
        [-_ (]*[0-9][-_.() 0-9]*(?:wa[0-9]+)?
    | p[0-9]{7}
    | (?:untitled|unnamed)[-_() 0-9]*
    | [0-9a-f]{16,64}
    | [0-9][-_.0-9]*
    """,
    re.IGNORECASE | re.VERBOSE,
)
WORD = re.compile(r"[^\W\d_]+")
WEB_ADDRESS = re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE)


def caption_words(batch: Batch, *, min: int | None = 3, max: int | None = None) -> list[Rule]:
    """Keeps captions of more than two words between white space.

    DataComp's basic filter (Gadre et al. 2023, arXiv 2304.14108; baselines/apply_filter.py). It has
    no upper limit.
    """
    words = measured(lambda caption: len(caption.split()), _captions(batch))
    return [
        below("caption_too_few_words", words, min),
        above("caption_too_many_words", words, max),
    ]


def caption_characters(batch: Batch, *, min: int | None = 6, max: int | None = None) -> list[Rule]:
    """Keeps captions of more than five characters.

    DataComp's basic filter (Gadre et al. 2023, arXiv 2304.14108; baselines/apply_filter.py). It has
    no upper limit.
    """
    characters = measured(len, _captions(batch))
    return [
        below("caption_too_few_characters", characters, min),
        above("caption_too_many_characters", characters, max),
    ]


def caption_file_name(batch: Batch) -> list[Rule]:
    """Drops captions that are wholly a file name: IMG_1234, DSC0001.JPG, summer.png, a hash.

    This project's own rule: such alternative text is what an upload form fills in.
    """
    names = _matches(FILE_NAME, _captions(batch))
    return [flag("caption_file_name", names)]


def caption_url(batch: Batch) -> list[Rule]:
    """Drops captions that are wholly a web address; this project's own rule."""
    addresses = _matches(WEB_ADDRESS, _captions(batch))
    return [flag("caption_url", addresses)]


def caption_boilerplate(
    batch: Batch, *, phrases: list[str] = PHRASES, labels: list[str] = LABELS
) -> list[Rule]:
    """Drops captions with one of `phrases`, and those that are one of `labels` and no more.

    In any case and spacing; numbers and punctuation do not count in labels, as in "Image #3". The
    lists are this project's own.
    """
    captions = [_folded(caption) for caption in _captions(batch)]
    whole = {_words_only(label.lower()) for label in labels}
    labelled = [_words_only(caption) in whole for caption in captions]
    found = _holding(captions, phrases) | np.array(labelled, bool)
    return [flag("caption_boilerplate", found)]


def caption_stock(batch: Batch, *, phrases: list[str] = SELLERS) -> list[Rule]:
    """Drops captions with one of the phrases of those who sell pictures.

    Such captions describe well, but the pictures often have a watermark, and are someone's goods.
    The list is this project's own.
    """
    captions = [_folded(caption) for caption in _captions(batch)]
    return [flag("caption_stock", _holding(captions, phrases))]


def caption_alphanumeric(batch: Batch, *, min: float | None = 0.6) -> list[Rule]:
    """Keeps captions of which at least this share of the characters are letters or digits.

    0.6 is Data-Juicer's for LLaVA's pre-training pairs (its recipe llava-pretrain-refine). Spaces
    and the vowel signs of Indic scripts are neither.
    """
    shares = measured(_alphanumeric, _captions(batch))
    return [below("caption_few_alphanumeric", shares, min)]


def _alphanumeric(caption: str) -> float:
    return sum(map(str.isalnum, caption)) / max(len(caption), 1)


def _captions(batch: Batch) -> list[str]:
    return [text.strip() for text in prose(batch).texts]


def _matches(pattern: re.Pattern[str], captions: list[str]) -> Mask:
    return np.array([pattern.fullmatch(caption) is not None for caption in captions], bool)


def _holding(captions: list[str], phrases: list[str]) -> Mask:
    """Which folded captions hold one of the phrases."""
    banned = [_folded(phrase) for phrase in phrases]
    return np.array([any(phrase in caption for phrase in banned) for caption in captions], bool)


def _words_only(text: str) -> str:
    return " ".join(WORD.findall(text))


def _folded(text: str) -> str:
    return " ".join(text.lower().split())


FILTERS: dict[str, Filter] = {
    f.__name__: f
    for f in (
        caption_words,
        caption_characters,
        caption_file_name,
        caption_url,
        caption_boilerplate,
        caption_stock,
        caption_alphanumeric,
        language,
    )
}

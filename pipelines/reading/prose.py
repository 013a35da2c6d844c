"""The main text of a page: the prose a reader came for, without what stands around it.

Three extractors are selectable; all give one text:

- "mixwright", below;
- "resiliparse": the main-content heuristics of Bevendorff et al. 2018 (ECIR), which keep nearly
  all of the text and some of the furniture;
- "trafilatura": Barbaresi 2021 (ACL), precise and slow; an extra, `mixwright[trafilatura]`.

"mixwright" parses with Resiliparse, reads the serialised tree as a stream of tags, which costs a
fraction of a walk over nodes in Python, and decides on whole subtrees with sums over their
blocks of text:

1. Boilerplate goes: tags, roles and the words of class names and ids that say navigation,
   comments, sharing, related stories, captions and so on, unless most of the page's paragraphs
   stand inside (a wrapper called "with-sidebar" holds the page).
2. The main container is the subtree that says it holds the article (schema.org's articleBody,
   class names such as "entry-content", <article>, <main>), else the smallest that holds most of
   the mass. The mass of a block is its text outside links if that is long enough to be a
   paragraph: text and link density as in Kohlschütter et al. 2010 (WSDM).
3. Inside it, lists of links, headings over nothing, what follows "Related stories" or
   "Comments", and short lines before the first and after the last paragraph go.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from itertools import accumulate
from typing import Any, Literal

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import ElementNode, HTMLTree, TextNode

from pipelines.reading.blocks import (
    CLASS,
    ENDS,
    HEADINGS,
    LINK_DENSITY,
    PARAGRAPH,
    SEPARATORS,
    SUBTITLES,
    Blocks,
    read_blocks,
    words,
)
from pipelines.reading.html import attribute, parse_html, select
from shards import schema

Part = dict[str, Any]
Extractor = Literal["mixwright", "resiliparse", "trafilatura"]


ID = re.compile(r' id="([^"]*)"')
SECTION = re.compile(r"(?:^|\s)(?:(?:ref)?sect(?:ion)?\d?|chapter|level\d)(?:$|\s)")
LABELLED = re.compile(r"role=|style=|hidden|aria-modal")
LABELS = re.compile(r' (role|style|aria-hidden|hidden|aria-modal)="([^"]*)"')

# Blocks that a short text is at home in; elsewhere a short line may be a control.
SHORT_AT_HOME = words("li dt dd td th pre blockquote h2 h3 h4 h5 h6 caption summary")

# Blocks that are part of a table or a list of definitions whatever they say.
QUIET = words("td th dt dd pre")
SHED = words("nav footer svg noscript")
TERMS = words("dt dd pre")
DROPPED_TAGS = words("nav footer aside figcaption dialog menu header form")
DROPPED_ROLES = words(
    "navigation banner contentinfo search menu menubar complementary dialog alertdialog toolbar"
)
# Words of a class or id, split at whatever is no letter and at camel case ...
DROPPED_WORDS = words(
    "nav navbar navigation navbox navpath navheader navfooter docnav menu submenu menubar topbar "
    "breadcrumb breadcrumbs pagination pager paging toolbar toc headerlink editsection printfooter "
    "catlinks footer foot sidebar sidebars rail skip skiplink search searchform masthead "
    "ad ads advert advertisement advertising advertorial adsense adslot banner promo promos "
    "promoted promotion sponsor sponsored sponsors outbrain taboola "
    "share sharing sharebar sharedaddy shares social socials addthis addtoany follow "
    "comment comments commentlist commenting disqus respond replies reply discussion "
    "related relatedposts recirc recirculation recommended recommendation recommendations "
    "trending popular mostpopular mostread readmore teaser teasers carousel "
    "newsletter newsletters subscribe subscription signup login register registration donate "
    "byline bylines author authors bio timestamp dateline pubdate published meta metadata "
    "postmeta submeta submitted "
    "caption captions figcaption credit credits imagecaption slideshow lightbox gallery "
    "tags taglist tagcloud topics keywords labels "
    "cookie cookies consent gdpr modal popup overlay tooltip notification "
    "copyright legal disclaimer colophon siteinfo print feedback poll rating ratings votes "
    "pullquote blogroll aside dropdown flyout offcanvas megamenu ticker partners syndication "
    "reprints permissions tools actions sharethis dfp leaderboard mpu interstitial"
)
# ... of which these say no more of a paragraph than how it is set ...
STYLES = words(
    "teaser teasers print social published meta topics follow popular legal labels actions tools"
)
# ... and names whose words are too common to judge alone.
DROPPED_NAMES = words(
    "header site-header page-header skip-link related titlearea projectlogo msearchbox widget "
    "widget-area widgets sr-only visually-hidden visuallyhidden screen-reader-text hidden "
    "d-none is-hidden author-box about-author pull-quote most-read most-viewed most-watched "
    "read-more read-next see-also-links up-next post-info article-info entry-footer post-footer "
    "article-footer jump-link"
)
OTHERS_NAME = re.compile(
    r"(?:.*[-_])?(?:more|also|other|latest|top|recent)[-_]*"
    r"(?:stories|news|posts|articles|headlines|links|reads|on|from|like)"
)
# Names under which a theme files a post, or which say how it is laid out: nothing of it.
IGNORED_NAME = re.compile(r"(?:tag|category|type|status|format|has|no|is|with|js|page|node|col)-")
# The text of an article, whatever else its name says; an article; and the middle of a page.
BODY_NAME = re.compile(
    r"(?:[a-z0-9]+[-_]+)*?(?:article|story|post|entry|news|blog)[-_]*"
    r"(?:body|content|text|copy|paragraphs?)(?:[-_]+[a-z0-9]+){0,2}"
)
ARTICLE_NAMES = words("article post story hentry entry")
MIDDLE_NAME = re.compile(
    r"(?:[a-z0-9]+[-_]+)?(?:main|page|site|body|the)[-_]*(?:content|body|text)"
)
CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
WORD = re.compile(r"[^a-zA-Z]+|(?<=[a-z])(?=[A-Z])")
COMMENT_WORDS = words("comment comments commentlist commenting disqus discussion respond replies")
ENTERABLE = words("div section article main body td tr tbody table center form blockquote font")
LISTS = words("ul ol")
TABLE_TAGS = words("table tbody thead tr")
BOXES = words("div section article main body td aside form center")
DIGITS = re.compile(r"\d+")
TOKEN = re.compile(r"\w+")

CERTAIN = re.compile(r"\d|leave|post|add|join|repl", re.IGNORECASE)

# Generators' navigation that Resiliparse's own heuristics let through.
SKIPPED = (".navheader", ".navfooter", ".docnav", ".toc", ".related", ".headerlink")
# Resiliparse 2.0 takes a lone character of three UTF-8 bytes between two elements (an arrow, a
# dash, an ideograph) for decoration and drops it; followed by a word joiner it survives.
JOINER = "\u2060"
TRAILING_SPACE = re.compile(r"[^\S\n]+(?=\n)")
BLANK_LINES = re.compile(r"\n{3,}")

# Share of the text outside links that paragraphs are of a page of prose; verse is lines.
PROSE = 0.1
# Shares of the page's mass: what a dropped subtree may hold, and comments that follow a text.
DROPPABLE = 0.4
DROPPABLE_COMMENTS = 0.95
DROPPABLE_HEAD = 0.15
# What the elements of a rank (`_claim`) must hold of the page's mass to be believed.
SHARES = {1: 0.35, 2: 0.35, 3: 0.1, 4: 0.05}
SEVERAL = 5  # paragraphs
CLAIMS = 8  # elements of a rank that are looked at
MEMORABLE = 200  # characters of attributes; what longer ones say is not remembered
# Elements that may say so, and furniture.
TELLING = (
    "nav, footer, svg, noscript, article, [itemprop*=articleBody], [class*=article i], "
    "[class*=story i], [class*=post i], [class*=entry i]"
)
# What a child must hold to be entered instead of its parent.
ENTERED = 0.85
SURELY = 0.97
MIN_LINKS = 3
# Links as long as headlines are references to other pages even amid the text.
HEADLINE = 20
# Share of a block's text in links, and length of a sentence, of lines around the paragraphs.
ALL_LINK = 0.8
SENTENCE = 25
MOSTLY = 0.8
# Bytes of a summary beside its link.
TEASER = 300
# Link density of boxes that stand amid the text, or after it, and are no part of it.
SCATTERED_WITHIN = 0.4
SCATTERED = 0.1
UNIFORM = 0.6
TEASING = 0.25
PUNCTUATION = " :!.…›»>"

# Lines, in lower case and without the punctuation at their ends, that are no part of a text: the
# titles of comments and of lists of other pages, and other furniture.
COMMENTS = (
    r"(?:\d+ |no |leave (?:a|your) |post (?:a|your) |add (?:a|your) |join the |view )*"
    r"(?:comments?|repl(?:y|ies)|responses?|thoughts on .*|discussion|conversation|kommentare?|"
    r"commentaires?|comentarios?|reacties|kommentarer)(?: \(?\d+\)?)?\s*[:!]?"
)
RELATED = (
    r"(?:related|recommended|suggested|further|similar)"
    r"(?: (?:articles?|stories|story|posts?|news|coverage|content|topics?|links?|items?|videos?))?|"
    r"(?:read|lesen sie|lire|leer?) (?:more|also|next|auch|aussi|también)(?: .*)?|"
    r"more (?:from|in|on|about|stories|news|like)\b.*|mehr zum thema|weitere artikel|"
    r"(?:you (?:may|might) also|das könnte (?:sie|dich) auch|te puede) .*|"
    r"(?:most (?:read|popular|viewed|watched|shared)|trending|up next|recommended|latest news)\b.*|"
    r"about (?:the|this) authors?|(?:share|rate|print) this(?: .*)?|share on .*|follow us\b.*|"
    r"sign up\b.*|subscribe\b.*|newsletter|artículos relacionados"
)
FURNITURE = (
    r"advertise?ments?|tags?|topics?|filed under\b.*|continue reading.*|supported by|"
    r"story continues below.*|article continues.*|"
    r"(?:share|tweet|print|e-?mail|save|reprints?|pin it|whatsapp|facebook|twitter|linkedin)"
    r"(?:\W+(?:share|tweet|print|e-?mail|save|pin it|whatsapp|facebook|twitter|linkedin))*|"
    r"source: .*|foto:? .*|"
    r"\d+ (?:shares?|comments?|views?|likes?)|"
    r"(?:click|tap) (?:here|to) .*|loading\W*|skip (?:to|ad).*|(?:sign|log) ?(?:in|up)\b.*|"
    r"(?:first )?(?:published|updated|posted|last (?:modified|updated)|aktualisiert|stand)\b"
    r"(?: on| at| by)?\W.*\d.*"
)
LINE = re.compile(rf"(?P<comments>{COMMENTS})|(?P<related>{RELATED})|(?P<furniture>{FURNITURE})")
# Furniture by its end, where the words are at all: looking for what may come before them costs
# as much as all that is known by its beginning.
OWNED = re.compile(r"(?:.{0,60}\b)?all rights reserved\W*|.{0,40}getty images\W*")
BYLINE = re.compile(r"By [A-Z][\w.’'-]+(?: [A-Z][\w.’'-]+){1,3}(?:[,|].*)?")
MAX_LINE = 120
# Beginnings by which even a long one is known.
NO_PARAGRAPH = re.compile(
    r"(?:read|watch|listen|lesen sie|lire)(?: more| also| next| auch| aussi)* ?: |"
    r"related(?: (?:articles?|story|stories|posts?|coverage|content))?: |"
    r"(?:photo|photograph|image|picture)s?(?: by| credits?| courtesy| copyright| source)?\s*[:/©]|"
    r"(?:media|image) (?:caption|copyright|source)\b|©|\(c\) ?\d{4}|copyright (?:©|\(c\)|\d{4})|"
    r"(?:sign up|subscribe)\b.{0,60}\b(?:newsletters?|e-?mails?|inbox|updates|alerts)\b|"
    r"follow .{0,60} on (?:twitter|facebook|instagram|x)\b|"
    r"(?:the views|views) expressed\b|this material may not be\b",
    re.IGNORECASE,
)


def prose_parts(
    html: bytes | str | HTMLTree,
    url: str | None = None,
    charset: str | None = None,
    extractor: Extractor = "mixwright",
) -> list[Part]:
    """The main text of a page as one text part, or no part.

    Paragraphs are separated by a blank line, list items, table rows and <br> by a line end. The
    first <h1> is the page's headline, which counts as metadata. `url` is what trafilatura may
    use. A tree that is passed in is changed, so that `interleaved_parts` has to come first.

    Raises PageTooComplexError as `parse_html` does, and RuntimeError if trafilatura is chosen
    but not installed.
    """
    text = main_text(html, url, charset, extractor)
    return [schema.text_part(text)] if text else []


def main_text(
    html: bytes | str | HTMLTree,
    url: str | None = None,
    charset: str | None = None,
    extractor: Extractor = "mixwright",
) -> str:
    """The text of `prose_parts`, empty where the page has none."""
    return EXTRACTORS[extractor](parse_html(html, charset), url)


def _mixwright(tree: HTMLTree, url: str | None) -> str:
    body = tree.body
    if body is None:
        return ""
    found = select(tree, TELLING)
    article = _article(found, body)
    if article is None:
        _shed([e for e in found if e.tag in SHED], body)
        article = body
    page = read_blocks(article.html)
    return _joined(page, _kept(page, tree.title or ""))


def _article(found: Iterable[ElementNode], body: ElementNode) -> ElementNode | None:
    """The one element that says it is the article and holds the page's paragraphs, if any.

    Asked of the parser, so that the rest of a large page need not be read in Python.
    """
    claims: dict[int, list[ElementNode]] = {}
    for element in found:
        rank = _rank(element)
        if rank >= 2:
            claims.setdefault(rank, []).append(element)
    if not claims:
        return None
    for rank in sorted(claims, reverse=True):
        held = [(_in_paragraphs(e), e) for e in claims[rank][:CLAIMS]]
        mass, element = max(held, key=lambda pair: pair[0])
        rivals = [e for other, e in held if other >= mass / 5 and not _nested(e, element)]
        if mass >= SEVERAL * PARAGRAPH and not rivals and _is_share(mass, SHARES[rank], body):
            return element
    return None


def _is_share(mass: int, share: float, body: ElementNode) -> bool:
    """Whether the page's paragraphs are no more than `mass` is said to be the share of."""
    # All its text is asked for first: one call, while that for paragraphs is one for each.
    return mass >= share * len(body.text or "") or mass >= share * _in_paragraphs(body)


def _nested(one: ElementNode, other: ElementNode) -> bool:
    return one.contains(other) or other.contains(one)


def _rank(element: ElementNode) -> int:
    if "articleBody" in attribute(element, "itemprop"):
        return 4
    named = _claimed(f"{attribute(element, 'class')[:200]} {attribute(element, 'id')[:100]}")
    return max(named, 2) if element.tag == "article" else named


def _in_paragraphs(element: ElementNode) -> int:
    """Characters of the paragraphs inside `element`."""
    # Not by a selector, which costs as much as the texts of dozens of them.
    lengths = [len(p.text or "") for p in element.get_elements_by_tag_name("p")[:]]
    return sum(length for length in lengths if length >= PARAGRAPH)


def _shed(furniture: Sequence[ElementNode], body: ElementNode) -> None:
    """Takes furniture out of the tree that need not be read to be known as such."""
    total = len(body.text or "") if furniture else 0
    for element in furniture:
        if len(element.text or "") * 5 < total:
            element.decompose()


def _kept(page: Blocks, title: str) -> list[int]:
    """The blocks of the main text; all that is no boilerplate where nothing is a paragraph."""
    dropped = _boilerplate(page)
    masses = [0 if gone else m for m, gone in zip(page.masses, dropped, strict=True)]
    if page.mass[-1] and not any(masses):
        dropped, masses = bytearray(len(masses)), page.masses
    page.masses, page.mass = masses, [0, *accumulate(masses)]
    lines = [i for i, gone in enumerate(dropped) if not gone]
    if page.mass[-1] <= PROSE * sum(len(page.texts[i]) - page.links[i] for i in lines):
        return lines
    kinds = _kinds(page)
    root = _container(_without_teasers(page, lines, kinds))
    inside = range(page.first[root], page.last[root])
    kept = _gathered(page, [i for i in inside if not dropped[i]], kinds)
    return _without_headline(page, _without_furniture(page, kept, root), title)


def _without_teasers(page: Blocks, lines: Sequence[int], kinds: Sequence[str]) -> Blocks:
    """`page` with no mass in the kinds of boxes that stand at links."""
    tally = _tally(page, lines, kinds)
    teasing = {kind for kind, t in tally.items() if t.mass and t.density >= TEASING}
    if not teasing:
        return page
    masses = list(page.masses)
    for i in lines:
        if kinds[i] in teasing:
            masses[i] = 0
    if not any(masses):
        return page
    return replace(page, masses=masses, mass=[0, *accumulate(masses)])


def _without_headline(page: Blocks, kept: list[int], title: str) -> list[int]:
    """`kept` without the page's own title above the first paragraph."""
    start = next((n for n, i in enumerate(kept) if page.masses[i]), 0)
    spaced = f" {_spaced(title)} "
    above = (i for i in kept[:start] if not _is_headline(page.within[i], page.texts[i], spaced))
    return [*above, *kept[start:]]


def _is_headline(tag: str, text: str, title: str) -> bool:
    return tag == "h1" or (len(text) >= 8 and f" {_spaced(text[:300])} " in title)


def _spaced(text: str) -> str:
    return " ".join(TOKEN.findall(text.lower()))


def _gathered(page: Blocks, kept: list[int], kinds: Sequence[str]) -> list[int]:
    """`kept` without text scattered over boxes unlike those of the article.

    The paragraphs of an article stand together, or in boxes of one kind; those of teasers and
    cards stand alone, each at its link, in boxes of other kinds.
    """
    tally = _tally(page, kept, kinds)
    own = max(tally, key=lambda kind: tally[kind].weight, default="")
    main = {k for k, t in tally.items() if k == own or _is_main(t, tally[own])}
    end = max((i for i in kept if kinds[i] in main), default=0)
    uniform = own != "" and tally[own].mass >= UNIFORM * sum(t.mass for t in tally.values())
    stray = {k for k, t in tally.items() if t.mass and k not in main}
    within = {k for k in stray if tally[k].density >= SCATTERED_WITHIN}
    after = {k for k in stray if _is_stray(k, tally[k], tally[own], uniform)}
    return [i for i in kept if kinds[i] not in (within if i <= end else after)]


@lru_cache(1 << 14)
def _undigited(names: str) -> str:
    return DIGITS.sub("", names)


@dataclass
class _Tally:
    """What all boxes of one kind hold: mass, characters, and those of links."""

    mass: int = 0
    size: int = 0
    linked: int = 0

    @property
    def density(self) -> float:
        return self.linked / self.size

    @property
    def weight(self) -> float:
        """Mass, that of many small texts at links counting little."""
        return self.mass * (1 - self.density) ** 4


def _tally(page: Blocks, kept: Sequence[int], kinds: Sequence[str]) -> dict[str, _Tally]:
    tallies = {kind: _Tally() for kind in dict.fromkeys(kinds[i] for i in kept)}
    texts, links, masses = page.texts, page.links, page.masses
    for i in kept:
        tally = tallies[kinds[i]]
        tally.mass += masses[i]
        tally.size += len(texts[i])
        tally.linked += links[i]
    return tallies


def _is_main(tally: _Tally, own: _Tally) -> bool:
    return tally.mass >= 0.25 * own.mass and tally.density < 0.2


def _is_stray(kind: str, tally: _Tally, own: _Tally, uniform: bool) -> bool:
    """Whether a kind of box has no part in the text before it; the cells of a table do."""
    if kind.startswith("td"):
        return tally.density >= SCATTERED_WITHIN
    return tally.density >= SCATTERED or (uniform and tally.mass < SCATTERED * own.mass)


def _kinds(page: Blocks) -> list[str]:
    """What the boxes around the blocks are like: tag and class, without numbers."""
    boxes: list[str] = []
    for tag, attributes, parent in zip(page.tags, page.attributes, page.parents, strict=True):
        if tag in BOXES or parent < 0:
            match = CLASS.search(attributes) if attributes else None
            boxes.append(f"{tag} {_undigited(match[1][:200])}" if match else tag)
        else:
            boxes.append(boxes[parent])
    return [boxes[node] for node in page.owners]


def _boilerplate(page: Blocks) -> bytearray:
    """1 for every block of a subtree that readers skip."""
    dropped = bytearray(len(page.texts))
    mass, anchors = page.mass, page.anchors
    total, end = mass[-1], 0
    headline = page.within.index("h1") if "h1" in page.within else None
    elements = zip(page.first, page.last, page.tags, page.attributes, strict=True)
    for node, (first, last, tag, attributes) in enumerate(elements):
        if first < end or first == last:
            continue
        limit = 0.0
        if attributes or tag in DROPPED_TAGS:
            known = _droppable if len(attributes) < MEMORABLE else _droppable.__wrapped__
            limit = known(tag, attributes)
        if limit and (tag == "header" or (headline is not None and first <= headline < last)):
            limit = DROPPABLE_HEAD
        elif limit > DROPPABLE and mass[first] == 0:
            limit = DROPPABLE
        held = mass[last] - mass[first]
        if (limit and held <= limit * total) or (
            held == 0 and anchors[last] > anchors[first] and _is_list_of_links(page, node)
        ):
            dropped[first:last] = b"\1" * (last - first)
            end = last
    return dropped


@lru_cache(1 << 14)
def _droppable(tag: str, attributes: str) -> float:
    """The largest share of the page's mass with which an element still is boilerplate."""
    names = _names(tag, attributes) if attributes else ""
    limit = _named(names, tag == "p") if names else 0.0
    if limit or tag in DROPPED_TAGS:
        return limit or DROPPABLE
    labels = LABELS.findall(attributes) if LABELLED.search(attributes) else ()
    return DROPPABLE if any(_hides(name, value[:200]) for name, value in labels) else 0.0


def _names(tag: str, attributes: str) -> str:
    """Class and id, no longer than anybody needs; the id of a section repeats its title."""
    classes = CLASS.search(attributes)
    names = classes[1][:200] if classes else ""
    if tag == "section" or SECTION.search(names):
        return names
    own = ID.search(attributes)
    return f"{names} {own[1][:100]}" if own else names


@lru_cache(1 << 14)
def _named(names: str, paragraph: bool = False) -> float:
    tokens = names.split()
    if _claimed(names) in (1, 3):
        return 0.0
    found: set[str] = set()
    for token in tokens:
        lower = token.lower()
        if lower in DROPPED_NAMES or OTHERS_NAME.fullmatch(lower):
            return DROPPABLE
        if not IGNORED_NAME.match(lower):
            found.update(_split(token))
    if found & COMMENT_WORDS:
        return DROPPABLE_COMMENTS
    telling = found & DROPPED_WORDS
    return DROPPABLE if telling and not (paragraph and telling <= STYLES) else 0.0


def _split(name: str) -> set[str]:
    """The words of a class or id, in lower case."""
    return {word.lower() for word in WORD.split(name)}


@lru_cache(1 << 12)
def _hides(name: str, value: str) -> bool:
    value = value.lower()
    return (
        name == "hidden"
        or (name in ("aria-hidden", "aria-modal") and value == "true")
        or (name == "role" and value in DROPPED_ROLES)
        or (name == "style" and "display:none" in value.replace(" ", ""))
    )


def _is_list_of_links(page: Blocks, node: int) -> bool:
    """Whether an element without paragraphs is a list of links to other pages."""
    first, last = page.first[node], page.last[node]
    anchors = page.anchors[last] - page.anchors[first]
    linked = page.linked[last] - page.linked[first]
    density = LINK_DENSITY if anchors >= MIN_LINKS else SURELY
    if anchors < MIN_LINKS and page.tags[node] not in LISTS:
        return False
    return linked >= max(density * (page.size[last] - page.size[first]), HEADLINE * anchors)


def _container(page: Blocks) -> int:
    """The element that holds the main text, as a place in `page.tags`."""
    return _entered(page, _named_container(page))


def _named_container(page: Blocks) -> int:
    """The element that says it is the article, the body if none does that holds enough."""
    claims: dict[int, list[int]] = {}
    least = max(1, page.mass[-1] // 20)
    mass = page.mass
    for node, (first, last) in enumerate(zip(page.first, page.last, strict=True)):
        if mass[last] - mass[first] < least:
            continue
        if rank := _claim(page.tags[node], page.attributes[node]):
            claims.setdefault(rank, []).append(node)
    for rank in sorted(claims, reverse=True):
        root = _common(page, _outermost(page, claims[rank]))
        if page.held(root) >= SHARES[rank] * page.mass[-1]:
            return root
    return 0


def _claim(tag: str, attributes: str) -> int:
    """How plainly an element says that it is the article: 4 its text, 1 the middle of a page."""
    if "articleBody" in attributes:
        return 4
    named = _claimed(_names(tag, attributes)) if attributes else 0
    if tag == "article":
        return max(named, 2)
    return max(named, 1) if tag == "main" or 'role="main"' in attributes else named


@lru_cache(1 << 14)
def _claimed(names: str) -> int:
    own = (name for name in names.split() if DROPPED_WORDS.isdisjoint(_split(name)))
    tokens = [CAMEL.sub("-", name).lower() for name in own]
    if any(map(BODY_NAME.fullmatch, tokens)):
        return 3
    if not ARTICLE_NAMES.isdisjoint(tokens):
        return 2
    return 1 if any(map(MIDDLE_NAME.fullmatch, tokens)) else 0


def _outermost(page: Blocks, nodes: Sequence[int]) -> list[int]:
    """The nodes (in document order) that stand in no other, without those of little mass."""
    largest = max(map(page.held, nodes))
    outer: list[int] = []
    end = -1
    for node in nodes:
        if page.first[node] >= end and page.held(node) * 5 >= largest:
            outer.append(node)
            end = page.last[node]
    return outer


def _common(page: Blocks, nodes: Sequence[int]) -> int:
    """The lowest element that holds all `nodes`."""
    root = nodes[0]
    while root > 0 and page.last[root] < page.last[nodes[-1]]:
        root = page.parents[root]
    return root


def _entered(page: Blocks, root: int) -> int:
    """The smallest element below `root` that holds most of its mass, and of its other text."""
    best = root
    first, last, tags, parents = page.first, page.last, page.tags, page.parents
    for node in range(root + 1, len(tags)):
        if first[node] >= last[best]:
            break
        if parents[node] == best and tags[node] in ENTERABLE:
            share = page.held(node) / max(1, page.held(best))
            if share >= ENTERED and (
                share >= SURELY or _free(page, node) >= 0.6 * _free(page, best)
            ):
                best = node
    while page.tags[best] in TABLE_TAGS:
        best = page.parents[best]
    return best


def _free(page: Blocks, node: int) -> int:
    """Characters of text outside links."""
    first, last = page.first[node], page.last[node]
    return page.size[last] - page.size[first] - page.linked[last] + page.linked[first]


def _without_furniture(page: Blocks, kept: list[int], root: int) -> list[int]:
    """`kept` without the short blocks that are no part of the text."""
    masses, tags = page.masses, page.within
    notes = {i: _note(page, i) for i in kept if not masses[i]}
    kept = _cut(page, kept, notes, root)
    start = next((n for n, i in enumerate(kept) if masses[i] or tags[i] in SUBTITLES), 0)
    end = max((n for n, i in enumerate(kept) if masses[i]), default=len(kept))
    mass = sum(masses[i] for i in kept)
    strict = sum(masses[i] for i in kept if tags[i] == "p") >= MOSTLY * mass
    stays: list[int] = []
    for n, i in enumerate(kept):
        if NO_PARAGRAPH.match(page.texts[i]):
            continue
        if masses[i] or (not notes[i] and _belongs(page, i, n < start, n > end, strict)):
            stays.append(i)
    return _headings_over_text(page, stays)


def _note(page: Blocks, block: int) -> str:
    """What a line says that it is: "comments", "related", "furniture", or nothing."""
    text = page.texts[block]
    if len(text) > MAX_LINE or page.within[block] in QUIET:
        return ""
    line = text.lower().rstrip(PUNCTUATION)
    if match := LINE.fullmatch(line):
        return match.lastgroup or ""
    owned = ("all rights reserved" in line or "getty images" in line) and OWNED.fullmatch(line)
    return "furniture" if owned or (text[:3] == "By " and BYLINE.fullmatch(text)) else ""


def _belongs(page: Blocks, block: int, before: bool, after: bool, strict: bool) -> bool:
    """Whether a block that is no paragraph is part of the text."""
    text, tag = page.texts[block], page.within[block]
    if tag in HEADINGS:
        return True
    home = tag in SHORT_AT_HOME or page.tags[page.parents[page.owners[block]]] in SHORT_AT_HOME
    if page.links[block] >= ALL_LINK * len(text) and not home:
        return False
    ends = text[-1] in ENDS
    if before:
        return tag in TERMS or (ends and len(text) >= SENTENCE)
    if home or ends:
        return True
    return not after and (tag == "p" or not strict)


def _cut(page: Blocks, kept: list[int], notes: Mapping[int, str], root: int) -> list[int]:
    """`kept` without what follows the titles of comments and of lists of other pages."""
    stays: list[int] = []
    end = -1
    for i in kept:
        if i >= end and notes.get(i) in ("comments", "related"):
            end = _end_of_section(page, i, notes[i], root)
        if i >= end:
            stays.append(i)
    return stays


def _end_of_section(page: Blocks, block: int, note: str, root: int) -> int:
    """The block after those that a title stands over; itself if they are too much to go."""
    total = page.held(root)
    last = page.last[_section(page, block, root)]
    above = page.mass[block] - page.mass[page.first[root]]
    below = page.mass[last] - page.mass[block]
    if page.links[block] and page.within[block] not in HEADINGS:  # a way to them, not their title
        limit = DROPPABLE_HEAD
    elif note == "comments" and CERTAIN.search(page.texts[block]):
        limit = 1.0 if above >= SCATTERED * total else 0.0
    elif note == "comments" or _leads_away(page, block, last):
        limit = DROPPABLE
    else:
        limit = DROPPABLE_HEAD
    return last if below <= limit * total else block


def _leads_away(page: Blocks, first: int, last: int) -> bool:
    """Whether there is a link, as long as a headline, for every few sentences."""
    anchors = page.anchors[last] - page.anchors[first]
    linked = page.linked[last] - page.linked[first]
    mass = page.mass[last] - page.mass[first]
    return linked >= HEADLINE * anchors and mass <= TEASER * anchors


def _section(page: Blocks, block: int, root: int) -> int:
    """The element that a title is the title of: the first around it that holds more."""
    node = page.owners[block]
    while node > root and page.last[node] == block + 1:
        node = page.parents[node]
    return node


def _headings_over_text(page: Blocks, kept: list[int]) -> list[int]:
    """`kept` without headings that no text follows before the next of their level."""
    stays: list[int] = []
    below = 0
    for i in reversed(kept):
        level = HEADINGS.get(page.within[i], 0)
        if level and level >= below:
            continue
        stays.append(i)
        below = level if level else 7
    return stays[::-1]


def _joined(page: Blocks, kept: Sequence[int]) -> str:
    pieces: list[str] = []
    before = -1
    for i in kept:
        gap = page.gaps[i] if i == before + 1 else max(page.gaps[before + 1 : i + 1])
        pieces += (SEPARATORS[gap] if pieces else "", page.texts[i])
        before = i
    return "".join(pieces)


def _resiliparse(tree: HTMLTree, url: str | None) -> str:
    _protect_lone_characters(tree)
    text = extract_plain_text(
        tree,
        preserve_formatting=True,
        main_content=True,
        alt_texts=False,
        comments=False,
        skip_elements=SKIPPED,
    )
    return BLANK_LINES.sub("\n\n", TRAILING_SPACE.sub("", text.replace(JOINER, ""))).strip()


def _protect_lone_characters(tree: HTMLTree) -> None:
    texts = [node for node in tree.document or () if isinstance(node, TextNode)]
    for node in texts:
        value = node.value or ""
        if len(value.strip()) == 1 and not value.isascii():
            node.value = value + JOINER


def _trafilatura(tree: HTMLTree, url: str | None) -> str:
    try:
        trafilatura = import_module("trafilatura")
    except ImportError as error:
        message = "the extractor trafilatura needs: pip install 'mixwright[trafilatura]'"
        raise RuntimeError(message) from error
    document = tree.document
    html = "" if document is None else document.html
    return trafilatura.extract(html, url=url, include_comments=False) or ""


EXTRACTORS: dict[Extractor, Callable[[HTMLTree, str | None], str]] = {
    "mixwright": _mixwright,
    "resiliparse": _resiliparse,
    "trafilatura": _trafilatura,
}

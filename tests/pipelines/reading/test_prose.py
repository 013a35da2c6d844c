import os
import re
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import pytest
from extraction import (
    MARKS,
    PAGES,
    Sample,
    all_lines,
    development_pages,
    precision_recall,
    samples,
    scores,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.reading import html as trees
from pipelines.reading import prose
from pipelines.reading.blocks import words
from pipelines.reading.prose import main_text, prose_parts
from shards import schema

ONE = "The council voted on Monday to rebuild the bridge, which was closed after the flood."
TWO = "Work will begin in spring, engineers said, and may last until the end of next year."
THREE = "Residents had waited for years, and some of them no longer believed in the plan."
STORY = f"<p>{ONE}</p><p>{TWO}</p><p>{THREE}</p>"
TEXT = f"{ONE}\n\n{TWO}\n\n{THREE}"
TEASER = (
    "<a href=/s>A headline of another story from the region</a>"
    "<p>A summary of a sentence or two that makes readers curious about the rest.</p>"
)
COMMENT = "I have lived here for thirty years, and nobody has ever asked me about any of it."


def test_the_text_of_a_page_is_one_part_or_none():
    assert prose_parts(f"<nav>Home</nav>{STORY}") == [schema.text_part(TEXT)]
    assert prose_parts("<nav><a href=/>Home</a></nav>") == []
    assert prose_parts(b"") == []


@pytest.mark.parametrize(
    "furniture",
    [
        f"<nav>{COMMENT}</nav>",
        f"<aside>{COMMENT}</aside>",
        f"<footer>{COMMENT}</footer>",
        f"<form><p>{COMMENT}</p></form>",
        f"<noscript><p>{COMMENT}</p></noscript>",
        "<button>Play</button><select><option>One<option>Two</select>",
        "<figure><img src=a><figcaption>The bridge in winter, from the east.</figcaption></figure>",
        f"<div class='article__comments'>{COMMENT}</div>",
        f"<div id=relatedStories><p>{COMMENT}</p></div>",
        f"<div class='wp-caption-text'>{COMMENT}</div>",
        f"<div role=complementary>{COMMENT}</div>",
        f"<div style='display: none'>{COMMENT}</div>",
        "<div class=x><a href=1>Share</a> <a href=2>Tweet</a> <a href=3>E-mail</a></div>",
        "<div>Advertisement</div>",
        "<p>By Ada Brandt</p>",
        "<p>Photo: Ada Brandt/The Courier, all rights reserved by the photographer, 2019.</p>",
        "<p>The Courier, 2019. All rights reserved.</p>",
        "<p>The river in winter. Getty Images.</p>",
        "<p><a href=/x>Read the whole report of the engineers about the bridge</a></p>",
        "<p>Read more: <a href=/x>Who will pay for the bridge?</a></p>",
        "<ul><li><a href=/x>A headline that leads to another story</a></li></ul>",
        "<h3>Related stories</h3>",
        "<span class=sr-only>opens in a new window</span>",
    ],
)
@pytest.mark.parametrize("place", [f"{{}}{STORY}", f"<p>{ONE}</p><p>{TWO}</p>{{}}<p>{THREE}</p>"])
def test_furniture_goes_wherever_it_stands(furniture, place):
    assert main_text(f"<body><div>{place.format(furniture)}</div>") == TEXT


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        ("<pre>if a:\n    b()</pre>", "if a:\n    b()"),
        ("<ul><li>a boat</li><li>two oars</li></ul>", "a boat\ntwo oars"),
        ("<table><tr><th>Year</th><th>Cost</th></tr><tr><td>1974</td><td>9</td></tr></table>",) * 2,
        ("<h2>What comes next</h2><p>Nothing yet.</p>", "What comes next\n\nNothing yet."),
        ("<p>“No,” he said.</p>", "“No,” he said."),
        ("<blockquote><p>No bridge was ever late.</p></blockquote>", "No bridge was ever late."),
        ("<p>one<br>two<br><br>three</p>", "one\ntwo\n\nthree"),
        ("<p>a&nbsp;&lt;&amp; b <b>c</b><i>d</i></p>", "a <& b cd"),
        ("<dl><dt>pier<dd>a wall in water</dl>", "pier\na wall in water"),
    ],
)
def test_what_an_article_is_made_of_stays(kept, text):
    text = "Year Cost\n1974 9" if text.startswith("<table") else text
    expected = f"{ONE}\n\n{text}\n\n{TWO}\n\n{THREE}"
    found = main_text(f"<div><p>{ONE}</p>{kept}<p>{TWO}</p><p>{THREE}</p></div>")
    assert found.replace("\xa0", " ") == expected


@pytest.mark.parametrize(
    "wrapper",
    [
        "<div class='with-sidebar comments-open'>{}</div>",
        "<body class='nav social'><form>{}</form>",
        "<div class='article-body share'>{}</div>",
        "<section id=comments class=section>{}</section>",
        "<table><tr><td width=100>{}</td></tr></table>",
        "<main><article class='post tag-share category-related'>{}</article></main>",
    ],
)
def test_a_wrapper_that_holds_the_story_stays_whatever_its_name(wrapper):
    assert main_text(wrapper.format(STORY)) == TEXT


def test_a_name_takes_no_element_that_holds_much_of_the_page():
    page = f"<div class=social-wall>{STORY}</div><div class=note><p>{COMMENT}</p></div>"
    assert main_text(page).startswith(TEXT)


@pytest.mark.parametrize(
    "box",
    [
        "<div class='builder-widget builder-text'><div>{}</div></div>",
        "<div class=x__paragraph>{}</div>",
        "<div><span><span>{}</span></span></div>",
        "<p class='lead teaser'>{}</p>",
        "<article class=live-post><p>{}</p></article>",
        "{}<br><br>",
    ],
)
def test_a_story_may_be_cut_into_boxes(box):
    boxes = "".join(map(box.format, (ONE, TWO, THREE)))
    teasers = f"<div class=card>{TEASER}</div>" * 4
    assert main_text(f"<div class=head>News</div><main>{boxes}</main><div>{teasers}</div>") == TEXT


@pytest.mark.parametrize(
    "headline",
    [
        "<h1>Bridge to be rebuilt</h1>",
        "<h2>Bridge to be rebuilt</h2>",
        "<header><h1>Bridge to be rebuilt</h1><p>A subtitle.</p></header>",
        "<h1>Bridge to be rebuilt</h1><div class=x>Ada Brandt</div><div>3 May 2018</div>",
    ],
)
def test_the_headline_and_the_lines_under_it_are_no_text(headline):
    page = f"<title>Bridge to be rebuilt - The Courier</title><body>{headline}{STORY}"
    assert main_text(page) == TEXT


@pytest.mark.parametrize("title", ["3 Comments", "Leave a reply", "Comments (12)", "Discussion"])
def test_what_follows_the_title_of_comments_goes(title):
    comments = f"<h3>{title}</h3><p>{COMMENT}</p><p>{COMMENT}</p>"
    assert main_text(f"<div>{STORY}{STORY}{comments}</div>") == f"{TEXT}\n\n{TEXT}"


def test_teasers_without_telling_names_go():
    teasers = "".join(f"<div class=b{n}>{TEASER}</div>" for n in range(9))
    assert main_text(f"<div><div class=a>{STORY}</div>{teasers}</div>") == TEXT


def test_teasers_that_outweigh_the_story_do_not_hide_it():
    teasers = f"<div class=card>{TEASER}</div>" * 40
    story = f"<div itemprop=articleBody>{STORY}{STORY}</div>"
    assert main_text(f"<body>{teasers}{story}{teasers}") == f"{TEXT}\n\n{TEXT}"
    story = story.replace("itemprop", "data-x")
    assert main_text(f"<body>{teasers}{story}{teasers}") == f"{TEXT}\n\n{TEXT}"


def test_a_heading_over_nothing_goes_and_one_over_a_subheading_stays():
    page = f"<div>{STORY}<h2>Costs</h2><h3>Steel</h3><p>{ONE}</p><h3>Wood</h3><h2>More</h2></div>"
    assert main_text(page) == f"{TEXT}\n\nCosts\n\nSteel\n\n{ONE}"


def test_what_is_commented_out_is_no_text():
    assert main_text(f"<div><!-- <div><p>{ONE}</p> <!-- -->{STORY}<!-- </div> --></div>") == TEXT


def test_a_page_without_paragraphs_gives_its_lines():
    assert (
        main_text("<h1>Menu</h1><nav>Home</nav><ul><li>Soup<li>Bread</ul>") == "Menu\n\nSoup\nBread"
    )


def test_ideographs_weigh_what_they_say():
    story = "市议会星期一投票决定重建这座在洪水之后关闭的桥梁。" * 2
    page = f"<div>首页</div><div><p>{story}</p><p>{story}</p></div><div>联系我们</div>"
    assert main_text(page) == f"{story}\n\n{story}"


def test_the_other_extractors_are_selectable(monkeypatch):
    page = f"<nav><a href=/>Home</a></nav><main>{STORY}</main>"
    assert [p["text"] for p in prose_parts(page, extractor="resiliparse")] == [TEXT]
    monkeypatch.setitem(sys.modules, "trafilatura", None)
    with pytest.raises(RuntimeError, match=r"pip install 'mixwright\[trafilatura\]'"):
        prose_parts(page, extractor="trafilatura")


def test_trafilatura_is_given_the_page_without_comments(monkeypatch):
    class Library:
        def extract(self, html: str, *, url: str | None, include_comments: bool) -> str | None:
            assert url == "http://x.example/" and not include_comments
            return re.sub("<[^>]*>", "", html).upper() or None

    monkeypatch.setitem(sys.modules, "trafilatura", Library())
    (part,) = prose_parts("<p>a b", "http://x.example/", extractor="trafilatura")
    assert part["text"] == "A B"


def test_a_page_is_refused_by_its_tree_with_every_extractor(monkeypatch):
    monkeypatch.setattr(trees, "MAX_ELEMENTS", 10)
    for extractor in prose.EXTRACTORS:
        with pytest.raises(trees.PageTooComplexError):
            prose_parts("<p>x" * 20, extractor=extractor)


TAGS = st.sampled_from(
    sorted(words("p div ul li table td tr pre a b h1 h2 nav article form br img"))
)
ATTRIBUTES = st.sampled_from(
    ["", " class=comments", ' id="nav"', " href=/x", ' a"b<c', " itemprop=articleBody", " hidden"]
)
PIECES = st.one_of(
    st.builds("<{}{}>".format, TAGS, ATTRIBUTES),
    st.builds("</{}>".format, TAGS),
    st.sampled_from(
        [ONE, TWO, "Comments", "<!-- <p>x</div> -->", "&#0;", "&lt;p>", "<", "\x00", "日本"]
    ),
)


@settings(max_examples=300)
@given(st.lists(PIECES, max_size=60).map("".join))
@example("<a href=/x><article>&lt;p>")
def test_no_page_raises_and_nothing_is_made_up(page):
    text = main_text(page)
    tree = trees.parse_html(page)
    whole = re.sub(r"\s", "", (tree.body.text if tree.body else "") or "")
    for line in text.splitlines():
        assert re.sub(r"\s", "", line) in whole


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_any_string_is_a_page(page):
    assert isinstance(main_text(page), str)


def figures(pages: Iterable[Sample]) -> tuple[dict[str, int], float]:
    """How many pages each group has, and the least F1 or recall of a group."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for page in pages:
        pair = precision_recall(page.text, main_text(page.html))
        groups.setdefault(page.group, []).append(pair)
    found = [scores(pairs) for pairs in groups.values()]
    least = min(score[key] for score in found for key in ("f1", "recall"))
    return {group: len(pairs) for group, pairs in groups.items()}, least


def test_the_hand_marked_pages_come_out_as_marked():
    counts, least = figures(samples(PAGES))
    assert counts == {
        "manual, tuning": 13,
        "manual, held-out": 19,
        "press, tuning": 8,
        "press, held-out": 8,
    }
    assert least >= 0.95


def test_the_pages_of_the_development_data_come_out_as_marked():
    folder = Path(os.environ.get("MIXWRIGHT_DEV_DATA", "unset"))
    pages = list(development_pages(MARKS, folder))
    if not pages:
        pytest.skip("MIXWRIGHT_DEV_DATA names no folder with pages of marks.tsv")
    counts, least = figures(pages)
    assert counts == {"manual, tuning": 14, "manual, held-out": 20}
    assert least >= 0.94


MARKED = f"<nav>Home</nav><h1>Bridge</h1>{STORY}<ol><li>Back".encode()


def marks_of(folder: Path, page: bytes, of: int) -> Path:
    row = f"a/b.html\tmanual\ttuning\t{sha256(page).hexdigest()}\t{of}\t5-7,9\n"
    path = folder / "marks.tsv"
    path.write_text("path\tkind\thalf\tsha256\tof\tlines\n" + row)
    return path


def test_marks_are_lines_of_the_whole_text_of_a_page(tmp_path):
    lines = all_lines(MARKED)
    assert [line.strip() for line in lines if line] == ["Home", "Bridge", ONE, TWO, THREE, "Back"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.html").write_bytes(MARKED)
    (page,) = development_pages(marks_of(tmp_path, MARKED, len(lines)), tmp_path)
    assert (page.name, page.group, page.html) == ("a/b.html", "manual, tuning", MARKED)
    assert page.text.split("\n") == [ONE, "", TWO, THREE]


@pytest.mark.parametrize(("marked", "more"), [(MARKED + b"!", 0), (MARKED, 1)])
def test_marks_of_another_page_or_of_other_lines_are_refused(tmp_path, marked, more):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.html").write_bytes(MARKED)
    marks = marks_of(tmp_path, marked, len(all_lines(MARKED)) + more)
    with pytest.raises(ValueError, match=r"a/b\.html: this is not the page that was marked"):
        list(development_pages(marks, tmp_path))


def test_pages_that_are_not_there_are_left_out(tmp_path):
    assert list(development_pages(marks_of(tmp_path, MARKED, 9), tmp_path)) == []


def test_the_score_is_that_of_the_public_benchmark():
    true = "one two three four five"
    assert precision_recall(true, true) == (1.0, 1.0)
    assert precision_recall(true, f"{true} six seven") == (0.5, 1.0)
    assert precision_recall(true, "one two three four") == (1.0, 0.5)
    assert precision_recall(true, "") == (0.0, 0.0)
    assert precision_recall("", "") == (1.0, 1.0)
    assert precision_recall(f"{true} {true}", true)[1] == pytest.approx(2 / 7)


def test_a_folder_of_pages_of_ones_own_is_read(tmp_path: Path):
    (tmp_path / "a.html").write_text(STORY)
    (tmp_path / "a.txt").write_text(TEXT)
    (sample,) = samples(tmp_path)
    assert sample.html == STORY.encode() and sample.text == TEXT


def test_text_behind_a_processing_instruction_stays() -> None:
    words = "The harbour was rebuilt after the storm, and the ships return to it every summer."
    page = f"<html><body><article><p>{words} <?x-space 2p?>{words}</p></article></body></html>"
    assert main_text(page) == f"{words} {words}"

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from browser import CHROMIUM, browse
from fakes import REQUEST, answers, attacked_data, data, table
from PIL import Image

from mu_vision.report.build import write_report, write_table

EVIL = '<script>alert("x")</script>&\'"'


class Page(HTMLParser):
    """Collects tags, checks that they are balanced."""

    VOID = {"meta", "link", "img", "br", "rect", "path", "circle", "line", "input"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def find(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self):
        return " ".join(" ".join(self.text).split()).replace("\xa0", " ")


def page(write, content, folder):
    path = write(content, folder / "report.html")
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return page(write_report, data(), tmp_path_factory.mktemp("report"))


def test_the_report_is_one_file_that_fetches_nothing(report):
    for tag, attributes in report.tags:
        for name in ("src", "href", "data", "action", "poster"):
            target = attributes.get(name, "#")
            assert target.startswith(("#", "data:")), (tag, target)
        assert not (tag == "script" and "src" in attributes)
        assert tag not in ("iframe", "object", "embed", "base")


def test_the_style_sheet_fetches_nothing(tmp_path):
    text = write_report(data(), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "@import" not in text and not re.search(r"url\(", text)
    assert not re.search(r"https?://", re.sub(r"arxiv\S*", "", text))


def test_it_says_what_was_asked_and_what_came_of_it(report):
    words = report.words
    assert "Forget the style neon" in words
    assert "ESD mostly forgot neon (90.0 %) and kept" in words
    assert "UCE lost neon (90.0 %) together with picture quality" in words
    assert "UA may come from ruined pictures" in words
    assert "27 of 30" in words and "74.4 to 96.5 %" in words
    assert "no: another data set" in words
    assert "mu-vision run quickstart" in words
    assert "9f" * 32 in words


def test_every_picture_has_an_alt_text_and_every_table_headers(report):
    pictures = report.find("img")
    assert len(pictures) == 3 * (10 + 10 + 2 * 10)
    assert all(p["alt"] for p in pictures)
    assert len({p["alt"] for p in pictures}) > 100
    assert all(th.get("scope") in ("col", "row") for th in report.find("th"))
    assert report.find("html")[0]["lang"] == "en"


def test_the_pictures_are_those_of_the_answer_set(report):
    shown = {p["alt"]: p["src"] for p in report.find("img")}
    uri = shown["Original: cat, neon, seed 188"]
    decoded = np.asarray(Image.open(BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
    expected = answers().grid[answers().style_names.index("neon"), 3, 0]
    assert np.array_equal(decoded, expected)


def test_both_maps_of_every_model_are_there(report):
    cells = [c for c in report.find("td") if re.match(r"h\d", c.get("class", ""))]
    assert len(cells) == 3 * 2 * 80
    assert sum("target" in c["class"] for c in cells) == 3 * 2 * 10


def test_texts_of_users_are_escaped(tmp_path):
    request = {**REQUEST, "kind": "concept", "name": EVIL, "anchor": EVIL}
    base = data()
    cards = {f"a{EVIL}": {**base.scorecards["esd"], "warnings": [EVIL], "became": {EVIL: 3}}}
    content = data(
        name=EVIL, request=request, scorecards=cards, recipe=EVIL, model=EVIL, command=EVIL,
        environment={EVIL: EVIL}, methods={f"a{EVIL}": {"settings": {EVIL: EVIL}}},
    )  # fmt: skip
    found = page(write_report, content, tmp_path)
    assert len(found.find("script")) == 2
    assert 'alert("x")' in found.words
    rows = [{**row, "request": EVIL, "group": EVIL} for row in table().rows]
    found = page(write_table, table(name=EVIL, rows=rows), tmp_path)
    assert len(found.find("script")) == 2


@pytest.mark.parametrize("kind", ["object", "concept", None])
def test_other_requests_have_a_report_too(kind, tmp_path):
    request = None if kind is None else {**REQUEST, "kind": kind, "name": "cat"}
    found = page(write_report, data(request=request), tmp_path)
    assert ("Forget" in found.words) == (kind is not None)


def test_several_requests_at_once(tmp_path):
    both = [REQUEST, {**REQUEST, "name": "mosaic"}]
    assert "Forget neon and mosaic" in page(write_report, data(request=both), tmp_path).words


def test_many_requests_share_the_columns(tmp_path):
    many = [{**REQUEST, "name": name} for name in answers().style_names[1:]]
    found = page(write_report, data(request=many), tmp_path)
    columns = [p["alt"] for p in found.find("img") if "seed 188" in p["alt"]]
    assert len(columns) == 3 * (7 + 10)


def test_without_pictures_methods_or_protocol(tmp_path):
    found = page(write_report, data(answers={}, methods={}, protocol={}, recipe=""), tmp_path)
    assert not found.find("img") and "Scorecards" in found.words


def test_writing_again_gives_the_same_bytes(tmp_path):
    first = write_report(data(), tmp_path / "a.html").read_bytes()
    assert write_report(data(), tmp_path / "b.html").read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_table_shows_every_row_and_the_means(tmp_path):
    found = page(write_table, table(), tmp_path)
    assert "On average over 5 requests ESD forgets 95.0 %" in found.words
    assert "at worst 93.0 % (boat)" in found.words
    assert found.words.count("mean") >= 6
    assert "96.0" in found.words and "no: another data set" in found.words


def test_a_table_of_one_request_speaks_of_no_average(tmp_path):
    rows = [row for row in table().rows if row["request"] == "neon"]
    found = page(write_table, table(rows=rows), tmp_path)
    assert "1 request, 2 methods" in found.words
    assert "For one request ESD forgets 97.0 % and keeps 92.0 %; UCE" in found.words
    assert "at worst" not in found.words


PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement, shade = getComputedStyle(document.body).backgroundColor;
  const broken = [...document.images].filter(i => i.complete && !i.naturalWidth).length;
  parent.postMessage([innerWidth, root.scrollWidth, broken, shade].join("|"), "*");
});</script></body>"""
# a window of the browser is at least 500 pixels wide, a frame may be as narrow as a phone
FRAMES = """<body style="margin:0"><script>
addEventListener("message", m => { document.body.dataset["w" + m.data.split("|")[0]] = m.data; });
</script><iframe src="report.html" style="border:0;width:390px;height:1400px"></iframe><iframe
src="report.html" style="border:0;width:1280px;height:1400px"></iframe></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("write", "content"), [(write_report, attacked_data), (write_table, table)]
)
def test_it_draws_in_a_browser_and_fits_a_phone(write, content, theme, tmp_path):
    path = write(content(), tmp_path / "report.html")
    text = path.read_text(encoding="utf-8").replace("</body>", PROBE)
    path.write_text(text.replace('lang="en"', f'lang="en" data-theme="{theme}"', 1), "utf-8")
    frames = tmp_path / "frames.html"
    frames.write_text(FRAMES)
    dom = browse(frames, "--dump-dom").stdout
    for width in (390, 1280):
        inner, needed, broken, shade = re.search(rf'data-w{width}="([^"]*)"', dom)[1].split("|")
        assert int(inner) == width and int(needed) <= width
        assert broken == "0"
        dark = sum(map(int, re.findall(r"\d+", shade)[:3])) < 200
        assert dark == (theme == "dark")
    browse(frames, f"--screenshot={tmp_path / 'shot.png'}")
    shot = np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))
    assert (shot[:, :1670].mean() < 90) == (theme == "dark") and shot.std() > 10

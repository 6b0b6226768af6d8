"""Tables that are wider than the page: the first column stays, and a reader sees that there is more."""

from __future__ import annotations

import re
from html import unescape

import pytest
from browser import CHROMIUM, browse
from fakes import attacked_data, table
from test_colours import NUMBERS, lab_data

from mu_vision.report.build import write_report, write_table
from mu_vision.report.lab import write_lab

WIDE = {key: 0.5 for key in ("asr", "lira", "relearn_time", "ain", "js", "mia_entropy", "probe",
                             "one_shot", "sparsity", "weight_distance")}  # fmt: skip


def wide_lab():
    data = lab_data()
    lines = [{**line, **WIDE, **{f"{k}_half": 0.1 for k in (*NUMBERS, *WIDE)}}
             for line in data.scores["table"]]  # fmt: skip
    return lab_data(table=lines)


@pytest.mark.parametrize(
    ("write", "content", "least"),
    [(write_report, attacked_data, 10), (write_table, table, 2), (write_lab, wide_lab, 4)],
)
def test_the_first_column_of_every_table_with_headers_stays(write, content, least, tmp_path):
    page = write(content(), tmp_path / "report.html").read_text(encoding="utf-8")
    boxes = re.findall(r'<div class="scroll"[^>]*>\s*(<table.*?</table>)', page, re.S)
    with_heads = [box for box in boxes if "<thead>" in box]
    assert len(with_heads) >= least
    for box in with_heads:
        for row in re.findall(r"<tr[^>]*>\s*(<t[hd][^>]*>)", box):
            assert 'class="stick' in row, (row, box[:300])


PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const box = [...document.querySelectorAll(".scroll")].find(b => b.scrollWidth > b.clientWidth + 50);
  const moved = place => { box.scrollLeft = place; box.dispatchEvent(new Event("scroll")); return look(); };
  const look = () => [box.className, Math.round(box.querySelector("tbody .stick")
    .getBoundingClientRect().left - box.getBoundingClientRect().left),
    getComputedStyle(box, "::before").content, getComputedStyle(box).maskImage != "none"].join("|");
  const seen = [look(), moved(60), moved(1e6)];
  const fits = [...document.querySelectorAll(".scroll")].filter(b => b.scrollWidth == b.clientWidth);
  seen.push(fits.length, fits.filter(b => b.classList.contains("wide")).length);
  document.body.dataset.seen = seen.join(";");
}, 200));</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_that_there_is_more_and_keeps_the_first_column(tmp_path):
    path = write_lab(wide_lab(), tmp_path / "report.html")
    path.write_text(path.read_text("utf-8").replace("</body>", PROBE), "utf-8")
    dom = browse(path, "--window-size=1280,900", "--dump-dom").stdout
    seen = unescape(re.search(r'data-seen="([^"]*)"', dom)[1])
    first, moved, end, fits, told = seen.split(";")
    states = [text.split("|") for text in (first, moved, end)]
    assert [set(state[0].split()) for state in states] == [
        {"scroll", "wide"}, {"scroll", "wide", "begun"}, {"scroll", "wide", "begun", "ended"},
    ]  # fmt: skip
    assert [state[1] for state in states] == ["0", "0", "0"]
    assert {state[2] for state in states} == {'"Wider than the page: scroll sideways for more"'}
    assert [state[3] for state in states] == ["true", "true", "false"]
    assert int(fits) > 0 and told == "0"

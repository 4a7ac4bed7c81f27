"""The page in headless Chromium: what a reader sees, clicks and types."""

from __future__ import annotations

import dataclasses
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from openwork.corpus import build_corpus
from openwork.errors import UserError
from openwork.viewer import picture, write_page
from openwork.viewer.page import STATIC, render
from tests.viewer.conftest import Opened
from tests.viewer.payloads import card, large_payload, quote_payload
from tests.viewer.toys import ToyTask, toy_card, toy_circuit, toy_model

Show = Callable[..., Opened]
HOSTILE = [
    *[
        "</script>",
        "<script>window.hacked=1</script>",
        "<!--",
        "-->",
        "<img src=x onerror=window.hacked=2>",
        "]]>",
        "&amp;",
    ],
    *[
        '"',
        "'",
        "\\",
        "\u2028",
        "🧵",
        "\u202e",
        "{{script}}",
        "</style>",
        "${window.hacked=3}",
        "`",
        "\n",
        "\t",
        " ",
        "é",
    ],
]


def test_a_hostile_corpus_shows_as_text(show: Show) -> None:
    page = show(quote_payload(corpus=HOSTILE)).page

    page.locator(".node").nth(2).click()
    page.locator(".concordance summary").first.click()

    assert page.evaluate("window.hacked") is None
    assert page.locator("#inspector img, #inspector script").count() == 0
    shown = page.locator(".concordance pre").first.inner_text()
    assert "<script>window.hacked=1</script>" in shown
    assert all(text in shown for text in HOSTILE[:7])
    assert "🧵" in shown


def test_a_page_of_a_real_corpus_of_markup_shows_its_text(show: Show, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    lines = [
        "x1 = \"</script><script>window.hacked=1</script>\" + '<!-- 🧵 &lt;'",
        "x1 = '<img src=x onerror=alert(1)>'",
    ]
    for i in range(30):
        draw = random.Random(i)
        (source / f"{i}.py").write_text(
            "\n".join(draw.choice(lines) for _ in range(20)) + f"\n# {i}\n", encoding="utf-8"
        )
    corpus = build_corpus(str(source), tmp_path / "corpus", d_vocab=300, validation_fraction=0.3)
    model, task = toy_model(corpus), ToyTask(corpus)
    circuit = toy_circuit(model, task)

    write_page(tmp_path / "page.html", circuit, task, toy_card(circuit), model, corpus)  # pyright: ignore
    page = show(tmp_path / "page.html").page
    page.locator(".node.mlp-post_act").first.click()
    for line in page.locator(".concordance summary").all():
        line.click()

    texts = "".join(page.locator(".concordance pre").all_inner_texts())
    assert page.evaluate("window.hacked") is None
    assert "script>" in texts
    assert page.locator("#inspector script, #inspector img").count() == 0


def test_every_node_edge_and_thread_is_drawn_and_thickness_is_weight(show: Show) -> None:
    payload = quote_payload()
    page = show(payload).page

    assert page.locator(".node").count() == 12
    assert page.locator(".edges .edge").count() == 9
    assert page.locator(".threads .thread").count() == 5
    assert page.locator(".weights .weight").count() == 6
    widths = {
        title.split(": ")[1]: float(width)
        for title, width in page.eval_on_selector_all(
            ".edges .edge",
            "all => all.map(e => [e.querySelector('title').textContent, e.firstChild.getAttribute('stroke-width')])",
        )
    }
    ordered = sorted(widths, key=lambda text: abs(float(text.replace("\N{MINUS SIGN}", "-"))))
    assert len(widths) == 9
    assert [widths[text] for text in ordered] == sorted(widths.values())
    assert len(set(widths.values())) > 5
    positive = page.evaluate("getComputedStyle(document.querySelector('.edges .positive path')).stroke")
    negative = page.evaluate("getComputedStyle(document.querySelector('.edges .negative path')).stroke")
    assert positive != negative


def test_a_click_opens_a_node_with_texts_weights_and_the_example(show: Show) -> None:
    payload = quote_payload()
    page = show(payload).page

    page.locator('[data-node="0.mlp.post_act.790"]').click()

    inspector = page.locator("#inspector")
    assert inspector.locator("h3").inner_text() == "0.mlp.post_act.790"
    assert inspector.locator(".concordance").first.locator("li").count() == len(payload.nodes[2].positive)
    first = inspector.locator(".concordance li").first
    peak = payload.nodes[2].positive[0]
    assert (
        first.locator(".peak").inner_text().strip()
        == payload.texts[str(peak.tokens[peak.peak])].replace("\n", "↵").strip()
    )
    assert "+1.31" in inspector.inner_text()
    assert "0.mlp.resid_delta.200" in inspector.inner_text()
    assert page.locator(".edges .edge.lit").count() == 3
    inspector.get_by_role("button", name="0.mlp.act_in.113").click()
    assert inspector.locator("h3").inner_text() == "0.mlp.act_in.113"
    assert "Embedding weights (not counted as edges)" in inspector.inner_text()


def test_a_head_opens_with_its_attention_to_each_token(show: Show) -> None:
    payload = quote_payload()
    page = show(payload).page

    page.locator(".head .name").click()

    inspector = page.locator("#inspector")
    assert inspector.locator("h3").inner_text() == "1.attn.head3"
    assert inspector.locator(".attention").count() == 4
    row = payload.heads[0].circuit[0][-1]
    best = max(range(len(row)), key=lambda key: row[key])
    text = payload.texts[str(payload.task.example[0].tokens[best])]
    assert text in inspector.locator(".reading").first.inner_text()
    inspector.locator(".attention").first.locator(".strip .token").nth(3).click()
    assert "token 4" in inspector.locator(".reading").first.inner_text()


def test_the_keyboard_walks_opens_and_closes(show: Show) -> None:
    page = show(quote_payload()).page
    page.locator(".node[tabindex='0'], .head[tabindex='0']").first.focus()

    page.locator('[data-node="0.mlp.act_in.41"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    opened = page.locator("#inspector h3").inner_text()
    page.keyboard.press("Escape")

    assert opened == "0.mlp.post_act.790"
    assert page.locator("#inspector h3").count() == 0
    assert page.locator("#drawing [tabindex='0']").count() == 1


def test_the_address_keeps_what_is_open(show: Show) -> None:
    page = show(quote_payload(), hash="#1.attn.v.head3.ch1").page

    assert page.locator("#inspector h3").inner_text() == "1.attn.v.head3.ch1"
    page.locator(".close").click()
    assert page.evaluate("location.hash") == ""


def test_search_finds_nodes_by_name_and_by_token(show: Show) -> None:
    payload = quote_payload()
    page = show(payload).page
    box = page.get_by_role("searchbox")

    box.fill("post_act.405")
    assert page.locator(".node.match").count() == 1
    assert page.locator(".results button").count() == 1
    box.press("Enter")
    assert page.locator("#inspector h3").inner_text() == "0.mlp.post_act.405"

    box.fill("valueerror")
    by_peak = {
        node.name
        for node in payload.nodes
        for window in (*node.positive, *node.negative)
        if "ValueError" in payload.texts[str(window.tokens[window.peak])]
    }
    assert by_peak
    found = {text.split(" ")[0] for text in page.locator(".results button").all_inner_texts()}
    assert by_peak <= found

    box.fill("no such thing")
    assert page.locator(".results button").count() == 0


def test_failure_is_in_plain_sight(show: Show) -> None:
    circuit = dataclasses.replace(
        quote_payload().circuit, reached=False, losses={"unpruned": 0.4, "circuit": 0.31, "circuit_uncalibrated": 0.5}
    )
    page = show(quote_payload(circuit=circuit, card=card(failed=("necessity",)))).page

    summary = page.locator("#summary").inner_text()
    assert "Target not reached" in summary
    assert "loss lies below the whole model" in summary
    assert "✗ necessity" in summary
    assert "1 of 4 checks failed: necessity" in page.locator("#card").inner_text()
    assert page.locator("#card .fail").inner_text() == "✗ FAIL"


def test_a_failed_check_shows_the_code_on_which_the_circuit_is_worst(show: Show) -> None:
    page = show(quote_payload(card=card(failed=("held-out templates", "necessity")))).page

    assert (
        "Worst of 2 templates: 1.66 nats on 32 pairs, where the whole model has 0.00300."
        in page.locator("#card").inner_text()
    )
    assert page.locator("#card pre").all_inner_texts() == ["with $name1:\n    <b>$func1(<'|\">$text<?>\n"]
    assert show(quote_payload(card=card(failed=("necessity",)))).page.locator("#card pre").count() == 0


def test_a_good_circuit_has_no_banner_and_its_sentence_has_the_numbers(show: Show) -> None:
    page = show(quote_payload()).page

    assert page.locator(".banner").count() == 0
    lead = page.locator(".lead").inner_text()
    for part in (
        "single_double_quote",
        "0.093 nats",
        "0.141 nats",
        "12 nodes of 5,632",
        "9 edges of 38,411",
        "its mean",
    ):
        assert part in lead


def test_a_page_without_a_card_says_so(show: Show) -> None:
    page = show(quote_payload(card=None)).page

    assert "Not verified" in page.locator("#card").inner_text()
    assert "not verified" in page.locator("#summary").inner_text()


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_page_never_overflows(show: Show, width: int, size: str) -> None:
    payload = quote_payload() if size == "small" else large_payload()
    page = show(payload, width=width).page
    page.locator(".node").nth(1).dispatch_event("click")
    page.locator("#help summary").click()

    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_large_circuit_is_drawn_whole_and_nodes_do_not_overlap(show: Show) -> None:
    payload = large_payload(per_site=11)
    page = show(payload).page

    assert len(payload.nodes) >= 140
    boxes = page.eval_on_selector_all(
        ".node rect", "rects => rects.map(r => ['x', 'y', 'width', 'height'].map(a => Number(r.getAttribute(a))))"
    )
    assert len(boxes) == len(payload.nodes)
    for i, (x, y, w, h) in enumerate(boxes):
        for other_x, other_y, other_w, other_h in boxes[:i]:
            apart = x >= other_x + other_w or other_x >= x + w or y >= other_y + other_h or other_y >= y + h
            assert apart


def test_order_lessens_crossings_and_places_keep_their_gaps(show: Show) -> None:
    page = show(quote_payload()).page
    page.goto("about:blank")
    result = page.evaluate(
        """async (source) => {
          const { place } = await import(`data:text/javascript,${encodeURIComponent(source)}`);
          const columns = [0, 1].map((column) => Array.from({ length: 6 }, (_, i) => ({ column, size: 10, i })));
          const links = columns[0].map((a, i) => ({ a, b: columns[1][5 - i], weight: 1 }));
          const left = place(columns, links, () => 12);
          return { left, at: columns.map((items) => items.map((item) => item.at)) };
        }""",
        (STATIC / "layout.js").read_text(encoding="utf-8"),
    )

    assert result["left"] == 0
    for places in result["at"]:
        assert all(b - a >= 12 - 1e-9 for a, b in pairwise(places))
    assert min(map(min, result["at"])) == 5


def test_the_picture_is_the_drawing_as_svg(show: Show, tmp_path: Path) -> None:
    show(quote_payload())  # skips where there is no browser
    (tmp_path / "page.html").write_text(render(quote_payload()), encoding="utf-8")

    picture(tmp_path / "page.html", tmp_path / "circuit.svg")

    tree = ElementTree.parse(tmp_path / "circuit.svg").getroot()
    classes = [element.get("class", "") for element in tree.iter()]
    assert sum(name.startswith("node ") for name in classes) == 12
    assert sum(bool(re.match(r"edge (positive|negative)", name)) for name in classes) == 9
    assert "var(--ground)" in (tmp_path / "circuit.svg").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="no page"):
        picture(tmp_path / "missing.html", tmp_path / "other.svg")

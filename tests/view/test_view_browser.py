"""The page in a real browser: Debian's Chromium, driven by Playwright. Skipped where there is none."""

import contextlib
import re
import shutil
import socket
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from pages import film, make_pages

from materia.dataset.layers import read_layer, write_layer

pytest.importorskip("duckdb", reason="needs the view extra")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")]

QUOTED = """"quoted" & 'dog'"""
HOSTILE = f"<script>alert(1)</script> {QUOTED} <img src=x onerror=alert(2)>"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-quic"]


def hostile(sample):
    """The caption of one sample is markup, and its subject word is full of quotes."""
    if sample.clip.row == 4:
        text = f"A dog and {HOSTILE} meet."
        start = text.index(QUOTED)
        sample.clip = msgspec.structs.replace(sample.clip, caption=text)
        spans = [(start, start + len(QUOTED))]
        sample.entities = [msgspec.structs.replace(sample.entities[0], word=QUOTED, spans=spans)]
        for one in sample.instances:
            one.word = QUOTED


@contextlib.contextmanager
def served(*outs):
    """Address of the page of outputs, served by a thread."""
    import uvicorn

    from materia.view.app import application
    from materia.view.viewer import Viewer

    viewer = Viewer(list(outs), "marks", "anna")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(application(viewer, [host]), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        viewer.start()
        assert viewer.done.wait(30)
        yield f"http://{host}/"
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def out(folder):
    out = make_pages(folder, ("sssss", "sssr"), clip=film(), change=hostile)
    vectors = [[float(np.cos(row)), float(np.sin(row))] for row in range(8)]
    write_layer(out, "clip", pa.table({"key": [f"clip-{row:04d}" for row in range(8)], "v": vectors}), made_by="t", version="1")
    return out


@pytest.fixture(scope="module")
def address(out):
    with served(out) as address:
        yield address


@pytest.fixture
def page(browser):
    """A page on which nothing may go wrong silently."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog: {dialog.message}"))
    page.wrong = wrong
    yield page
    assert wrong == []
    context.close()


def tiles(page, n):
    """Waits until the grid has `n` tiles with captions."""
    page.wait_for_function(
        "n => document.querySelectorAll('.tile .caption .word').length >= n && document.querySelectorAll('.tile').length === n",
        arg=n,
    )


def test_a_word_is_searched_with_completion_and_taken_away_again(page, address):
    page.goto(address)
    tiles(page, 8)
    page.keyboard.press("/")
    page.keyboard.type("hor")
    page.wait_for_function("() => document.querySelector('#words option')?.value === 'horse'")
    page.keyboard.type("se")
    page.keyboard.press("Enter")
    tiles(page, 2)
    assert "word=horse" in page.url
    playwright.expect(page.locator("output.count")).to_have_text("2 of 8 kept")
    page.locator(".toolbar .chip.on", has_text="horse").click()
    tiles(page, 8)


def test_a_histogram_is_dragged_and_the_link_holds_the_range(page, address):
    page.goto(address)
    tiles(page, 8)
    plot = page.locator("range-histogram[name='extra.views'] svg")
    plot.scroll_into_view_if_needed()
    page.wait_for_function(
        "() => document.querySelector(\"range-histogram[name='extra.views'] .all\").getAttribute('d')?.length > 10"
    )
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 10, steps=6)
    page.wait_for_function("() => document.querySelector('output.count').classList.contains('trying')")
    playwright.expect(page.locator("output.count")).to_have_text("5 of 8 kept")
    page.mouse.up()
    tiles(page, 5)
    assert "r.extra.views=2%7E6" in page.url


def test_a_threshold_is_moved_by_keys_and_says_how_many_are_kept(page, address):
    page.goto(address)
    tiles(page, 8)
    slider = page.get_by_label("extra.views, at least")
    slider.scroll_into_view_if_needed()
    page.wait_for_function("() => !document.querySelector(\"range-histogram[name='extra.views'] .low\").disabled")
    slider.focus()
    page.keyboard.press("End")
    tiles(page, 1)
    playwright.expect(page.locator("output.count")).to_have_text("1 of 8 kept")
    page.keyboard.press("Home")
    tiles(page, 8)


def test_a_sort_turns_round_and_going_back_takes_it_back(page, address):
    page.goto(address)
    tiles(page, 8)
    page.get_by_label("sort by").select_option("extra.views")
    page.get_by_label("smallest first").click()
    page.wait_for_function("() => document.querySelector('.tile .value')?.textContent === '7'")
    first = page.locator(".tile").first.locator("a.cover").get_attribute("aria-label")
    assert first.startswith("clip-0007")
    page.go_back()
    page.go_back()
    page.wait_for_function("() => !document.querySelector('.tile .value')")


def test_masks_are_toggled_without_loading_the_frames_again(page, address):
    page.goto(address)
    tiles(page, 8)
    page.wait_for_load_state("networkidle")
    asked = []
    page.on(
        "request", lambda request: asked.append(request.url) if "/small/" in request.url or "/api/" in request.url else None
    )
    mask = page.locator(".tile .masks").first
    assert mask.evaluate("e => getComputedStyle(e).visibility") == "hidden"
    page.keyboard.press("m")
    page.wait_for_function("() => getComputedStyle(document.querySelector('.tile .masks')).visibility === 'visible'")
    page.wait_for_timeout(200)
    assert [url for url in asked if "/small/" in url or "/api/select" in url] == []
    assert "show=bm" in page.url


def test_a_clip_is_sought_by_byte_ranges(page, address):
    ranges = []
    page.on("response", lambda answer: ranges.append(answer.status) if answer.url.split("?")[0].endswith("/mp4") else None)
    page.goto(f"{address}#sample=clip-0002")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 1")
    page.evaluate("document.querySelector('video').currentTime = 7")
    page.wait_for_function("() => !document.querySelector('video').seeking && document.querySelector('video').readyState >= 2")
    assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(7, abs=0.2)
    assert ranges
    assert set(ranges) == {206}


def test_a_sample_is_opened_and_left_by_keys(page, address):
    page.goto(address)
    tiles(page, 8)
    page.locator(".tile a.cover").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".sample h2:has-text('clip-0001')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".sample h2:has-text('clip-0002')")
    assert page.locator(".sample .frames figure").count() == 3
    assert page.locator(".sample .track").count() == 2
    page.keyboard.press("Escape")
    tiles(page, 8)


def test_marks_are_saved_by_keys_and_taken_back(page, address, out):
    page.goto(f"{address}#sample=clip-0003")
    page.wait_for_selector(".sample h2:has-text('clip-0003')")

    def saved():
        return {row["key"]: (row["bad"], row["why"]) for row in read_layer(out, "marks").to_pylist()}

    def pressed(key):
        with page.expect_response("**/api/mark"):
            page.keyboard.press(key)

    pressed("5")
    assert saved() == {"clip-0003": (True, ["bad_mask"])}
    pressed("1")
    assert saved()["clip-0003"] == (True, ["bad_mask", "wrong_word"])
    pressed("u")
    pressed("u")
    assert saved() == {}
    pressed("g")
    page.keyboard.press("Escape")
    page.wait_for_selector(".tile.good")
    page.get_by_role("button", name="good", exact=True).click()
    tiles(page, 1)
    page.goto(f"{address}#sample=clip-0003&marked=good")
    page.wait_for_selector(".sample h2:has-text('clip-0003')")
    pressed("g")
    assert saved() == {}


def test_a_link_shows_what_it_was_made_from(page, address):
    page.goto(f"{address}#word=dog&sort=-extra.views&r.extra.views=1~&show=bm")
    tiles(page, 2)
    assert [
        label.split(":")[0] for label in page.locator(".tile a.cover").evaluate_all("all => all.map(a => a.ariaLabel)")
    ] == ["clip-0006", "clip-0003"]
    assert page.get_by_label("sort by").input_value() == "extra.views"


def test_a_word_of_the_caption_filters_and_more_like_this_asks_the_layer(page, address):
    page.goto(f"{address}#sample=clip-0001")
    page.wait_for_selector(".sample .caption")
    page.get_by_role("button", name="clip.v").click()
    tiles(page, 8)
    assert page.locator(".tile a.cover").first.get_attribute("aria-label").startswith("clip-0001")
    page.goto(f"{address}#sample=clip-0001")
    page.locator(".sample .caption .word", has_text="cat").first.click()
    tiles(page, 2)


def test_hostile_captions_are_text(page, address):
    page.goto(f"{address}#key=0004")
    tiles(page, 1)
    assert HOSTILE in page.locator(".tile .caption").inner_text()
    page.locator(".tile a.cover").click()
    page.wait_for_selector(".sample .caption.large")
    assert HOSTILE in page.locator(".sample .caption.large").inner_text()
    assert page.locator("main script, main img[src='x']").count() == 0
    page.locator(".sample .caption .word", has_text="quoted").click()
    tiles(page, 1)
    assert page.locator(".toolbar .given .chip").inner_text() == f"{QUOTED} ×"


def test_a_question_in_sql_is_answered_and_its_samples_are_shown(page, address):
    page.goto(f"{address}#view=sql")
    box = page.get_by_label("question in SQL")
    box.fill("select key, '<b>' as html from samples where n_subjects = 1 order by key desc limit 3")
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector(".sql td:has-text('<b>')")
    page.get_by_role("button", name="Show these samples").click()
    tiles(page, 3)


def test_a_question_that_is_none_is_refused_in_words(browser, address):
    page = browser.new_page()
    page.goto(f"{address}#view=sql")
    page.get_by_label("question in SQL").fill("drop table samples")
    page.get_by_role("button", name="Run").click()
    page.wait_for_selector(".sql .trouble:has-text('one SELECT')")
    page.close()


def test_rejections_are_shown_with_reason_and_advice(page, address):
    page.goto(f"{address}#view=rejections")
    page.wait_for_selector(".card .reason:has-text('no subject')")
    assert page.locator(".card .word", has_text="room").count() == 0  # it has no span in this row
    assert "caption people or animals" in page.locator(".card .message").inner_text()


def test_an_audit_begins_goes_on_by_keys_and_tells_precision(page, tmp_path):
    out = make_pages(tmp_path, ("ssss",))
    with served(out) as address:
        page.goto(f'{address}#audit={{"n":2,"seed":1}}')
        tiles(page, 2)
        page.get_by_role("button", name="Begin").click()
        page.wait_for_selector(".sample h2")
        first = page.locator(".sample h2").inner_text()
        with page.expect_response("**/api/mark"):
            page.keyboard.press("g")
        page.wait_for_function("first => document.querySelector('.sample h2').textContent !== first", arg=first)
        with page.expect_response("**/api/mark"):
            page.keyboard.press("4")
        page.keyboard.press("Escape")
        page.wait_for_selector(".audit .hint:has-text('2 marked')")
        assert re.sub(r"\s+", " ", page.locator(".audit tr", has_text="link").inner_text()).startswith("link 50 %")


def test_two_outputs_are_side_by_side_what_differs_first(page, tmp_path):
    one = make_pages(tmp_path / "one", ("sss",))
    two = make_pages(tmp_path / "two", ("ssr",))
    with served(one, two) as address:
        page.goto(f"{address}#view=pairs&only=all")
        page.wait_for_selector(".pairs .card")
        assert page.locator(".pairs .card h3").first.inner_text().startswith("clip-0002")
        assert "rejected, entities: no_subject" in page.locator(".pairs .card").first.inner_text()
        assert page.locator(".pairs .card").count() == 3


def test_a_shard_that_is_gone_is_said_on_its_tiles(browser, tmp_path):
    out = make_pages(tmp_path, ("ss", "ss"))
    Path(out, "shards/000000.tar").unlink()
    with served(out) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector(".tile .broken:has-text('is gone')")
        page.wait_for_function("() => document.querySelectorAll('.tile .boxes').length === 2")
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "where", ["", "#sample=clip-0001&show=bmc", "#view=rejections", "#view=sql", '#audit={"n":2,"seed":1}']
)
def test_axe_finds_nothing_serious(browser, address, scheme, where):
    axe = (
        Path(pytest.importorskip("axe_playwright_python", reason="needs axe-playwright-python").__file__).parent / "axe.min.js"
    )
    context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(address + where)
    page.wait_for_selector(".tile .word, .sample .track, .card, .sql textarea")
    page.wait_for_load_state("networkidle")
    page.evaluate(axe.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(found => found.violations)")
    told = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert told == []
    context.close()


@pytest.mark.parametrize("where", ["", "#sample=clip-0001", "#view=rejections", "#view=sql"])
def test_nothing_is_wider_than_a_telephone(browser, address, where):
    context = browser.new_context(viewport={"width": 400, "height": 800})
    page = context.new_page()
    page.goto(address + where)
    page.wait_for_selector(".tile .word, .sample .track, .card, .sql textarea")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    context.close()


def test_a_million_rows_are_scrolled_to_any_place(browser, tmp_path):
    """Far more rows than an element can be tall; only the tiles that are seen exist."""
    from tools.bench_view import write_synthetic_output

    out = str(tmp_path / "out")
    write_synthetic_output(out, 3000)
    with served(out) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.route("**/api/select*", enlarged)
        page.goto(address)
        page.wait_for_selector(".tile")
        page.locator(".tile a.cover").first.focus()
        page.keyboard.press("End")
        page.wait_for_selector(".tile[aria-posinset='1000000']")
        assert page.locator(".tile").count() < 60
        page.keyboard.press("Home")
        page.wait_for_selector(".tile[aria-posinset='1']")
        page.mouse.move(700, 500)
        for _ in range(10):
            page.mouse.wheel(0, 300)
            time.sleep(0.02)
        page.wait_for_selector(".tile[aria-posinset='1']", state="detached")
        assert int(page.locator(".tile").first.get_attribute("aria-posinset")) < 200
        page.close()


def enlarged(route):
    """The server's answer, as if there were a million of these rows."""
    import json
    from urllib.parse import parse_qs, urlencode, urlsplit

    parts = urlsplit(route.request.url)
    asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
    offset = int(asked["offset"])
    answer = route.fetch(url=parts._replace(query=urlencode({**asked, "offset": offset % 2940})).geturl())
    found = answer.json() | {"total": 1_000_000, "offset": offset}
    found["rows"] = found["rows"][: 1_000_000 - offset]
    route.fulfill(response=answer, body=json.dumps(found))

"""The report is one file that says what `materia stats` says, shows samples and rejections, and runs and fetches nothing."""

import base64
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip
from samples import PROVENANCE, make_dataset, make_output, make_rejection, make_sample
from tables import make_tables
from test_rejected_sheet import output_of

from materia.cli.main import main
from materia.dataset import layout, writer
from materia.dataset.stats import collect

pytest.importorskip("vl_convert", reason="the extra `report` is not installed")
from materia.report.page import charts

OLD = Path(__file__).parents[1] / "data" / "golden" / "schema1"
HOSTILE = "<script>alert(1)</script>\"'&amp;\u202eevil" + "w" * 300
SECTIONS = ["flow", "words", "together", "distributions", "time", "shards", "samples", "rejected", "made-with"]


class Page(HTMLParser):
    """A report: its elements with their attributes, its visible text by section, and the numbers in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html, self.elements, self.text, self.inside = html, [], dict.fromkeys(["", *SECTIONS], ""), ""
        self.data, self.tag = {"style": "", "script": ""}, ""
        self.feed(html)
        self.numbers = json.loads(self.data["script"])

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.tag = tag
        if tag == "section":
            self.inside = dict(attrs).get("id", "")

    def handle_endtag(self, tag):
        self.tag = ""

    def handle_data(self, data):
        if self.tag in self.data:
            self.data[self.tag] += data
        else:
            self.text[self.inside] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def report(out, *options):
    target = out.parent / "report.html"
    done = CliRunner().invoke(main, ["report", str(out), "-o", str(target), *options], catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, f"{target}\n"), done.output
    return Page(target.read_text(encoding="utf-8"))


def output_with(folder, rows, **info):
    layout.write_info(str(folder / "out"), msgspec.structs.replace(make_dataset(len(rows), 1, len(rows)), **info))
    writer.write_chunk(str(folder / "out"), 0, rows, provenance=PROVENANCE)
    return folder / "out"


@pytest.fixture
def out(tmp_path):
    make_output(tmp_path / "out", tmp_path / "clips", ["sr", "rr", "ss"])
    return tmp_path / "out"


def test_its_numbers_are_those_of_stats(out):
    page = report(out)
    assert page.numbers["stats"] == json.loads(CliRunner().invoke(main, ["stats", str(out), "--json"]).output)
    assert page.numbers["words"]["words"] == {"subject": {"dog": 3}, "object": {"red ball": 3}, "background": {"meadow": 3}}
    assert "6 rows = 3 samples + 3 rejections" in page.text["flow"]
    assert "no_subject" in page.text["flow"] and "50.0 %" in page.text["flow"]
    assert [attributes["id"] for attributes in page.all("section") if "id" in attributes] == SECTIONS


def test_every_distribution_has_its_chart_and_percentiles(tmp_path):
    make_tables(tmp_path / "out", 6, 40)
    page = report(tmp_path / "out")
    stats = collect(str(tmp_path / "out"))
    spread = [*stats.distributions.values(), *stats.instance_distributions.values()]
    charts = [svg["aria-label"] for svg in page.all("svg") if svg.get("class") == "chart"]
    assert sum("values from" in told for told in charts) == sum(one.min < one.max for one in spread) > 15
    assert page.text["distributions"].count("median") == len(spread) + 1
    assert f"{stats.distributions['min_mask_score'].p95:.4g}" in page.text["distributions"]


def test_samples_are_shown_with_frames_masks_background_and_references(out):
    page = report(out)
    pictures = page.all("img")
    alts = [picture["alt"] for picture in pictures]
    assert len(pictures) == 3 * (4 + 8) and all(picture["src"].startswith("data:image/webp;base64,") for picture in pictures)
    assert alts[:2] == ["Frame 1: boxes and masks of dog", "Frame 2: boxes and masks of dog, red ball"]
    assert "Reference of dog, face from frame 1" in alts and alts[3].startswith("The background without its subjects")


def test_the_same_seed_shows_the_same_and_another_shows_others(tmp_path):
    make_tables(tmp_path / "out", 6, 40)
    first, again, other = (report(tmp_path / "out", "--samples", "4", "--seed", seed) for seed in ("3", "3", "4"))
    assert first.html == again.html
    assert keys(first) != keys(other) and len(keys(first)) == 4
    assert first.text["rejected"] != other.text["rejected"]


def keys(page):
    """Of the samples that are shown, as far as their captions tell."""
    return [part.split(",")[0] for part in page.text["samples"].split("A caption of clip ")[1:]]


def test_only_samples_that_an_expression_admits_are_shown(tmp_path):
    out = output_with(tmp_path, [make_sample(tmp_path, 0, subject="cat"), make_sample(tmp_path, 1), make_sample(tmp_path, 2)])
    page = report(out, "--where", '"cat" in subject_words')
    assert "clip-0000" in page.text["samples"] and "clip-0001" not in page.text["samples"]
    assert page.numbers["stats"]["samples"] == 3
    done = CliRunner().invoke(main, ["report", str(out), "-o", str(tmp_path / "no.html"), "--where", "subjects > 9"])
    assert done.exit_code == 2 and "admits none" in done.output and not (tmp_path / "no.html").exists()


def test_rejections_show_the_frames_of_their_clips_or_say_why_not(tmp_path):
    make_clip(tmp_path / "a.mp4", 48)
    page = report(output_of(tmp_path, [{"video": "a.mp4"}, {"video": "gone.mp4"}]))
    assert [picture["alt"] for picture in page.all("img")] == [f"The clip at {at} % of its length" for at in (5, 50, 95)]
    assert page.text["rejected"].count("No pictures:") == 1 and "gone.mp4" in page.text["rejected"]


def test_hostile_words_reasons_and_paths_are_text_and_nothing_else(tmp_path):
    rejections = [make_rejection(number, HOSTILE[:60], HOSTILE) for number in (1, 2)]
    for rejection in rejections:
        rejection.message = rejection.uri = rejection.caption = HOSTILE
    rejections[1].reason = "\u202e"
    rows = [make_sample(tmp_path, 0, subject=HOSTILE, thing="' onmouseover='alert(1)"), *rejections]
    folder = tmp_path / HOSTILE[:40].replace("/", "-")
    config = {HOSTILE: {HOSTILE: HOSTILE}, "segment": {"backend": "os:getcwd"}, "link": HOSTILE}
    folder.mkdir()
    page = report(output_with(folder, rows, config=config, stage_sha={HOSTILE: HOSTILE}))
    assert_runs_nothing(page)
    assert "\u202e" not in page.html and "\\u202e" in page.html
    for section in ("flow", "words", "together", "samples", "rejected", "made-with"):
        assert "<script>alert(1)</scrip" in page.text[section]
    assert HOSTILE in page.numbers["words"]["words"]["subject"]
    assert "a backend of your own" in page.text["made-with"]


def test_nothing_is_fetched_and_nothing_runs(out):
    page = report(out)
    assert_runs_nothing(page)
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    style = base64.b64encode(hashlib.sha256(page.data["style"].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in page.data["style"] and "@import" not in page.data["style"]


def assert_runs_nothing(page):
    known = {"script": {"type", "id"}, "img": {"src", "width", "height", "alt"}, "a": {"href", "class"}, "style": set()}
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "use", "image", "foreignobject"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcset", "xlink:href")]
        assert set(attributes) <= known.get(tag, set(attributes))
    assert [script["type"] for script in page.all("script")] == ["application/json"]
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert all(picture["src"].startswith("data:image/") for picture in page.all("img"))


def test_what_is_read_aloud_has_a_name(tmp_path):
    make_tables(tmp_path / "out", 6, 40)
    page = report(tmp_path / "out")
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "footer", "h1")] == [1] * 5
    assert all(svg.get("aria-label") or svg.get("aria-hidden") for svg in page.all("svg"))
    assert {link["href"] for link in page.all("a")} == {"#main", *(f"#{section}" for section in SECTIONS)}
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert all(after <= before + 1 or (before, after) == (2, 4) for before, after in pairwise(levels))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_it_stands_on(scheme):
    """By 4.5 to 1, as WCAG 2's level AA asks: on page and cards, on the diagram's ribbons, on every step of the heat map."""
    style = (Path(charts.__file__).parent / "report.css").read_text(encoding="utf-8")
    names = dict(
        part.split(":", 1) for part in re.findall(r":root\{(.*?)\}", style)[scheme].split(";") if part.startswith("--")
    )
    colours = {name: hex_colour(value) for name, value in names.items() if value.startswith("#")}
    paper, card, ink, muted = (colours[f"--{name}"] for name in ("paper", "card", "ink", "muted"))
    pairs = [(colours[f"--{text}"], on) for text in ("ink", "muted", "accent", "alarm") for on in (paper, card)]
    pairs += [(text, over(colours[f"--{name}-ribbon"], paper)) for name in ("kept", "lost") for text in (ink, muted)]
    heat = np.array(names["--heat"].split(), float) / 255
    for step, alpha, inverse in re.findall(r"\.h(\d)\{background:rgb\(var\(--heat\)/?([.\d]*)\)(;color:var\(--card\))?", style):
        pairs.append((card if inverse else ink, over(np.append(heat, float(alpha or 1)), paper)))
        assert step in "123456789"
    assert len(pairs) == 8 + 4 + 9
    assert [pair for pair in pairs if contrast(*pair) < 4.5] == []


def hex_colour(text):
    """#rgb, #rrggbb or #rrggbbaa -> (3,) or (4,) float64, 0 to 1."""
    digits = text[1:] if len(text) > 4 else "".join(2 * digit for digit in text[1:])
    return np.array(list(bytes.fromhex(digits))) / 255


def over(colour, on):
    return colour[3] * colour[:3] + (1 - colour[3]) * on


def contrast(a, b):
    """WCAG 2.2, "contrast ratio" and "relative luminance"."""
    linear = [np.where(one <= 0.04045, one / 12.92, ((one + 0.055) / 1.055) ** 2.4) for one in (a, b)]
    low, high = sorted(float(one @ [0.2126, 0.7152, 0.0722]) for one in linear)
    return (high + 0.05) / (low + 0.05)


def test_its_size_does_not_grow_with_the_rows_and_an_odd_shard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(charts, "_POINTS", 20)
    sizes = []
    for chunks in (30, 60):
        make_tables(tmp_path / f"{chunks}", chunks, 3 * chunks, odd=7, instances=False)
        page = report(tmp_path / f"{chunks}", "--samples", "0")
        sizes.append(len(page.html))
        worst = page.numbers["outliers"][0]
        assert (worst["chunk"], worst["measure"]) == (7, "min_mask_score") and worst["z"] < -3.5
        assert "000007" in page.text["shards"]
    assert sizes[1] < min(1.05 * sizes[0], 400_000)


@pytest.mark.parametrize("kinds", [["s"], ["r"], ["ss", "ss"]])
def test_an_output_without_rejections_or_without_samples_has_a_report(tmp_path, kinds):
    make_output(tmp_path / "out", tmp_path / "clips", kinds)
    page = report(tmp_path / "out")
    assert ("There are no samples to show." in page.text["samples"]) == (kinds == ["r"])
    assert ("No row was rejected." in page.text["rejected"]) == (kinds != ["r"])
    assert "no timings" in page.text["time"] and "fewer than 5 shards" in page.text["shards"]


def test_a_job_that_has_only_begun_has_a_report(tmp_path):
    layout.write_info(str(tmp_path / "out"), make_dataset(9, 3, 3))
    page = report(tmp_path / "out")
    assert "0 of 9 planned rows" in page.text[""] and "No row is done yet." in page.text["flow"]


def test_times_are_shown_by_stage(out):
    (out / "_run").mkdir()
    line = {
        "chunk": 0,
        "slice": 0,
        "rows": 2,
        "kept": 1,
        "wall_s": 1,
        "seconds": {"entities": 1.0, "frames": 2.5},
        "end_s": 4.0,
    }
    (out / "_run" / "timings.jsonl").write_text(json.dumps(line))
    text = report(out).text["time"]
    assert "2 clips in 4 s" in text and "2.5" in text and "1,250" in text


def test_an_output_of_an_earlier_version_has_a_report(tmp_path):
    shutil.copytree(OLD, tmp_path / "out")
    page = report(tmp_path / "out")
    assert page.numbers["stats"] == json.loads(msgspec.json.encode(collect(str(OLD))))
    assert len(page.all("img")) > 12 and "least link score" not in page.text["distributions"]


def test_a_broken_shard_costs_its_pictures_only(out):
    shard = out / "shards" / "000000.tar"
    shard.write_bytes(shard.read_bytes()[:5000])
    page = report(out)
    assert page.text["samples"].count("No pictures:") == 1 and "000000.tar" in page.text["samples"]
    assert sum(picture["alt"].startswith("Frame 1") for picture in page.all("img")) == 2
    assert "A dog chases a red ball across the meadow" in page.text["samples"].partition("No pictures:")[0]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_became_of_a_shard_there_is_a_card_for_each_sample(out, seed):
    from materia.report.page.pictures import sample_cards

    shard, rng = out / "shards" / "000002.tar", np.random.default_rng(seed)
    data = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    data[rng.integers(0, len(data), 60)] = rng.integers(0, 256, 60)
    shard.write_bytes(data.tobytes())
    cards = sample_cards(str(out), 9, 0, None)
    assert [card.key for card in cards] == ["clip-0000", "clip-0004", "clip-0005"]
    assert all(bool(card.problem) != (len(card.pictures) == 4) for card in cards) and not cards[0].problem


def test_models_are_named_with_their_weights_and_settings_by_section(tmp_path):
    config = {"segment": {"backend": "u2netp", "options": {}}, "link": {"min_score": 0.25, "faces": {"backend": "none"}}}
    text = report(output_with(tmp_path, [make_sample(tmp_path, 0)], config=config)).text["made-with"]
    assert "packaged://u2netp.onnx" in text and "link.faces" in text and "no weights" in text
    assert "faces.backend" in text and "0.25" in text and f"{6:064x}" in text


def test_without_its_packages_the_command_says_how_to_get_them(out, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for name in [name for name in sys.modules if name.startswith("materia.report.page")]:
        monkeypatch.delitem(sys.modules, name)
    done = CliRunner().invoke(main, ["report", str(out), "-o", str(out.parent / "no.html")])
    assert done.exit_code == 2 and "pip install 'prima-materia[report]'" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_on_a_phone_without_a_complaint(tmp_path, scheme):
    """Even words of hundreds of letters do not make the page wider than the screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    rejection = make_rejection(1, "s" * 100, "r" * 200)
    rejection.message = "m" * 400
    out = output_with(tmp_path, [make_sample(tmp_path, 0, subject="w" * 200, thing=HOSTILE), rejection])
    report(out)
    told = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme).new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("request", lambda request: told.append(request.url) if request.url.startswith("http") else None)
        page.on("dialog", lambda dialog: told.append(dialog.message))
        page.goto((tmp_path / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        broken = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
        browser.close()
    assert (told, broken) == ([], 0)
    assert background == {"light": "rgb(247, 246, 243)", "dark": "rgb(21, 23, 27)"}[scheme]

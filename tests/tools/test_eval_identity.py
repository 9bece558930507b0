"""Clips side by side, and how many words of an output of them show one individual."""

import json
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from click.testing import CliRunner
from clips import make_clip, picture
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from samples import HEIGHT, PROVENANCE, WIDTH, make_dataset, make_rejection, make_sample

from materia.base.errors import UserError
from materia.dataset.layout import write_info
from materia.dataset.writer import write_chunk
from stages.images import encode_mask
from stages.localise.vocabulary import classes_of
from stages.records import Clip, EntityWord, Link
from stages.video import VideoError
from tools.eval_identity import __main__ as command
from tools.eval_identity import film, pairs, score
from tools.eval_identity.film import PASSES, SIDE_PX, Cutout, side_by_side

FPS = 12
COLOURS = {"red": (200, 40, 40), "green": (40, 160, 40), "blue": (40, 40, 200)}


def coloured(path: Path, colour: str, seconds: float = 2.0, size: tuple[int, int] = (320, 240)) -> Path:
    """A clip of one colour with a moving disc in its upper half and a bright edge at the left."""
    n = round(seconds * FPS)
    pictures = [(picture(number, *size) // 8 + np.array(COLOURS[colour])).clip(0, 255).astype(np.uint8) for number in range(n)]
    for pixels in pictures:
        pixels[:, : size[0] // 3] //= 2
    return make_clip(path, n, fps=FPS, size=size, pictures=pictures)


def write_manifest(folder: Path, rows: list[dict[str, object]]) -> str:
    path = folder / "clips.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two people, a dog, and a clip of two of a kind."""
    folder = tmp_path_factory.mktemp("clips")
    coloured(folder / "red.mp4", "red", 3.0)
    coloured(folder / "blue.mp4", "blue", 2.5, size=(240, 400))
    coloured(folder / "green.mp4", "green")
    rows = [
        {"id": "red", "video": "red.mp4", "caption": "A man.", "visible_subjects": ["man"]},
        {"id": "blue", "video": "blue.mp4", "caption": "An old woman.", "visible_subjects": ["old woman"]},
        {"id": "dog", "video": "green.mp4", "caption": "A dog.", "visible_subjects": ["dog"]},
        {"id": "two", "video": "green.mp4", "caption": "A boy and a girl.", "visible_subjects": ["boy", "girl"]},
    ]
    return write_manifest(folder, rows)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(command.main, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(*arguments: object) -> str:
    result = CliRunner().invoke(command.main, [str(part) for part in arguments], catch_exceptions=False)
    assert result.exit_code == 2
    return result.output


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_two_clips_of_a_kind_stand_side_by_side(clips: str, tmp_path: Path) -> None:
    run("make", clips, tmp_path / "pairs", "--pairs", 1)
    [row] = score.read_pairs(tmp_path / "pairs").values()
    halves = {"red": "man", "blue": "old woman"}
    assert {row.left.id: row.left.word, row.right.id: row.right.word} == halves
    assert row.caption in ("A man and an old woman.", "An old woman and a man.")
    assert (row.id, row.video, row.seam_px, row.variant) == ("plain-000", "plain-000.mp4", SIDE_PX, "plain")
    frames = decoded(tmp_path / "pairs" / row.video)
    assert frames.shape == (int(2.5 * film.FPS), SIDE_PX, 2 * SIDE_PX, 3)  # as long as the shorter one
    for side, pixels in ((row.left, frames[:, :, : row.seam_px]), (row.right, frames[:, :, row.seam_px :])):
        red, _, blue = pixels.mean(axis=(0, 1, 2))
        assert (red > blue) == (side.id == "red")


@pytest.mark.parametrize("variant", ["plain", "moving", "mirrored"])
def test_the_same_seed_gives_the_same_bytes(clips: str, tmp_path: Path, variant: str) -> None:
    for name in ("a", "b"):
        run("make", clips, tmp_path / name, "--variant", variant, "--seed", 7)
    first, second = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert first == second and len(first) == 2


def test_fewer_pairs_than_asked_for_are_told(clips: str, tmp_path: Path) -> None:
    assert "1 pair in" in (told := run("make", clips, tmp_path / "pairs", "--pairs", 5)) and "5 were asked for" in told


def test_a_pair_that_cannot_be_filmed_is_told_and_left_out(clips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in Path(clips).read_text().splitlines()]
    rows += [{"id": "cat", "video": "red.mp4", "caption": "A fox.", "visible_subjects": ["fox"]}]
    (manifest := Path(clips).parent / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = command.side_by_side

    def broken(pair: pairs.Pair, *others: object):  # type: ignore[no-untyped-def]
        for number, whole in enumerate(given(pair, *others)):  # type: ignore[arg-type]
            if number == 5 and "fox" in (pair.left.word, pair.right.word):
                raise VideoError("unreadable", "frame 5 of 72 cannot be decoded")
            yield whole

    monkeypatch.setattr(command, "side_by_side", broken)
    told = run("make", manifest, tmp_path / "pairs")
    assert "frame 5 of 72" in told and "1 pair in" in told
    assert len(list((tmp_path / "pairs").iterdir())) == 2 and len(list(tmp_path.iterdir())) == 1
    del rows[0]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "no pair could be made" in error_of("make", manifest, tmp_path / "none")
    assert not (tmp_path / "none").exists() and len(list(tmp_path.iterdir())) == 1


def test_clips_that_cannot_serve_are_left_out(tmp_path: Path) -> None:
    coloured(tmp_path / "good.mp4", "red")
    coloured(tmp_path / "short.mp4", "red", 1.5)
    (tmp_path / "broken.mp4").write_text("no video")
    subjects = {"good.mp4": ["man"], "short.mp4": ["woman"], "broken.mp4": ["boy"], "gone.mp4": ["girl"], "../x.mp4": ["lady"]}
    rows: list[dict[str, object]] = [
        {"id": name[:3].strip("./") or "x", "video": name, "caption": "Someone.", "visible_subjects": words}
        for name, words in subjects.items()
    ]
    rows += [
        {"id": f"good{number}", "video": "good.mp4", "source_id": f"s{number}", "caption": "Some.", "visible_subjects": words}
        for number, words in enumerate((["singer", "crowd"], ["chair"], ["king", "queen"], []))
    ]
    found = pairs.find_halves(write_manifest(tmp_path, rows), 8, 0, command.Progress(disable=True))
    assert [(half.clip.id, half.word) for half in found.halves] == [("goo", "man")]
    told = error_of("make", tmp_path / "clips.jsonl", tmp_path / "pairs")
    assert "words found: man;" in told
    for why in ("shorter than 2 s", "unreadable", "not_found", "outside_root"):
        assert f"left out: 1 clip: {why}" in told
    assert "left out: 4 clips: no person or animal that is the only one of its kind" in told


def test_words_come_from_the_caption_where_the_manifest_names_none(
    clips: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub:
        """Whatever stands behind "A"."""

        def __init__(self, settings: object) -> None:
            self.settings = settings

        def setup(self) -> None: ...
        def close(self) -> None: ...

        def process(self, samples):  # type: ignore[no-untyped-def]
            for sample in samples:
                word = sample.clip.caption.split()[1]
                sample.entities = [EntityWord(word=word, category="subject", spans=[(2, 2 + len(word))])]
            return samples

    monkeypatch.setattr(pairs, "Entities", Stub)
    rows = [json.loads(line) for line in Path(clips).read_text().splitlines()][:2]
    for row, word in zip(rows, ("nurse", "pilot"), strict=True):
        row |= {"caption": f"A {word} waits.", "video": str(Path(clips).parent / row["video"])}
        del row["visible_subjects"]
    rows[0]["visible_subjects"] = "nurse"  # no list
    manifest = Path(clips).parent / "captions.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("make", manifest, tmp_path / "pairs")
    [row] = score.read_pairs(tmp_path / "pairs").values()
    assert {row.left.word, row.right.word} == {"nurse", "pilot"}


WORDS = st.sampled_from(["man", "young man", "woman", "boy", "dog", "poodle", "fox", "cat", "kitten", "horse"])


@given(st.lists(st.tuples(WORDS, st.integers(0, 6)), max_size=14), st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=100)
def test_pairs_are_of_one_kind_with_different_words_and_each_is_there_once(
    subjects: list[tuple[str, int]], n: int, seed: int
) -> None:
    halves = [half(word, f"k{number}", f"video{source}") for number, (word, source) in enumerate(subjects)]
    try:
        chosen = pairs.choose_pairs(halves, n, seed)
    except UserError:
        chosen = []
    for left, right in chosen:
        assert left.classes & right.classes and left.clip.source_id != right.clip.source_id
        assert left.word.split()[-1] != right.word.split()[-1]
    assert len({frozenset((left.clip.key, right.clip.key)) for left, right in chosen}) == len(chosen) <= n
    assert not chosen or chosen == pairs.choose_pairs(halves, n, seed)


def test_every_clip_serves_before_one_serves_twice() -> None:
    halves = [half("man" if number % 2 else "woman", f"k{number}", f"video{number}") for number in range(8)]
    chosen = pairs.choose_pairs(halves, 4, 3)
    assert len({one.clip.key for pair in chosen for one in pair}) == 8


def half(word: str, key: str = "k", source_id: str = "s", address: str = "", duration_s: float = 2.0) -> pairs.Half:
    clip = Clip(row=0, key=key, source_id=source_id, uri=address, address=address, caption=word)
    return pairs.Half(clip, word, frozenset(classes_of(word, "subject")), duration_s)


@pytest.fixture(scope="module")
def pair(clips: str) -> pairs.Pair:
    folder = Path(clips).parent
    return pairs.Pair(
        half("man", "red", address=str(folder / "red.mp4")), half("woman", "blue", address=str(folder / "blue.mp4"))
    )


PASSER = np.full((200, 80, 4), 255, np.uint8)


def filmed(pair: pairs.Pair, variant: film.Variant, cutouts: list[Cutout] = []) -> np.ndarray:  # noqa: B006
    return np.stack(list(side_by_side(pair, variant, np.random.default_rng(5), cutouts)))


def test_mirrored_mirrors_the_right_half_alone(pair: pairs.Pair) -> None:
    plain, mirrored = filmed(pair, "plain"), filmed(pair, "mirrored")
    assert np.array_equal(mirrored[:, :, :SIDE_PX], plain[:, :, :SIDE_PX])
    assert np.array_equal(mirrored[:, :, SIDE_PX:], plain[:, :, : SIDE_PX - 1 : -1])


def test_moving_moves_both_halves_steadily_and_opposite_ways(pair: pairs.Pair) -> None:
    cameras = film.cameras(np.random.default_rng(5))
    left, right = ((camera.end.x - camera.start.x) for camera in cameras)
    assert left * right < 0 and min(abs(left), abs(right)) >= 0.5
    plain, moving = filmed(pair, "plain"), filmed(pair, "moving")
    assert plain.shape == moving.shape
    for columns in (slice(0, SIDE_PX), slice(SIDE_PX, None)):
        edges = [int(np.argmax(np.abs(np.diff(row[:, columns].astype(int).sum(2)[5], axis=0)))) for row in moving]
        assert max(edges) - min(edges) > 10  # px that the bright edge wanders
        assert max(abs(b - a) for a, b in pairwise(edges)) <= 4


def test_a_passer_is_seen_between_the_frames_of_record_and_on_none_of_them(pair: pairs.Pair) -> None:
    plain, passed = filmed(pair, "plain"), filmed(pair, "passer", [Cutout("other", PASSER)])
    changed = (plain != passed).any(axis=(1, 3))  # (T, W)
    shares = np.linspace(0, 1, len(plain))
    for share in (0.05, 0.5, 0.95):
        assert not changed[np.argmin(np.abs(shares - share))].any()
    for begin, end in PASSES:
        seen = changed[(shares > begin) & (shares < end)].any(axis=0)
        assert seen.all()  # all the way across


def test_only_somebody_else_can_pass(pair: pairs.Pair) -> None:
    with pytest.raises(UserError, match="only people of the pair"):
        filmed(pair, "passer", [Cutout("red", PASSER), Cutout("blue", PASSER)])
    yellow = PASSER * np.array([1, 1, 0, 1], np.uint8)
    for seed in range(5):
        some = [Cutout("red", PASSER), Cutout("other", yellow), Cutout("blue", PASSER)]
        passed = np.stack(list(side_by_side(pair, "passer", np.random.default_rng(seed), some)))
        assert (passed == (255, 255, 0)).all(axis=3).any() and not (passed == 255).all(axis=3).any()


def test_who_passes_is_the_tallest_upright_person_of_each_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = make_sample(tmp_path, 0, "clip", "man")  # upright, 40 px
    write_info(str(tmp_path / "out"), make_dataset(1, 1, 1))
    write_chunk(str(tmp_path / "out"), 0, [sample], provenance=PROVENANCE)
    with pytest.raises(UserError, match="no reference of an upright person of 100 px"):
        film.cutouts_of(str(tmp_path / "out"))
    monkeypatch.setattr(film, "MIN_CUTOUT_PX", 30)
    [cutout] = film.cutouts_of(str(tmp_path / "out"))
    assert cutout.key == "clip" and cutout.rgba.shape == (41, 29, 4)


def test_what_is_asked_for_wrongly_is_told_with_the_fix(clips: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in error_of("make", clips, tmp_path / "full")
    assert "go together" in error_of("make", clips, tmp_path / "new", "--variant", "passer")
    assert "no such file" in error_of("make", tmp_path / "none.jsonl", tmp_path / "new")
    assert "no such file" in error_of("score", tmp_path / "none", tmp_path / "full")
    (tmp_path / "full" / "manifest.jsonl").write_text('{"id": "a"}\n')
    assert "line 1: not a pair" in error_of("score", tmp_path / "none", tmp_path / "full")
    assert not (tmp_path / "new").exists()


# --- scores ---

SEAM = WIDTH // 2
SPANS = {"left": (10, 30), "right": (60, 90), "both": (40, 60), "a bit over": (20, 50)}
"""Columns of a reference."""


def output_of(
    folder: Path,
    *samples: dict[str, list[str | None]],
    faces: int = 0,
    links: dict[str, tuple[float | None, float | None]] = {},  # noqa: B006
) -> tuple[str, Path]:
    """An output, one sample each: word -> which half its reference shows in frame 0, 1, 2; and the folder of its pairs.

    `faces`: of how many frames the first word has a face too, in the right half. `links`: scores and second
    bests of words.
    """
    out = str(folder / "out")
    write_info(out, make_dataset(len(samples) + 1, 1, len(samples) + 1))
    rows, lines = [], []
    for number, words in enumerate(samples):
        left, right = words
        sample = make_sample(folder, number, f"pair-{number}", left, right)
        pattern = sample.instances[0]
        sample.instances = [
            replace(
                pattern, word=word, frame=frame, mask_rle=encode_mask(mask_of(side)), link_score=links.get(word, (None,))[0]
            )
            for word, sides in words.items()
            for frame, side in enumerate(sides)
            if side
        ]
        face = replace(sample.instances[0], mask_rle=encode_mask(mask_of("right")), is_face=True, parent=0)
        sample.instances += [replace(face, frame=frame) for frame in range(faces)]
        sample.links = [Link(word=word, score=score_, second_best=second) for word, (score_, second) in links.items()]
        rows.append(sample)
        named = {"left": {"id": "a", "word": left}, "right": {"id": "b", "word": right}}
        lines.append({"id": f"pair-{number}", "video": "v", "caption": "c", "seam_px": SEAM, **named, "variant": "plain"})
    write_chunk(out, 0, [*rows, make_rejection(len(samples))], provenance=PROVENANCE)
    (folder / "manifest.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out, folder


def mask_of(side: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:60, slice(*SPANS[side])] = True
    return mask


def test_words_of_one_individual_and_mixed_ones_are_told_apart(tmp_path: Path) -> None:
    mixed = {"man": ["left", "left", "right"], "woman": ["right", None, "right"]}
    swapped = {"man": ["right", "right", None], "woman": ["left", "left", "left"]}
    report = score.score(*output_of(tmp_path, mixed, swapped))
    assert [(word.key, word.word, word.one, word.own) for word in report.scores] == [
        ("pair-0", "man", False, False),
        ("pair-0", "woman", True, True),
        ("pair-1", "man", True, False),
        ("pair-1", "woman", True, False),
    ]
    assert report.scores[0].sides == ["left", "left", "right"] and report.scores[1].frames == [0, 2]
    assert (report.pairs, report.samples, report.references, report.words, report.of_one, report.of_own) == (2, 2, 10, 4, 3, 1)
    assert report.share == 0.75 and 0 < report.low < 0.75 < report.high < 1
    assert report.rejections == {"entities: no_subject": 1}


def test_a_reference_across_the_seam_is_mixed_unless_it_only_touches_it(tmp_path: Path) -> None:
    words = {"man": ["left", "both", "left"], "woman": ["both", "both", "both"]}
    report = score.score(*output_of(tmp_path, words, {"man": ["left", "a bit over", None], "woman": [None, "both", None]}))
    assert [(word.key, word.word, word.one, word.mostly_one) for word in report.scores] == [
        ("pair-0", "man", False, False),
        ("pair-0", "woman", False, True),
        ("pair-1", "man", True, True),
    ]
    assert (report.of_one, report.mostly_of_one) == (1, 2)


def test_a_word_with_one_reference_does_not_count(tmp_path: Path) -> None:
    report = score.score(*output_of(tmp_path, {"man": ["both", None, None], "woman": [None, None, "left"]}))
    assert (report.references, report.words, report.share, report.scores) == (2, 0, None, [])
    assert "no word has two" in "\n".join(score.text(report))


def test_faces_do_not_count(tmp_path: Path) -> None:
    out, folder = output_of(tmp_path, {"man": ["left", None, None], "woman": []}, faces=2)
    report = score.score(out, folder)
    assert (report.references, report.words) == (1, 0)


@given(st.integers(1, 40), st.integers(0, 40), st.floats(0.1, 0.9))
def test_the_half_of_a_mask_is_that_of_most_of_it(width: int, left: int, seam: float) -> None:
    mask = np.zeros((4, 80), bool)
    mask[1:3, left : left + width] = True
    on_the_left = mask[:, : round(seam * 80)].sum() / mask.sum()
    assert score.share_on_the_left(mask, seam) == pytest.approx(on_the_left)
    side = score.side_of(on_the_left)
    assert side == ("left" if on_the_left >= 0.9 else "right" if on_the_left <= 0.1 else "both")


def test_scores_of_links_are_told_for_right_and_wrong_ones(tmp_path: Path) -> None:
    links = {"man": (0.25, 0.5), "woman": (0.75, None)}
    out, folder = output_of(tmp_path, {"man": ["left", "right", None], "woman": ["right", "right", None]}, links=links)
    told = run("score", out, folder)
    assert "link score of words, mixed: 0.25 0.25 0.25 0.25 0.25 (least, 5 %, median, 95 %, most; of 1)" in told
    assert "link score of references, one individual: 0.75 0.75 0.75 0.75 0.75 (least, 5 %, median, 95 %, most; of 2)" in told
    assert "second best of words, mixed: 0.50" in told and "second best of words, one" not in told


def test_an_output_of_other_clips_is_refused(tmp_path: Path) -> None:
    out, folder = output_of(tmp_path, {"man": ["left", "left", None], "woman": []})
    line = (folder / "manifest.jsonl").read_text().replace("pair-0", "other")
    (folder / "manifest.jsonl").write_text(line)
    assert "pair-0, which is not in" in error_of("score", out, folder)


def test_a_person_and_a_script_can_read_the_score_and_see_the_mixed(tmp_path: Path) -> None:
    out, folder = output_of(tmp_path, {"man": ["left", "right", None], "woman": ["right", "right", None]})
    told = run("score", out, folder)
    assert "pair-0 'man': frame 0 left, frame 1 right" in told and "mixed: 1" in told
    assert "link score" not in told
    assert json.loads(run("score", out, folder, "--json"))["of_one"] == 1
    run("score", out, folder, "--sheet", tmp_path / "mixed.png")
    assert (tmp_path / "mixed.png").stat().st_size > 1000

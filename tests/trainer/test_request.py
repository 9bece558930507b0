"""What `materia sample` is asked for: words, pictures, files of requests; hostile ones too."""

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainer.errors import TrainError
from trainer.sample.request import Picture, Request, check, load_requests, parse_background, parse_refs, read_picture

PROMPT = "A dog runs over a beach"


# Words and prompts.


@pytest.mark.parametrize(
    ("prompt", "word", "place"),
    [
        ("A dog runs", "dog", (2, 5)),
        ("A hotdog, then a Dog", "dog", (17, 20)),
        ("the woman with white hair smiles", "Woman with White hair", (4, 25)),
        ("\U0001f600 dog", "dog", (2, 5)),
        ("a dog; another dog", "dog", (2, 5)),
    ],
)
def test_a_word_is_found_where_it_first_stands_as_a_whole(prompt: str, word: str, place: tuple[int, int]) -> None:
    assert check(Request(prompt=prompt, output="a.mp4", pictures=(Picture(word, "x"),))) == [place]


@pytest.mark.parametrize("prompt", ["A cat sits", "A hotdog", "dogs", "d og", "do\u200bg", "(?i)d.g", "d\0og"])
def test_a_word_that_does_not_occur_is_an_error_that_names_both(prompt: str) -> None:
    with pytest.raises(TrainError, match=r"the word 'dog' does not occur in the prompt '.*'") as caught:
        check(Request(prompt=prompt, output="a.mp4", pictures=(Picture("dog", "x"),)))
    assert str(caught.value).isprintable()


def test_near_words_are_offered() -> None:
    with pytest.raises(TrainError, match="near to it: 'dogs'"):
        check(Request(prompt="two dogs on a beach", output="a.mp4", pictures=(Picture("dog", "x"),)))


@given(before=st.text(), word=st.text(min_size=1), after=st.text())
def test_whatever_is_asked_gives_places_in_the_prompt_or_one_printable_line(before: str, word: str, after: str) -> None:
    prompt = f"{before} {word.upper()} {after}"
    try:
        ((start, end),) = check(Request(prompt=prompt, output="a.mp4", pictures=(Picture(word, "x"),)))
    except TrainError as error:
        assert str(error).isprintable()
    else:
        assert prompt[start:end].casefold() == word.casefold()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": "a.avi"}, "must end in .mp4"),
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "a \ud800"}, "half a character"),
        ({"seed": 1 << 64}, "seed"),
        ({"pictures": 7 * (Picture("dog", "x"),)}, "at most 6"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(TrainError, match=message):
        check(replace(Request(prompt=PROMPT, output="a.mp4"), **changed))  # type: ignore[arg-type]


def test_references_of_the_command_line_keep_their_order() -> None:
    assert parse_refs(["dog=a.png,b.png", "white cat=c=d.png"]) == [
        Picture("dog", "a.png"),
        Picture("dog", "b.png"),
        Picture("white cat", "c=d.png"),
    ]
    assert parse_background("beach.png") == Picture("", "beach.png")
    assert parse_background("beach=b.png") == Picture("beach", "b.png")


@pytest.mark.parametrize("ref", ["dog.png", "=dog.png", "dog=", "dog=a.png,", " = "])
def test_a_reference_of_another_form_is_an_error_that_shows_the_form(ref: str) -> None:
    with pytest.raises(TrainError, match="write word=image"):
        parse_refs([ref])


# Pictures.


def test_a_picture_is_put_on_white_and_padded_to_a_square(tmp_path: Path) -> None:
    pixels = np.zeros((20, 40, 4), np.uint8)
    pixels[:, :20] = (200, 0, 0, 255)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    square = read_picture(str(tmp_path / "a.png"), 40)
    assert square.shape == (40, 40, 3)
    assert (square[20, 5] == (200, 0, 0)).all() and (square[20, 35] == 255).all() and (square[2, 5] == 255).all()


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:4] = 255
    turned = Image.Exif()
    turned[0x0112] = 3  # orientation: upside down
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=turned)
    assert read_picture(str(tmp_path / "a.png"), 8)[7, 4].min() == 255


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 10 000 megapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("content", [b"", b"no image", bomb(), b"\x89PNG\r\n\x1a\n" + bytes(50), b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_an_error_of_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(TrainError, match=r"a\.png") as caught:
        read_picture(str(path), 32)
    assert "\n" not in str(caught.value)


def test_a_picture_that_is_cut_off_or_missing_is_an_error(tmp_path: Path) -> None:
    Image.radial_gradient("L").save(tmp_path / "whole.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes((tmp_path / "whole.png").read_bytes()[:-200])
    with pytest.raises(TrainError, match="cannot be read as an image"):
        read_picture(str(cut), 32)
    for missing in (tmp_path / "no.png", tmp_path):
        with pytest.raises(TrainError, match="no such image file"):
            read_picture(str(missing), 32)


def test_a_very_long_picture_takes_no_memory_of_a_square(tmp_path: Path) -> None:
    Image.new("L", (60_000, 2)).save(tmp_path / "a.png")
    assert read_picture(str(tmp_path / "a.png"), 32).shape == (32, 32, 3)


# Requests from a file.


def write_lines(folder: Path, *lines: object) -> str:
    path = folder / "requests.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_requests_of_a_file_find_their_images_beside_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png", "c.png"):
        (tmp_path / name).touch()
    path = write_lines(
        tmp_path,
        {"prompt": PROMPT, "refs": {"dog": ["a.png", "sub/b.png"]}, "background": "c.png", "background_word": "beach"},
        "",
        {"prompt": PROMPT, "refs": {"dog": "a.png"}, "output": "sub/x.mp4", "seed": 3},
    )
    first, second = load_requests(path, str(tmp_path / "out"))
    inside = [str(tmp_path / name) for name in ("a.png", "sub/b.png", "c.png")]
    assert first.pictures == (Picture("dog", inside[0]), Picture("dog", inside[1]), Picture("beach", inside[2]))
    assert Path(first.output) == tmp_path / "out" / "000001.mp4"
    assert (Path(second.output), second.seed) == (tmp_path / "out" / "sub" / "x.mp4", 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "valid dictionary"),
        ({"refs": {}}, "'prompt': Field required"),
        ({"prompt": "a", "promt": 1}, "'promt': .*fields are prompt, refs"),
        ({"prompt": "a", "seed": -1}, "'seed'"),
        ({"prompt": "a", "refs": {"a": "../a.png"}}, "does not lie in the file's own folder"),
        ({"prompt": "a", "refs": {"a": "/etc/passwd"}}, "does not lie in the file's own folder"),
        ({"prompt": "a", "refs": {"a": "link/a.png"}}, "does not lie in the file's own folder"),
        ({"prompt": "a", "background": "\x1b[2J.png"}, "not printable"),
        ({"prompt": "a", "refs": {"a": "no.png"}}, "no such image file"),
        ({"prompt": "a", "refs": {"dog": "requests.jsonl"}}, "the word 'dog' does not occur"),
        ({"prompt": "a", "output": "a.avi"}, "must end in .mp4"),
        ({"prompt": "a", "output": "../a.mp4"}, "does not lie in the output folder"),
        ({"prompt": "a", "output": "./first.mp4"}, "another line writes"),
        ({"prompt": "a", "background_word": "a"}, "without a background"),
        ({"prompt": "a", "refs": {"": "a.png"}}, "word is empty"),
    ],
)
def test_a_bad_line_is_told_with_its_file_and_number(tmp_path: Path, line: object, message: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    path = write_lines(home, {"prompt": "a", "output": "first.mp4"}, line)
    with pytest.raises(TrainError, match=rf"requests\.jsonl:2: .*{message}") as caught:
        load_requests(path, str(tmp_path / "out"))
    assert str(caught.value).isprintable()


def test_all_bad_lines_are_told_at_once_and_an_empty_file_too(tmp_path: Path) -> None:
    with pytest.raises(TrainError) as caught:
        load_requests(write_lines(tmp_path, "{", {"prompt": "a"}, "}"), str(tmp_path))
    assert [line.partition("jsonl:")[2][:2] for line in str(caught.value).splitlines()] == ["1:", "3:"]
    with pytest.raises(TrainError, match="holds no requests"):
        load_requests(write_lines(tmp_path, ""), str(tmp_path))
    with pytest.raises(TrainError, match="cannot be read"):
        load_requests(str(tmp_path / "no.jsonl"), str(tmp_path))

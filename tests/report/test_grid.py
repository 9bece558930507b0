"""The picture of references, generated and true frames; and clips as MP4."""

from pathlib import Path

import av
import numpy as np
import pytest
from clips import picture
from PIL import Image

from materia.report.grid import FRAMES, GridRow, grid
from trainer.sample.video_io import write_mp4

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def plain(colour: tuple[int, int, int], *shape: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (*shape, 3)).copy()


def columns_of(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    """Columns of the picture in which the colour occurs."""
    return np.flatnonzero((np.asarray(image) == colour).all(axis=2).any(axis=0))


def row(references: int = 2, frames: int = 9, height: int = 32, width: int = 48) -> GridRow:
    shown = [("dog", plain(RED, 64, 64))] * references
    return GridRow("a dog", shown, plain(GREEN, frames, height, width), plain(BLUE, frames, height, width))


def test_references_generated_and_true_frames_stand_from_left_to_right() -> None:
    image = grid([row(), row(references=0)])
    left, middle, right = (columns_of(image, colour) for colour in (RED, GREEN, BLUE))
    assert len(left) and left.max() < middle.min() <= middle.max() < right.min()


def test_a_clip_without_truth_has_none() -> None:
    image = grid([row()._replace(truth=None)])
    assert len(columns_of(image, GREEN)) and not len(columns_of(image, BLUE))


def test_frames_are_spread_from_the_first_to_the_last() -> None:
    video = np.stack([plain((10 * number, 10 * number, 255), 32, 32) for number in range(20)])
    image = np.asarray(grid([GridRow("a dog", [], video)])).reshape(-1, 3)
    shown = {int(pixel[0]) // 10 for pixel in np.unique(image, axis=0) if pixel[2] == 255 and pixel[0] < 200}
    assert {0, 19} <= shown and len(shown) == FRAMES


@pytest.mark.parametrize("size", [(1, 1), (16, 400), (400, 16)])
def test_any_size_of_frames_and_any_caption_can_be_drawn(size: tuple[int, int]) -> None:
    hostile = "a \x1b[31mdog\n\0\ud800 \u202e" + 10_000 * "w"
    rows = [GridRow(hostile, [(hostile, plain(RED, 3, 3))] * 6, plain(GREEN, 1, *size)), row()]
    image = grid(rows)
    assert image.width < 3000 and image.height < 1000


def test_rows_differ_where_their_words_differ() -> None:
    first, second = (np.asarray(grid([row()._replace(references=[(word, plain(RED, 64, 64))])])) for word in ("dog", "cat"))
    assert first.shape == second.shape and (first != second).any()


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("fps", [8, 7.5])
def test_a_clip_comes_back_from_its_mp4(tmp_path: Path, fps: float) -> None:
    frames = np.stack([picture(number, 96, 64) for number in range(11)])
    write_mp4(str(tmp_path / "a.mp4"), frames, fps)
    back = np.stack(decoded(tmp_path / "a.mp4"))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 3
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == pytest.approx(fps)


def test_colours_keep_their_hue(tmp_path: Path) -> None:
    write_mp4(str(tmp_path / "a.mp4"), np.stack([plain((220, 40, 90), 32, 32)] * 3), 8)
    assert np.abs(decoded(tmp_path / "a.mp4")[1].mean(axis=(0, 1)) - (220, 40, 90)).max() < 4


def test_an_odd_row_and_column_are_left_out(tmp_path: Path) -> None:
    write_mp4(str(tmp_path / "a.mp4"), plain(RED, 2, 33, 47), 8)
    assert decoded(tmp_path / "a.mp4")[0].shape == (32, 46, 3)


def test_the_same_frames_give_the_same_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    frames = np.stack([picture(number, 96, 64) for number in range(5)])
    for name in ("a.mp4", "b.mp4"):
        write_mp4(str(tmp_path / name), frames, 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_frames_that_make_no_video_leave_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no video"):
        write_mp4(str(tmp_path / "a.mp4"), plain(RED, 2, 1, 40), 8)
    assert not list(tmp_path.iterdir())

"""The same pictures give the same bytes, whatever the processor and however often."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.video.encode import write_rgb


def moving(width: int, height: int, n_frames: int = 40) -> list[np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    ground = cv2.GaussianBlur(noise, (0, 0), 3)
    return [np.roll(ground, (2 * index, index), (0, 1)) for index in range(n_frames)]


@pytest.mark.parametrize("size", [(144, 192), (192, 144), (320, 240)])
def test_a_film_has_the_same_bytes_every_time(tmp_path: Path, size: tuple[int, int]) -> None:
    frames, films = moving(*size), set()
    for index in range(6):
        film = tmp_path / f"{index}.mp4"
        write_rgb(film, frames, size=size, fps=24, crf=18)
        films.add(film.read_bytes())
    assert len(films) == 1

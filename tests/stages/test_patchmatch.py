"""Inpainting with PatchMatch: texture goes on, whatever the mask, alike every time."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import patchmatch
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from materia.base.backends import BackendError
from stages.backends import build_backend
from stages.background.opencv import OpenCVInpainter, fill
from stages.background.patchmatch import PatchMatch
from tools.eval_background.measure import relative_sharpness

GRASS = np.repeat(skimage.data.grass()[:256, :256, None], 3, axis=2)


def hole(shape=(256, 256), top=60, bottom=200, left=90, right=150):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def filled(image, mask, **options):
    backend = PatchMatch(**options)
    backend.setup("cpu", 1)
    [picture] = backend.inpaint([image], [mask], [None])
    return picture


sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60)
@given(st.data())
def test_any_mask_is_filled_and_nothing_else_changes(data):
    size = data.draw(sizes)
    mask, image = data.draw(hnp.arrays(bool, size)), data.draw(hnp.arrays(np.uint8, (*size, 3)))
    before = image.copy()
    picture = filled(image, mask)
    assert picture.shape == image.shape and picture.dtype == np.uint8 and (image == before).all()
    assert (picture[~mask] == image[~mask]).all()


@settings(max_examples=20)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(13, 40), st.integers(13, 40), st.integers(1, 28), st.integers(1, 28))
def test_what_is_of_one_colour_stays_so(colour, height, width, bottom, right):
    mask = hole((height, width), 0, min(bottom, height - 12), 0, min(right, width - 12))
    image = np.where(mask[..., None], np.uint8(255), np.array(colour, np.uint8))
    assert (filled(image, mask) == colour).all()


@pytest.mark.parametrize("noise", [0, 100])
@pytest.mark.parametrize(
    ("size", "strips"),
    [((29, 29), (7, 7)), ((29, 40), (7, 7)), ((127, 238), (17, 14)), ((240, 264), (9, 8)), ((198, 31), (16, 8))],
)
def test_where_only_strips_are_known_nothing_stays_black(size, strips, noise):
    """The package leaves black what no whole patch reaches at its coarsest level."""
    mask = hole(size, 0, size[0] - strips[0], 0, size[1] - strips[1])
    around = np.random.default_rng(0).integers(100, 101 + noise, (*size, 3)).astype(np.uint8)
    hole_in_it = filled(np.where(mask[..., None], np.uint8(255), around), mask)[mask]
    assert (hole_in_it.max(axis=1) < 75).mean() < 0.02


@pytest.mark.parametrize("darker_by", [0, 150])
def test_in_a_real_picture_nothing_stays_black_and_what_is_dark_is_no_fault(darker_by):
    """Of a hole that leaves a strip at one edge, the package draws a third black; one in the middle has its texture."""
    picture = np.maximum(skimage.data.astronaut()[:119, 300:422].astype(int) - darker_by, 0).astype(np.uint8)
    for mask, reached in ((hole((119, 122), 0, 119, 0, 105), False), (hole((119, 122), 30, 90, 30, 90), True)):
        assert (filled(picture, mask) == fill(picture, mask)).all() != reached


def test_texture_is_as_sharp_as_around_where_the_pyramid_blurs():
    blurred = OpenCVInpainter().inpaint([GRASS], [hole()], [None])[0]
    assert relative_sharpness(blurred, hole(), hole()) < 0.1
    assert 0.5 < relative_sharpness(filled(GRASS, hole()), hole(), hole()) < 2


def test_what_is_masked_does_not_show():
    covered = np.where(hole()[..., None], np.uint8(255) * np.array([1, 0, 0], np.uint8), GRASS)
    for options in ({}, {"max_pixels": 9000}):
        assert (filled(covered, hole(), **options) == filled(GRASS, hole(), **options)).all()


def test_a_large_hole_is_searched_for_in_a_smaller_size():
    small = filled(GRASS, hole(), max_pixels=9000)
    assert (small[~hole()] == GRASS[~hole()]).all()
    assert relative_sharpness(small, hole(), hole()) < relative_sharpness(filled(GRASS, hole()), hole(), hole())
    assert abs(small[hole()].mean() - GRASS[~hole()].mean()) < 15


def test_it_is_filled_alike_every_time_in_every_thread_and_whatever_its_company():
    image, other = skimage.data.astronaut()[:120, :160], GRASS[:90, :90]
    mask, its_own = hole((120, 160), 30), hole((90, 90), 20, 70, 30, 60)
    want = filled(image, mask)
    patchmatch.set_random_seed(99)
    assert (filled(image, mask) == want).all()
    with ThreadPoolExecutor(3) as threads:
        for both in threads.map(lambda _: PatchMatch().inpaint([other, image], [its_own, mask], ["room", None]), range(3)):
            assert (both[1] == want).all()


def test_without_the_package_or_its_library_it_says_what_to_install(monkeypatch):
    assert PatchMatch().missing() == []
    monkeypatch.setattr(patchmatch, "patchmatch_available", False)
    [lacking] = PatchMatch().missing()
    assert "library" in lacking.what and "pip install" in lacking.fix and "pypatchmatch" in lacking.fix
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    [lacking] = PatchMatch().missing()
    assert lacking.what == "package patchmatch" and "prima-materia[local]" in lacking.fix


@pytest.mark.parametrize(("option", "value"), [("max_pixels", 3), ("margin_px", 0)])
def test_a_value_that_cannot_be_is_refused_by_name(option, value):
    with pytest.raises(BackendError, match=f"{option} must be at least .*, not {value}"):
        build_backend("background", "patchmatch", {option: value})

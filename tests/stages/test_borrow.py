"""What the middle frame hides is taken from other frames that show it, and from none that do not."""

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.background.borrow import Borrowed, DonorFrame, borrow

PHOTO = np.ascontiguousarray(skimage.data.coffee())  # 400 x 600
SIZE = (240, 360)
SOMEBODY = np.ascontiguousarray(skimage.data.astronaut()[0:320:2, 60:340:2])  # 160 x 140


def view(x, y):
    return PHOTO[y : y + SIZE[0], x : x + SIZE[1]].copy()


def scene(places, walks, gains=None):
    """Frame, hole, donors, truth: a camera at `places` of a photo, somebody at `walks`; the first frame is the middle one."""
    grid = np.stack(np.meshgrid(np.arange(5, SIZE[1], 25), np.arange(5, SIZE[0], 25)), -1).reshape(-1, 2).astype(np.float32)
    frames, masks = [], []
    for n, ((x, y), walk) in enumerate(zip(places, walks, strict=True)):
        picture, mask = view(x, y).astype(float) * (gains[n] if gains else 1), np.zeros(SIZE, bool)
        x0, x1 = max(0, walk), min(SIZE[1], walk + SOMEBODY.shape[1])
        if x1 > x0:
            picture[80:, x0:x1] = SOMEBODY[:, x0 - walk : x1 - walk]
            mask[80:, x0:x1] = True
        frames.append(picture.clip(0, 255).astype(np.uint8))
        masks.append(mask)
    middle = np.array(places[0])
    donors = []
    for frame, mask, place in zip(frames[1:], masks[1:], places[1:], strict=True):
        there = grid + (middle - np.array(place))  # where a point of the middle frame is in the donor
        seen = ((there >= 0) & (there < SIZE[::-1])).all(axis=1)
        donors.append(DonorFrame(frame, np.concatenate([there[seen], grid[seen]], 1).astype(np.float32), mask))
    return frames[0], masks[0], donors, view(*places[0])


STILL = [(100, 80)] * 7
PAN = [(100, 80), (30, 60), (55, 70), (80, 75), (120, 85), (150, 95), (190, 100)]
WALK = [100, -140, -80, 0, 200, 280, 360]


def psnr(found, truth, mask):
    return 10 * np.log10(255**2 / max(1e-9, ((found.astype(float) - truth)[mask] ** 2).mean()))


@pytest.mark.parametrize("places", [STILL, PAN], ids=["still", "pan"])
@pytest.mark.parametrize("told", [True, False], ids=["masked", "unmasked"])
def test_what_somebody_walks_past_is_there_as_it_is(places, told):
    """Also where donors do not say where they are hidden, if most show the place."""
    frame, hole, donors, truth = scene(places, WALK)
    if not told:
        donors = [donor._replace(hidden=np.zeros_like(donor.hidden)) for donor in donors]
    found = borrow(frame, hole, donors)
    assert found.mask.sum() > 0.9 * hole.sum()
    assert psnr(found.rgb, truth, found.mask) > 35


def test_who_stands_still_is_not_borrowed():
    places = [(x, 80) for x, _ in PAN]
    frame, hole, donors, _ = scene(places, [200 - x for x, _ in places])  # they stay where they are in the place
    for told in (donors, [donor._replace(hidden=np.zeros_like(donor.hidden)) for donor in donors]):
        assert borrow(frame, hole, told).mask.sum() < 0.02 * hole.sum()


def test_light_that_changes_is_matched():
    frame, hole, donors, truth = scene(STILL, WALK, gains=[1.0, 0.8, 0.85, 0.9, 0.9, 0.85, 0.8])
    found = borrow(frame, hole, donors)
    assert found.mask.sum() > 0.8 * hole.sum() and psnr(found.rgb, truth, found.mask) > 30


def test_another_place_gives_nothing():
    frame, hole, donors, _ = scene(STILL, WALK)
    other = np.ascontiguousarray(skimage.data.chelsea()[: SIZE[0], : SIZE[1]])
    assert not borrow(frame, hole, [donor._replace(rgb=other) for donor in donors]).mask.any()


def test_smaller_donors_serve_too():
    frame, hole, donors, truth = scene(PAN, WALK)
    small = [donor._replace(rgb=donor.rgb[::2, ::2].copy(), hidden=donor.hidden[::2, ::2].copy()) for donor in donors]
    found = borrow(frame, hole, small)
    assert found.mask.sum() > 0.8 * hole.sum() and psnr(found.rgb, truth, found.mask) > 22


def same(found: Borrowed, again: Borrowed) -> bool:
    return bool((found.rgb == again.rgb).all() and (found.mask == again.mask).all())


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_the_donors_the_frame_stays_outside_of_what_is_borrowed_in_the_hole(data):
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    picture, hole = rng.integers(0, 256, (height, width, 3), np.uint8), rng.random((height, width)) < data.draw(st.floats(0, 1))
    donors = [
        DonorFrame(
            picture if data.draw(st.booleans()) else rng.integers(0, 256, picture.shape, np.uint8),
            np.tile(rng.uniform(-5, 45, (data.draw(st.integers(0, 30)), 2)), 2).astype(np.float32),
            rng.random((height, width)) < 0.3,
        )
        for _ in range(data.draw(st.integers(0, 4)))
    ]
    found = borrow(picture, hole, donors)
    assert not (found.mask & ~hole).any()
    assert (found.rgb[~found.mask] == picture[~found.mask]).all()
    assert same(found, borrow(picture, hole, donors))

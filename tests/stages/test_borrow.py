"""What the middle frame hides is taken from other frames that show it, and from none that do not."""

import cv2
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
SHAKES = [(4, -3, 0.4), (-5, 2, -0.6), (3, 5, 0.9), (-2, -4, -0.3), (6, 1, 0.7), (-4, 4, -0.8)]
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


def turned(x, y, zoom=1.0, degrees=0.0):
    """A camera (2, 3): from the photo's pixels to the picture's, whose middle shows the photo's at (x, y)."""
    matrix = cv2.getRotationMatrix2D((x, y), degrees, zoom)
    matrix[:, 2] += np.array(SIZE[::-1]) / 2 - (x, y)
    return matrix


ZOOM = [turned(300, 200, zoom) for zoom in (1.0, 0.8, 0.86, 0.93, 1.08, 1.15, 1.22)]
SHAKE = [turned(300, 200)] + [turned(300 + dx, 200 + dy, 1.0, a) for dx, dy, a in SHAKES]


def film(cameras, waves=0.0):
    """As `scene`, with any cameras; the photo's lower half is water: its pixels swing by `waves` px, never twice alike."""
    rows, columns = np.mgrid[: PHOTO.shape[0], : PHOTO.shape[1]].astype(np.float32)
    size = SIZE[::-1]
    grid = np.stack(np.meshgrid(np.arange(5, SIZE[1], 12), np.arange(5, SIZE[0], 12)), -1).reshape(-1, 2).astype(np.float32)
    back = cv2.invertAffineTransform(cameras[0])
    frames, masks, plains, donors = [], [], [], []
    for n, (camera, walk) in enumerate(zip(cameras, WALK, strict=True)):
        swing = np.float32(waves) * (rows > 200) * np.sin(rows / 3 + 2.1 * n) * np.cos(columns / 5 + 1.3 * n)
        swing = swing.astype(np.float32)
        plain = cv2.warpAffine(cv2.remap(PHOTO, columns + swing, rows + swing, cv2.INTER_LINEAR), camera, size)
        picture, mask = plain.copy(), np.zeros(SIZE, bool)
        x0, x1 = max(0, walk), min(SIZE[1], walk + SOMEBODY.shape[1])
        picture[80:, x0:x1] = SOMEBODY[:, x0 - walk : max(x0, x1) - walk]
        mask[80:, x0:x1] = True
        frames, masks, plains = [*frames, picture], [*masks, mask], [*plains, plain]
        there = cv2.transform(cv2.transform(grid[None], back), camera)[0]
        seen = ((there >= 0) & (there < size)).all(axis=1)
        donors.append(DonorFrame(picture, np.concatenate([there[seen], grid[seen]], 1).astype(np.float32), mask))
    return frames[0], masks[0], donors[1:], plains[0]


def ghosts(found, frame, truth):
    """Share of what was borrowed that is far from the place: nothing that moved may be there twice."""
    return float((np.abs(found.rgb.astype(int) - truth).max(axis=2) > 60)[found.mask].mean()) if found.mask.any() else 0.0


@pytest.mark.parametrize("cameras", [ZOOM, SHAKE], ids=["zoom", "shake"])
@pytest.mark.parametrize("told", [True, False], ids=["masked", "unmasked"])
def test_a_camera_that_zooms_or_shakes_is_followed(cameras, told):
    frame, hole, donors, truth = film(cameras)
    if not told:
        donors = [donor._replace(hidden=np.zeros_like(donor.hidden)) for donor in donors]
    found = borrow(frame, hole, donors)
    assert found.mask.sum() > 0.8 * hole.sum() and psnr(found.rgb, truth, found.mask) > 28
    assert ghosts(found, frame, truth) < 0.01


@pytest.mark.parametrize("cameras", [[turned(300, 200)] * 7, ZOOM, SHAKE], ids=["still", "zoom", "shake"])
def test_nobody_is_seen_in_water_that_moves(cameras):
    frame, hole, donors, truth = film(cameras, waves=3.0)
    found = borrow(frame, hole, [donor._replace(hidden=np.zeros_like(donor.hidden)) for donor in donors])
    assert ghosts(found, frame, truth) < 0.02


def test_points_on_who_hides_the_place_do_not_tell_where_it_went():
    """Nine of ten points are on somebody who walks one way, the place moves the other."""
    frame, hole, donors, truth = scene(PAN, WALK)
    y, x = np.nonzero(hole)
    on_them = np.stack([x, y], 1)[:: len(x) // 600].astype(np.float32)
    walked = [np.array([WALK[0] - walk, 0], np.float32) for walk in WALK[1:]]
    donors = [
        donor._replace(points=np.concatenate([donor.points, np.concatenate([on_them - away, on_them], 1)]))
        for donor, away in zip(donors, walked, strict=True)
    ]
    found = borrow(frame, hole, donors)
    assert found.mask.sum() > 0.9 * hole.sum() and psnr(found.rgb, truth, found.mask) > 35


def test_what_is_near_counts_where_the_place_is_no_plane():
    """Right of the hole, something near the camera passes by much faster than what the hole hides."""
    frame, hole, donors, truth = scene(PAN, [10, *WALK[1:]])
    near = np.stack([skimage.data.gravel()[: SIZE[0]]] * 3, axis=2)  # 240 x 512
    donors = [donor._replace(rgb=donor.rgb.copy()) for donor in donors]
    for picture, (x, _) in zip([frame, *(donor.rgb for donor in donors)], PAN, strict=True):
        picture[:, 255:] = near[:, 2 * x : 2 * x + SIZE[1] - 255]
    found = borrow(frame, hole, donors)
    assert found.mask.sum() > 0.35 * hole.sum() and psnr(found.rgb, truth, found.mask) > 30


def same(found: Borrowed, again: Borrowed) -> bool:
    return bool((found.rgb == again.rgb).all() and (found.mask == again.mask).all())


@settings(max_examples=25)
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

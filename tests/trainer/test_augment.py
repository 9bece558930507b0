"""The augmentation table: ranges and probabilities of what is drawn, and what each operation does to a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.data.augment import Augmentation, apply, draw, on_white_square

NOTHING = Augmentation(1.0, 1, 0.0, 1.0, False, 0.0, 0.0, 0.0, 1.0, (0.0, 0.0))
H, W = 400, 300
DRAWN = [draw(np.random.default_rng(seed), H, W) for seed in range(4000)]


def change(**fields: object) -> Augmentation:
    return Augmentation(**{**vars(NOTHING), **fields})  # type: ignore[arg-type]


def reference(height: int = 60, width: int = 40) -> np.ndarray:
    """A smooth, colourful ellipse on nothing."""
    y, x = np.mgrid[:height, :width]
    rgba = np.zeros((height, width, 4), np.uint8)
    rgba[..., 0], rgba[..., 1], rgba[..., 2] = 60 + 180 * x / width, 200 - 150 * y / height, 90
    rgba[..., 3] = 255 * (((x - width / 2) / (width / 2)) ** 2 + ((y - height / 2) / (height / 2)) ** 2 < 1)
    return rgba


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("scale", 112 / H, 1.0),
        ("hue", -0.05, 0.05),
        ("brightness", 0.9, 1.1),
        ("rotation_deg", -20.0, 20.0),
        ("crop", 0.67, 1.0),
    ],
)
def test_ranges_are_the_tables_and_are_used_evenly(field: str, low: float, high: float) -> None:
    values = np.array([getattr(drawn, field) for drawn in DRAWN])
    assert low <= values.min() < low + 0.02 * (high - low)
    assert high - 0.02 * (high - low) < values.max() <= high
    assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))


def test_blur_kernels_are_odd_and_at_most_a_fiftieth_of_the_longer_side() -> None:
    assert {drawn.blur_px % 2 for drawn in DRAWN} == {1}
    assert {drawn.blur_px for drawn in DRAWN} == {1, 3, 5, 7}
    assert all(drawn.blur_px <= max(1, round(H * drawn.scale) / 50) for drawn in DRAWN)


def test_shears_are_at_most_a_twentieth_of_their_side() -> None:
    for field, side in (("shear_x_px", W), ("shear_y_px", H)):
        shares = np.array([getattr(drawn, field) / round(side * drawn.scale) for drawn in DRAWN])
        assert -0.05 <= shares.min() < -0.048
        assert 0.048 < shares.max() <= 0.05


def test_half_of_the_references_are_mirrored() -> None:
    assert np.mean([drawn.flip for drawn in DRAWN]) == pytest.approx(0.5, abs=0.03)


def test_small_references_are_not_downscaled() -> None:
    assert {draw(np.random.default_rng(seed), 80, 100).scale for seed in range(50)} == {1.0}


def test_nothing_drawn_is_nothing_done() -> None:
    picture = reference()
    done = apply(picture, NOTHING)
    assert (done[..., 3] == picture[..., 3]).all()
    inside = picture[..., 3] > 0
    assert np.abs(done[inside].astype(int) - picture[inside]).max() <= 1


def test_downscaling_keeps_the_shape_and_the_covered_share() -> None:
    done = apply(reference(), change(scale=0.5))
    assert done.shape == (30, 20, 4)
    assert (done[..., 3] / 255).mean() == pytest.approx((reference()[..., 3] / 255).mean(), abs=0.01)


def test_blur_softens_the_outline_without_darkening_the_inside() -> None:
    done = apply(reference(), change(blur_px=9))
    assert ((done[..., 3] > 0) & (done[..., 3] < 255)).sum() > 100
    covered = done[..., 3] > 128
    assert done[covered][:, 2].min() >= 85  # blue is 90 everywhere inside


def test_hue_turns_colours_and_keeps_greys() -> None:
    red, grey = np.full((4, 4, 4), (200, 40, 40, 255), np.uint8), np.full((4, 4, 4), (90, 90, 90, 255), np.uint8)
    assert apply(red, change(hue=0.05))[0, 0].tolist() == [200, 88, 40, 255]
    assert apply(red, change(hue=-0.05))[0, 0].tolist() == [200, 40, 88, 255]
    assert (apply(grey, change(hue=0.05)) == grey).all()


def test_brightness_scales_and_saturates() -> None:
    picture = np.full((4, 4, 4), (100, 250, 10, 255), np.uint8)
    assert apply(picture, change(brightness=1.1))[0, 0].tolist() == [110, 255, 11, 255]


def test_flip_mirrors_left_to_right() -> None:
    assert (apply(reference(), change(flip=True)) == apply(reference(), NOTHING)[:, ::-1]).all()


def bar(vertical: bool) -> np.ndarray:
    rgba = np.zeros((41, 41, 4), np.uint8)
    rgba[(slice(None), slice(19, 22)) if vertical else (slice(19, 22), slice(None))] = 255
    return rgba


def centre(alpha: np.ndarray) -> float:
    return float((alpha * np.arange(len(alpha))).sum() / alpha.sum())


def test_shear_x_moves_the_bottom_right_and_shear_y_the_right_side_down() -> None:
    x = apply(bar(vertical=True), change(shear_x_px=8.2))[..., 3].astype(float)
    assert centre(x[-1]) - centre(x[0]) == pytest.approx(8, abs=0.3)
    y = apply(bar(vertical=False), change(shear_y_px=8.2))[..., 3].astype(float)
    assert centre(y[:, -1]) - centre(y[:, 0]) == pytest.approx(8, abs=0.3)


def test_rotation_turns_counter_clockwise_about_the_middle_and_leaves_corners_empty() -> None:
    turned = apply(bar(vertical=True), change(rotation_deg=20.0))[..., 3].astype(float)
    assert centre(turned[10]) - centre(turned[30]) == pytest.approx(-20 * np.tan(np.deg2rad(20)), abs=0.5)
    assert apply(np.full((40, 40, 4), 255, np.uint8), change(rotation_deg=20.0))[0, 0, 3] == 0


def test_crop_takes_its_share_of_each_side_from_where_it_is_told() -> None:
    plain = apply(reference(), NOTHING)
    assert (apply(reference(), change(crop=0.75, crop_at=(1.0, 0.0))) == plain[:45, 10:]).all()


@settings(max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_any_reference_comes_out_as_a_white_square(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    done = apply(reference(height, width), draw(rng, height, width))
    square = on_white_square(done, 32)
    assert square.shape == (32, 32, 3)
    assert square.dtype == np.uint8


def test_what_is_transparent_is_white_and_the_shape_is_kept() -> None:
    rgba = np.zeros((20, 40, 4), np.uint8)
    rgba[5:15, 10:30] = (10, 20, 30, 255)
    square = on_white_square(rgba, 40)
    assert (square[15:25, 10:30] == (10, 20, 30)).all()
    assert (square[:15] == 255).all()
    assert (square[:, :10] == 255).all()

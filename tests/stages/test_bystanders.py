"""Nobody is left in a background: who stands by is masked too, and what other frames show is taken from them."""

import io

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image
from test_borrow import PAN, STILL, WALK, psnr, scene
from vision import needs_weights, photograph_sample

from stages.backends import Detections, Detector
from stages.background import CleanBackground
from stages.background.donors import donor_frames
from stages.frames import encode_jpeg
from stages.images import decode_mask, encode_mask
from stages.localise import Localise
from stages.records import Box, Donor, Frame, Instance, Link, Motion
from stages.segment import Segment
from stages.settings import BackgroundSettings, LocaliseSettings, SegmentSettings

LINK = Link(word="woman", score=None, second_best=None)
WOMAN = (20.0, 12.0, 370.0, 510.0)
"""In the portrait of an astronaut."""


class Pink(Detector):
    """Finds whoever is of no other colour."""

    def detect(self, images, words):
        pink = [((image[..., [0, 2]] > 220).all(axis=2) & (image[..., 1] < 60)).sum() for image in images]
        return [
            Detections(np.array([[0, 0, 9, 9]], np.float32), np.full((1, len(own)), min(1.0, n / 400), np.float32))
            for n, own in zip(pink, words, strict=True)
        ]


def clip(places, linked=True):
    """Somebody walks through three frames of record and six donors; the picture at WALK[0] is the middle frame."""
    middle, hole, donors, truth = scene(places, WALK)
    on_them = [hole[tuple(donor.points[:, [3, 2]].astype(int).T)] for donor in donors]  # these points are lost
    donors = [donor._replace(points=donor.points[~lost]) for donor, lost in zip(donors, on_them, strict=True)]
    around = [donors[0], None, donors[5]]
    sample = photograph_sample("chelsea", woman="subject")
    sample.frames = [
        Frame(percent=p, index=n, time_s=float(n), jpeg=encode_jpeg(middle if one is None else one.rgb, 100))
        for n, (p, one) in enumerate(zip((5, 50, 95), around, strict=True))
    ]
    sample.motion = [
        Motion(start=0, end=1, points=donors[0].points.tobytes()),
        Motion(start=1, end=2, points=donors[5].points[:, [2, 3, 0, 1]].tobytes()),
    ]
    times_s = (0.25, 0.5, 1.25, 1.5)
    sample.donors = [
        Donor(time_s=time_s, jpeg=encode_jpeg(one.rgb, 100), points=one.points.tobytes())
        for time_s, one in zip(times_s, donors[1:5], strict=True)
    ]
    y, x = np.nonzero(hole)
    place = tuple(float(v) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1))
    sample.boxes = [Box(word="woman", category="subject", frame=1, box_xyxy_px=place, score=0.8)]
    sample.links = [LINK] if linked else []
    sample.instances = [
        Instance(
            word="woman", category="subject", frame=1, box_xyxy_px=place, detector_score=0.8, mask_rle=encode_mask(hole),
            mask_score=0.9, area_share=float(hole.mean()), crop_xyxy_px=tuple(int(v) for v in place), png=b"",
        )
    ]  # fmt: skip
    return sample, hole, truth


def cleaned(sample, detector="painted:RedDetector", **values):
    stage = CleanBackground(BackgroundSettings(backend="painted:Filler", **values), LocaliseSettings(backend=detector))
    stage.setup()
    [row] = stage.process([sample])
    return row, np.asarray(Image.open(io.BytesIO(row.background.png)))


@pytest.mark.parametrize("places", [STILL, PAN], ids=["still", "pan"])
def test_a_background_is_borrowed_from_the_clip(places):
    sample, hole, truth = clip(places)
    row, picture = cleaned(sample)
    about = row.background
    assert about.borrowed_share > 0.7
    mask, borrowed = decode_mask(about.mask_rle), decode_mask(about.borrowed_rle)
    assert (mask | ~hole).all() and not (borrowed & ~mask).any()
    assert about.masked_share == pytest.approx(mask.mean(), abs=1e-6)
    assert about.borrowed_share == pytest.approx(borrowed.sum() / mask.sum(), abs=1e-6)
    assert (picture[~mask] == row.frames[1].rgb[~mask]).all()
    assert psnr(picture, truth, borrowed & hole) > 28
    assert (row.motion, row.donors, row.hidden, row.bystanders) == ([], [], [], [])


def test_who_turns_on_the_spot_is_not_taken_from_other_frames():
    """The donors show the place, but a box says that somebody is there in all of them, though it holds only a part of them."""
    sample, _, _ = clip(STILL)
    x1, y1, x2, _ = sample.boxes[0].box_xyxy_px
    sample.boxes = [replace(sample.boxes[0], frame=frame, box_xyxy_px=(x1, y1, x2, y1 + 40)) for frame in range(3)]
    row, _ = cleaned(sample)
    assert row.background.borrowed_share == 0


def test_who_walks_is_hidden_where_they_are():
    sample, hole, _ = clip(STILL)
    [box] = sample.boxes
    x1, y1, x2, y2 = box.box_xyxy_px
    sample.boxes = [replace(box, frame=f, box_xyxy_px=(x1 + dx, y1, x2 + dx, y2)) for f, dx in ((0, -80), (1, 0), (2, 80))]
    first, *between = donor_frames(sample, hole)
    assert first.hidden[150, 90] and not first.hidden[150, 200]
    assert between[1].hidden[150, 110] and not between[1].hidden[150, 240]  # of frame 2
    assert len(between) == 5


@pytest.mark.parametrize("linked", [True, False])
def test_the_published_background_is_all_invented(linked):
    published = {"also": [], "borrow": False} if linked else {}
    sample, _, _ = clip(STILL, linked)
    row, picture = cleaned(sample, **published)
    assert (row.background.mask_rle, row.background.borrowed_share, row.background.borrowed_rle) == (None, None, None)
    plain, _, _ = clip(STILL, linked=False)
    plain.motion, plain.donors = [], []
    again, same = cleaned(plain, **published)
    unmeasured = msgspec.structs.replace(row.background, residual_at_large=None, sharpness=None, quality=None)
    assert (picture == same).all() and unmeasured == again.background
    assert (row.background.quality is not None) == linked, "of samples without links nothing is measured"


def test_what_is_borrowed_goes_if_it_shows_who_is_to_be_gone():
    """The donors show somebody pink, whom the detector finds again on what was borrowed."""
    sample, _, _ = clip(STILL)
    pink = [frame.rgb.copy() for frame in sample.frames]
    for n in (0, 2):
        pink[n][120:160, 120:200] = (250, 5, 250)
        sample.frames[n] = Frame(percent=n, index=n, time_s=float(n), jpeg=encode_jpeg(pink[n], 100))
    donors = []
    for donor in sample.donors:
        picture = np.asarray(Image.open(io.BytesIO(donor.jpeg)).convert("RGB")).copy()
        picture[120:160, 120:200] = (250, 5, 250)
        donors.append(Donor(time_s=donor.time_s, jpeg=encode_jpeg(picture, 100), points=donor.points))
    sample.donors = donors
    row, _ = cleaned(sample, "test_bystanders:Pink")
    assert row.background.borrowed_share == 0 and row.background.borrowed_rle is None


@needs_weights
@pytest.mark.parametrize(("also", "linked", "seen"), [(["person"], True, True), ([], True, False), (["person"], False, False)])
def test_a_person_whom_the_caption_does_not_name_is_masked_for_the_background(also, linked, seen):
    """The caption of the portrait names a flag only."""
    sample = photograph_sample("astronaut", flag="object")
    sample.boxes = [Box(word="flag", category="object", frame=1, box_xyxy_px=(0.0, 0.0, 60.0, 200.0), score=0.5)]
    sample.links = [LINK] if linked else []
    localise = Localise(LocaliseSettings(min_subject_frames=1), also)
    localise.setup()
    localise._look_for_bystanders([sample])
    localise.close()
    assert bool(sample.bystanders) == bool(also)
    stage = Segment(SegmentSettings(), also)
    stage.setup()
    stage.process([sample])
    stage.close()
    assert bool(sample.hidden) == seen
    if seen:
        mask = decode_mask(sample.hidden[0])
        assert mask[150, 220] and mask[400, 200] and not mask[60, 480]

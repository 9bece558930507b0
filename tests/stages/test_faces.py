"""Faces: on a real portrait, on what is no face, and the method's growth of the box."""

import io

import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vision import needs_weights, photograph_sample

from stages.backends import FaceDetector
from stages.faces import Faces, grow
from stages.faces.blazeface import BlazeFace
from stages.frames import encode_jpeg
from stages.images import decode_mask, encode_mask
from stages.records import Instance, Link
from stages.settings import FacesSettings

WOMAN = (20.0, 12.0, 370.0, 510.0)


def with_instance(photograph, word, box):
    sample = photograph_sample(photograph, **{word: "subject"})
    height, width = sample.frames[1].rgb.shape[:2]
    x1, y1, x2, y2 = (int(v) for v in box)
    mask = np.zeros((height, width), bool)
    mask[y1:y2, x1:x2] = True
    sample.instances = [
        Instance(
            word=word,
            category="subject",
            frame=1,
            box_xyxy_px=box,
            detector_score=0.7,
            mask_rle=encode_mask(mask),
            mask_score=0.9,
            area_share=float(mask.mean()),
            crop_xyxy_px=(x1, y1, x2, y2),
            png=b"",
        )
    ]
    return sample


@pytest.fixture(scope="module")
def faces():
    stage = Faces(FacesSettings())
    stage.setup()
    yield stage
    stage.close()


@needs_weights
def test_the_face_of_a_portrait_becomes_an_instance_of_its_human(faces):
    [sample] = faces.process([with_instance("astronaut", "woman", WOMAN)])
    human, face = sample.instances
    assert (face.is_face, face.parent, face.word, face.frame) == (True, 0, "woman", 1)
    x1, y1, x2, y2 = face.crop_xyxy_px
    assert x1 < 195 < 250 < x2 and y1 < 100 < 150 < y2, "eyes and mouth are in the crop"
    assert (x2 - x1) * (y2 - y1) < 0.15 * 512 * 512
    crop = np.asarray(Image.open(io.BytesIO(face.png)))
    assert crop.shape == (y2 - y1, x2 - x1, 4) and (crop[..., 3] == 255).all()
    assert decode_mask(face.mask_rle).sum() == (y2 - y1) * (x2 - x1)
    assert not human.is_face


@needs_weights
def test_running_twice_adds_no_second_face(faces):
    [once] = faces.process([with_instance("astronaut", "woman", WOMAN)])
    [twice] = faces.process([once])
    assert len(twice.instances) == 2


@needs_weights
@pytest.mark.parametrize(("linked", "parents"), [(True, [1]), (False, [0, 1])])
def test_a_face_is_the_ones_whose_mask_covers_it(faces, linked, parents):
    """A man whose box reaches over the woman's face; his mask is beside it."""
    sample = with_instance("astronaut", "man", (300.0, 12.0, 370.0, 510.0))
    [woman] = with_instance("astronaut", "woman", WOMAN).instances
    sample.instances[0].box_xyxy_px = WOMAN
    sample.instances.append(woman)
    sample.links = [Link(word="man", score=None, second_best=None)] if linked else []
    [sample] = faces.process([sample])
    assert [instance.parent for instance in sample.instances if instance.is_face] == parents


class LeftSided(FaceDetector):
    """Is surer of a face in the left half of a picture."""

    def detect_face(self, image, box_xyxy_px):
        right = bool(box_xyxy_px[0] + box_xyxy_px[2] > image.shape[1])
        return np.array([30, 30, 60, 60], np.float32), RIGHT["score"] if right else 0.8


RIGHT = {"score": 0.0}


@pytest.mark.parametrize(("mirrored", "linked", "faces"), [(0.62, True, 1), (0.58, True, 0), (0.58, False, 1)])
def test_a_face_must_be_seen_in_the_mirror_image_too(monkeypatch, mirrored, linked, faces):
    monkeypatch.setitem(RIGHT, "score", mirrored)
    stage = Faces(FacesSettings(backend="test_faces:LeftSided"))
    sample = with_instance("astronaut", "woman", (20.0, 12.0, 170.0, 510.0))
    sample.links = [Link(word="woman", score=None, second_best=None)] if linked else []
    [row] = stage.process([sample])
    assert sum(instance.is_face for instance in row.instances) == faces


@needs_weights
@pytest.mark.parametrize("flipped", [False, True])
def test_a_true_face_is_found_in_either_image(faces, flipped):
    sample = with_instance("astronaut", "woman", WOMAN)
    if flipped:
        pixels = np.ascontiguousarray(skimage.data.astronaut()[:, ::-1])
        sample.frames[1].jpeg = encode_jpeg(pixels, 95)
        sample.instances[0].box_xyxy_px = (512 - WOMAN[2], WOMAN[1], 512 - WOMAN[0], WOMAN[3])
    sample.links = [Link(word="woman", score=None, second_best=None)]
    [row] = faces.process([sample])
    assert len(row.instances) == 2


@needs_weights
def test_animals_are_not_asked_for_a_human_face(faces):
    [sample] = faces.process([with_instance("chelsea", "cat", (0.0, 0.0, 440.0, 300.0))])
    assert len(sample.instances) == 1


@needs_weights
def test_there_is_no_face_in_a_coffee_cup(faces):
    [sample] = faces.process([with_instance("coffee", "man", (150.0, 10.0, 430.0, 390.0))])
    assert len(sample.instances) == 1


@needs_weights
def test_a_face_outside_the_box_is_someone_elses():
    detector = BlazeFace()
    detector.setup("cpu", 1)
    found = detector.detect_face(skimage.data.astronaut(), np.array([20, 220, 370, 510], np.float32))
    assert found is None or found[0][1] > 150


@given(st.floats(0, 90), st.floats(0, 90), st.floats(1, 60), st.floats(1, 60))
def test_faces_grow_by_the_shares_of_the_method_and_stay_in_the_picture(x, y, width, height):
    x1, y1, x2, y2 = grow(np.array([x, y, x + width, y + height]), (100, 100), 0.17, 0.03)
    assert (x1, x2) == (pytest.approx(min(x, 100)), pytest.approx(min(x + width, 100)))
    assert y1 == pytest.approx(max(0, y - 0.17 * height)) and y2 == pytest.approx(min(100, y + 1.03 * height))

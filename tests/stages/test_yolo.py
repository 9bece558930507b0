"""YOLO face detectors: real ONNX graphs whose answers are known, geometry there and back, and files that are none."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from vision import photograph_sample

from materia.base.backends import BackendError
from materia.base.weights.files import sha256_of
from stages.backends import build_backend
from stages.boxes import iou
from stages.faces import Faces
from stages.faces.yolo import YoloFace, best_inside, decode, letterbox
from stages.images import encode_mask
from stages.notices import drain
from stages.records import Instance
from stages.settings import FacesSettings

SIDE = 64
PERSON = np.array([100, 50, 300, 450], np.float32)
side = st.integers(3, 400)


def graph_file(path, rows, size=(SIDE, SIDE), transpose=False, kind=TensorProto.FLOAT):
    """A detector that answers `rows` (N, 5 or 20) with every score times twice the picture's mean brightness."""
    rows = np.asarray(rows, np.float32)
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    gain = np.zeros((1, rows.shape[1], 1), dtype)
    gain[:, 4] = 2
    keep = np.ones((1, rows.shape[1], 1), dtype)
    keep[:, 4] = 0
    constants = {"rows": rows.T[None].astype(dtype), "gain": gain, "keep": keep, "axes": np.array([1, 2, 3])}
    nodes = [
        helper.make_node("ReduceMean", ["images", "axes"], ["mean4"], keepdims=1),
        helper.make_node("Squeeze", ["mean4", "axis"], ["mean"]),
        helper.make_node("Mul", ["gain", "mean"], ["lit"]),
        helper.make_node("Add", ["lit", "keep"], ["factor"]),
        helper.make_node("Mul", ["rows", "factor"], ["answer"]),
        helper.make_node("Transpose", ["answer"], ["output0"], perm=[0, 2, 1] if transpose else [0, 1, 2]),
    ]
    constants["axis"] = np.array([3])
    graph = helper.make_graph(
        nodes,
        "faces",
        [helper.make_tensor_value_info("images", kind, [1, 3, *size])],
        [helper.make_tensor_value_info("output0", kind, ["batch", "channels", "candidates"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return str(path)


def loaded(checkpoint, **options):
    backend = YoloFace(checkpoint, **options)
    assert backend.missing() == []
    backend.setup("cpu", 1)
    return backend


def face_row(score, xyxy, person=PERSON, size=(SIDE, SIDE), landmarks=False):
    """What a detector says of a face at `xyxy` of a 400 x 500 picture when it is shown the person with a tenth of margin."""
    shown = person + 0.1 * np.tile(person[2:] - person[:2], 2) * (-1, -1, 1, 1)
    shown = shown.clip(0, (400, 500, 400, 500))
    width, height = shown[2:] - shown[:2]
    scale = min(size[1] / width, size[0] / height)
    corner = np.array([size[1] - width * scale, size[0] - height * scale]) // 2
    x1, y1, x2, y2 = (np.array(xyxy) - np.tile(shown[:2], 2)) * scale + np.tile(corner, 2)
    return [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score, *([0.5] * 15 if landmarks else [])]


WHITE = np.full((500, 400, 3), 255, np.uint8)
LIT = 2 * (240 / 480 + (1 - 240 / 480) * 114 / 255)
"""What graph_file multiplies scores with for the person of a white picture: twice the share of white, and the grey margins."""


@pytest.mark.parametrize("landmarks", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_face_is_found_where_the_graph_says(tmp_path, landmarks, transpose, kind):
    rows = [face_row(0.2, (110, 60, 150, 100), landmarks=landmarks), face_row(0.5, (160, 60, 240, 150), landmarks=landmarks)]
    rows += [face_row(0.01, (0, 0, 50, 50), landmarks=landmarks)] * 4
    detector = loaded(graph_file(tmp_path / "face.onnx", rows, transpose=transpose, kind=kind))
    box, score = detector.detect_face(WHITE, PERSON)
    np.testing.assert_allclose(box, (160, 60, 240, 150), atol=0.01 if kind == TensorProto.FLOAT else 1)
    assert score == pytest.approx(0.5 * LIT, abs=0.01)
    assert box.dtype == np.float32 and isinstance(score, float)
    assert detector.detect_face(np.zeros_like(WHITE), PERSON)[1] < score, "the picture reaches the network"


def test_a_neighbours_face_and_its_weaker_boxes_are_not_taken(tmp_path):
    neighbour = face_row(0.6, (40, 60, 110, 150))
    its_weaker_box = face_row(0.5, (60, 60, 145, 150))  # centre just inside the person's box
    own = face_row(0.3, (180, 80, 230, 140))
    detector = loaded(graph_file(tmp_path / "face.onnx", [neighbour, its_weaker_box, own, own]))
    box, _ = detector.detect_face(WHITE, PERSON)
    np.testing.assert_allclose(box, (180, 80, 230, 140), atol=0.01)
    alone = loaded(graph_file(tmp_path / "alone.onnx", [neighbour, its_weaker_box]))
    assert alone.detect_face(WHITE, PERSON) is None
    assert loaded(str(tmp_path / "alone.onnx"), iou=0.9).detect_face(WHITE, PERSON) is not None


def test_boxes_are_clipped_and_nonsense_is_no_face(tmp_path):
    beyond = face_row(0.5, (120, 20, 280, 480))
    nonsense = [np.nan, 10, 10, 10, 0.9]
    box, _ = loaded(graph_file(tmp_path / "face.onnx", [beyond, nonsense])).detect_face(WHITE[:300], PERSON)
    assert 0 <= box[0] < box[2] <= 400 and 0 <= box[1] < box[3] <= 300
    empty = loaded(graph_file(tmp_path / "none.onnx", [nonsense]))
    assert empty.detect_face(WHITE, PERSON) is None
    assert empty.detect_face(WHITE, np.array([700, 700, 800, 800])) is None


def test_an_open_input_takes_the_size_that_is_given(tmp_path):
    rows = [face_row(0.5, (160, 60, 240, 150), size=(96, 96))]
    path = graph_file(tmp_path / "open.onnx", rows, size=("height", "width"))
    box, _ = loaded(path, input_px=96).detect_face(WHITE, PERSON)
    np.testing.assert_allclose(box, (160, 60, 240, 150), atol=0.01)
    usual = [face_row(0.5, (160, 60, 240, 150), size=(640, 640))]
    box, _ = loaded(graph_file(tmp_path / "usual.onnx", usual, size=("h", "w"))).detect_face(WHITE, PERSON)
    np.testing.assert_allclose(box, (160, 60, 240, 150), atol=0.01)


def test_an_input_that_is_no_square_is_filled_as_it_is(tmp_path):
    rows = [face_row(0.5, (160, 60, 240, 150), size=(96, 64))]
    box, _ = loaded(graph_file(tmp_path / "high.onnx", rows, size=(96, 64))).detect_face(WHITE, PERSON)
    np.testing.assert_allclose(box, (160, 60, 240, 150), atol=0.01)


def test_the_stage_grows_the_face_and_applies_its_threshold(tmp_path):
    checkpoint = graph_file(tmp_path / "face.onnx", [face_row(0.5, (160, 60, 240, 160))])

    def faces(min_score):
        sample = photograph_sample("astronaut", woman="subject")
        sample.frames[1].__dict__["rgb"] = WHITE
        mask = np.ones(WHITE.shape[:2], bool)
        human = Instance(
            word="woman",
            category="subject",
            frame=1,
            box_xyxy_px=tuple(map(float, PERSON)),
            detector_score=0.7,
            mask_rle=encode_mask(mask),
            mask_score=0.9,
            area_share=1.0,
            crop_xyxy_px=(0, 0, 400, 500),
            png=b"",
        )
        sample.instances = [human]
        stage = Faces(FacesSettings(backend="yolo", options={"checkpoint": checkpoint}, min_score=min_score))
        stage.setup()
        [row] = stage.process([sample])
        return row.instances[1:]

    [face] = faces(0.2)
    np.testing.assert_allclose(face.box_xyxy_px, (160, 60 - 17, 240, 160 + 3), atol=0.01)
    assert face.is_face and face.parent == 0
    assert faces(0.9) == []


def problem(checkpoint, **options):
    [missing] = YoloFace(str(checkpoint), **options).missing()
    assert "\n" not in missing.what and str(checkpoint) in missing.what and "faces.options.checkpoint" in missing.what
    return missing.what


def test_files_that_cannot_serve_are_told_before_a_job(tmp_path):
    good = graph_file(tmp_path / "good.onnx", [face_row(0.5, (160, 60, 240, 150))])
    assert YoloFace(good, sha256=sha256_of(tmp_path / "good.onnx")).missing() == []
    assert problem(tmp_path / "nowhere.onnx")
    assert "expected " + "0" * 64 in problem(good, sha256="0" * 64)
    assert "input_px 96" in problem(good, input_px=96)

    (tmp_path / "cut.onnx").write_bytes((tmp_path / "good.onnx").read_bytes()[:-40])
    assert "YOLOv8" in problem(tmp_path / "cut.onnx")
    (tmp_path / "text.onnx").write_text("no graph")
    assert "YOLOv8" in problem(tmp_path / "text.onnx")
    objects = graph_file(tmp_path / "objects.onnx", np.zeros((7, 84)))
    assert "(1, 84, 7), expected (1, 5 or 20, candidates)" in problem(objects)


@pytest.mark.parametrize("options", [{}, {"checkpoint": "a.onnx", "iou": 0}, {"checkpoint": "a.onnx", "input_px": 100}])
def test_bad_options_are_one_clear_line(options):
    with pytest.raises(BackendError, match=r"faces\.options"):
        build_backend("faces", "yolo", options)


def test_a_device_that_the_runtime_has_not_is_told(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    detector = YoloFace(graph_file(tmp_path / "face.onnx", [face_row(0.5, (160, 60, 240, 150))]))
    drain()
    detector.setup("cuda", 1)
    assert any("CPU" in said for said in drain())
    assert detector.detect_face(WHITE, PERSON) is not None


@given(side, side, st.integers(1, 20), st.integers(1, 20))
def test_a_letterbox_holds_the_whole_picture_and_its_geometry_leads_back(height, width, rows, columns):
    size = (rows * 32, columns * 32)
    picture, scale, corner = letterbox(np.zeros((height, width, 3), np.uint8), size)
    assert picture.shape == (*size, 3)
    y, x = np.nonzero(picture[..., 0] != 114)
    found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
    np.testing.assert_allclose((found - np.tile(corner, 2)) / np.tile(scale, 2), (0, 0, width, height), atol=1e-9)
    assert (x.max() + 1 - x.min() == size[1]) or (y.max() + 1 - y.min() == size[0]), "as large as it can be"


@given(st.lists(st.tuples(*[st.floats(0, 100)] * 2, *[st.floats(1, 50)] * 2, st.floats(0, 1)), min_size=1, max_size=12))
def test_centres_and_sizes_become_corners_in_both_layouts(rows):
    rows = np.array(rows + [[0] * 5] * (21 - len(rows)))
    boxes, scores = decode(rows[None])
    for other in decode(rows.T[None]), decode(np.concatenate([rows, np.ones((21, 15))], axis=1)[None]):
        assert (other[0] == boxes).all() and (other[1] == scores).all()
    np.testing.assert_allclose((boxes[:, :2] + boxes[:, 2:]) / 2, rows[:, :2], atol=1e-9)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], rows[:, 2:4], atol=1e-9)


box = st.tuples(st.integers(0, 80), st.integers(0, 80), st.integers(1, 40), st.integers(1, 40))


@given(st.lists(st.tuples(box, st.integers(1, 99)), min_size=1, max_size=12), st.floats(0.1, 0.9))
def test_the_best_face_survives_suppression_and_lies_in_the_person(found, max_iou):
    boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in found], float)
    scores = np.array([score for _, score in found]) / 100
    person = np.array([20, 20, 90, 90])
    best = best_inside(boxes, scores, person, max_iou)
    kept = []  # textbook non-maximum suppression
    for n in np.argsort(-scores, kind="stable"):
        if all(iou(boxes[n : n + 1], boxes[k : k + 1])[0, 0] <= max_iou for k in kept):
            kept.append(n)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    own = [n for n in kept if (centres[n] >= person[:2]).all() and (centres[n] <= person[2:]).all()]
    assert best == (own[0] if own else None)

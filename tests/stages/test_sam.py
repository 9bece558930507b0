"""SAM with the package's modules and random weights: parity with its predictor, batches, memory, files that are no SAM."""

import shutil

import numpy as np
import pytest
import skimage.data
from vision import photograph_sample

from materia.base.backends import BackendError
from materia.base.weights.files import sha256_of
from stages.backends import build_backend
from stages.notices import drain
from stages.records import Box, Sample
from stages.segment import Segment
from stages.segment.sam import Sam
from stages.segment.sam_build import build_fitting
from stages.settings import SegmentSettings
from tools.gpu_check.weights import random_sam, randomised

pytestmark = pytest.mark.gpu

BOXES = [(40, 30, 200, 180), (5.5, 8.25, 90, 220), (100, 60, 260, 250), (0, 0, 300, 300)]


def saved(sam, path):
    import torch

    torch.save(sam.state_dict(), path)
    return str(path)


def loaded(checkpoint, **options):
    backend = Sam(checkpoint, **options)
    assert backend.missing() == []
    backend.setup("cpu", 1)
    return backend


def boxes(*corners):
    return [Box(word=f"w{k}", category="object", frame=0, box_xyxy_px=c, score=0.7) for k, c in enumerate(corners)]


def pictures():
    """Three frames of different shapes and sizes: landscape, portrait, larger than the model."""
    return [skimage.data.coffee()[:300], np.ascontiguousarray(skimage.data.astronaut()[:330, 100:350]), skimage.data.chelsea()]


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.fixture(scope="module")
def sam():
    pytest.importorskip("segment_anything")
    return random_sam()


@pytest.fixture(scope="module")
def checkpoint(sam, tmp_path_factory):
    return saved(sam, tmp_path_factory.mktemp("sam") / "small.pth")


def predicted(sam, image, corners):
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    answers = [predictor.predict(box=np.array(box), multimask_output=False) for box in corners]
    return np.concatenate([masks for masks, _, _ in answers]), np.concatenate([scores for _, scores, _ in answers])


def test_masks_and_scores_are_those_of_the_packages_predictor(sam, checkpoint):
    for image in pictures():
        [found] = loaded(checkpoint).segment([image], [boxes(*BOXES)])
        masks, scores = predicted(sam, image, BOXES)
        assert found.masks.shape == (len(BOXES), *image.shape[:2]) and found.masks.dtype == bool
        assert 0.01 < masks.mean() < 0.99, "the random model must draw something"
        assert min(iou(a, b) for a, b in zip(found.masks, masks, strict=True)) >= 0.999
        np.testing.assert_allclose(found.scores, scores.clip(0, 1), atol=1e-5)


def test_batches_of_frames_and_boxes_change_nothing(checkpoint):
    wanted = [boxes(*BOXES), boxes(*BOXES[:1]), boxes(*BOXES[1:])]
    one_by_one = loaded(checkpoint, batch_size=1, max_boxes=1).segment(pictures(), wanted)
    together = loaded(checkpoint, batch_size=3, max_boxes=3).segment(pictures(), wanted)
    for a, b in zip(one_by_one, together, strict=True):
        assert a.masks.shape == b.masks.shape
        assert min(iou(x, y) for x, y in zip(a.masks, b.masks, strict=True)) >= 0.999
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)


def test_a_frame_is_embedded_once_and_never_more_than_a_batch_of_them(checkpoint):
    backend = loaded(checkpoint, batch_size=2)
    embedded = []
    backend.model.image_encoder.register_forward_pre_hook(lambda _, args: embedded.append(len(args[0])))
    backend.segment(pictures(), [boxes(*BOXES)] * 3)
    assert embedded == [2, 1]


def test_too_many_frames_or_boxes_for_the_device_are_halved_and_told(checkpoint):
    import torch

    backend = loaded(checkpoint, batch_size=3, max_boxes=4)

    def at_most_one(_, args, kwargs):
        if len(args[0] if args else kwargs["sparse_prompt_embeddings"]) > 1:
            raise torch.OutOfMemoryError("no more memory")

    for module in (backend.model.image_encoder, backend.model.mask_decoder):
        module.register_forward_pre_hook(at_most_one, with_kwargs=True)
    drain()
    halved = backend.segment(pictures(), [boxes(*BOXES)] * 3)
    said = " ".join(drain())
    assert "segment.options.batch_size" in said and "segment.options.max_boxes" in said
    whole = loaded(checkpoint, batch_size=3).segment(pictures(), [boxes(*BOXES)] * 3)
    assert min(iou(a.masks, b.masks) for a, b in zip(halved, whole, strict=True)) >= 0.999


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_draws_nearly_the_same_masks(checkpoint, dtype):
    [exact] = loaded(checkpoint).segment(pictures()[:1], [boxes(*BOXES)])
    [half] = loaded(checkpoint, dtype=dtype).segment(pictures()[:1], [boxes(*BOXES)])
    assert iou(exact.masks, half.masks) > 0.9
    assert not np.array_equal(exact.scores, half.scores), "the option must do something"
    np.testing.assert_allclose(exact.scores, half.scores, atol=0.1)


@pytest.mark.parametrize(
    "encoder",
    [
        {"depth": 4, "global_attn_indexes": (0, 3), "num_heads": 4, "window_size": 5},
        {"img_size": 64, "window_size": 14},  # windows larger than the picture
        {"img_size": 224, "window_size": 14},  # one window is the picture
        {"window_size": 0, "global_attn_indexes": ()},
        {"mlp_ratio": 2.7, "qkv_bias": False, "patch_size": 16},
    ],
)
def test_reduced_architectures_are_read_from_the_tensors(encoder, tmp_path):
    pytest.importorskip("segment_anything")
    sam = random_sam(**encoder)
    image = pictures()[0]
    [found] = loaded(saved(sam, tmp_path / "sam.pth")).segment([image], [boxes(*BOXES)])
    masks, _ = predicted(sam, image, BOXES)
    assert iou(found.masks, masks) >= 0.999


@pytest.mark.parametrize("architecture", ["vit_b", "vit_l", "vit_h"])
def test_the_published_architectures_are_read_as_what_they_are(architecture):
    import torch

    registry = pytest.importorskip("segment_anything").sam_model_registry
    with torch.device("meta"):
        named = registry[architecture]()
        read = build_fitting(named.state_dict())
    assert {n: t.shape for n, t in read.state_dict().items()} == {n: t.shape for n, t in named.state_dict().items()}
    for a, b in zip(read.image_encoder.blocks, named.image_encoder.blocks, strict=True):
        assert (a.attn.num_heads, a.window_size, a.norm1.eps) == (b.attn.num_heads, b.window_size, b.norm1.eps)
    assert read.image_encoder.img_size == named.image_encoder.img_size
    assert (read.pixel_mean == named.pixel_mean).all() and (read.pixel_std == named.pixel_std).all()


def test_a_model_of_the_packages_builder_serves_and_safetensors_too(tmp_path):
    build = pytest.importorskip("segment_anything.build_sam")._build_sam
    from safetensors.torch import save_file

    sam = randomised(build(64, 2, 2, [1]))  # 1024 px, full prompt encoder and decoder
    save_file(sam.state_dict(), tmp_path / "sam.safetensors")
    [found] = loaded(str(tmp_path / "sam.safetensors")).segment(pictures()[:1], [boxes(*BOXES[:2])])
    masks, _ = predicted(sam, pictures()[0], BOXES[:2])
    assert iou(found.masks, masks) >= 0.999


def test_the_stage_keeps_what_passes_the_gate(checkpoint):
    def instances(min_score):
        stage = Segment(SegmentSettings(backend="sam", options={"checkpoint": checkpoint}, min_score=min_score))
        stage.setup()
        clips = [photograph_sample("astronaut", woman="subject") for _ in range(2)]
        for clip in clips:
            clip.boxes = [
                Box(word="woman", category="subject", frame=f, box_xyxy_px=(20.0, 12.0, 370.0, 510.0), score=0.7)
                for f in (0, 2)
            ]
        return [row.instances if isinstance(row, Sample) else row.reason for row in stage.process(clips)]

    first, second = instances(0.0)
    assert [i.frame for i in first] == [0, 2] and first == second
    assert instances(1.0) == ["low_mask_score"] * 2


def problem(checkpoint, **options):
    [missing] = Sam(str(checkpoint), **options).missing()
    assert "\n" not in missing.what and str(checkpoint) in missing.what
    return missing.what


def test_files_that_cannot_serve_are_told_before_a_job(sam, checkpoint, tmp_path):
    import torch

    assert "segment.options.checkpoint" in problem(tmp_path / "nowhere.pth")
    assert "expected " + "0" * 64 in problem(checkpoint, sha256="0" * 64)
    assert Sam(checkpoint, sha256=sha256_of(tmp_path.__class__(checkpoint))).missing() == []

    cut = tmp_path / "cut.pth"
    shutil.copy(checkpoint, cut)
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size // 2)
    assert problem(cut)

    (tmp_path / "text.pth").write_text("no checkpoint")
    assert problem(tmp_path / "text.pth")

    torch.save({"backbone.weight": torch.zeros(3)}, tmp_path / "other.pth")
    assert "no SAM" in problem(tmp_path / "other.pth")
    assert "no SAM vit_b" in problem(checkpoint, architecture="vit_b")

    state = sam.state_dict()
    torch.save(state | {"mask_decoder.hf_token.weight": torch.zeros(1, 32)}, tmp_path / "more.pth")
    assert "mask_decoder.hf_token.weight" in problem(tmp_path / "more.pth")
    torch.save(state | {"image_encoder.pos_embed": torch.zeros(7)}, tmp_path / "odd.pth")
    assert "no SAM" in problem(tmp_path / "odd.pth")
    torch.save(sam, tmp_path / "pickled.pth")
    assert problem(tmp_path / "pickled.pth")


@pytest.mark.parametrize(
    "options",
    [{"architecture": "vit_x"}, {"dtype": "int8"}, {"batch_size": 0}, {"max_boxes": 1.5}, {"chekpoint": "a"}, {}],
)
def test_bad_options_are_one_clear_line(options):
    if "chekpoint" not in options and options:
        options = {"checkpoint": "sam.pth", **options}
    with pytest.raises(BackendError, match=r"segment\.options"):
        build_backend("segment", "sam", options)


@pytest.mark.slow
def test_compiling_changes_nothing(checkpoint):
    [eager] = loaded(checkpoint).segment(pictures()[:1], [boxes(*BOXES)])
    [compiled] = loaded(checkpoint, compile=True).segment(pictures()[:1], [boxes(*BOXES)])
    assert iou(eager.masks, compiled.masks) >= 0.999


@pytest.mark.slow
def test_vit_b_in_full_gives_the_predictors_masks(tmp_path):
    registry = pytest.importorskip("segment_anything").sam_model_registry
    sam = randomised(registry["vit_b"](), std=0.02)
    path = saved(sam, tmp_path / "vit_b.pth")
    [found] = loaded(path, architecture="vit_b").segment(pictures()[:1], [boxes(*BOXES)])
    masks, scores = predicted(sam, pictures()[0], BOXES)
    assert iou(found.masks, masks) >= 0.999
    np.testing.assert_allclose(found.scores, scores.clip(0, 1), atol=1e-4)
    assert "no SAM vit_l" in problem(path, architecture="vit_l")

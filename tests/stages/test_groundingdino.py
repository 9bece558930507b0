"""GroundingDINO through its package and through transformers, with random weights in the published format."""

import functools
import hashlib

import numpy as np
import pytest
from tiny_groundingdino import bert_folder, fill, picture
from vision import photograph_sample

from stages.backends import build_backend
from stages.localise import Localise, best_boxes
from stages.records import EntityWord, Rejection, Sample
from stages.settings import LocaliseSettings

pytestmark = pytest.mark.gpu

SMALL = {"short_side_px": 224, "long_side_px": 300}
CLIPS = [(picture(270, 300, 1), ["woman", "red hat"]), (picture(270, 300, 2), ["hot dog", "dog", "car"])]
"""Two pictures of one size with words of different token counts."""


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return bert_folder(tmp_path_factory.mktemp("bert"))


def network(bert, **how):
    from stages.localise.groundingdino_model import build
    from stages.localise.prompt import load_tokenizer

    return fill(build("swin_t", bert, load_tokenizer(bert)), **how)


def write(model, path):
    """Save as the published Swin-T file is: below "model", names with "module.", two tensors too many."""
    import torch

    state = {
        **model.state_dict(),
        "label_enc.weight": torch.zeros(4, 256),
        "bert.embeddings.position_ids": torch.arange(512)[None],
    }
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(bert, tmp_path_factory):
    return write(network(bert), tmp_path_factory.mktemp("weights") / "swin_t.pth")


def loaded(backend="groundingdino", device="cpu", **options):
    detector = build_backend("localise", backend, {**SMALL, **options})
    assert detector.missing() == []
    detector.setup(device, 1)
    return detector


@pytest.fixture(scope="module")
def detector(checkpoint, bert):
    return loaded(checkpoint=str(checkpoint), text_encoder=str(bert))


def entities(words):
    return [EntityWord(word=word, category="subject", spans=[(0, len(word))]) for word in words]


def detect(detector, clips):
    return detector.detect([image for image, _ in clips], [entities(words) for _, words in clips])


def assert_same(found, expected, px=0.01, score=1e-4):
    """All boxes within 0.01 pixels, and the same boxes for the same words."""
    assert np.abs(found.boxes_xyxy_px - expected.boxes_xyxy_px).max() < px
    assert np.abs(found.scores - expected.scores).max() < score
    assert best_boxes(found.scores)[0].tolist() == best_boxes(expected.scores)[0].tolist()


def test_outputs_equal_those_of_the_unpatched_package_under_transformers_4_57(bert, request):
    import torch

    from stages.localise.groundingdino_model import forward
    from stages.localise.pictures import network_size, normalise, resize
    from stages.localise.prompt import make_prompts

    golden = np.load(request.config.rootpath / "tests/data/groundingdino/golden.npz")
    image = picture(270, 300)
    pixels = normalise([resize(image, network_size(image.shape[:2], 256, 1333))], "cpu")
    assert np.array_equal(pixels[0, :, ::16, ::16].numpy(), golden["pixels"])
    model = network(bert, ordered_queries=False)
    [prompt] = make_prompts(["woman", "red hat", "hot dog", "dog"], model.tokenizer, 20)
    assert prompt.ids == tuple(golden["ids"])
    with torch.inference_mode():
        boxes, logits = forward(model, pixels, [prompt])
    assert nearest(boxes[0].numpy(), logits[0].sigmoid().numpy(), golden["boxes"], 1 / (1 + np.exp(-golden["logits"]))) < 1e-5


def nearest(boxes, probabilities, other_boxes, other_probabilities):
    """Largest difference between queries and their like in another set of queries, whatever their order."""
    own, other = np.concatenate([boxes, probabilities], 1), np.concatenate([other_boxes, other_probabilities], 1)
    differences = np.array([np.abs(other - query).max(axis=1) for query in own])
    return max(differences.min(axis=0).max(), differences.min(axis=1).max())


def test_one_picture_gives_what_the_package_itself_gives(detector):
    import torch
    from groundingdino.util.misc import NestedTensor

    from stages.localise.groundingdino_model import forward
    from stages.localise.pictures import normalise
    from stages.localise.prompt import make_prompts

    model = detector.model
    pixels = normalise([picture(256, 272)], "cpu")
    [prompt] = make_prompts(["woman", "red hat"], model.tokenizer, 20)
    ours, bert_forward = [], model.bert.forward
    with torch.inference_mode():
        ours = forward(model, pixels, [prompt])
        model.bert.forward = lambda attention_mask, **inputs: bert_forward(attention_mask=attention_mask[:, None], **inputs)
        theirs = model(NestedTensor(pixels, torch.zeros(1, 256, 272, dtype=torch.bool)), captions=["woman . red hat ."])
        model.bert.forward = bert_forward
    assert torch.equal(ours[0], theirs["pred_boxes"])
    assert torch.equal(ours[1], theirs["pred_logits"][..., : len(prompt.ids)])


def test_pictures_are_resized_as_the_package_does():
    from groundingdino.datasets import transforms
    from PIL import Image

    from stages.localise.pictures import network_size, normalise, resize

    steps = [transforms.RandomResize([256], max_size=400), transforms.ToTensor()]
    steps.append(transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    for size in ((300, 500), (500, 300), (200, 200), (100, 390)):
        image = picture(*size)
        theirs, _ = transforms.Compose(steps)(Image.fromarray(image), None)
        ours = normalise([resize(image, network_size(size, 256, 400))], "cpu")[0]
        assert np.array_equal(ours.numpy(), theirs.numpy())


@pytest.mark.parametrize("backend", ["groundingdino", "groundingdino_transformers"])
def test_batched_and_one_by_one_agree(backend, request):
    detector = request.getfixturevalue("detector" if backend == "groundingdino" else "port")
    clips = [*CLIPS, (picture(400, 270, 3), ["cat"]), (CLIPS[0][0], ["small red ball", "tree"])]
    detector.grounding.batches.size = 4
    together = detect(detector, clips)
    detector.grounding.batches.size = 1
    alone = [detect(detector, [clip])[0] for clip in clips]
    for found, expected in zip(together, alone, strict=True):
        assert_same(found, expected)


def test_words_of_several_prompts_score_as_if_asked_for_alone(detector):
    image, words = CLIPS[1]
    detector.grounding.max_words = 1
    [found] = detect(detector, [(image, words)])
    detector.grounding.max_words = 20
    assert found.scores.shape == (3 * 900, 3)
    for column, word in enumerate(words):
        [alone] = detect(detector, [(image, [word])])
        own = slice(900 * column, 900 * column + 900)
        assert np.abs(found.boxes_xyxy_px[own] - alone.boxes_xyxy_px).max() < 0.01
        assert np.abs(found.scores[own, column] - alone.scores[:, 0]).max() < 1e-4


@pytest.fixture(scope="module")
def port(checkpoint, bert, tmp_path_factory):
    from tools.convert_groundingdino import convert

    folder = tmp_path_factory.mktemp("port")
    convert(checkpoint, bert, "swin_t", folder)
    return loaded("groundingdino_transformers", model=str(folder))


def test_both_backends_give_the_same_boxes_from_the_same_weights(bert, tmp_path):
    from tools.convert_groundingdino import convert

    path = write(network(bert, ordered_queries=False), tmp_path / "model.pth")
    convert(path, bert, "swin_t", tmp_path / "port")
    original = loaded(checkpoint=str(path), text_encoder=str(bert))
    port = loaded("groundingdino_transformers", model=str(tmp_path / "port"))
    for found, expected in zip(detect(port, CLIPS), detect(original, CLIPS), strict=True):
        scale = np.array([300, 270, 300, 270])
        assert nearest(found.boxes_xyxy_px / scale, found.scores, expected.boxes_xyxy_px / scale, expected.scores) < 3e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_computes_in_it_and_finds_boxes(dtype, checkpoint, bert):
    import torch

    seen = []
    detector = loaded(checkpoint=str(checkpoint), text_encoder=str(bert), dtype=dtype)
    detector.model.transformer.encoder.layers[0].linear1.register_forward_hook(lambda *call: seen.append(call[2].dtype))
    [found] = detect(detector, CLIPS[:1])
    assert seen == [getattr(torch, dtype)]
    assert np.isfinite(found.boxes_xyxy_px).all() and np.isfinite(found.scores).all() and found.scores.max() > 0


def test_the_switch_compiles_backbone_and_encoder(checkpoint, bert):
    for switch in (False, True):
        model = loaded(checkpoint=str(checkpoint), text_encoder=str(bert), compile=switch).model
        parts = [model.backbone[0], *model.transformer.encoder.layers]
        assert [part._compiled_call_impl is not None for part in parts] == [switch] * 7


def fault(**options):
    [missing] = build_backend("localise", "groundingdino", options).missing()
    assert "\n" not in missing.what
    return missing.what


def test_a_checkpoint_that_cannot_be_used_is_told_before_a_job(checkpoint, bert, tmp_path):
    import torch

    right = {"checkpoint": str(checkpoint), "text_encoder": str(bert)}
    absent = str(tmp_path / "absent.pth")
    assert absent in fault(**{**right, "checkpoint": absent})
    cut = tmp_path / "cut.pth"
    cut.write_bytes(checkpoint.read_bytes()[:1_000_000])
    assert str(cut) in fault(**{**right, "checkpoint": str(cut)})
    assert "swin_b" in fault(**right, architecture="swin_b")
    assert "0" * 64 in fault(**right, sha256="0" * 64)
    deeper = bert_folder(tmp_path / "deeper", layers=3)
    assert "missing" in fault(**{**right, "text_encoder": str(deeper)})
    shallower = bert_folder(tmp_path / "shallower", layers=1)
    assert "bert.encoder.layer.1" in fault(**{**right, "text_encoder": str(shallower)})
    empty = tmp_path / "empty"
    empty.mkdir()
    assert str(empty) in fault(**{**right, "text_encoder": str(empty)})
    other = tmp_path / "other.pth"
    torch.save({"model": {"weight": torch.zeros(2)}}, other)
    assert str(other) in fault(**{**right, "checkpoint": str(other)})
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert build_backend("localise", "groundingdino", {**right, "sha256": sha256}).missing() == []


def test_a_folder_that_is_no_grounding_dino_is_told_before_a_job(bert, port, tmp_path):
    build = functools.partial(build_backend, "localise", "groundingdino_transformers")
    [bert_instead] = build({"model": str(bert)}).missing()
    assert str(bert) in bert_instead.what and "bert" in bert_instead.what
    [absent] = build({"model": str(tmp_path / "absent")}).missing()
    assert str(tmp_path / "absent") in absent.what


def test_the_stage_finds_words_of_several_clips_end_to_end(checkpoint, bert):
    options = {**SMALL, "checkpoint": str(checkpoint), "text_encoder": str(bert), "batch_size": 4}
    stage = Localise(LocaliseSettings(backend="groundingdino", options=options, min_score=0.01, min_area_share=0))
    assert stage.missing() == [] and set(stage.identity()) == {"weights", "text_encoder"}
    stage.setup()
    samples = [photograph_sample("astronaut", woman="subject", hot_dog="subject"), photograph_sample("chelsea", cat="subject")]
    rows = stage.process(samples)
    stage.close()
    assert all(isinstance(row, Sample) for row in rows)
    chosen = [[box for box in row.boxes if box.chosen] for row in rows]
    assert [(box.word, box.frame) for box in chosen[1]] == [("cat", frame) for frame in range(3)]
    assert {box.word for box in rows[0].boxes} <= {"woman", "hot dog"}
    for row, best, (height, width) in zip(rows, chosen, [(512, 512), (300, 451)], strict=True):
        assert len({(box.word, box.frame) for box in best}) == len(best)
        for box in row.boxes:
            x1, y1, x2, y2 = box.box_xyxy_px
            assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height and 0.01 < box.score <= 1


def test_a_clip_without_words_to_find_is_rejected_beside_others(detector, checkpoint, bert):
    options = {**SMALL, "checkpoint": str(checkpoint), "text_encoder": str(bert)}
    stage = Localise(LocaliseSettings(backend="groundingdino", options=options, min_score=0.01))
    stage.detector = detector
    rows = stage.process([photograph_sample("astronaut", room="background"), photograph_sample("chelsea", cat="subject")])
    assert isinstance(rows[0], Rejection) and rows[0].reason == "no_instance"
    assert isinstance(rows[1], Sample)

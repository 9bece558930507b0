"""Looks of boxes by networks: EfficientNet-Lite0 beside colours, and DINOv2, small and random, in the true format."""

import numpy as np
import pytest
import skimage.data

from materia.base.backends import BackendError
from stages.backends import build_backend
from stages.link import LinkInstances
from stages.link.colours import Colours
from stages.link.crops import crop
from stages.link.dinov2 import Dinov2
from stages.link.efficientnet import EfficientNet
from stages.settings import LinkSettings, LocaliseSettings

CAT, CUP, WOMAN = skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut()
WHOLE = [np.array([[0, 0, image.shape[1], image.shape[0]]], np.float32) for image in (CAT, CUP, WOMAN)]
NONE = np.zeros((0, 4), np.float32)


@pytest.fixture(scope="module")
def network():
    backend = EfficientNet()
    if backend.missing():
        pytest.skip("the packages of the image network are not installed")
    backend.setup("cpu", 1)
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory):
    import torch
    from transformers import Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    return folder


def in_other_light(image):
    """Warm and dark."""
    return (255 * (image / 255) ** 1.4 * (1.0, 0.75, 0.5)).astype(np.uint8)


def test_a_change_of_light_makes_nobody_another(network):
    images = [CAT, CUP, WOMAN]
    before = np.concatenate(network.describe(images, WHOLE))
    after = np.concatenate(network.describe([in_other_light(image) for image in images], WHOLE))
    middle = sum(network.alike) / 2
    likeness = before @ after.T
    assert np.diag(likeness).min() > middle > likeness[~np.eye(3, dtype=bool)].max()
    colours = Colours()
    lit, dark = colours.describe(images, WHOLE), colours.describe([in_other_light(image) for image in images], WHOLE)
    assert min(float(one[0] @ other[0]) for one, other in zip(lit, dark, strict=True)) < colours.alike[0]


def check_protocol(backend):
    two = np.array([[10, 10, 200, 200], [100, 50, 300, 290]], np.float32)
    first, none, second = backend.describe([CAT, CUP, WOMAN], [two, NONE, two])
    assert first.shape == second.shape and first.dtype == np.float32 and none.shape == (0, first.shape[1])
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([first, second]), axis=1), 1, atol=1e-5)
    (alone,) = backend.describe([CAT], [two[:1]])
    np.testing.assert_allclose(alone[0], first[0], atol=1e-5)
    odd = np.array([[-5, -5, 3, 3], [450.6, 299.7, 451, 300], [30, 30, 30, 30]], np.float32)
    assert np.isfinite(backend.describe([CAT], [odd])[0]).all()
    assert [found.shape for found in backend.describe([CAT], [NONE])] == [none.shape]


def test_the_packaged_network_keeps_the_protocol(network):
    check_protocol(network)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_dinov2_keeps_the_protocol(dinov2_folder, batch_size):
    backend = Dinov2(str(dinov2_folder), batch_size=batch_size)
    assert backend.missing() == [] and len(backend.identity()["weights"]) == 64
    backend.setup("cpu", 1)
    check_protocol(backend)
    backend.close()


def test_dinov2_is_asked_as_its_authors_do(dinov2_folder):
    import torch
    from transformers import BitImageProcessor, Dinov2Model

    backend = Dinov2(str(dinov2_folder))
    backend.setup("cpu", 1)
    ((found,),) = backend.describe([CAT], [np.array([[0, 0, 224, 224]], np.float32)])
    processor = BitImageProcessor(
        do_resize=False, do_center_crop=False, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    )
    with torch.inference_mode():
        wanted = Dinov2Model.from_pretrained(dinov2_folder).eval()(**processor(CAT[:224, :224], return_tensors="pt"))
    token = wanted.last_hidden_state[0, 0].numpy()
    np.testing.assert_allclose(found, token / np.linalg.norm(token), atol=1e-4)


def test_a_folder_that_is_no_dinov2_is_told_before_a_job(dinov2_folder, tmp_path):
    from transformers import BertConfig, BertModel

    def problem(folder):
        (missing,) = Dinov2(str(folder)).missing()
        assert "\n" not in missing.what and "link.options.checkpoint" in missing.what and str(folder) in missing.what
        return missing.what

    assert "is not there" in problem(tmp_path / "nowhere")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 16}
    BertModel(BertConfig(**small)).save_pretrained(tmp_path / "bert")
    assert "holds a bert; expected a dinov2" in problem(tmp_path / "bert")
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "config.json").write_bytes((dinov2_folder / "config.json").read_bytes())
    tensors = (dinov2_folder / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(tensors[: len(tensors) // 2])
    assert "no DINOv2 that can be loaded" in problem(cut)
    (cut / "model.safetensors").write_bytes(tensors)
    deeper = (cut / "config.json").read_text().replace('"num_hidden_layers": 2', '"num_hidden_layers": 3')
    (cut / "config.json").write_text(deeper)
    assert "tensors are missing" in problem(cut)


@pytest.mark.parametrize("options", [{}, {"checkpoint": "a", "batch_size": 0}, {"checkpoint": "a", "dtype": "int8"}])
def test_bad_options_are_one_clear_line(options):
    with pytest.raises(BackendError, match=r"link\.options"):
        build_backend("link", "dinov2", options)


def test_the_default_links_by_both_recognisers(network):
    stage = LinkInstances(LinkSettings(), LocaliseSettings())
    assert set(stage.identity()) >= {"weights", "faces.weights", "faces.face_detector"}


def test_a_crop_is_what_the_box_holds():
    image = np.zeros((20, 30, 3), np.uint8)
    image[5:15, 10:20] = (10, 20, 30)
    assert (crop(image, np.array([10, 5, 20, 15]), (4, 8)) == (10, 20, 30)).all()
    assert crop(image, np.array([28, 18, 99, 99]), (4, 8)).shape == (8, 4, 3)

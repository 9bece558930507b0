"""LaMa through lama-cleaner, with small TorchScript generators of random weights in place of the published one."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from painted import figure_sample
from PIL import Image

from materia.base.backends import BackendError
from materia.base.weights.files import sha256_of
from materia.dataset.sample_checks import Recipe, grow, redrawn
from stages.backends import build_backend
from stages.background import CleanBackground
from stages.background.lama import Lama
from stages.images import decode_mask
from stages.notices import drain
from stages.settings import BackgroundSettings, LocaliseSettings

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::FutureWarning")]


def make_generator(folder: Path, forward: str = "", script: bool = True) -> Path:
    """Save a generator with LaMa's signature and kind of layers; `forward` is put before its own first line."""
    import torch

    module = folder / "generator.py"
    lines = GENERATOR.replace("# FORWARD", forward)
    module.write_text(lines)
    scope: dict = {}
    exec(compile(lines, str(module), "exec"), scope)  # TorchScript wants the source of what it compiles in a file
    torch.manual_seed(0)
    generator = scope["Generator"]().eval()
    example = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    compiled = torch.jit.script(generator) if script else torch.jit.trace(generator, example)
    compiled.save(str(folder / "lama.pt"))
    return folder / "lama.pt"


GENERATOR = """
import torch


class Generator(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.down = torch.nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode="reflect")
        self.spectral = torch.nn.Conv2d(16, 16, 1)
        self.up = torch.nn.ConvTranspose2d(8, 3, 3, stride=2, padding=1, output_padding=1)

    def forward(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        # FORWARD
        x = torch.relu(self.down(torch.cat([image * (1 - mask), mask], dim=1)))
        f = torch.fft.rfftn(x, dim=[-2, -1], norm="ortho")
        re, im = self.spectral(torch.cat([f.real, f.imag], dim=1)).chunk(2, dim=1)
        x = x + torch.fft.irfftn(torch.complex(re, im), s=[x.size(-2), x.size(-1)], dim=[-2, -1], norm="ortho")
        return mask * torch.sigmoid(4 * self.up(x)) + (1 - mask) * image
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_generator(tmp_path_factory.mktemp("lama"))


def ready(checkpoint, **options):
    lama = Lama(str(checkpoint), **options)
    lama.setup("cpu", 1)
    return lama


def pictures(*sizes):
    """A noisy picture of each (height, width), with two holes."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    masks = [np.zeros(size, bool) for size in sizes]
    for mask, (height, width) in zip(masks, sizes, strict=True):
        mask[height // 4 : height // 2, width // 5 : width // 3] = True
        mask[-height // 4 :, -width // 4 :] = True
    for image in images:
        image.setflags(write=False)  # as frames of record are
    return images, masks, [None] * len(sizes)


@pytest.mark.parametrize("strategy", ["Original", "Resize", "Crop"])
def test_pictures_of_any_size_are_filled_alike_in_batches_and_one_by_one(checkpoint, strategy):
    options = {"hd_strategy": strategy, "hd_strategy_resize_limit": 256, "hd_strategy_crop_trigger_size": 256}
    images, masks, prompts = pictures((131, 203), (240, 320), (240, 320), (131, 203), (333, 150), (240, 320))
    together = ready(checkpoint, batch_size=3, **options).inpaint(images, masks, prompts)
    alone = ready(checkpoint, batch_size=1, **options)
    for image, mask, prompt, filled in zip(images, masks, prompts, together, strict=True):
        assert filled.shape == image.shape and filled.dtype == np.uint8
        (one,) = alone.inpaint([image], [mask], [prompt])
        assert np.abs(filled[mask].astype(int) - one[mask]).max() <= 1
        assert (filled[mask] != image[mask]).mean() > 0.9


@pytest.mark.parametrize(("strategy", "off"), [("original", 0), ("resize", 12), ("crop", 0)])
def test_the_hole_is_what_the_package_itself_draws_in_red_green_blue(checkpoint, strategy, off, monkeypatch):
    import cv2
    import lama_cleaner.model.lama as package
    from lama_cleaner.schema import Config

    options = {"hd_strategy_resize_limit": 256, "hd_strategy_crop_trigger_size": 256, "hd_strategy_crop_margin": 32}
    (image,), (mask,), _ = pictures((301, 405))
    image = cv2.GaussianBlur(image, (31, 31), 0)
    image[..., 0] //= 2  # no grey picture: red and blue must not be mistaken for each other
    (filled,) = ready(checkpoint, hd_strategy=strategy, **options).inpaint([image], [mask], [None])
    monkeypatch.setattr(package, "LAMA_MODEL_URL", str(checkpoint))
    config = Config(ldm_steps=1, hd_strategy=strategy.capitalize(), **options)
    expected = package.LaMa("cpu")(image.copy(), np.uint8(mask) * 255, config)[..., ::-1]
    # Resizing, the package blends the frame into the hole's edge.
    sure = cv2.erode(np.uint8(mask), np.ones((9, 9))) > 0 if off else mask
    assert np.abs(filled[sure].astype(int) - expected[sure]).max() <= off + 1
    assert np.abs(filled[sure].astype(int) - expected[sure][:, ::-1]).mean() > 5, "the test can tell red from blue"


def test_a_picture_is_filled_alike_every_time_and_whatever_its_company(checkpoint):
    images, masks, prompts = pictures(*[(136, 160)] * 5)
    lama = ready(checkpoint)
    first = lama.inpaint(images, masks, prompts)
    for _ in range(3):
        again = lama.inpaint(images, masks, prompts)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_traced_generator_serves_as_well_as_a_scripted_one(tmp_path, checkpoint):
    traced = make_generator(tmp_path, script=False)
    images, masks, prompts = pictures((131, 203), (131, 203))
    for a, b in zip(*(ready(file).inpaint(images, masks, prompts) for file in (traced, checkpoint)), strict=True):
        assert np.abs(a.astype(int) - b).max() <= 1


def test_a_generator_of_single_pictures_is_told_and_run_one_by_one(tmp_path):
    file = make_generator(tmp_path, "image = image.reshape(1, 3, image.size(2), image.size(3))")
    drain()
    lama = ready(file, batch_size=4)
    assert lama.missing() == []
    assert "takes one picture at a time" in drain()[0]
    images, masks, prompts = pictures((136, 160), (136, 160))
    assert len(lama.inpaint(images, masks, prompts)) == 2


def test_a_batch_that_does_not_fit_the_memory_is_halved_and_said(tmp_path):
    limit = 'assert image.size(0) * image.size(2) < 300, "CUDA out of memory. Tried to allocate 2.00 GiB"'
    lama = ready(make_generator(tmp_path, limit), batch_size=4)
    images, masks, prompts = pictures(*[(136, 160)] * 5)
    drain()
    assert len(lama.inpaint(images, masks, prompts)) == 5
    assert "going on with 2" in drain()[0] and lama.batches.size == 2


def test_the_stage_draws_again_with_lama_too_and_keeps_the_frame_outside_its_mask(checkpoint):
    import torch

    chosen = BackgroundSettings(
        backend="lama", options={"checkpoint": str(checkpoint)}, dilate_px=3, dilate_times=2, retry_dilate=2, max_residual=0.1
    )
    stage = CleanBackground(chosen, LocaliseSettings(backend="painted:RedDetector"))
    assert stage.missing() == [] and stage.identity()["weights"] == sha256_of(checkpoint)
    stage.setup()
    rows = stage.process([figure_sample(0), figure_sample(1, rim=4), figure_sample(2, rim=6, size=(131, 150))])
    stage.close()
    assert [row.background.method for row in rows] == ["lama", "lama+dilate1", "lama+dilate2"]
    assert torch.get_num_threads() == chosen.threads
    for row in rows:
        hole = grow(decode_mask(row.instances[0].mask_rle), Recipe(3, 2).again(redrawn(row.background.method)))
        picture = np.asarray(Image.open(io.BytesIO(row.background.png)))
        assert (picture[~hole] == row.frames[1].rgb[~hole]).all() and (picture[hole] != row.frames[1].rgb[hole]).mean() > 0.9


def test_a_good_checkpoint_is_not_missing_and_names_its_hash(checkpoint):
    lama = Lama(str(checkpoint), sha256=sha256_of(checkpoint))
    assert lama.missing() == [] and lama.weights() == [
        ("background.options.checkpoint", str(checkpoint), sha256_of(checkpoint))
    ]
    assert lama.identity() == {"weights": sha256_of(checkpoint)}


def truncated(folder, good):
    (folder / "bad.pt").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    return folder / "bad.pt"


def a_state_dict(folder, good):
    import torch

    torch.save({"weight": torch.zeros(3)}, folder / "bad.pt")
    return folder / "bad.pt"


def a_classifier(folder, good):
    import torch

    torch.jit.script(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3))).save(folder / "bad.pt")
    return folder / "bad.pt"


def half_as_large(folder, good):
    return make_generator(folder, "image = image[:, :, ::2, ::2]; mask = mask[:, :, ::2, ::2]")


def of_more_channels(folder, good):
    return make_generator(folder, "image = torch.cat([image, mask], dim=1)")


def that_gives_up(folder, good):
    return make_generator(folder, 'assert image.size(2) > 1000, "too small"')


def not_there(folder, good):
    return folder / "lama.pt"


def a_text(folder, good):
    (folder / "bad.pt").write_text("not a model")
    return folder / "bad.pt"


SPOILED = [truncated, a_text, a_state_dict, a_classifier, half_as_large, of_more_channels, that_gives_up, not_there]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_is_no_lama_is_one_clear_line_and_stays_where_it_is(tmp_path, checkpoint, spoil):
    file = spoil(tmp_path, checkpoint)
    [lack] = Lama(str(file)).missing()
    assert str(file) in lack.what and "background.options.checkpoint" in lack.what and "\n" not in lack.what
    assert spoil is not_there or ("TorchScript LaMa" in lack.what and file.exists())


def test_a_wrong_hash_is_told_before_the_file_is_opened(tmp_path):
    (tmp_path / "lama.pt").write_text("never opened")
    [lack] = Lama(str(tmp_path / "lama.pt"), sha256="0" * 64).missing()
    assert "0" * 64 in lack.what


@pytest.mark.parametrize(
    ("option", "value"),
    [("dtype", "float16"), ("hd_strategy", "Shrink"), ("batch_size", 0), ("hd_strategy_resize_limit", 8), ("compile", True)],
)
def test_a_value_that_cannot_be_is_refused_by_name(option, value):
    with pytest.raises(BackendError, match=option):
        build_backend("background", "lama", {"checkpoint": "lama.pt", option: value})


def test_the_package_stays_quiet_alone_and_at_home(checkpoint, tmp_path):
    program = f"""
import socket, sys, warnings
def no_network(*_): raise AssertionError("network")
socket.socket.connect = no_network
import numpy as np
from stages.background import CleanBackground
from stages.background.lama import Lama
from stages.images import decode_mask
lama = Lama({str(checkpoint)!r})
assert lama.missing() == []
lama.setup("cpu", 1)
lama.inpaint([np.zeros((130, 170, 3), np.uint8)], [np.eye(130, 170, dtype=bool)], [None])
assert "lama_cleaner.model.lama" in sys.modules
assert not set(sys.modules) & {{"flask", "diffusers", "gradio", "lama_cleaner.server"}}
assert not any(entry[2] is UserWarning and entry[0] == "ignore" and entry[1] is None for entry in warnings.filters)
"""
    home = {"HOME": str(tmp_path), "TORCH_HOME": str(tmp_path / "torch"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=home, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []

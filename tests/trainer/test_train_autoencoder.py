"""The small autoencoder: trained on real clips of an output, written to a file, read again by the encoder `small`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from real_clips import make_real_output

from trainer.config import BucketSettings, DataSettings, EncoderSettings, TrainConfig
from trainer.encoders import build
from trainer.encoders.patches import Patches
from trainer.encoders.small import Small
from trainer.errors import TrainError
from trainer.run.train_autoencoder import TrainedAutoencoder, train_autoencoder

STEPS = 40


def config(frames: int = 4, side: int = 32, validation: int = 0) -> TrainConfig:
    bucket = BucketSettings(frames=frames, height=side, width=side, batch=4)
    return TrainConfig(data=DataSettings(buckets=(bucket,), validation=validation, workers=0))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_real_output(tmp_path_factory.mktemp("output"), [1.0, 1.5, 2.0])


@pytest.fixture(scope="module")
def trained(output: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedAutoencoder, list[str]]:
    said: list[str] = []
    path = tmp_path_factory.mktemp("trained") / "new" / "autoencoder.safetensors"
    return train_autoencoder(config(), shards=output, output=str(path), steps=STEPS, say=said.append), said


def small(path: Path) -> Small:
    encoder: Small = build("video", EncoderSettings(backend="small", options={"checkpoint": str(path)}))
    return encoder


def test_it_becomes_better_than_the_transform_that_it_began_as(trained: tuple[TrainedAutoencoder, list[str]]) -> None:
    result, said = trained
    assert result.psnr_db > result.psnr_cut_db + 0.5
    assert f"{result.psnr_db:.2f} dB" in said[-1] and f"step {STEPS - 1}:" in said[-2]


def test_only_the_file_is_left(trained: tuple[TrainedAutoencoder, list[str]]) -> None:
    result, _ = trained
    assert [path.name for path in result.path.parent.iterdir()] == [result.path.name]


def test_the_encoder_reads_the_file(trained: tuple[TrainedAutoencoder, list[str]]) -> None:
    encoder = small(trained[0].path)
    assert encoder.missing() == [] and encoder.channels == 16 and encoder.latent_size(8, 64, 48) == (4, 8, 6)
    encoder.setup("cpu")
    videos = torch.randint(0, 256, (2, 4, 16, 24, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    latents, std = encoder.encode(videos)
    assert latents.shape == (2, 16, 2, 2, 3) and std is None and not latents.requires_grad
    assert encoder.decode(latents).shape == videos.shape and encoder.decode(latents).dtype == torch.uint8


def test_the_latents_of_what_it_was_trained_on_are_of_unit_variance(
    trained: tuple[TrainedAutoencoder, list[str]], output: str
) -> None:
    from materia.dataset.reader import Dataset
    from trainer.data.items import PixelSource

    encoder = small(trained[0].path)
    encoder.setup("cpu")
    source = PixelSource(Dataset(output), config().data, 0, images=False)
    clips = torch.stack([torch.from_numpy(source.read(step, 0, number, 0).video) for step in range(4) for number in range(3)])
    assert 0.7 < encoder.encode(clips).mean.std() < 1.4


def test_the_same_seed_gives_the_same_file(trained: tuple[TrainedAutoencoder, list[str]], output: str, tmp_path: Path) -> None:
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path in files:
        train_autoencoder(config(), shards=output, output=str(path), steps=3, say=lambda _: None)
    assert files[0].read_bytes() == files[1].read_bytes()
    first, other = small(files[0]).identity(), small(trained[0].path).identity()
    assert first == small(files[1]).identity() != other


def test_untrained_it_is_the_transform(output: str, tmp_path: Path) -> None:
    result = train_autoencoder(config(), shards=output, output=str(tmp_path / "a"), steps=1, say=lambda _: None)
    assert result.psnr_db == pytest.approx(result.psnr_cut_db, abs=0.2)


@pytest.mark.parametrize("content", [None, b"", b"no safetensors", "half", "another"])
def test_a_file_that_will_not_do_is_one_line(
    content: bytes | str | None, trained: tuple[TrainedAutoencoder, list[str]], tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "half":
        whole = trained[0].path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif content == "another":
        save_file({"weight": torch.zeros(3)}, path)
    (lacking,) = small(path).missing()
    assert str(path) in lacking.what and "\n" not in lacking.what and "materia train-autoencoder" in lacking.fix
    for use in (lambda: small(path).setup("cpu"), lambda: small(path).channels):
        with pytest.raises(TrainError, match="materia train-autoencoder"):
            use()


def test_clips_that_are_no_whole_blocks_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"data.buckets: .* 4 frames, 32x32 px would do"):
        train_autoencoder(config(frames=5, side=36), shards="/not/there", output=str(tmp_path / "a"), steps=1)


def test_the_default_transform_has_the_shape_of_its_latents() -> None:
    assert (Patches().channels, Patches().latent_size(8, 64, 64)) == (16, (4, 8, 8))

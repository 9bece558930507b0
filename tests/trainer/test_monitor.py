"""The curves of a run, read back from TensorBoard's files, and FLOPs against PyTorch's counter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conditions import CONFIG, awake, conditions, latents
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from trainer.config import LogSettings
from trainer.data.batch import Batch
from trainer.errors import TrainError
from trainer.model.dit import SIZES, ModelConfig
from trainer.run.monitor import BINS, Measured, Monitor, by_time, forward_flops, peak_flops, step_flops
from trainer.run.validation import ValidationLoss


def measured(
    loss: float = 1.0, *, t: float = 0.5, grad_norm: float = 2.0, wait_s: float = 0.25, time_s: float = 1.0
) -> Measured:
    binned = by_time(torch.full((4,), loss), torch.full((4,), t))
    return Measured(binned, grad_norm=grad_norm, lr=1e-4, clips=4, flops=3e9, wait_s=wait_s, time_s=time_s)


def monitor(run: Path, *, first: int = 1, peak: float | None = None, **settings: object) -> Monitor:
    return Monitor(str(run), LogSettings(**settings), first=first, peak=peak, config={})  # type: ignore[arg-type]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_point_is_the_mean_of_the_steps_since_the_last(tmp_path: Path) -> None:
    watch = monitor(tmp_path, every=2, peak_tflops=0.006)
    for number, step in enumerate([measured(1, wait_s=0), measured(2, time_s=3, wait_s=1), measured(5), measured(7)], 1):
        watch.step(number, step)
    watch.close()
    found = curves(tmp_path)
    assert found["train/loss"] == [(2, 1.5), (4, 6)]
    assert found["train/grad_norm"][0] == (2, 2) and found["train/lr"][0] == (2, pytest.approx(1e-4))
    assert found["speed/samples_per_s"] == [(2, 2), (4, 4)]
    assert found["speed/data_wait_share"] == [(2, 0.25), (4, 0.25)]
    assert found["speed/gflop_per_s"] == [(2, 1.5), (4, 3)]
    assert found["speed/mfu"] == [(2, 0.25), (4, 0.5)]


def test_each_part_of_the_noise_levels_has_its_curve(tmp_path: Path) -> None:
    watch = monitor(tmp_path, every=2)
    watch.step(1, measured(1, t=0.1))
    watch.step(2, measured(3, t=1.0))
    watch.close()
    found = {name.rpartition("/")[2]: points for name, points in curves(tmp_path).items() if "by_t" in name}
    assert found == {"0.0-0.2": [(2, 1)], "0.8-1.0": [(2, 3)]}


def test_a_device_of_unknown_peak_has_no_mfu(tmp_path: Path) -> None:
    assert peak_flops(torch.device("cpu"), "bfloat16") is None
    watch = monitor(tmp_path, every=1)
    assert "speed/mfu" not in (watch.step(1, measured()) or {})
    watch.close()


def test_losses_by_time_of_ranks_add_up_to_those_of_the_whole_batch() -> None:
    losses, t = torch.arange(8.0), torch.linspace(0, 1, 8)
    parts = torch.stack([by_time(losses[rank::2], t[rank::2]) for rank in range(2)])
    assert torch.equal(parts.sum(dim=0), by_time(losses, t))
    sums, counts = by_time(losses, t)
    assert sums.sum() == losses.sum() and counts.sum() == 8 and len(counts) == BINS


def test_after_a_restart_the_curves_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    lost = monitor(tmp_path, every=1)
    for number in (1, 2, 3, 4):
        lost.step(number, measured(100 + number))
    lost.close()
    again = monitor(tmp_path, first=3, every=1)
    for number in (3, 4, 5):
        again.step(number, measured(number))
    again.close()
    assert curves(tmp_path)["train/loss"] == [(1, 101), (2, 102), (3, 3), (4, 4), (5, 5)]


def test_validation_losses_and_their_gap_are_curves(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    watch.validation(5, ValidationLoss(1.0, 1.5))
    watch.validation(10, ValidationLoss(0.5, None))
    watch.close()
    assert curves(tmp_path) == {
        "validation/own": [(5, 1.0), (10, 0.5)],
        "validation/shuffled": [(5, 1.5)],
        "validation/gap": [(5, 0.5)],
    }


def test_a_grid_is_shown_and_kept(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    watch = monitor(tmp_path)
    watch.picture(100, picture)
    watch.close()
    assert np.array_equal(Image.open(tmp_path / "samples" / "step-00000100.png"), picture)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Images("samples")[0].step == 100


def test_weights_and_biases_that_is_not_installed_is_an_error_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(TrainError, match=r"^log\.wandb: .*`pip install wandb`.*$"):
        monitor(tmp_path, wandb=True)


@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, self_conditioning=True, mlp_ratio=2), replace(CONFIG, text_width=24, image_width=24)],
    ids=["tests'", "self-conditioned", "no projections"],
)
@pytest.mark.parametrize(("images", "tokens"), [(0, 7), (3, 11)])
def test_forward_flops_are_those_that_pytorch_counts(config: ModelConfig, images: int, tokens: int) -> None:
    given = conditions(images=images, tokens=tokens)
    given = replace(
        given,
        text=given.text.new_zeros(2, tokens, config.text_width),
        images=given.images.new_zeros(2, images, 5, config.image_width),
        words=given.words.new_zeros(2, images, config.word_tokens, config.text_width),
    )
    model = awake(config=config)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(latents(), torch.tensor([0.1, 0.2]), given)
    assert counter.get_total_flops() == 2 * forward_flops(config, (3, 4, 6), tokens, images, 5)


def test_a_training_step_is_three_times_the_forward_pass() -> None:
    config = ModelConfig(**SIZES["tiny"], text_width=20, image_width=28, latent_channels=4, word_tokens=3)
    model, noisy = awake(config=config), latents(rows=16, columns=16)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(noisy, torch.tensor([0.1, 0.2]), conditions()).sum().backward()
    batch = Batch(keys=["a", "b"], slots=[0, 1], mean=noisy, std=None, conditions=conditions())
    assert counter.get_total_flops() == pytest.approx(step_flops(config, batch), rel=0.03)

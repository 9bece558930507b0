"""The loop on real clips: what a step learns from, what it must not touch, and when it must stop."""

import json
from pathlib import Path

import pytest
import torch
from real_clips import make_real_output
from small_run import SECONDS, config, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainer.data.batch import collate
from trainer.data.training_data import encoded, open_data
from trainer.distributed import World
from trainer.encoders import build_encoders
from trainer.errors import TrainError
from trainer.model.dit import VideoDiT
from trainer.run import checkpoints
from trainer.run import folder as runs
from trainer.run.learner import model_config
from trainer.run.loop import NonFiniteError
from trainer.run.objective import batch_losses, draw


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_real_output(tmp_path_factory.mktemp("shards"), SECONDS)


@pytest.fixture(scope="module")
def plain_run(out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "plain"
    run(out, folder)
    return folder


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


def curve(folder: Path, name: str) -> list[float]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoints.load_model(folder, ema=False)[0].named_parameters())


def new_model(**sections) -> VideoDiT:
    settings = config(**sections)
    torch.manual_seed(settings.seed)
    return VideoDiT(model_config(settings, build_encoders(settings.encoders)))


def changed(folder: Path, **sections) -> set[str]:
    """Names of the parameters that differ from a new model's in any bit."""
    after = trained(folder)
    return {name for name, parameter in new_model(**sections).named_parameters() if not torch.equal(after[name], parameter)}


def names_of_new_attention(model: VideoDiT) -> set[str]:
    new = {id(parameter) for parameter in model.new_attention()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in new}


def test_the_first_step_is_the_gradient_of_the_mean_loss_over_its_batch(out, plain_run):
    settings = config()
    encoders, model = build_encoders(settings.encoders), new_model()
    encoders.setup("cpu")
    data = open_data(settings, out, None, encoders, World(0, 1, 0, torch.device("cpu")))
    items = [data.source.read(0, slot, int(number), 0) for slot, number in enumerate(data.order.step(0).samples)]
    batch = collate(encoded(items, encoders), model.config.word_tokens)
    loss = batch_losses(model, batch, draw(batch, settings.objective, model.config, seed=0, step=0), model.config).mean()
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    assert losses(plain_run)[0] == pytest.approx(loss.item(), rel=1e-6)
    assert curve(plain_run, "train/grad_norm")[0] == pytest.approx(float(norm), rel=1e-4)
    logged = json.loads((plain_run / "steps.jsonl").read_text().splitlines()[0])
    assert logged["keys"] == batch.keys


def test_micro_batches_change_neither_losses_nor_gradients(out, plain_run, tmp_path):
    run(out, tmp_path, run={"accumulate": 2, "threads": 1, "checkpoint_activations": True})
    assert losses(tmp_path) == pytest.approx(losses(plain_run), rel=1e-4)
    assert curve(tmp_path, "train/grad_norm") == pytest.approx(curve(plain_run, "train/grad_norm"), rel=1e-3)
    assert len(set(losses(plain_run))) == 4


def test_another_seed_or_learning_rate_is_another_run(out, plain_run, tmp_path):
    run(out, tmp_path, optimiser={"lr": 0.001, "clip": 1.0, "warmup_steps": 2}, stage={"steps": 3})
    assert losses(tmp_path)[0] == losses(plain_run)[0]
    assert losses(tmp_path)[2] != pytest.approx(losses(plain_run)[2], rel=1e-5)


def test_half_precision_and_self_conditioning_learn_finite_weights(out, plain_run, tmp_path):
    run(out, tmp_path / "half", run={"precision": "bfloat16", "threads": 1})
    assert losses(tmp_path / "half") == pytest.approx(losses(plain_run), rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in trained(tmp_path / "half").values())
    run(out, tmp_path / "self", model={"self_conditioning": True}, stage={"steps": 2})
    assert all(parameter.isfinite().all() for parameter in trained(tmp_path / "self").values())


def test_stage_one_reads_no_references_and_leaves_the_new_attention_alone(out, tmp_path):
    run(out, tmp_path, stage={"images": False, "steps": 3})
    model = new_model()
    assert changed(tmp_path) == {name for name, _ in model.named_parameters()} - names_of_new_attention(model)


def test_stage_two_begins_with_stage_one_and_at_first_only_its_new_attention_learns(out, tmp_path):
    run(out, tmp_path / "one", stage={"images": False, "steps": 2})
    stage = {"init": str(tmp_path / "one"), "new_attention_steps": 2, "steps": 2}
    run(out, tmp_path / "two", stage=stage, model={"word_tokens": 3})
    one, two, fresh = trained(tmp_path / "one"), trained(tmp_path / "two"), new_model(model={"word_tokens": 3})
    new = names_of_new_attention(fresh)
    assert all(torch.equal(two[name], one[name]) for name in one.keys() - new)
    assert all(not torch.equal(two[name], parameter) for name, parameter in fresh.named_parameters() if name in new)
    run(out, tmp_path / "two", stage={**stage, "steps": 3}, model={"word_tokens": 3})
    assert all(not torch.equal(trained(tmp_path / "two")[name], one[name]) for name in one.keys() - new)


def test_the_new_attention_of_a_new_model_cannot_learn_alone(out, tmp_path):
    with pytest.raises(TrainError, match=r"needs stage\.init"):
        run(out, tmp_path, stage={"new_attention_steps": 2})


def test_weights_of_another_size_are_told_with_both_sizes(out, plain_run, tmp_path):
    with pytest.raises(TrainError, match=r"tiny; this one is small \(depth 6 there, 12 here, .*set model"):
        run(out, tmp_path, model={"size": "small"}, stage={"init": str(plain_run)})


def test_a_loss_that_is_no_number_stops_before_the_step_and_tells_the_batch(out, tmp_path):
    with pytest.raises(NonFiniteError, match="step 1") as stopped:
        run(out, tmp_path, optimiser={"lr": 1e30, "warmup_steps": 0}, checkpoint={"every": 1})
    assert stopped.value.exit_code == 5
    found = json.loads((tmp_path / "non_finite.json").read_text())
    assert found["step"] == 1
    assert len(found["keys"]) == len(found["losses"]) == 4
    assert {"nan", "inf"} & set(found["losses"])
    assert checkpoints.latest(tmp_path, str).state.step == 1


def test_other_settings_need_another_run(out, plain_run):
    with pytest.raises(runs.OtherRunError, match=r"objective.times was \"logit_normal\", is \"uniform\"") as refused:
        run(out, plain_run, objective={"times": "uniform"}, stage={"steps": 9})
    assert refused.value.exit_code == 4
    with pytest.raises(runs.OtherRunError, match=r"encoder\.text\.name"):
        run(out, plain_run, encoders={"text": {"backend": "small_run:Colours"}, "image": {"backend": "small_run:Colours"}})


def test_a_finished_run_says_so_and_does_nothing(out, plain_run):
    before = (plain_run / "steps.jsonl").read_bytes()
    assert run(out, plain_run).steps == 4
    assert (plain_run / "steps.jsonl").read_bytes() == before


def test_looking_on_changes_nothing(out, plain_run, tmp_path):
    run(out, tmp_path, log={"validate_every": 1, "sample_every": 3, "sample_steps": 2, "samples": 1})
    assert losses(tmp_path) == losses(plain_run)
    assert len(curve(tmp_path, "validation/own")) == len(curve(tmp_path, "validation/gap")) == 4
    assert (tmp_path / "samples" / "step-00000003.png").is_file()


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"data": {"buckets": [{"frames": 4, "height": 32, "width": 30, "batch": 4}], "fps": 12}},
            r"data.buckets\[0\]: .*32x30 px are no whole blocks",
        ),
        ({"data": {"buckets": [{"frames": 4, "height": 32, "width": 40, "batch": 4}], "fps": 12}}, "model.patch"),
        ({"data": {"buckets": [{"frames": 400, "height": 32, "width": 32, "batch": 4}], "fps": 12}}, "long enough"),
        ({"stage": {"init": "nowhere"}}, "nowhere has no checkpoint"),
    ],
)
def test_what_cannot_be_trained_is_told_in_a_line(out, tmp_path, sections, message):
    with pytest.raises(TrainError, match=message) as refused:
        run(out, tmp_path, **sections)
    assert "\n" not in str(refused.value)

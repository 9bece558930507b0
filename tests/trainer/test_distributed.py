"""Two processes must learn what one learns from the same batches, in every layout; and take up each other's state."""

import os
import sys
from pathlib import Path

import lockstep
import pytest
import torch
import warm
from lockstep import CASES, START, Case
from reference import logged_steps
from safetensors.torch import load_file, save_file

from materia.base.settings_file import load_settings
from trainer import distributed
from trainer.config import TrainConfig
from trainer.data.training_data import open_data, steps
from trainer.encoders import build_encoders
from trainer.errors import TrainError

ALONE = distributed.World(0, 1, 0, torch.device("cpu"))
LAYOUTS = ("ddp", "fsdp2")


@pytest.fixture(scope="module")
def alone():
    return lockstep.steps(ALONE, Case(lockstep.settings("ddp")))


@pytest.fixture(scope="module")
def alone_resumed(alone):
    return lockstep.steps(ALONE, Case(lockstep.settings("ddp"), resumed=True), alone)


@pytest.fixture(scope="module")
def two(alone, tmp_path_factory):
    """What two processes under torchrun made of each case."""
    folder = tmp_path_factory.mktemp("two")
    save_file(alone, folder / f"{START}.safetensors")
    torchrun([sys.executable, lockstep.__file__, str(folder)])
    return {name: load_file(folder / f"{name}.safetensors") for name in CASES}


def torchrun(command):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    done = warm.run([*launcher, *warm.launched_by_others(command, "heavy")], "heavy", env=env)
    assert done.returncode == 0, done.stderr


def close(some, others, tolerance=1e-4):
    assert some.keys() == others.keys()
    worst = {name: float((some[name] - others[name]).abs().max()) for name in some}
    assert max(worst.values()) < tolerance, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize("how", ["plain", "accumulated and checkpointed"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_learn_what_one_does(two, alone, layout, how):
    close(two[f"{layout} {how}"], alone)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_of_one_process_is_taken_up_by_two(two, alone_resumed, layout):
    close(two[f"{layout} resumed"], alone_resumed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_state_of_two_processes_is_taken_up_by_one(two, alone_resumed, layout):
    close(lockstep.steps(ALONE, Case(lockstep.settings("ddp"), resumed=True), two[f"{layout} plain"]), alone_resumed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches_without_images_on_any_rank_train_the_rest(two, layout):
    state = two[f"{layout} without images"]
    without = lockstep.steps(ALONE, Case(lockstep.settings("ddp"), images=False))
    assert not any("personal" in name for name in lockstep.part(without, "optimiser"))
    if layout == "fsdp2":  # whose gradients are zeros there: the weights decay, and do nothing
        state = {name: value for name, value in state.items() if name in ("losses", "norms")}
    close(state, {name: without[name] for name in state} if layout == "fsdp2" else without)


@pytest.mark.parametrize("layout", ["alone", *LAYOUTS])
def test_bfloat16_is_near_float32_but_not_the_same(two, alone, layout):
    run = lockstep.settings("ddp", precision="bfloat16")
    losses = lockstep.steps(ALONE, Case(run))["losses"] if layout == "alone" else two[f"{layout} bfloat16"]["losses"]
    difference = float((losses - alone["losses"]).abs().max())
    assert 1e-5 < difference < 2e-2


def test_checkpointing_keeps_fewer_activations(alone):
    def kept(checkpoint_activations):
        run = lockstep.settings("ddp", checkpoint_activations=checkpoint_activations)
        model = distributed.parallelise(lockstep.awake().train(), ALONE, run)
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: numbers.append(x.numel()) or x, lambda x: x):
            lockstep.micro_loss(model, 0, slice(0, 8), images=True)
        return sum(numbers)

    assert kept(True) < kept(False) / 3


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_compiled_blocks_learn_the_same(alone, monkeypatch, checkpoint_activations):
    """Traced as for any backend; that of the test runs the operations as they are, since a real one takes a minute."""
    compiled, compile = [], torch.compile

    def traced(function, **_):
        compiled.append(function)
        return compile(function, backend="eager")

    monkeypatch.setattr(torch, "compile", traced)
    run = lockstep.settings("ddp", compile=True, checkpoint_activations=checkpoint_activations)
    close(lockstep.steps(ALONE, Case(run)), alone, 1e-5)
    assert len(compiled) == len(lockstep.awake().blocks)


def test_the_average_takes_the_place_of_the_weights_for_a_while():
    model = lockstep.awake()
    before, average = distributed.full_state(model), distributed.average_of(lockstep.awake(seed=1))
    wanted = distributed.full_state(average)
    with distributed.averaged(model, average):
        close(distributed.full_state(model), wanted, 1e-9)
    close(distributed.full_state(model), before, 1e-9)
    close(distributed.full_state(average), wanted, 1e-9)


def test_weights_of_another_model_are_refused_by_name():
    model = lockstep.awake()
    state = distributed.full_state(model)
    with pytest.raises(TrainError, match=r"final_table is \(3, 48\) instead of \(2, 48\)"):
        distributed.load_state(model, {**state, "final_table": torch.zeros(3, 48)})
    with pytest.raises(TrainError, match=r"only one of both has time_in\.0\.bias"):
        distributed.load_state(model, {name: value for name, value in state.items() if name != "time_in.0.bias"})


def test_the_kernel_asked_for_is_tried_first():
    def order():
        return [str(kernel) for kernel in torch.nn.attention._cur_sdpa_kernel_backends(with_priority=True)]

    with distributed.attention_kernels(lockstep.settings("ddp", attention="efficient")):
        assert "EFFICIENT" in order()[0]
        assert len(order()) == 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_card_that_is_not_there_is_an_error_in_a_line():
    with pytest.raises(TrainError, match="no card here"):
        distributed.join(lockstep.settings("ddp").model_copy(update={"device": "cuda"}))


def test_under_torchrun_two_processes_train_as_one_does(reference_run, tmp_path):
    output = tmp_path / "run"
    torchrun([*reference_run.command(output), "--set", "run.parallel=fsdp2"])
    learnt = logged_steps(output)
    assert [step["keys"] for step in learnt] == [step["keys"] for step in reference_run.steps]
    assert [step["loss"] for step in learnt] == pytest.approx([step["loss"] for step in reference_run.steps], abs=1e-4)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_share_a_batch_without_overlap(reference_run, ranks):
    config = load_settings(TrainConfig, str(reference_run.config_path), ())
    worlds = [distributed.World(rank, ranks, 0, ALONE.device) for rank in range(ranks)]
    data = open_data(config, reference_run.shards, reference_run.cache, build_encoders(config.encoders), ALONE)
    for number, shares in enumerate(zip(*(steps(data, config, 0, world) for world in worlds), strict=True)):
        whole = [(slot, key) for slot, key in enumerate(reference_run.steps[number]["keys"])]
        assert sorted((item.slot, item.key) for share in shares for item in share.items) == whole
        assert len({len(share.items) for share in shares}) == 1

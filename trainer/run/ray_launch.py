"""Training on a Ray cluster: Ray Train starts the processes, makes their process group, and starts them again when one dies.

In: what trainer.run.loop.train takes, and how many workers. Out: its result. Every worker runs the same loop as under torchrun,
and goes on after a death as the loop always does, from RUN/checkpoints; Ray is handed no checkpoint, and RUN must be on a disk
that all nodes share. A small actor passes on what workers say, an error that no restart can mend, and a wish to end.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materia.base.ray_session import start_ray  # first, because it sets Ray's environment

# isort: split
import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from materia.base import storage
from materia.base.errors import UserError
from materia.base.signals import Interrupt, interruptible
from trainer.config import TrainConfig
from trainer.data.samples import Addresses, addresses
from trainer.errors import TrainError
from trainer.run.mailbox import Mailbox
from trainer.run.progress import tell

if TYPE_CHECKING:
    from trainer.run.loop import TrainResult

OBJECT_STORE_MB = 128
"""Of an own Ray; only lines of text pass through it."""
POLL_S = 0.5
"""Between two looks at the mailbox, here and in the workers."""
GRACE_S = 20.0
"""In which workers find the same error, if it is one that all find."""


def launch(
    config: TrainConfig,
    *,
    shards: Addresses,
    output: str,
    cache: Addresses | None = None,
    workers: int = 1,
    address: str | None = None,
    cpus_per_worker: float = 1,
    max_failures: int = 3,
    say: Callable[[str], None] = tell,
) -> TrainResult:
    """Train with `workers` processes, each with a card if Ray has any, on the cluster at `address` or a Ray that starts here.

    After a death all workers start again from the last checkpoint, at most `max_failures` times (-1: always); nodes that are
    taken away with notice are not counted. SIGTERM and SIGINT end the run with a checkpoint, as they end the loop. Raises what
    the loop raises for the user, and TrainError if the workers find no room or die too often. What every worker would find
    wrong is found here before Ray is asked for anything, so the shards and weights must be here, too.
    """
    from trainer.run.loop import check

    check(config, shards=shards, output=output, cache=cache, ranks=workers)
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # or relative paths of the configuration would lead elsewhere
    start_ray(address, OBJECT_STORE_MB)
    try:
        needs = {"CPU": cpus_per_worker, "GPU": float(_wants_cards(config))}
        _check_room(workers, needs)
        mailbox = ray.remote(Mailbox).options(num_cpus=0).remote()
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "config": config.model_dump_json(),
                "paths": {
                    "shards": [_absolute(address) for address in addresses(shards)],
                    "output": _absolute(output),
                    "cache": None if cache is None else [_absolute(address) for address in addresses(cache)],
                },
                "mailbox": mailbox,
            },
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=needs["GPU"] > 0, resources_per_worker=needs),
            run_config=RunConfig(
                name="ray", storage_path=_absolute(output), failure_config=FailureConfig(max_failures=max_failures)
            ),
        )
        # In a thread, where Ray Train leaves signals alone
        with interruptible() as interrupt, ThreadPoolExecutor(1) as thread:
            fit = thread.submit(trainer.fit)
            _attend(fit, mailbox, interrupt, say)
        if failures := ray.get(mailbox.failures.remote()):
            raise failures[0]
        try:
            result: TrainResult = fit.result().return_value
        except TrainingFailedError as error:
            raise TrainError(f"Ray gave up: {_last_line(error)}. The same command goes on from the last checkpoint") from error
        return result
    finally:
        ray.shutdown()


def _work(settings: dict[str, Any]) -> TrainResult | None:
    """What every worker runs, inside the process group that Ray Train made."""
    from trainer.run.loop import train

    mailbox, interrupt = settings["mailbox"], Interrupt()
    if failures := ray.get(mailbox.failures.remote()):
        ray.get(mailbox.fail.remote(failures[0]))  # so that nobody waits for this one
        return None
    threading.Thread(target=_await_interrupt, args=(mailbox, interrupt), daemon=True).start()
    config = TrainConfig.model_validate_json(settings["config"])
    try:
        return train(config, **settings["paths"], say=mailbox.post.remote, interrupt=interrupt)
    except UserError as error:
        ray.get(mailbox.fail.remote(error))
        if _all_failed(mailbox):
            return None
        raise  # ends the others, who may wait for this one; Ray starts all again, and then all see the failure and end


def _all_failed(mailbox: Any) -> bool:
    """Whether every worker has an error for the user, so that none waits for another; as with a wrong configuration."""
    workers, end = ray.train.get_context().get_world_size(), time.monotonic() + GRACE_S
    while (failed := len(ray.get(mailbox.failures.remote()))) < workers and time.monotonic() < end:
        time.sleep(POLL_S)
    return bool(failed >= workers)


def _attend(fit: Future[Any], mailbox: Any, interrupt: Interrupt, say: Callable[[str], None]) -> None:
    """Until training has ended: say what workers post, and tell them of a signal."""
    while True:
        ended = fit.done()
        for line in ray.get(mailbox.take.remote()):
            say(line)
        if ended:
            return
        if interrupt.number is not None:
            mailbox.interrupt.remote(interrupt.number)
        time.sleep(POLL_S)


def _await_interrupt(mailbox: Any, interrupt: Interrupt) -> None:
    while interrupt.number is None:
        time.sleep(POLL_S)
        interrupt.number = ray.get(mailbox.interrupted.remote())


def _wants_cards(config: TrainConfig) -> bool:
    return config.run.device == "cuda" or (config.run.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def _check_room(workers: int, needs: Mapping[str, float]) -> None:
    """Ray would wait for ever for what no node has. Raises TrainError."""
    wanted = {name: amount for name, amount in needs.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(min(int(node.get(name, 0) // amount) for name, amount in wanted.items()) for node in nodes)
    if room < workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items())
        raise TrainError(f"{workers} workers with {each} each find no room in Ray, {room} do: lower --workers or add nodes")


def _absolute(path: str) -> str:
    local = storage.local_path(path)
    return path if local is None else str(Path(local).absolute())


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]

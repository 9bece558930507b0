"""The card itself, and how anything on it is timed.

In: calls. Out: seconds, gibibytes, and the floor: what the card could not do faster.
"""

from __future__ import annotations

import functools
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tools.gpu_check.step import Context, Row

GIB = 2**30
PACKAGES = ("torchvision", "transformers", "groundingdino-py", "segment-anything", "lama-cleaner", "diffusers", "ray")


def describe(context: Context) -> Iterator[Row]:
    """Step `card`: name, driver, versions, measured rates."""
    device = context.device
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        yield {"what": "card", "value": properties.name}
        yield {"what": "memory, GiB", "value": round(properties.total_memory / GIB, 1)}
        yield {"what": "driver", "value": _driver()}
        yield {"what": "CUDA of torch", "value": str(torch.version.cuda)}
        yield {"what": "cuDNN", "value": str(torch.backends.cudnn.version())}
    else:
        yield {"what": "card", "value": "none, a CPU"}
    yield {"what": "Python", "value": platform.python_version()}
    yield {"what": "torch", "value": str(torch.__version__)}
    for package in PACKAGES:
        yield {"what": package, "value": _version(package)}
    for dtype in ("bfloat16", "float32"):
        yield {"what": f"matrix products in {dtype}, TFLOP/s", "value": matrix_rate(context, dtype) / 1e12}
    yield {"what": "copies, GB/s read and written", "value": copy_rate(context) / 1e9}


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "unknown"
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.partition("\n")[0].strip() or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not here"


@functools.cache
def matrix_rate(context: Context, dtype: str) -> float:
    """FLOP/s of a large square product; float32 is without TF32, as our networks run."""
    side = 256 if context.tiny else 8192
    a, b = (torch.randn(side, side, device=context.device, dtype=getattr(torch, dtype)) for _ in range(2))
    return float(2 * side**3) / seconds(lambda: a @ b, context)


@functools.cache
def copy_rate(context: Context) -> float:
    """Bytes a second, those read and those written, of a copy within the device's memory."""
    source = torch.zeros((1 if context.tiny else 1024) * 2**20, dtype=torch.uint8, device=context.device)
    target = torch.empty_like(source)
    return float(2 * source.numel()) / seconds(lambda: target.copy_(source), context)


def seconds(call: Callable[[], Any], context: Context, warm_up: int = 2) -> float:
    """Median wall of a call, the device's work included: of at least three calls, and of a second, after some to warm up.

    Of a single call if all is tiny.
    """
    device = context.device
    for _ in range(0 if context.tiny else warm_up):
        call()
    times: list[float] = []
    while len(times) < (1 if context.tiny else 3) or (sum(times) < 1 and len(times) < 100 and not context.tiny):
        synchronise(device)
        began = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def synchronise(device: str) -> None:
    """Wait for what the device was given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gib(call: Callable[[], Any], device: str) -> float | None:
    """Most memory that was allocated during a call, what lay there before included; None, without a call, on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return float(torch.cuda.max_memory_allocated()) / GIB


def floor_s(call: Callable[[], Any], moved_bytes: int, context: Context, dtype: str) -> float:
    """Seconds below which the card cannot do a call: its matrix products and convolutions, as torch counts them, at the
    measured rate of `dtype`, or `moved_bytes` (of the weights, each once) at the measured rate of copies."""
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    compute_s: float = counter.get_total_flops() / matrix_rate(context, dtype)
    return max(compute_s, moved_bytes / copy_rate(context))


def bytes_of(*modules: torch.nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for module in modules for t in (*module.parameters(), *module.buffers()))

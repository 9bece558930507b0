"""GGUF to a checkpoint folder with float32 safetensors, offline; a program of its own: MODEL.gguf FOLDER."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def dequantise(gguf: Path, folder: Path) -> None:
    """Write config, tokenizer and weights. float32: 4-bit weights times their scales have no exact bfloat16; readers round."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **source
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, **source).save_pretrained(folder)


if __name__ == "__main__":
    dequantise(Path(sys.argv[1]), Path(sys.argv[2]))

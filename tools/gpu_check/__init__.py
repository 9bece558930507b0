"""Proof on a card: `python -m tools.gpu_check` measures models and trainer on one NVIDIA card, offline, in eight minutes.

Weights are random but of the true architecture and size, made on the spot. Every step runs in a process of its own and within
its own time, and results are written as they come (`results.json`, `results.md`), so that one failure, or the end of the time,
costs nothing else. `--device cpu --tiny` runs the same code small.

What a machine without network needs: Python 3.11 or later and a CUDA build of torch 2.11 or later with its torchvision; a C++
compiler for torch.compile; click, rich, msgspec, numpy, pillow, pydantic, pyyaml, psutil, fsspec, pyarrow, pycocotools,
opencv-python-headless, huggingface_hub, requests, safetensors. For single steps, each of which says so where it is not there:
transformers with tokenizers; groundingdino-py with timm, addict, yapf and supervision; segment-anything; lama-cleaner with
loguru and yacs; diffusers; and for the engine av, webdataset, this package itself (a wheel of it, without its dependencies),
and, for its part on Ray, ray. vLLM is not needed. Run it in the root of this repository.
"""

"""Proof on a card: `python -m tools.gpu_check` measures models and trainer on one NVIDIA card, offline, in eight minutes.

Weights are random but of the true architecture and size, made on the spot. Every step runs in a process of its own and within
its own time, and results are written as they come (`results.json`, `results.md`), so that one failure, or the end of the time,
costs nothing else. `--device cpu --tiny` runs the same code small.

What a machine without network needs: Python 3.11 or later and a CUDA build of torch 2.11 or later with its torchvision, then
click, msgspec, numpy, pillow, pydantic, pyyaml, psutil, fsspec, pyarrow, opencv-python-headless, huggingface_hub, requests,
safetensors, tqdm; transformers and tokenizers (T5, DINOv2, GroundingDINO's text); for single steps, each of which says so where
it is not there: groundingdino-py with timm, addict, yapf, supervision and pycocotools; segment-anything; lama-cleaner with
loguru and yacs; diffusers (CogVideoX). vLLM is not needed. Run it in the root of this repository.
"""

"""The steps of the check, in the order in which they are run: what matters most, first."""

from __future__ import annotations

from tools.gpu_check.step import Step

_HERE = "tools.gpu_check"

_GROUNDINGDINO = ("torchvision", "transformers", "groundingdino")
_SAM = ("torchvision", "segment_anything")
_LAMA = ("lama_cleaner", "loguru", "yacs")

_ENCODERS = ("transformers", "diffusers")

STEPS: tuple[Step, ...] = (
    Step("card", "the card, versions, what it can do", f"{_HERE}.card:describe", 40),
    Step("trainer", "training steps of three sizes, compiled", f"{_HERE}.training:sizes", 150),
    Step("groundingdino", "boxes: GroundingDINO Swin-T", f"{_HERE}.networks:groundingdino", 60, packages=_GROUNDINGDINO),
    Step("sam-b", "masks: SAM ViT-B", f"{_HERE}.networks:sam_b", 45, packages=_SAM),
    Step("lama", "background: big-LaMa", f"{_HERE}.networks:lama", 45, packages=_LAMA),
    Step("engine", "64 clips through the engine", f"{_HERE}.engine:run", 180, False, (*_GROUNDINGDINO, *_SAM, *_LAMA, "av")),
    Step("same-boxes", "GroundingDINO on the card against the CPU", f"{_HERE}.agreement:boxes", 60, packages=_GROUNDINGDINO),
    Step("same-masks", "SAM on the card against the CPU", f"{_HERE}.agreement:masks", 45, packages=_SAM),
    Step("same-fills", "LaMa on the card against the CPU", f"{_HERE}.agreement:fills", 45, packages=_LAMA),
    Step("halving", "batches that do not fit the card", f"{_HERE}.agreement:halving", 45, packages=_SAM + _LAMA),
    Step("resume", "a resumed training against an undisturbed one", f"{_HERE}.training:resume", 40),
    Step("fsdp2", "FSDP2 and DDP on one rank", f"{_HERE}.training:fsdp2", 40),
    Step("trainer-variants", "kernels, masks, checkpointing, compile off", f"{_HERE}.training:variants", 150),
    Step("encoders", "the trainer's frozen encoders", f"{_HERE}.training:encoding", 60, packages=_ENCODERS),
    Step("sample", "a generated clip", f"{_HERE}.training:sample", 60, packages=_ENCODERS),
    Step("sam-h", "masks: SAM ViT-H", f"{_HERE}.networks:sam_h", 60, packages=_SAM),
    Step("compiled", "GroundingDINO and SAM, compiled", f"{_HERE}.networks:compiled", 300, True, _GROUNDINGDINO + _SAM),
)

"""Segment Anything (arXiv 2304.02643) with the package `segment-anything`: a mask for each box, its quality as SAM predicts it.

In: frames and their boxes. Out: masks in the frames' own resolution. The image encoder runs once a frame, over several frames
at a time; the mask decoder runs over the boxes of one frame. Embeddings live no longer than their batch. Pictures and masks are
resized as the package's predictor does it, masks on the model's device, and cross to the host as single bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from materia.base.weights.checkpoints import CheckpointError
from materia.base.weights.files import Missing, Weights, check_address, local_path, packages_missing, sha256_of, weights_missing
from stages.backends import Masks, Segmenter
from stages.batching import Batches
from stages.precision import autocast, check_dtype
from stages.records import Box
from stages.segment.sam_build import ARCHITECTURES, read_sam

OPTION = "segment.options.checkpoint"


class Sam(Segmenter):
    """SAM ViT-B, L, H, or any reduced or fine-tuned model of the package's modules.

    `checkpoint`: address of the state dict (materia.base.weights). `sha256` (hex) of it.
    `architecture`: "vit_b", "vit_l" or "vit_h", which the file must then be; None: what its tensors make.
    `dtype` (stages.precision) is that of the image encoder; prompts, decoder and masks are float32 always.
    `batch_size`: frames in one pass of the image encoder. `max_boxes`: boxes in one pass of the mask decoder.
    `compile`: torch.compile for the image encoder.
    """

    option_examples: ClassVar[dict[str, str]] = {
        "checkpoint": "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    }

    def __init__(
        self,
        checkpoint: str,
        sha256: str | None = None,
        architecture: str | None = None,
        dtype: str = "auto",
        batch_size: int = 1,
        max_boxes: int = 16,
        compile: bool = False,
    ) -> None:
        if architecture not in (None, *ARCHITECTURES):
            raise ValueError(f"architecture {architecture!r} is none of {', '.join(ARCHITECTURES)}")
        check_dtype(dtype)
        for name, value in (("batch_size", batch_size), ("max_boxes", max_boxes)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} {value!r} is no whole number of at least 1")
        check_address(checkpoint)
        self.checkpoint = Weights(OPTION, checkpoint, sha256)
        self.architecture = architecture
        self.dtype = dtype
        self.compile = compile
        self.frames = Batches("segment.options.batch_size", batch_size)
        self.boxes = Batches("segment.options.max_boxes", max_boxes)
        self.model: Any = None

    def weights(self) -> list[Weights]:
        """The checkpoint."""
        return [self.checkpoint]

    def missing(self) -> list[Missing]:
        """Packages; the checkpoint, if it is not here, has another hash or is another model."""
        lacking = packages_missing("torch", "torchvision", "segment_anything", fix="make gpu")
        lacking += weights_missing(self.checkpoint)
        if lacking:
            return lacking
        try:
            read_sam(local_path(self.checkpoint.address), self.architecture)
        except CheckpointError as error:
            return [Missing(f"{OPTION}: {error}", "give a checkpoint of segment-anything, or fetch it again")]
        return []

    def identity(self) -> dict[str, str]:
        """SHA-256 of the checkpoint."""
        return {"weights": sha256_of(local_path(self.checkpoint.address))}

    def setup(self, device: str, threads: int) -> None:
        """Load the model."""
        import torch
        from segment_anything.utils.transforms import ResizeLongestSide

        torch.set_num_threads(threads)
        self.model, state = read_sam(local_path(self.checkpoint.address), self.architecture)
        self.model.load_state_dict(state, assign=True)
        self.model.eval().requires_grad_(False).to(device=device, dtype=torch.float32)
        self.encode = torch.compile(self.model.image_encoder) if self.compile else self.model.image_encoder
        self.resize = ResizeLongestSide(self.model.image_encoder.img_size)
        self.positions = self.model.prompt_encoder.get_dense_pe()  # (1, C, h, w)

    def close(self) -> None:
        """Drop the model."""
        self.model = self.encode = self.positions = None

    def segment(self, images: list[np.ndarray], boxes: list[list[Box]]) -> list[Masks]:
        """Images (H, W, 3) uint8 RGB, which may differ in size, and the boxes of each -> masks of each; scores in [0, 1]."""
        import torch

        if self.model is None:
            raise RuntimeError("Sam.segment before setup")
        with torch.inference_mode():
            return self.frames.run(list(zip(images, boxes, strict=True)), self._segment)

    def _segment(self, frames: Sequence[tuple[np.ndarray, list[Box]]]) -> list[Masks]:
        """One batch of frames: embed all, then decode one after the other."""
        import torch

        inputs = [self._input(image) for image, _ in frames]
        with autocast(self.dtype, self.model.device):
            embeddings = self.encode(torch.stack([self.model.preprocess(pixels) for pixels in inputs]))
        return [
            self._decode(embedding[None].float(), tuple(pixels.shape[1:]), image.shape[:2], boxes)
            for embedding, pixels, (image, boxes) in zip(embeddings, inputs, frames, strict=True)
        ]

    def _input(self, image: np.ndarray) -> Any:
        """Image (H, W, 3) uint8 -> (3, h, w) uint8 on the device, its longer side the model's."""
        import torch

        return torch.from_numpy(self.resize.apply_image(image)).to(self.model.device).permute(2, 0, 1)

    def _decode(self, embedding: Any, input_size: tuple[int, int], size: tuple[int, ...], boxes: list[Box]) -> Masks:
        """Embedding (1, C, h, w) of one frame of (H, W) `size`, resized to `input_size`, and its boxes -> their masks."""
        corners = self.resize.apply_boxes(np.array([box.box_xyxy_px for box in boxes]), size).astype(np.float32)  # (K, 4)

        def some(corners: Sequence[np.ndarray]) -> list[tuple[np.ndarray, float]]:
            masks, scores = self._decode_some(embedding, np.stack(corners), input_size, size)
            return list(zip(masks, scores, strict=True))

        masks, scores = zip(*self.boxes.run(list(corners), some), strict=True)
        return Masks(np.stack(masks), np.array(scores, np.float32))

    def _decode_some(
        self, embedding: Any, corners: np.ndarray, input_size: tuple[int, int], size: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """One pass of prompt encoder and mask decoder over boxes (K, 4) -> masks (K, H, W) bool, scores (K,) in [0, 1]."""
        import torch

        boxes = torch.from_numpy(corners).to(self.model.device)
        sparse, dense = self.model.prompt_encoder(points=None, boxes=boxes, masks=None)
        logits, quality = self.model.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        masks = self.model.postprocess_masks(logits, input_size, size)[:, 0] > self.model.mask_threshold
        return masks.cpu().numpy(), quality[:, 0].nan_to_num(0).clamp(0, 1).cpu().numpy()

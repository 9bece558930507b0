"""Which SAM a checkpoint holds: the package's modules built to fit its tensors, or one sentence that says why they do not.

In: a state dict. Out: a `segment_anything` Sam on the meta device, of the same names and shapes. Reduced and fine-tuned models
have no name to go by, so the sizes are read from the tensors; the few numbers that leave no trace there are the package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from materia.base.weights.checkpoints import CheckpointError, load_state_dict, mismatch

ARCHITECTURES = ("vit_b", "vit_l", "vit_h")
"""Names of the package's registry that published checkpoints have."""
DECODER_HEADS = 8
"""Attention heads of the mask decoder, which no shape tells (package: build_sam.py)."""
PIXEL_MEAN, PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
"""Of RGB pixels in 0..255 (package: build_sam.py)."""


def read_sam(path: Path, architecture: str | None) -> tuple[Any, dict[str, Any]]:
    """Checkpoint -> a Sam on the meta device and the state dict that fits it.

    `architecture`: one of ARCHITECTURES, which the file must then be; None: whatever SAM its tensors make. Raises
    CheckpointError, naming the file, for a file that cannot be read or holds something else.
    """
    import torch

    state = load_state_dict(path)
    name = f"SAM {architecture}" if architecture else "SAM"
    with torch.device("meta"):
        model = _named(architecture) if architecture else _fitting(path, state)
    expected = model.state_dict()
    if problem := mismatch(path, state, expected, name):
        raise CheckpointError(problem)
    if more := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{path} is no {name}: it has {len(more)} tensors more, e.g. {more[0]}")
    return model, state


def _named(architecture: str) -> Any:
    from segment_anything import sam_model_registry

    return sam_model_registry[architecture]()


def _fitting(path: Path, state: Mapping[str, Any]) -> Any:
    """A Sam with the sizes of the tensors; CheckpointError if they are not there or make no model."""
    try:
        return build_fitting(state)
    except KeyError as error:
        raise CheckpointError(f"{path} is no SAM of segment-anything: it has no tensor {error}") from error
    except (ValueError, ArithmeticError, IndexError, AssertionError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no SAM of segment-anything: its tensors do not fit together: {error}") from error


def build_fitting(state: Mapping[str, Any]) -> Any:
    """A Sam with the sizes that the tensors (anything with a `shape`) have; KeyError for names that are not there, other errors
    of all kinds for shapes that make no model.
    """
    from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    encoder = _image_encoder(state)
    dim = state["mask_decoder.iou_token.weight"].shape[1]
    side = state["image_encoder.pos_embed"].shape[1]
    layers = "mask_decoder.transformer.layers."
    keys, inner = state[layers + "0.cross_attn_token_to_image.q_proj.weight"], state[layers + "0.mlp.lin1.weight"]
    return Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=dim,
            image_embedding_size=(side, side),
            input_image_size=(encoder.img_size, encoder.img_size),
            mask_in_chans=state["prompt_encoder.mask_downscaling.3.weight"].shape[0],
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=state["mask_decoder.mask_tokens.weight"].shape[0] - 1,
            transformer=TwoWayTransformer(
                depth=_count(state, layers),
                embedding_dim=dim,
                num_heads=DECODER_HEADS,
                mlp_dim=inner.shape[0],
                attention_downsample_rate=dim // keys.shape[0],
            ),
            transformer_dim=dim,
            iou_head_depth=_count(state, "mask_decoder.iou_prediction_head.layers."),
            iou_head_hidden_dim=state["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def _image_encoder(state: Mapping[str, Any]) -> Any:
    """The ViT. A block's relative positions, (2 * side - 1, width of a head), tell its heads and whether it attends to all."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    _, side, _, dim = state["image_encoder.pos_embed"].shape
    patch = state["image_encoder.patch_embed.proj.weight"].shape[-1]
    depth = _count(state, "image_encoder.blocks.")
    positions = [state[f"image_encoder.blocks.{n}.attn.rel_pos_h"].shape for n in range(depth)]
    sides = [(length + 1) // 2 for length, _ in positions]
    # half a unit, because the package cuts the product with the ratio down to a whole number
    mlp_ratio = (state["image_encoder.blocks.0.mlp.lin1.weight"].shape[0] + 0.5) / dim
    return ImageEncoderViT(
        img_size=side * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // positions[0][1],
        mlp_ratio=mlp_ratio,
        out_chans=state["image_encoder.neck.0.weight"].shape[0],
        qkv_bias="image_encoder.blocks.0.attn.qkv.bias" in state,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=next((window for window in sides if window != side), side),
        global_attn_indexes=tuple(n for n, window in enumerate(sides) if window == side),
    )


def _count(state: Mapping[str, Any], prefix: str) -> int:
    """How many numbered parts there are below a prefix; KeyError for none."""
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in state if name.startswith(prefix)}
    if not numbers:
        raise KeyError(prefix + "0")
    return len(numbers)

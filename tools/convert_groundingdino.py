"""Turn a published GroundingDINO checkpoint (.pth) into the layout of transformers, for the backend groundingdino_transformers.

    python -m tools.convert_groundingdino --checkpoint groundingdino_swint_ogc.pth --text-encoder bert-base-uncased --output out

In: the checkpoint and its BERT folder (configuration and tokenizer). Out: a folder with weights, configuration and tokenizer.
Names are translated by tables below; attention matrices that one side keeps in one piece are cut in three.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materia.base.weights.checkpoints import load_state_dict
from stages.localise.groundingdino import UNUSED
from stages.localise.groundingdino_model import ARCHITECTURES

if TYPE_CHECKING:
    import torch

SWIN: dict[str, dict[str, Any]] = {
    "swin_t": {
        "embed_dim": 96,
        "hidden_size": 768,
        "depths": [2, 2, 6, 2],
        "num_heads": [3, 6, 12, 24],
        "window_size": 7,
        "image_size": 224,
    },
    "swin_b": {
        "embed_dim": 128,
        "hidden_size": 1024,
        "depths": [2, 2, 18, 2],
        "num_heads": [4, 8, 16, 32],
        "window_size": 12,
        "image_size": 384,
    },
}
"""Backbones of the architectures [groundingdino/models/GroundingDINO/backbone/swin_transformer.py]."""

PARTS = [
    (r"^bert\.", "model.text_backbone."),
    (r"^feat_map\.", "model.text_projection."),
    (r"^input_proj\.", "model.input_proj_vision."),
    (r"^transformer\.tgt_embed\.", "model.query_position_embeddings."),
    (r"^transformer\.enc_out_bbox_embed\.", "model.encoder_output_bbox_embed."),
    (r"^transformer\.decoder\.ref_point_head\.", "model.decoder.reference_points_head."),
    (r"^transformer\.decoder\.norm\.", "model.decoder.layer_norm."),
    (r"^transformer\.encoder\.layers\.(\d+)\.", r"model.encoder.layers.\1.deformable_layer."),
    (r"^transformer\.encoder\.text_layers\.(\d+)\.", r"model.encoder.layers.\1.text_enhancer_layer."),
    (r"^transformer\.encoder\.fusion_layers\.(\d+)\.", r"model.encoder.layers.\1.fusion_layer."),
    (r"^transformer\.", "model."),
    (r"^backbone\.0\.patch_embed\.proj\.", "model.backbone.conv_encoder.model.swin.embeddings.patch_embeddings.projection."),
    (r"^backbone\.0\.patch_embed\.norm\.", "model.backbone.conv_encoder.model.swin.embeddings.norm."),
    (r"^backbone\.0\.norm1\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage2."),
    (r"^backbone\.0\.norm2\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage3."),
    (r"^backbone\.0\.norm3\.", "model.backbone.conv_encoder.model.hidden_states_norms.stage4."),
    (r"^backbone\.0\.", "model.backbone.conv_encoder.model.swin.encoder."),
]
"""Where the parts of the network hang; the first that matches counts."""

LAYERS = {
    r"deformable_layer\.": [("norm1", "self_attn_layer_norm"), ("norm2", "final_layer_norm")],
    r"text_enhancer_layer\.": [("norm1", "layer_norm_before"), ("norm2", "layer_norm_after")],
    r"fusion_layer\.": [
        ("gamma_v", "vision_param"),
        ("gamma_l", "text_param"),
        (r"layer_norm_v\b", "layer_norm_vision"),
        (r"layer_norm_l\b", "layer_norm_text"),
        (r"(attn\.(?:values_|out_)?)v_proj", r"\1vision_proj"),
        (r"(attn\.(?:values_|out_)?)l_proj", r"\1text_proj"),
    ],
    r"model\.decoder\.layers\.": [
        ("cross_attn", "encoder_attn"),
        ("ca_text", "encoder_attn_text"),
        ("catext_norm", "encoder_attn_text_layer_norm"),
        ("norm1", "encoder_attn_layer_norm"),
        ("norm2", "self_attn_layer_norm"),
        ("norm3", "final_layer_norm"),
    ],
    r"\.blocks\.": [
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        (r"\.attn\.proj\.", ".attention.o_proj."),
        (r"\.attn\.qkv\.", ".attention.qkv."),
        (r"\.attn\.relative", ".attention.relative_position_bias.relative"),
    ],
    r"_layer\.|model\.decoder\.layers\.": [("linear1", "fc1"), ("linear2", "fc2")],
}
"""Names inside the layers whose path has the key."""


def converted(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the names of transformers' GroundingDinoForObjectDetection."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in UNUSED or name.startswith("bert.pooler.") or name.endswith("relative_position_index"):
            continue  # not in the port, or computed by it
        new = _renamed(name)
        if ".attention.qkv." in new:
            thirds = [new.replace("qkv", f"{part}_proj") for part in "qkv"]
        elif "in_proj_" in new:
            thirds = [new.replace("in_proj_", f"{part}.") for part in ("query", "key", "value")]
        else:
            out[new] = tensor
            continue
        out.update(zip(thirds, tensor.chunk(3), strict=True))
    return out


def _renamed(name: str) -> str:
    pattern, replacement = next((part for part in PARTS if re.search(part[0], name)), ("$^", ""))
    name = re.sub(pattern, replacement, name)
    for place, changes in LAYERS.items():
        if re.search(place, name):
            for old, new in changes:
                name = re.sub(old, new, name)
    return name


def convert(checkpoint: Path, text_encoder: Path, architecture: str, output: Path) -> None:
    """Write the folder. Raises CheckpointError for a file that is no checkpoint, RuntimeError where names or shapes differ."""
    from transformers import AutoTokenizer, BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    backbone = SwinConfig(**SWIN[architecture], out_indices=[2, 3, 4])
    text = BertConfig.from_pretrained(text_encoder, local_files_only=True)
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(backbone_config=backbone.to_dict(), text_config=text.to_dict()))
    missing, unexpected = model.load_state_dict(converted(load_state_dict(checkpoint)), strict=False)
    if absent := [
        name for name in [*missing, *unexpected] if not name.startswith("model.backbone.conv_encoder.model.swin.layernorm.")
    ]:
        raise RuntimeError(f"{checkpoint} does not fit {architecture} with {text_encoder}: {', '.join(sorted(absent)[:5])}")
    model.save_pretrained(output)
    AutoTokenizer.from_pretrained(text_encoder, local_files_only=True).save_pretrained(output)


def main() -> None:
    """Read the arguments and convert."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", type=Path, required=True, help="the published .pth")
    parser.add_argument("--text-encoder", type=Path, required=True, help="folder of bert-base-uncased")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="swin_t")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    convert(args.checkpoint, args.text_encoder, args.architecture, args.output)


if __name__ == "__main__":
    main()

"""Checkpoints of true architecture and size with random weights, made by the packages' own builders; with `tiny`, small ones.

In: a context. Out: paths; a file that an earlier step made is used again.
"""

from __future__ import annotations

import os
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tools.gpu_check.step import Context

BERT_TOKENS = 30522
"""Of bert-base-uncased, whose special tokens lie where the ids below say."""
SPECIAL = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?"}
COGVIDEOX_TINY = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}


def groundingdino(context: Context) -> tuple[Path, Path]:
    """GroundingDINO Swin-T's checkpoint, and the folder of its text encoder: BERT base, or one of two narrow layers."""
    from stages.localise.groundingdino_model import build
    from stages.localise.prompt import load_tokenizer

    bert = _made(context, "bert", lambda folder: _bert(folder, context.tiny))

    def make(path: Path) -> None:
        _save_state({"model": build("swin_t", bert, load_tokenizer(bert)).state_dict()}, path)

    return _made(context, "groundingdino_swint.pth", make), bert


def sam(context: Context, architecture: str) -> Path:
    """SAM "vit_b" or "vit_h"."""
    from segment_anything import sam_model_registry

    def make(path: Path) -> None:
        model = random_sam() if context.tiny else randomised(sam_model_registry[architecture](), std=0.01)
        _save_state(model.state_dict(), path)

    return _made(context, f"sam_{architecture}.pth", make)


def lama(context: Context) -> Path:
    """TorchScript of big-LaMa's architecture."""
    from tools.gpu_check import big_lama

    return _made(context, "big_lama.pt", lambda path: big_lama.save(path, context.tiny))


def dinov2(context: Context, size: Literal["base", "large"]) -> Path:
    """DINOv2 ViT-B/14 (facebook/dinov2-base) or ViT-L/14 (facebook/dinov2-large)."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {
        "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518},
        "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518},
    }
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    config = Dinov2Config(**(small if context.tiny else sizes[size]), patch_size=14)
    return _made(context, f"dinov2_{size}", lambda folder: Dinov2Model(config).save_pretrained(folder))


def t5(context: Context) -> Path:
    """The encoder of T5 Large (Raffel et al. 2020, table 14's sizes) with a tokenizer that spells."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    large = {"d_model": 1024, "d_kv": 64, "d_ff": 4096, "num_layers": 24, "num_heads": 16, "vocab_size": 32128}
    small = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 64}

    def make(folder: Path) -> None:
        pieces = ["▁", *string.ascii_lowercase, ",", "."]
        vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((piece, -8.0) for piece in pieces)]
        T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(folder)
        T5EncoderModel(T5Config(**(small if context.tiny else large))).save_pretrained(folder)

    return _made(context, "t5", make)


def cogvideox(context: Context) -> Path:
    """CogVideoX's autoencoder: 4x8x8, 16 channels (4 if tiny)."""
    from diffusers import AutoencoderKLCogVideoX

    sizes: dict[str, Any] = COGVIDEOX_TINY if context.tiny else {}
    return _made(context, "cogvideox", lambda folder: AutoencoderKLCogVideoX(**sizes).save_pretrained(folder))


def random_sam(**encoder: Any) -> Any:
    """The package's Sam, small, every tensor random; `encoder`: arguments of its ImageEncoderViT that shall differ."""
    import torch
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    sizes: dict[str, Any] = {
        "depth": 3,
        "embed_dim": 48,
        "num_heads": 3,
        "img_size": 256,
        "window_size": 7,
        "global_attn_indexes": (1,),
    } | encoder
    side = sizes["img_size"] // 16
    torch.manual_seed(0)
    sam = Sam(
        ImageEncoderViT(**sizes, use_rel_pos=True, out_chans=32, norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6)),
        PromptEncoder(32, (side, side), (sizes["img_size"],) * 2, 8),
        MaskDecoder(transformer_dim=32, transformer=TwoWayTransformer(2, 32, 8, 64), iou_head_hidden_dim=24),
    )
    return randomised(sam)


def randomised(sam: Any, std: float = 0.1) -> Any:
    """Noise on every tensor, since zeros of the initialisation would hide what is left out; logits of masks of both signs."""
    import torch

    for parameter in sam.parameters():
        parameter.data += torch.randn_like(parameter) * std
    torch.nn.init.constant_(sam.mask_decoder.iou_prediction_head.layers[-1].bias, 0.7)
    drawn = sam.mask_decoder.output_hypernetworks_mlps[0].layers[-1].bias
    drawn.data[::2] += 2
    drawn.data[1::2] -= 2
    return sam.eval()


def _bert(folder: Path, tiny: bool) -> None:
    from transformers import BertConfig, BertTokenizerFast

    letters = string.ascii_lowercase + string.digits + ",-'"
    spelled = [*letters, *(f"##{letter}" for letter in letters)]
    tokens = [SPECIAL.get(number, f"[unused{number}]") for number in range(BERT_TOKENS)]
    tokens[2000 : 2000 + len(spelled)] = spelled
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(tokens) + "\n")
    narrow = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    BertConfig(vocab_size=BERT_TOKENS, **(narrow if tiny else {})).save_pretrained(folder)
    BertTokenizerFast(str(vocabulary)).save_pretrained(folder)


def _save_state(state: dict[str, Any], path: Path) -> None:
    import torch

    torch.save(state, path)


def _made(context: Context, name: str, make: Callable[[Path], Any]) -> Path:
    """The file or folder, whole or not at all: the step that makes it may be ended."""
    import torch

    path = context.folder / "weights" / name
    if not path.exists():
        unfinished = path.with_name(f".{os.getpid()}.{name}")
        unfinished.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        make(unfinished)
        unfinished.rename(path)
    return path

"""A GroundingDINO for tests: the published architecture, a two-layer BERT folder, weights drawn by the parameter's name.

Used by the tests and by tests/data/groundingdino/make_golden.py, under other versions of transformers; torch's generator has no
part in it, so the weights are the same everywhere.
"""

import zlib
from pathlib import Path

import numpy as np

WORDS = ["hot", "dog", "cat", "woman", "man", "red", "hat", "car", "small", "tree", "with", "of", "the", "blue", "ball"]
"""Words of the vocabulary; others are spelled in letters."""
CLS, SEP, STOP, QUESTION = 101, 102, 1012, 1029
"""Ids of bert-base-uncased for the special tokens, which transformers' port has built in."""


def vocabulary() -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,-'"
    tokens = [f"[unused{i}]" for i in range(1100)]
    tokens[0], tokens[100] = "[PAD]", "[UNK]"
    tokens[CLS], tokens[SEP], tokens[103], tokens[STOP], tokens[QUESTION] = "[CLS]", "[SEP]", "[MASK]", ".", "?"
    plain = [*letters, *(f"##{letter}" for letter in letters), *WORDS, "##s"]
    plain = list(dict.fromkeys(plain))
    tokens[200 : 200 + len(plain)] = plain
    return tokens


def bert_folder(folder: Path, hidden: int = 64, layers: int = 2) -> Path:
    """Configuration and tokenizer of a small BERT in the Hugging Face layout; its weights are in the checkpoint."""
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    tokens = vocabulary()
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    BertConfig(
        vocab_size=len(tokens),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
    ).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def fill(model, ordered_queries: bool = True):
    """Draw the network's weights: numpy's PCG64, seeded by the parameter's name; biases small, norms near 1.

    Without `ordered_queries` all queries start alike: then the order of nearly equal cells, which the last bit of a processor's
    arithmetic decides, has no part in the result.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():  # shared ones once, by their first name
            noise = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(
                tuple(parameter.shape), np.float32
            )
            if parameter.dim() > 1:
                values = noise * (0.05 if "sampling_offsets" in name else parameter.shape[-1] ** -0.5)
            else:
                values = 1 + 0.1 * noise if "norm" in name.lower() and name.endswith("weight") else 0.1 * noise
            if name == "transformer.decoder.norm.weight":
                values *= 0.2  # or the logits would be of a size that no trained network has
            if name.endswith("tgt_embed.weight") and not ordered_queries:
                values = np.broadcast_to(values[:1], values.shape)
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(values)))
    return model


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coloured discs on a gradient, (height, width, 3) uint8: integers only, the same everywhere."""
    y, x = np.mgrid[:height, :width]
    out = np.stack([255 * x // width, 255 * y // height, (x + y) % 256], axis=2)
    for centre_x, centre_y, radius, *colour in np.random.Generator(np.random.PCG64(seed)).integers(0, 255, (12, 6)):
        disc = (x - centre_x * width // 255) ** 2 + (y - centre_y * height // 255) ** 2 < (
            radius * min(width, height) // 1000
        ) ** 2
        out[disc] = colour
    return out.astype(np.uint8)

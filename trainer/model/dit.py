"""The personalised video Diffusion Transformer [paper §3.2, B]: noisy latents and conditions in, velocity out.

Notable:
- patches of 1x2x2 latents; rotary positions in time, height and width; QK-norm; no biases where zero must stay zero
- sinusoidal positions are added to the tokens, too [ours]: rotary ones turn distances only, so that in noise a token could not
  tell whether it is above or below, and a subject goes where its word belongs (docs/training-results.md)
- a block: self-attention -> text cross-attention -> personalization cross-attention -> MLP, each residual
- adaLN-Zero on the timestep: one projection shared by all blocks plus a table per block; gates start at zero
- personalization embeddings: image tokens + Linear(image tokens | tokens of the image's word) + embedding of the image's index
- a dropped condition is zeros, and zeros give zero keys and values: "no image" and "images dropped" are the same function
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.model.shapes import assert_shape

TIME_WIDTH = 256
"""Channels of the sinusoidal timestep embedding [DiT]."""
TIME_SCALE = 1000.0
"""t in [0, 1] is embedded as if it were one of 1000 steps."""
ROPE_BASE = 10_000.0
POSITION_BASE = 100.0
"""Added positions have wavelengths from 6 to 600 tokens: the sides of clips, from the smallest to the largest [ours]."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of the model. Widths of the frozen encoders are theirs; everything conditional is brought to `condition_width`."""

    depth: int
    width: int
    heads: int
    condition_width: int  # 1024 in the paper
    text_width: int  # channels of the text encoder's tokens
    image_width: int  # channels of the image encoder's tokens
    latent_channels: int = 16  # CogVideoX autoencoder
    patch: tuple[int, int, int] = (1, 2, 2)  # latents per token in time, height, width
    word_tokens: int = 8  # a word is cut or padded to so many tokens of the encoded caption [ours]
    max_images: int = 6  # most conditioning images of an item [paper A.3]
    mlp_ratio: int = 4
    self_conditioning: bool = False  # the last estimate of the clean latents is a second input

    def __post_init__(self) -> None:
        """Raises ValueError where heads do not divide the width into rotary pairs for three axes."""
        if self.width % self.heads or self.width // self.heads % 2 or self.width // self.heads < 6:
            raise ValueError(f"width {self.width} / heads {self.heads} must be an even number of at least 6 channels a head")


SIZES: dict[str, dict[str, int]] = {
    "tiny": {"depth": 6, "width": 192, "heads": 6, "condition_width": 192},
    "small": {"depth": 12, "width": 384, "heads": 6, "condition_width": 384},
    "base": {"depth": 16, "width": 1024, "heads": 16, "condition_width": 1024},
    "paper": {"depth": 32, "width": 4096, "heads": 32, "condition_width": 1024},
}
"""Named sizes. `paper` has, with width D = 4096 and conditions C = 1024, in each of 32 blocks 4 D^2 (self-attention)
+ 2 (2 D^2 + 2 D C) (two cross-attentions) + 8 D^2 (MLP) = 285 M parameters: 9.13 B; the shared timestep projection adds
6 D^2 = 0.10 B, all else 0.03 B: 9.26 B."""


@dataclass
class Conditions:
    """What a batch is generated from; B clips, at most N images each, T text tokens. Zeros: dropped, or not there.

    `text` (B, T, text_width) the encoded caption; `text_mask` (B, T) bool, False: padding.
    `images` (B, N, P, image_width) P tokens of each image; `image_mask` (B, N) bool, False: no such image. N may be 0.
    `words` (B, N, word_tokens, text_width) the tokens of each image's word, cut out of `text` (see `cut_words`).
    """

    text: Tensor
    text_mask: Tensor
    images: Tensor
    image_mask: Tensor
    words: Tensor

    def __post_init__(self) -> None:
        """Raises AssertionError for shapes that do not fit each other."""
        b, tokens, width = self.text.shape
        n = self.images.shape[1]
        assert_shape("text_mask", self.text_mask, b, tokens)
        assert_shape("images", self.images, b, n, None, None)
        assert_shape("image_mask", self.image_mask, b, n)
        assert_shape("words", self.words, b, n, None, width)

    @classmethod
    def cat(cls, parts: list[Conditions]) -> Conditions:
        """Those of several batches with equally many tokens and images, one after the other."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def without(self, *, text: Tensor | bool = False, images: Tensor | bool = False) -> Conditions:
        """The same with conditions of some clips, (B,) bool, or of all set to zero."""
        keep_text, keep_images = (1 - torch.as_tensor(drop, device=self.text.device).float() for drop in (text, images))
        return Conditions(
            text=self.text * keep_text.reshape(-1, 1, 1).to(self.text.dtype),
            text_mask=self.text_mask,
            images=self.images * keep_images.reshape(-1, 1, 1, 1).to(self.images.dtype),
            image_mask=self.image_mask & (keep_images.reshape(-1, 1) > 0),
            words=self.words,
        )


def cut_words(text: Tensor, offsets: Tensor, spans: Tensor, length: int) -> Tensor:
    """The encoded caption's tokens that overlap a word, zero-padded or cut to `length` [paper §3.2].

    `text` (B, T, C); `offsets` (B, T, 2) characters of each token in the caption, (0, 0) for special tokens; `spans` (B, N, 2)
    characters of each word, end exclusive, (0, 0) for none -> (B, N, length, C).
    """
    assert_shape("offsets", offsets, *text.shape[:2], 2)
    assert_shape("spans", spans, len(text), None, 2)
    if length == 0:
        return text.new_zeros(len(spans), spans.shape[1], 0, text.shape[2])
    inside = (offsets[:, None, :, 0] < spans[:, :, None, 1]) & (offsets[:, None, :, 1] > spans[:, :, None, 0])  # (B, N, T)
    rank = inside.cumsum(dim=2) - 1  # a token's place in its word
    place = F.one_hot(rank.clamp(0, length - 1), length).to(text.dtype)  # (B, N, T, length)
    place = place * (inside & (rank < length))[..., None].to(text.dtype)
    return torch.einsum("bntl,btc->bnlc", place, text)


class VideoDiT(nn.Module):
    """`forward` gives the velocity dx/dt of rectified flow; the model knows nothing of how it is trained or sharded."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, condition = config.width, config.condition_width
        patch_volume = math.prod(config.patch)
        inputs = config.latent_channels * patch_volume * (2 if config.self_conditioning else 1)
        self.patch_in = nn.Linear(inputs, width)
        self.time_in = nn.Sequential(nn.Linear(TIME_WIDTH, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.text_in = _to_width(config.text_width, condition)
        self.image_in = _to_width(config.image_width, condition)
        self.personalize = nn.Linear((config.word_tokens + 1) * condition, condition, bias=False)
        self.image_index = nn.Embedding(config.max_images, condition)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_table = nn.Parameter(torch.empty(2, width))
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.patch_out = nn.Linear(width, config.latent_channels * patch_volume)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Xavier for linear layers; zero for what makes a block, the new attention and the output start as nothing [DiT]."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.image_index.weight, std=0.02)
        nn.init.zeros_(self.final_table)
        for zero in (self.modulation[1], self.patch_out, *(block.personal_attention.out for block in self.blocks)):
            for parameter in zero.parameters():
                nn.init.zeros_(parameter)
        for block in self.blocks:
            nn.init.zeros_(block.table)

    def new_attention(self) -> list[nn.Parameter]:
        """Parameters that stage II trains alone at first: everything that only images reach [paper B]."""
        per_block = [module for block in self.blocks for module in (block.norm_personal, block.personal_attention)]
        modules = [self.image_in, self.personalize, self.image_index, *per_block]
        return [parameter for module in modules for parameter in module.parameters()]

    def forward(self, latents: Tensor, t: Tensor, conditions: Conditions, estimate: Tensor | None = None) -> Tensor:
        """Velocity at noise level `t` (B,) in [0, 1], 1: pure noise. Latents (B, C, T, H, W) -> (B, C, T, H, W).

        `estimate` (B, C, T, H, W): an earlier estimate of the clean latents, for self-conditioning; None: zeros.
        """
        config, b = self.config, len(latents)
        assert_shape("latents", latents, b, config.latent_channels, None, None, None)
        assert_shape("t", t, b)
        assert_shape("text", conditions.text, b, None, config.text_width)
        assert_shape("images", conditions.images, b, None, None, config.image_width)
        assert_shape("words", conditions.words, b, None, config.word_tokens, config.text_width)
        if estimate is not None:
            assert_shape("estimate", estimate, *latents.shape)
        if config.self_conditioning:
            latents = torch.cat([latents, torch.zeros_like(latents) if estimate is None else estimate], dim=1)
        tokens, grid = patchify(latents, self.config.patch)
        x = self.patch_in(tokens)  # (B, L, D)
        x = x + positions(grid, self.config.width, x.device).to(x.dtype)
        rotation = rope(grid, self.config.width // self.config.heads, x.device)
        time = self.time_in(sinusoids(t).to(x.dtype))  # (B, D)
        shared = self.modulation(time).unflatten(1, (6, -1))  # (B, 6, D)
        text, text_mask = self.text_in(conditions.text), _attendable(conditions.text_mask)
        images, image_mask = self.personal_tokens(conditions)
        for block in self.blocks:
            x = block(x, rotation, shared, text, text_mask, images, image_mask)
        shift, scale = (self.final_table + time[:, None]).unbind(1)  # (B, D) each
        x = self.patch_out(modulate(self.norm_out(x), shift, scale))
        return unpatchify(x, grid, self.config.patch)

    def personal_tokens(self, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Personalization embeddings of all images in a row, (B, N P, C), zero where there is no image; and their mask."""
        images = self.image_in(conditions.images)  # (B, N, P, C)
        b, n, p, c = images.shape
        words = self.text_in(conditions.words).flatten(2)[:, :, None].expand(b, n, p, -1)  # (B, N, P, word_tokens C)
        index = self.image_index.weight[:n, None]  # (N, 1, C)
        there = conditions.image_mask[:, :, None, None]  # (B, N, 1, 1)
        tokens = (images + self.personalize(torch.cat([images, words], dim=-1)) + index) * there.to(images.dtype)
        return tokens.reshape(b, n * p, c), _attendable(conditions.image_mask.repeat_interleave(p, dim=1))


class Block(nn.Module):
    """Self-attention -> text cross-attention -> personalization cross-attention -> MLP [paper §3.2]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.table = nn.Parameter(torch.empty(6, width))
        self.norm_self = nn.LayerNorm(width, elementwise_affine=False)
        self.self_attention = Attention(width, heads, width)
        self.norm_text = nn.LayerNorm(width)
        self.text_attention = Attention(width, heads, config.condition_width)
        self.norm_personal = nn.LayerNorm(width)
        self.personal_attention = Attention(width, heads, config.condition_width)
        self.norm_mlp = nn.LayerNorm(width, elementwise_affine=False)
        hidden = config.mlp_ratio * width
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(
        self, x: Tensor, rotation: Tensor, shared: Tensor, text: Tensor, text_mask: Tensor, images: Tensor, image_mask: Tensor
    ) -> Tensor:
        """`x` (B, L, D), `rotation` (2, L, d), `shared` (B, 6, D), conditions (B, M, C) with masks (B, M) -> (B, L, D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (self.table + shared).unbind(1)  # (B, D) each
        x = x + gate_a[:, None] * self.self_attention(modulate(self.norm_self(x), shift_a, scale_a), rotation=rotation)
        x = x + self.text_attention(self.norm_text(x), text, text_mask)
        if images.shape[1]:
            x = x + self.personal_attention(self.norm_personal(x), images, image_mask)
        out: Tensor = x + gate_m[:, None] * self.mlp(modulate(self.norm_mlp(x), shift_m, scale_m))
        return out


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys, to itself or to a context.

    Without biases zero keys and values stay zero, so that a context of zeros adds nothing.
    """

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context_width, 2 * width, bias=False)
        self.query_norm = HeadNorm(width // heads)
        self.key_norm = HeadNorm(width // heads)
        self.out = nn.Linear(width, width, bias=False)

    def forward(
        self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None, rotation: Tensor | None = None
    ) -> Tensor:
        """`x` (B, L, D); `context` (B, M, C), None: `x` itself; `mask` (B, M) bool, True: attend -> (B, L, D)."""
        query = self.query(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, L, d)
        key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.key_value(x if context is None else context).chunk(2, dim=-1)
        )  # (B, H, M, d)
        query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        attended = F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None])
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2))
        return out


class HeadNorm(nn.RMSNorm):
    """RMS norm of a head's channels; under autocast too in the dtype of its input, for which there is a fused kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> the same shape and dtype."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN [DiT]: `x` (B, L, D) times 1 + `scale` plus `shift`, both (B, D)."""
    return x * (1 + scale[:, None]) + shift[:, None]


def sinusoids(t: Tensor) -> Tensor:
    """Timesteps (B,) in [0, 1] -> (B, 256) float32: cosines, then sines, of geometric frequencies [DiT]."""
    half = TIME_WIDTH // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = TIME_SCALE * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def rope(grid: tuple[int, int, int], head_width: int, device: torch.device | None = None) -> Tensor:
    """Rotary positions of a grid of (T, H, W) tokens: what `rotate` multiplies with, (2, T H W, head_width) float32.

    The pairs of a head are shared out to height and width (a third each, rounded down) and time (the rest).
    """
    pairs = head_width // 2
    space = pairs // 3
    turns = []
    for size, share in zip(grid, (pairs - 2 * space, space, space), strict=True):
        frequencies = ROPE_BASE ** (-torch.arange(share, device=device, dtype=torch.float32) / share)
        turns.append(torch.arange(size, device=device, dtype=torch.float32)[:, None] * frequencies)
    t, h, w = grid
    angles = torch.cat(
        [
            turns[0][:, None, None].expand(t, h, w, -1),
            turns[1][None, :, None].expand(t, h, w, -1),
            turns[2][None, None].expand(t, h, w, -1),
        ],
        dim=-1,
    )
    cos, sin = angles.flatten(0, 2).cos(), angles.flatten(0, 2).sin()  # (T H W, pairs) each
    return torch.stack([torch.stack([cos, cos], dim=-1), torch.stack([-sin, sin], dim=-1)]).flatten(2)


def positions(grid: tuple[int, int, int], width: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions of a grid of (T, H, W) tokens: (T H W, width) float32 in [-1, 1].

    A third of the channels, rounded down to pairs, for each axis: sines, then cosines, of geometric frequencies; the rest is 0.
    """
    pairs = width // 6
    frequencies = POSITION_BASE ** (-torch.arange(pairs, device=device, dtype=torch.float32) / pairs)
    place = torch.cartesian_prod(*(torch.arange(size, device=device, dtype=torch.float32) for size in grid))  # (L, 3)
    angles = place[:, :, None] * frequencies  # (L, 3, pairs)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=2).flatten(1), (0, width - 6 * pairs))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of `x` (B, H, L, d) by `rotation` (2, L, d), in float32; keeps the dtype.

    (a, b) -> (a cos - b sin, b cos + a sin), in real numbers: torch.compile makes no kernels of complex ones.
    """
    own, other = rotation
    pairs = x.float()
    swapped = pairs.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)  # (b, a)
    return (pairs * own + swapped * other).to(x.dtype)


def patchify(latents: Tensor, patch: tuple[int, int, int]) -> tuple[Tensor, tuple[int, int, int]]:
    """(B, C, T, H, W) -> tokens (B, L, C p q r), time outermost, and the grid (T / p, H / q, W / r). Sizes must divide."""
    b, c, *size = latents.shape
    if any(side % step for side, step in zip(size, patch, strict=True)):
        raise ValueError(f"latents of {tuple(size)} frames, rows, columns cannot be cut into patches of {patch}")
    t, h, w = (side // step for side, step in zip(size, patch, strict=True))
    p, q, r = patch
    parts = latents.reshape(b, c, t, p, h, q, w, r).permute(0, 2, 4, 6, 1, 3, 5, 7)  # (B, t, h, w, C, p, q, r)
    return parts.reshape(b, t * h * w, c * p * q * r), (t, h, w)


def unpatchify(tokens: Tensor, grid: tuple[int, int, int], patch: tuple[int, int, int]) -> Tensor:
    """The inverse of `patchify`."""
    (t, h, w), (p, q, r) = grid, patch
    b = tokens.shape[0]
    parts = tokens.reshape(b, t, h, w, -1, p, q, r).permute(0, 4, 1, 5, 2, 6, 3, 7)  # (B, C, t, p, h, q, w, r)
    return parts.reshape(b, -1, t * p, h * q, w * r)


def _to_width(width: int, wanted: int) -> nn.Module:
    return nn.Identity() if width == wanted else nn.Linear(width, wanted, bias=False)


def _attendable(mask: Tensor) -> Tensor:
    """A row that may attend to nothing attends to everything: it is all zeros, and a softmax over nothing is not a number."""
    return mask | ~mask.any(dim=1, keepdim=True)

"""A model small enough for unit tests, and conditions for it."""

import torch

from trainer.model.dit import Conditions, ModelConfig, VideoDiT

CONFIG = ModelConfig(
    depth=2, width=48, heads=4, condition_width=24, text_width=20, image_width=28, latent_channels=4, word_tokens=3
)


def conditions(batch: int = 2, images: int = 2, tokens: int = 7, patches: int = 5, seed: int = 0) -> Conditions:
    draw = torch.Generator().manual_seed(seed)
    return Conditions(
        text=torch.randn(batch, tokens, CONFIG.text_width, generator=draw),
        text_mask=torch.ones(batch, tokens, dtype=torch.bool),
        images=torch.randn(batch, images, patches, CONFIG.image_width, generator=draw),
        image_mask=torch.ones(batch, images, dtype=torch.bool),
        words=torch.randn(batch, images, CONFIG.word_tokens, CONFIG.text_width, generator=draw),
    )


def awake(seed: int = 0, config: ModelConfig = CONFIG) -> VideoDiT:
    """A model whose zero-initialised parts have been given values, as training would."""
    torch.manual_seed(seed)
    model = VideoDiT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


def latents(batch: int = 2, frames: int = 3, rows: int = 4, columns: int = 6, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, CONFIG.latent_channels, frames, rows, columns, generator=torch.Generator().manual_seed(seed))

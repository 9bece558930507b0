"""The network of the package groundingdino-py: built under today's transformers, and run so that batches do not matter.

In: pictures and prompts. Out: boxes and token probabilities. The forward pass is the package's, taken apart where it would make
a picture's result depend on its neighbours: near-ties decide which 900 cells become queries and in what order, so the last bit
counts up to there. Texts run alone and unpadded (the package also gives the pictures of a batch each other's text masks), and
so does the fusion, which shifts its logits by the batch's maximum. Pictures run together.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from materia.base.weights.checkpoints import CheckpointError
from stages.localise.grounding import replaced
from stages.localise.prompt import DetectorPrompt, phrase_mask, separator_ids

if TYPE_CHECKING:
    import torch

ARCHITECTURES: dict[str, str] = {"swin_t": "GroundingDINO_SwinT_OGC", "swin_b": "GroundingDINO_SwinB_cfg"}
"""Option -> the package's own configuration (groundingdino/config), which holds the published checkpoints' shapes."""


def build(architecture: str, text_encoder: Path, tokenizer: Any) -> Any:
    """The network with random weights, ready to take a checkpoint's. `text_encoder`: folder with BERT's config.json. Raises
    CheckpointError for a folder without one."""
    from transformers import BertConfig, BertModel

    try:
        config = BertConfig.from_pretrained(text_encoder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{text_encoder} has no configuration of BERT: {str(error).partition(chr(10))[0]}") from error
    loaders = SimpleNamespace(
        get_tokenlizer=lambda _: tokenizer,
        get_pretrained_language_model=lambda _: BertModel(config),  # its weights are in the checkpoint
    )
    with warnings.catch_warnings():  # the package uses what is deprecated
        warnings.simplefilter("ignore")
        import groundingdino.models.GroundingDINO.groundingdino as package
        from groundingdino.models import build_model

        # its wrapper calls methods that transformers 5 removed; BertModel has the same parameter names and needs none
        with replaced(package, get_tokenlizer=loaders, BertModelWarper=lambda bert_model: bert_model):
            return build_model(configuration(architecture)).eval()


def configuration(architecture: str) -> Any:
    """The package's configuration of "swin_t" or "swin_b", without activation checkpoints (they only serve training)."""
    import groundingdino
    from groundingdino.util.slconfig import SLConfig

    with contextlib.redirect_stdout(io.StringIO()):
        args = SLConfig.fromfile(str(Path(groundingdino.__file__).parent / "config" / f"{ARCHITECTURES[architecture]}.py"))
    args.use_checkpoint = args.use_transformer_ckpt = False
    return args


class Text:
    """A prompt's tokens on their way through the network: features (1, T, C), which token attends to which (1, T, T) bool, and
    places in the phrase (1, T)."""

    def __init__(self, model: Any, prompt: DetectorPrompt, device: torch.device) -> None:
        import torch
        from groundingdino.models.GroundingDINO.utils import get_sine_pos_embed

        mask, places = phrase_mask(prompt.ids, separator_ids(model.tokenizer))
        ids = torch.tensor([prompt.ids], device=device)
        self.mask = torch.from_numpy(mask)[None].to(device)
        positions = torch.from_numpy(places)[None].to(device)
        hidden = model.bert(
            input_ids=ids, attention_mask=self.mask[:, None], token_type_ids=torch.zeros_like(ids), position_ids=positions
        ).last_hidden_state
        self.features = model.feat_map(hidden)
        self.position_embedding = get_sine_pos_embed(positions[..., None], num_pos_feats=model.hidden_dim, exchange_xy=False)


def forward(model: Any, pixels: torch.Tensor, prompts: list[DetectorPrompt]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (B, 3, h, w) float32, normalised, and B prompts -> boxes (B, 900, 4), centre and size as shares of the picture's
    width and height, and logits (B, 900, T), -inf where a prompt is shorter than the longest [GroundingDINO.forward]."""
    import torch
    from groundingdino.util.misc import inverse_sigmoid

    known = {prompt: Text(model, prompt, pixels.device) for prompt in dict.fromkeys(prompts)}
    levels, embeddings = _vision(model, pixels)
    sizes = [(level.shape[2], level.shape[3]) for level in levels]
    memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)  # (B, S, C)
    position = torch.cat(
        [
            embedding.flatten(2).transpose(1, 2) + own
            for embedding, own in zip(embeddings, model.transformer.level_embed, strict=True)
        ],
        1,
    )
    geometry = _Geometry(model, memory, sizes)
    memory, texts = _encode(model, memory, position, [known[prompt] for prompt in prompts], geometry)
    references = _propose(model, memory, texts, geometry)
    padded = torch.nn.utils.rnn.pad_sequence([text[0] for text in texts], batch_first=True)  # (B, T, C)
    lengths = torch.tensor([text.shape[1] for text in texts], device=pixels.device)
    used = torch.arange(padded.shape[1], device=pixels.device) < lengths[:, None]
    queries = model.transformer.tgt_embed.weight[:, None].expand(-1, len(prompts), -1)
    states, boxes = model.transformer.decoder(
        tgt=queries,
        memory=memory.transpose(0, 1),
        memory_key_padding_mask=geometry.padding,
        pos=position.transpose(0, 1),
        refpoints_unsigmoid=references.transpose(0, 1),
        level_start_index=None,
        spatial_shapes=geometry.shapes,
        valid_ratios=geometry.valid,
        memory_text=padded,
        text_attention_mask=~used,
    )
    boxes = (model.bbox_embed[-1](states[-1]) + inverse_sigmoid(boxes[-2])).sigmoid()
    logits = model.class_embed[-1](states[-1], {"encoded_text": padded, "text_token_mask": used})
    return boxes, logits[..., : padded.shape[1]]


class _Geometry:
    """What the deformable attention must know of feature maps of these (height, width): no padding anywhere."""

    def __init__(self, model: Any, memory: torch.Tensor, sizes: list[tuple[int, int]]) -> None:
        import torch

        n_pictures, device = len(memory), memory.device
        self.sizes = sizes
        self.shapes = torch.tensor(sizes, device=device)
        self.valid = torch.ones((n_pictures, len(sizes), 2), device=device)
        self.padding = torch.zeros(memory.shape[:2], dtype=torch.bool, device=device)
        self.references = model.transformer.encoder.get_reference_points(sizes, self.valid, device)


def _vision(model: Any, pixels: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Feature maps (B, C, h, w) of all levels and their position embeddings."""
    import torch
    from groundingdino.util.misc import NestedTensor

    def unpadded(maps: torch.Tensor) -> Any:
        return NestedTensor(maps, torch.zeros((len(maps), *maps.shape[-2:]), dtype=torch.bool, device=maps.device))

    features, embeddings = model.backbone(unpadded(pixels))
    maps = [feature.tensors for feature in features]
    levels = [project(source) for project, source in zip(model.input_proj, maps, strict=False)]
    for project in model.input_proj[len(maps) :]:
        levels.append(project(maps[-1] if len(levels) == len(maps) else levels[-1]))
        embeddings.append(model.backbone[1](unpadded(levels[-1])))
    return levels, embeddings


def _encode(
    model: Any, memory: torch.Tensor, position: torch.Tensor, texts: list[Text], geometry: _Geometry
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Pictures and texts look at each other, then at themselves [transformer.py: TransformerEncoder.forward]."""
    import torch

    encoder = model.transformer.encoder
    features = [text.features for text in texts]
    for fuse, enhance, attend in zip(encoder.fusion_layers, encoder.text_layers, encoder.layers, strict=True):
        fused = [fuse(v=picture[None], l=feature) for picture, feature in zip(memory, features, strict=True)]
        features = [
            enhance(src=feature.transpose(0, 1), src_mask=~text.mask, pos=text.position_embedding.transpose(0, 1)).transpose(
                0, 1
            )
            for (_, feature), text in zip(fused, texts, strict=True)
        ]
        memory = attend(
            src=torch.cat([picture for picture, _ in fused]),
            pos=position,
            reference_points=geometry.references,
            spatial_shapes=geometry.shapes,
            level_start_index=None,
            key_padding_mask=None,
        )
    return memory, features


def _propose(model: Any, memory: torch.Tensor, texts: list[torch.Tensor], geometry: _Geometry) -> torch.Tensor:
    """The 900 cells that match a token best, best first, as boxes (B, 900, 4) before their sigmoid [Transformer.forward]."""
    import torch
    from groundingdino.models.GroundingDINO.utils import gen_encoder_output_proposals

    transformer = model.transformer
    cells, proposals = gen_encoder_output_proposals(memory, geometry.padding, geometry.sizes)
    cells = transformer.enc_output_norm(transformer.enc_output(cells))
    best = torch.cat([(own[None] @ text.transpose(1, 2)).amax(-1) for own, text in zip(cells, texts, strict=True)])  # (B, S)
    chosen = select_queries(best, transformer.num_queries)[..., None].expand(-1, -1, 4)
    return (transformer.enc_out_bbox_embed(cells) + proposals).gather(1, chosen)


def select_queries(matches: torch.Tensor, n_queries: int) -> torch.Tensor:
    """How well cells match a token, (B, S) -> the best of them, best first, (B, n_queries) int64."""
    return matches.topk(n_queries, dim=1).indices

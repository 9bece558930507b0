"""A causal language model of the transformers library, answering under a JSON-schema constraint, on the CPU or a GPU.

In: chat messages and a JSON schema for each request. Out: JSON text. The chat without its last message (the examples) is the
same for every caption: its keys and values are computed once and attended to by all rows without copies. Text that the schema
forces is fed together with the last decision, so the model runs once per decision, and only there are logits computed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any

from materia.base.weights.files import INSTALL, Missing, Weights, identity_of, local_path, packages_missing, weights_missing
from stages.backends import Generation, LanguageModel
from stages.entities.chat import chat_ids
from stages.entities.checkpoint import PACKAGED_MODEL, checkpoint_missing

PACKAGES = ("torch", "transformers", "xgrammar")
FEED = 48  # tokens of a row a pass takes at most: one long caption must not pad the whole batch to its length


@dataclass
class _Row:
    """One answer in the making. `feed`: tokens that the model has not seen; `position`: of the next one; `ids`: the answer."""

    matcher: Any
    feed: list[int]
    position: int
    ids: list[int] = field(default_factory=list)


class TransformersLM(LanguageModel):
    """Greedy, constrained generation by a local checkpoint folder.

    `model`: address of a folder in the Hugging Face layout, a path or `hf://OWNER/NAME@REVISION` (default: the packaged
    SmolLM2-135M-Instruct). `dtype`: what it computes in, float32 or bfloat16.
    """

    def __init__(self, model: str = PACKAGED_MODEL, dtype: str = "float32") -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, not {dtype!r}")
        self.checkpoint = Weights("entities.options.model", model)
        self.folder = local_path(self.checkpoint.address)
        self.dtype = dtype

    def weights(self) -> list[Weights]:
        """The model's folder."""
        return [self.checkpoint]

    def missing(self) -> list[Missing]:
        """Packages that cannot be imported, what is wrong with the checkpoint; a pull verified the packaged one."""
        return packages_missing(*PACKAGES, fix=INSTALL) or (
            weights_missing(self.checkpoint)
            if self.checkpoint.address == PACKAGED_MODEL
            else checkpoint_missing(self.checkpoint)
        )

    def identity(self) -> dict[str, str]:
        """SHA-256 of the checkpoint, as written beside it when it was made, if it was."""
        return {"weights": identity_of(self.checkpoint.address)}

    def setup(self, device: str, threads: int) -> None:
        """Load model, tokenizer and grammar compiler."""
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        import xgrammar
        from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        AttentionInterface.register("shared_prefix", _shared_prefix_attention)
        self.device = device
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            self.folder, local_files_only=True, dtype=getattr(torch, self.dtype), attn_implementation="shared_prefix"
        )
        self.model = model.to(device).eval()
        self.head = self.model.get_output_embeddings()
        info = xgrammar.TokenizerInfo.from_huggingface(self.tokenizer, vocab_size=self.head.weight.shape[0])
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=threads, cache_enabled=False)
        self.prefix_ids: list[int] = []
        self.prefix_kv: list[Any] | None = None

    def close(self) -> None:
        """Give the memory back."""
        self.model = self.head = self.prefix_kv = None

    def generate(self, requests: list[Generation]) -> list[str]:
        """Answer each request, in order, with JSON text that satisfies its schema; stops short after `max_tokens`."""
        import torch

        if not requests:
            return []
        with torch.inference_mode():
            self._load_prefix(chat_ids(self.tokenizer, requests[0].messages[:-1], answer=False))
            rows = [self._row(request) for request in requests]
            self._decode(rows, [request.max_tokens for request in requests])
        return [self.tokenizer.decode(row.ids, clean_up_tokenization_spaces=False) for row in rows]

    def grammar(self, json_schema: dict[str, Any]) -> Any:
        """xgrammar's compiled grammar of the schema's compact JSON texts, keys in the schema's order."""
        schema = json.dumps(json_schema, ensure_ascii=False)
        return self.compiler.compile_json_schema(schema, any_whitespace=False, separators=(",", ":"))

    def _load_prefix(self, ids: list[int]) -> None:
        """Keys and values of the chat that all requests share; kept until another chat comes."""
        if ids == self.prefix_ids and self.prefix_kv is not None:
            return
        self.prefix_ids, self.prefix_kv = ids, None
        row, cache = _Row(None, list(ids), 0), self._cache()
        if ids:
            self._forward([row], cache, None, len(ids))
        self.prefix_kv = [(layer.keys[0], layer.values[0]) for layer in cache.layers if ids]

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache()

    def _row(self, request: Generation) -> _Row:
        """The request's own tokens and a fresh automaton for its schema."""
        import xgrammar

        ids = chat_ids(self.tokenizer, request.messages, answer=True)
        shared = len(self.prefix_ids)
        if ids[:shared] != self.prefix_ids:
            raise ValueError("requests of one call must share all messages but the last")
        return _Row(
            xgrammar.GrammarMatcher(self.grammar(request.json_schema), terminate_without_stop_token=True), ids[shared:], shared
        )

    def _decode(self, rows: list[_Row], max_tokens: list[int]) -> None:
        """Run the rows to their ends, in lockstep; a row that has ended leaves the batch."""
        import torch

        live, cache, mask = list(range(len(rows))), self._cache(), None
        while True:
            for i in live:
                self._force(rows[i])
            going = [k for k, i in enumerate(live) if not rows[i].matcher.is_terminated() and len(rows[i].ids) < max_tokens[i]]
            if not going:
                return
            if len(going) < len(live):
                keep = torch.tensor(going, device=self.device)
                live = [live[k] for k in going]
                if mask is not None:
                    cache.batch_select_indices(keep)
                    mask = mask[keep]
            batch = [rows[i] for i in live]
            hidden, mask = self._forward(batch, cache, mask, FEED)
            self._decide([(row, k) for k, row in enumerate(batch) if not row.feed], hidden)

    def _force(self, row: _Row) -> None:
        """Append what the grammar leaves no choice about."""
        if not row.matcher.is_terminated() and (text := row.matcher.find_jump_forward_string()):
            row.matcher.accept_string(text)
            ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            row.feed += ids
            row.ids += ids

    def _decide(self, ready: list[tuple[_Row, int]], hidden: Any) -> None:
        """Greedy choice of one allowed token for each row that has been fed completely; `hidden` (B, D)."""
        import torch
        import xgrammar

        if not ready:
            return
        logits = self.head(hidden[[k for _, k in ready]]).float().cpu()  # (R, V)
        allowed = xgrammar.allocate_token_bitmask(len(ready), logits.shape[1])
        for k, (row, _) in enumerate(ready):
            row.matcher.fill_next_token_bitmask(allowed, k)
        xgrammar.apply_token_bitmask_inplace(logits, allowed)
        for (row, _), token in zip(ready, torch.argmax(logits, dim=1).tolist(), strict=True):
            row.matcher.accept_token(token)
            row.feed.append(token)
            row.ids.append(token)

    def _forward(self, rows: list[_Row], cache: Any, mask: Any, most: int) -> tuple[Any, Any]:
        """Feed each row up to `most` of its tokens, padded on the right.

        `mask` (B, L) bool marks which cached keys are tokens. -> hidden state of each row's last token (B, D), mask (B, L + T).
        """
        import torch

        feeds = [row.feed[:most] for row in rows]
        width = max(len(feed) for feed in feeds)
        ids = torch.tensor([feed + [0] * (width - len(feed)) for feed in feeds], device=self.device)  # (B, T)
        steps = torch.arange(width, device=self.device)
        lengths = torch.tensor([len(feed) for feed in feeds], device=self.device)
        positions = torch.tensor([[row.position] for row in rows], device=self.device) + steps
        real = steps < lengths[:, None]  # (B, T)
        causal = (steps[None, :] <= steps[:, None]) & (
            real[:, None, :] | torch.eye(width, dtype=torch.bool, device=self.device)
        )
        past = torch.zeros(len(rows), 0, dtype=torch.bool, device=self.device) if mask is None else mask  # (B, L)
        seen = torch.cat([past[:, None, :].expand(-1, width, -1), causal], dim=2)[:, None]  # (B, 1, T, L + T)
        states = self.model.base_model(
            ids, attention_mask=seen, position_ids=positions, past_key_values=cache, use_cache=True, prefix_kv=self.prefix_kv
        ).last_hidden_state  # (B, T, D)
        for row, feed in zip(rows, feeds, strict=True):
            row.feed = row.feed[len(feed) :]
            row.position += len(feed)
        last = states[torch.arange(len(rows), device=self.device), lengths - 1]
        return last, torch.cat([past, real], dim=1)


def _shared_prefix_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, prefix_kv: Any = None, **_: Any
) -> tuple[Any, None]:
    """Attention over keys of the row's own and over a prefix that the whole batch shares, under one softmax.

    query (B, H, T, D), key and value (B, K, L, D) with H = K x G, attention_mask (B, 1, T, L) bool, prefix keys and values
    (K, P, D), all visible. -> (B, T, H, D).
    """
    import torch

    b, h, t, d = query.shape
    k = key.shape[1]
    grouped = query.view(b, k, h // k, t, d)
    own = (grouped.flatten(2, 3) @ key.transpose(2, 3)).view(b, k, h // k, t, -1)
    scores = own.float().mul_(scaling).masked_fill_(~attention_mask[:, :, None], float("-inf"))  # (B, K, G, T, L)
    if not prefix_kv:
        weights = torch.softmax(scores, dim=-1).to(query.dtype)
        out = (weights.flatten(2, 3) @ value).view(b, h, t, d)
        return out.transpose(1, 2), None
    prefix_key, prefix_value = prefix_kv[module.layer_idx]
    flat = grouped.transpose(0, 1).reshape(k, -1, d)  # (K, B G T, D)
    shared = (flat @ prefix_key.transpose(1, 2)).view(k, b, h // k, t, -1).transpose(0, 1).float().mul_(scaling)
    weights = torch.softmax(torch.cat([shared, scores], dim=-1), dim=-1).to(query.dtype)
    split = shared.shape[-1]
    out = (weights[..., split:].flatten(2, 3) @ value).view(b, k, h // k, t, d)
    from_prefix = weights[..., :split].transpose(0, 1).reshape(k, -1, split) @ prefix_value
    out = out + from_prefix.view(k, b, h // k, t, d).transpose(0, 1)
    return out.reshape(b, h, t, d).transpose(1, 2), None

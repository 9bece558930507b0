"""Words of a caption as prompts for GroundingDINO, and how well its queries show each word.

In: words and a tokenizer with offsets. Out: token ids with the positions of each word's own tokens, and from a model's
probabilities the scores of (box, word). A word's place in the prompt is known because we wrote it there, so "dog" never takes
the tokens of "hot dog"; words that do not fit one prompt go to further prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from materia.base.weights.checkpoints import CheckpointError
from stages.caption_text import as_read

MAX_TOKENS = 256
"""Longest text of the model, with its [CLS] and [SEP] [groundingdino/config: max_text_len]."""
SEPARATORS = ("[CLS]", "[SEP]", ".", "?")
"""Tokens that end a phrase: phrases do not attend to each other [groundingdino.py: specical_tokens]."""


def load_tokenizer(folder: Path) -> Any:
    """The fast tokenizer (one that gives offsets) of a model's folder. Raises CheckpointError if there is none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (
        Exception
    ) as error:  # whatever a broken folder makes of it: OSError, ValueError, KeyError, the tokenizers library's own
        raise CheckpointError(f"{folder} has no tokenizer that can be loaded: {str(error).partition(chr(10))[0]}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder} has a tokenizer without offsets ({type(tokenizer).__name__}); expected BERT's tokenizer.json"
        )
    return tokenizer


def separator_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that end a phrase, as far as the vocabulary knows them."""
    return frozenset(tokenizer.convert_tokens_to_ids(list(SEPARATORS))) - {None}


@dataclass(frozen=True)
class DetectorPrompt:
    """One text of the model: `ids` of its T tokens, [CLS] first, [SEP] last. `spans[k]`: positions of the tokens of its k-th
    phrase, ascending, at least one; `columns[k]`: indices of the words asked for that read like this."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, ...], ...]
    columns: tuple[tuple[int, ...], ...]


def phrase(word: str) -> str:
    """A word as it stands in the prompt: lower case (method), one space between its parts; full stops and question marks, which
    would cut it in two, become spaces [ours]. Words stand in captions as they were given; this is what a person reads of them.

    >>> phrase("St. Bernard  DOG"), phrase("red&nbsp;cup")
    ('st bernard dog', 'red cup')
    """
    return " ".join(as_read(word).lower().replace(".", " ").replace("?", " ").split())


def make_prompts(words: list[str], tokenizer: Any, max_words: int) -> list[DetectorPrompt]:
    """Prompts of at most `max_words` words and 256 tokens each that together ask for all words.

    `tokenizer`: a fast tokenizer of transformers (BERT's). Words that read the same share their tokens; words without any token
    are in no prompt; one that is longer than a prompt is cut.
    """
    columns: dict[str, list[int]] = {}
    lengths: dict[str, int] = {}
    for column, word in enumerate(words):
        text, n_tokens = _fitted(phrase(word), tokenizer)
        if n_tokens:
            columns.setdefault(text, []).append(column)
            lengths[text] = n_tokens
    prompts: list[list[str]] = []
    room = 0
    for text, n_tokens in lengths.items():
        if n_tokens + 1 > room or len(prompts[-1]) == max_words:
            prompts.append([])
            room = MAX_TOKENS - 2
        prompts[-1].append(text)
        room -= n_tokens + 1
    return [_encode(texts, [tuple(columns[text]) for text in texts], tokenizer) for texts in prompts]


def _fitted(text: str, tokenizer: Any) -> tuple[str, int]:
    """A phrase cut to what one prompt holds beside [CLS], "." and [SEP], and the number of its tokens."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    longest = MAX_TOKENS - 3
    return (text[: offsets[longest - 1][1]], longest) if len(offsets) > longest else (text, len(offsets))


def _encode(texts: list[str], columns: list[tuple[int, ...]], tokenizer: Any) -> DetectorPrompt:
    """Phrases joined by " . ", ending in "." (method), with the tokens that lie in each phrase's stretch of characters."""
    prompt = " . ".join(texts) + " ."
    encoded = tokenizer(prompt, return_offsets_mapping=True, return_special_tokens_mask=True)
    offsets = np.array(encoded["offset_mapping"])  # (T, 2) characters
    real = ~np.array(encoded["special_tokens_mask"], bool)
    spans = []
    start = 0
    for text in texts:
        inside = real & (offsets[:, 0] >= start) & (offsets[:, 1] <= start + len(text))
        spans.append(tuple(np.flatnonzero(inside).tolist()))
        start += len(text) + len(" . ")
    return DetectorPrompt(ids=tuple(encoded["input_ids"]), spans=tuple(spans), columns=tuple(columns))


def phrase_mask(ids: tuple[int, ...], separators: frozenset[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens attend to which, (T, T) bool, and the position of each in its phrase, (T,) int64.

    A phrase reaches from behind a separator to the next one, which belongs to it; [CLS], [SEP] and what follows the last inner
    separator attend to themselves alone [groundingdino/bertwarper.py: generate_masks_with_special_tokens].
    """
    mask = np.eye(len(ids), dtype=bool)
    positions = np.zeros(len(ids), np.int64)
    start = 1
    for end in range(1, len(ids) - 1):
        if ids[end] in separators:
            mask[start : end + 1, start : end + 1] = True
            positions[start : end + 1] = np.arange(end + 1 - start)
            start = end + 1
    return mask, positions


def word_scores(probabilities: np.ndarray, prompt: DetectorPrompt, n_words: int) -> np.ndarray:
    """Method: score(box, word) = (max + mean) / 2 of the box's probabilities over the word's tokens.

    `probabilities` (N, >= T) float32 in [0, 1] -> (N, W) float32 in [0, 1]; 0 for the words of other prompts.
    """
    scores = np.zeros((len(probabilities), n_words), np.float32)
    for span, columns in zip(prompt.spans, prompt.columns, strict=True):
        own = probabilities[:, span]  # (N, tokens of the word)
        scores[:, columns] = ((own.max(axis=1) + own.mean(axis=1)) / 2)[:, None]
    return scores

"""The question put to the language model: chat messages and a JSON schema, the same for every backend.

In: a caption and its candidate phrases. Out: a `Generation`. The schema is an object with one required key a candidate, in the
caption's order, and the kind of thing as its value: words are grounded by construction, and each costs one decision. The text
lives in prompts/ (kinds.txt, examples.txt); its hash enters the data set's fingerprint.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from materia.base.errors import UserError
from stages.backends import Generation

PROMPTS = Path(__file__).resolve().parents[2] / "prompts"
TOKENS_PER_WORD = 40  # generous: a phrase, its quotes and its kind


class PromptError(UserError):
    """A prompt folder that is missing or malformed; the message names the file and line."""


@dataclass(frozen=True)
class Prompt:
    """`kinds`: kind -> subject, object, background or none; `examples`: captions, phrase -> kind; `sha256` of both files."""

    kinds: dict[str, str]
    examples: tuple[tuple[str, dict[str, str]], ...]
    sha256: str

    def ask(self, caption: str, candidates: list[str]) -> Generation:
        """The request for one caption; `candidates` are distinct and not empty."""
        messages = []
        for example, answer in self.examples:
            messages += [{"role": "user", "content": example}, {"role": "assistant", "content": _compact(answer)}]
        messages.append({"role": "user", "content": caption})
        schema = {
            "type": "object",
            "properties": {word: {"type": "string", "enum": list(self.kinds)} for word in candidates},
            "required": candidates,
            "additionalProperties": False,
        }
        return Generation(messages, schema, max_tokens=TOKENS_PER_WORD * len(candidates) + sum(map(len, candidates)))


def load_prompt(name: str) -> Prompt:
    """Read prompts/NAME. Raises PromptError."""
    folder = PROMPTS / name
    try:
        texts = [(folder / file).read_text(encoding="utf-8") for file in ("kinds.txt", "examples.txt")]
    except OSError as error:
        raise PromptError(f"entities.prompt: {name!r}: {error}; see prompts/entities for the two files needed") from error
    kinds = dict(_kind(folder, line) for line in _lines(texts[0]))
    examples: list[tuple[str, dict[str, str]]] = []
    for line in _lines(texts[1]):
        if not line.startswith(" "):
            examples.append((line, {}))
            continue
        word, _, kind = line.strip().rpartition(": ")
        if not examples or kind not in kinds or word not in examples[-1][0]:
            raise PromptError(f"{folder / 'examples.txt'}: {line.strip()!r} is not 'PHRASE OF THE CAPTION ABOVE: KIND'")
        examples[-1][1][word] = kind
    return Prompt(kinds, tuple(examples), hashlib.sha256("\0".join(texts).encode()).hexdigest())


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _kind(folder: Path, line: str) -> tuple[str, str]:
    match = re.fullmatch(r"(\w+)\s+(subject|object|background|none)", line.strip())
    if not match:
        raise PromptError(f"{folder / 'kinds.txt'}: {line!r} is not 'KIND subject|object|background|none'")
    return match[1], match[2]


def _compact(answer: dict[str, str]) -> str:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))

"""Token ids of a chat, the same for every backend that has the model's tokenizer at hand.

In: a tokenizer of the transformers library, and messages. Out: token ids. Captions are other people's text: a special token
spelt out in one (`<|im_end|>`, `[INST]`) is broken by a space, so that it stays text and cannot end the caption's turn.
"""

from __future__ import annotations

from typing import Any

Messages = list[dict[str, str]]


def chat_ids(tokenizer: Any, messages: Messages, answer: bool, **template: Any) -> list[int]:
    """By the model's own chat template. `answer`: open the assistant's turn; `template`: further variables of the template."""
    plain = [{**message, "content": _without_special(tokenizer, message["content"])} for message in messages]
    text = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=answer, **template)
    return _ids(tokenizer, text)


def completion_ids(tokenizer: Any, messages: Messages) -> list[int]:
    """For models without a chat template: the text of `completion_text`, after the token that opens a text, if there is one."""
    opening: list[int] = tokenizer("")["input_ids"]
    return opening + _ids(tokenizer, _without_special(tokenizer, completion_text(messages)))


def completion_text(messages: Messages) -> str:
    """Examples and question as one text to be continued: a paragraph for each caption, its answer on the line below."""
    return "".join(message["content"] + ("\n\n" if message["role"] == "assistant" else "\n") for message in messages)


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _without_special(tokenizer: Any, text: str) -> str:
    special = [token.content.strip() for token in tokenizer.added_tokens_decoder.values() if token.special]
    special = [token for token in special if len(token) > 1]
    while found := next((token for token in special if token in text), None):
        text = text.replace(found, f"{found[0]} {found[1:]}")
    return text

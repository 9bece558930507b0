"""A language model behind an OpenAI-compatible HTTP server, such as `vllm serve` on another node.

In: chat messages and a JSON schema for each request. Out: JSON text, or the exception of a request that failed after its
retries. Requests of a call are in flight together, up to `concurrency`; the openai client waits and retries. The constraint of
transformers_lm.py travels as a grammar, because a JSON schema leaves white space to the server's configuration.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar
from urllib.parse import urlsplit

from materia.base.weights.files import INSTALL, Missing, packages_missing
from stages.backends import Generation, LanguageModel, TransientError
from stages.entities.chat import completion_text
from stages.notices import notice

CONSTRAINTS = ("vllm", "json_schema")
MOST_BYTES = 4 << 20  # of one answer; ours have a few hundred
PROBE_TIMEOUT_S = 10
_REQUEST_REFUSED = (400, 413, 422)  # what is wrong is in the request; any other refusal, a login or a proxy, concerns all


class OpenAILM(LanguageModel):
    """Greedy, constrained generation by a server.

    `model`: a name that the server serves; name the revision in it, because it alone tells this output from another.
    `base_url`: where, with its /v1. `api_key_env`: environment variable that holds the key, on every node; the key itself is
    never configured. `constraint`: "vllm" (its `structured_outputs`, the same grammar as in process) or "json_schema" (the
    standard `response_format`, for other servers). `chat`: by the server's chat template, or as a text to be continued.
    `chat_template_kwargs`: variables of the template (vLLM). `concurrency`: requests in flight, per worker. `timeout_s`: of one
    try. `retries`: after a lost connection, a time-out, 408, 409, 429 and 5xx, waiting 0.5 s, 1 s, 2 s ... 8 s, or as long as
    the server's Retry-After says; engine.min_deadline_s must leave room for them all. Redirects are not followed. Other than in
    process, special tokens spelt out in a caption are not broken up: the server's tokenizer is not known here.
    """

    execution_options: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env", "concurrency", "timeout_s", "retries"})
    option_examples: ClassVar[dict[str, str]] = {"model": "Qwen/Qwen3-4B-Instruct-2507"}

    def __init__(
        self,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        api_key_env: str | None = None,
        constraint: str = "vllm",
        chat: bool = True,
        chat_template_kwargs: dict[str, Any] | None = None,
        concurrency: int = 16,
        timeout_s: float = 60.0,
        retries: int = 5,
    ) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname or url.username or url.password:
            raise ValueError("base_url must look like http://HOST:PORT/v1, without user or password")
        if constraint not in CONSTRAINTS:
            raise ValueError(f"constraint must be one of {', '.join(CONSTRAINTS)}, not {constraint!r}")
        if concurrency < 1 or timeout_s <= 0 or retries < 0:
            raise ValueError(f"concurrency {concurrency} must be > 0, timeout_s {timeout_s} > 0, retries {retries} >= 0")
        self.model = model
        self.base_url = base_url
        self.api_key_env = api_key_env
        self.constraint = constraint
        self.chat = chat
        self.extra = {"chat_template_kwargs": chat_template_kwargs} if chat_template_kwargs else {}
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self.retries = retries

    def missing(self) -> list[Missing]:
        """The client's package, the key, and a server that does not answer or does not serve the model; asks it once."""
        packages = ["openai", *(["xgrammar"] if self.constraint == "vllm" else [])]
        if absent := packages_missing(*packages, fix=INSTALL):
            return absent
        if self.api_key_env and not os.environ.get(self.api_key_env):
            return [Missing(f"entities.options.api_key_env: {self.api_key_env} is not set", f"export {self.api_key_env}=...")]
        import openai

        try:
            with self._client(retries=0, timeout_s=PROBE_TIMEOUT_S) as client:
                served = [str(model.id) for model in client.models.list().data]
        except (openai.APIError, AttributeError, TypeError, ValueError, RecursionError) as error:
            what = f"entities.options.base_url: no list of models from {self.base_url}/models ({_cause(error)})"
            return [Missing(what, f"start the server, e.g. vllm serve {self.model}, or correct the address")]
        if self.model not in served:
            what = (
                f"entities.options.model: {self.base_url} does not serve {self.model!r} but {', '.join(served[:5]) or 'none'}"
            )
            return [Missing(what, "name a model that it serves")]
        return []

    def setup(self, device: str, threads: int) -> None:
        """Open the client; the server has the model, so device and threads are its business."""
        self.client = self._client(self.retries, self.timeout_s)
        self.pool = ThreadPoolExecutor(self.concurrency)

    def close(self) -> None:
        """Close the connections."""
        self.pool.shutdown(cancel_futures=True)
        self.client.close()

    def generate(self, requests: list[Generation]) -> Sequence[str | Exception]:
        """Answer each request, in order; one that failed is answered with its exception, TransientError after all retries."""
        return list(self.pool.map(self._ask, requests))

    def _client(self, retries: int, timeout_s: float) -> Any:
        import openai

        return openai.OpenAI(
            base_url=self.base_url,
            api_key=os.environ[self.api_key_env] if self.api_key_env else "none",  # else the client takes OPENAI_API_KEY
            max_retries=retries,
            timeout=timeout_s,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, event_hooks={"response": [lambda response: _bound(response, timeout_s)]}
            ),
        )

    def _ask(self, request: Generation) -> str | Exception:
        import openai

        sampling = {"model": self.model, "temperature": 0, "max_tokens": request.max_tokens}
        held = self._held_to(request.json_schema)
        try:
            if self.chat:
                answer = self.client.chat.completions.create(messages=request.messages, extra_body=held, **sampling)
                text = answer.choices[0].message.content
            else:
                answer = self.client.completions.create(prompt=completion_text(request.messages), extra_body=held, **sampling)
                text = answer.choices[0].text
        except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError) as error:
            return TransientError(f"{_cause(error)}, tried {self.retries + 1} times")
        except openai.APIStatusError as error:
            notice(f"entities: the server refused a request: {str(error)[:500]}")
            of_this_request = error.status_code in _REQUEST_REFUSED
            return RuntimeError(_cause(error)) if of_this_request else TransientError(_cause(error))
        except (
            openai.APIError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
            RecursionError,
        ):  # JSON of any shape, or none
            text = None
        return text if isinstance(text, str) else TransientError("the server's answer is no completion")

    def _held_to(self, json_schema: dict[str, Any]) -> dict[str, Any]:
        """The part of a request's body that constrains the answer."""
        if self.constraint == "json_schema":
            schema = {"name": "entities", "strict": True, "schema": json_schema}
            return {"response_format": {"type": "json_schema", "json_schema": schema}, **self.extra}
        import xgrammar

        text = json.dumps(json_schema, ensure_ascii=False)
        grammar = xgrammar.Grammar.from_json_schema(text, any_whitespace=False, separators=(",", ":"))
        # the server would take other penalties than none from the model's generation_config.json
        return {"structured_outputs": {"grammar": str(grammar)}, "repetition_penalty": 1.0, **self.extra}


def _cause(error: Exception) -> str:
    """What went wrong, in words that do not change from run to run: they are written to the output."""
    status = getattr(error, "status_code", None)
    return f"the server answered {status}" if status else f"{type(error).__name__} from the server"


def _bound(response: Any, timeout_s: float) -> None:
    """Read no more of a response than an answer can have, and for no longer than `timeout_s`, however it trickles in."""
    import httpx2

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.RemoteProtocolError("a compressed answer, which was not asked for", request=response.request)

    class Bounded(httpx2.SyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream, self.ends = stream, time.monotonic() + timeout_s

        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for chunk in self.stream:
                size += len(chunk)
                if size > MOST_BYTES:
                    raise httpx2.RemoteProtocolError(f"an answer of more than {MOST_BYTES} bytes", request=response.request)
                if time.monotonic() > self.ends:
                    raise httpx2.ReadTimeout("the answer takes too long", request=response.request)
                yield chunk

        def close(self) -> None:
            self.stream.close()

    response.stream = Bounded(response.stream)

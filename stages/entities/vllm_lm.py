"""A causal language model in vLLM's offline engine, in this process: for GPUs, and for CPUs with vLLM's CPU build.

In: chat messages and a JSON schema for each request. Out: JSON text. The engine gets all requests of a call at once and batches
them as they come and go; the examples before the question are computed once and kept (prefix caching); each request is held to
its own schema by xgrammar, compact and in the schema's order. Prompts go in as token ids, the same as in transformers_lm.py.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from typing import Any, ClassVar

from materia.base.terminal import plural
from materia.base.weights.files import Missing, Weights, check_address, identity_of, local_path, packages_missing
from stages.backends import Generation, LanguageModel
from stages.entities.chat import chat_ids, completion_ids
from stages.entities.checkpoint import PACKAGED_MODEL, checkpoint_missing

DTYPES = ("auto", "float32", "bfloat16", "float16")
CPU_CACHE_BYTES = 1 << 30  # keys and values on a CPU, where nothing else limits them; 23,000 tokens of the packaged model

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: nothing is left behind when it is killed
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all workers of a machine would sit on the same cores
    "HF_HUB_OFFLINE": "1",  # weights were fetched ahead of the job
}
"""What vLLM reads when it is imported; a value that is set already stands."""


class VllmLM(LanguageModel):
    """Greedy, constrained generation by vLLM.

    `model`: address of a checkpoint folder in the Hugging Face layout, `hf://OWNER/NAME@REVISION` or a path (default: the
    packaged SmolLM2-135M-Instruct). `dtype`: what it computes in; auto is the checkpoint's own. `max_model_len`: tokens of the
    examples, a caption and its answer together; a caption that is longer fails alone. `tensor_parallel_size`: cards (or, on a
    CPU, processes) that share the model. `gpu_memory_utilization`: share of the *whole* card that the engine takes for weights
    and cache, so with several workers on a card not more than the pool's `num_gpus`. `compile`: torch.compile and CUDA graphs;
    faster, a minute or more to start. `chat`: ask by the chat template (true), as a text to be continued (false), or by the
    template if there is one (null). `chat_template_kwargs`: variables of the template, e.g. {enable_thinking: false}.
    """

    execution_options: ClassVar[frozenset[str]] = frozenset({"tensor_parallel_size", "gpu_memory_utilization", "compile"})

    def __init__(
        self,
        model: str = PACKAGED_MODEL,
        dtype: str = "auto",
        max_model_len: int = 4096,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.9,
        compile: bool = False,
        chat: bool | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
        if max_model_len < 1 or tensor_parallel_size < 1:
            raise ValueError(
                f"max_model_len {max_model_len} and tensor_parallel_size {tensor_parallel_size} must be at least 1"
            )
        if not 0 < gpu_memory_utilization <= 1:
            raise ValueError(f"gpu_memory_utilization is a share of the card in (0, 1], not {gpu_memory_utilization!r}")
        if chat is False and chat_template_kwargs:
            raise ValueError("chat_template_kwargs need the chat template, but chat is false")
        check_address(model)
        self.model = Weights("entities.options.model", model)
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.tensor_parallel_size = tensor_parallel_size
        self.gpu_memory_utilization = gpu_memory_utilization
        self.compile = compile
        self.chat = chat
        self.chat_template_kwargs = chat_template_kwargs or {}

    def weights(self) -> list[Weights]:
        """The model's folder."""
        return [self.model]

    def missing(self) -> list[Missing]:
        """vLLM, and what is wrong with the checkpoint."""
        return packages_missing("vllm", fix="make gpu (on a CPU: make vllm-cpu)") or checkpoint_missing(self.model)

    def identity(self) -> dict[str, str]:
        """SHA-256 of the checkpoint."""
        return {"weights": identity_of(self.model.address)}

    def setup(self, device: str, threads: int) -> None:
        """Start the engine. Raises RuntimeError when this vLLM is not built for the device, or sees none."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import torch
        from vllm import LLM
        from vllm.platforms import current_platform

        _check_device(device, current_platform.device_type)
        torch.set_num_threads(threads)
        self.llm = LLM(
            model=str(local_path(self.model.address)),
            tokenizer_mode="hf",  # not the second format that some repositories have beside it
            config_format="hf",
            load_format="safetensors",
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            tensor_parallel_size=self.tensor_parallel_size,
            distributed_executor_backend="mp" if self.tensor_parallel_size > 1 else "uni",
            gpu_memory_utilization=self.gpu_memory_utilization,
            kv_cache_memory_bytes=CPU_CACHE_BYTES if device == "cpu" else None,
            enforce_eager=not self.compile,
            enable_prefix_caching=True,
            structured_outputs_config={"backend": "xgrammar", "disable_any_whitespace": True},
        )
        self.tokenizer = self.llm.get_tokenizer()
        if self.chat is None:
            self.chat = bool(self.tokenizer.chat_template)
        self.prefix_ids: list[int] = []

    def close(self) -> None:
        """Give the memory back, and end the engine's processes if it has any."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm

    def generate(self, requests: list[Generation]) -> Sequence[str | Exception]:
        """Answer each request, in order, with JSON text that satisfies its schema; stops short after `max_tokens`.

        A prompt that leaves no room for an answer is answered with a ValueError. An engine that fails has no way back: that
        raises SystemExit, so that the process ends and whoever watches it starts another.
        """
        prompts = [self._prompt_ids(request.messages) for request in requests]
        fitting = [i for i, ids in enumerate(prompts) if len(ids) < self.max_model_len]
        answers: list[str | Exception] = [ValueError(self._too_long(ids)) for ids in prompts]
        if fitting:
            self._cache_prefix(requests[fitting[0]].messages, prompts[fitting[0]])
            texts = self._run([prompts[i] for i in fitting], [_sampling(requests[i]) for i in fitting])
            for i, text in zip(fitting, texts, strict=True):
                answers[i] = text
        return answers

    def _prompt_ids(self, messages: list[dict[str, str]]) -> list[int]:
        if self.chat:
            return chat_ids(self.tokenizer, messages, answer=True, **self.chat_template_kwargs)
        return completion_ids(self.tokenizer, messages)

    def _too_long(self, ids: list[int]) -> str:
        return f"examples and caption are {plural(len(ids), 'token')}, entities.options.max_model_len is {self.max_model_len}"

    def _cache_prefix(self, messages: list[dict[str, str]], ids: list[int]) -> None:
        """Have the engine compute what all prompts begin with before a batch needs it; again only when it changes.

        Otherwise every request of the first batch would compute it for itself, and a worker's first answers would come about in
        another way than its later ones.
        """
        other = self._prompt_ids([*messages[:-1], {**messages[-1], "content": ""}])
        prefix = [a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(ids, other, strict=False))]
        if prefix and prefix != self.prefix_ids:
            from vllm import SamplingParams

            self._run([prefix], [SamplingParams(temperature=0, max_tokens=1)])
            self.prefix_ids = prefix

    def _run(self, prompts: list[list[int]], sampling: list[Any]) -> list[str | Exception]:
        """Text of each prompt's continuation. Raises what vLLM raises when it does not take a request; it then takes none."""
        from vllm.inputs import TokensPrompt

        self.llm.enqueue([TokensPrompt(prompt_token_ids=ids) for ids in prompts], sampling, use_tqdm=False)
        try:
            done = self.llm.wait_for_completion(use_tqdm=False)
        except Exception as error:
            raise SystemExit(f"vLLM's engine failed: {type(error).__name__}: {error}") from error
        return [_text(request.outputs[0]) for request in done]


def _sampling(request: Generation) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    schema = json.dumps(request.json_schema, ensure_ascii=False)
    return SamplingParams(temperature=0, max_tokens=request.max_tokens, structured_outputs=StructuredOutputsParams(json=schema))


def _text(completion: Any) -> str | Exception:
    if completion.finish_reason in ("error", "abort"):
        return RuntimeError(f"vLLM ended the request: {completion.stop_reason or completion.finish_reason}")
    text: str = completion.text
    return text


def _check_device(wanted: str, found: str) -> None:
    """vLLM computes on the one kind of device that it was built for, on the cards that CUDA_VISIBLE_DEVICES shows."""
    if wanted != found:
        raise RuntimeError(
            f"entities.device is {wanted!r}, but this vLLM computes on {repr(found) if found else 'nothing that is here'}:"
            " on a GPU node install it with `make gpu` and set device to cuda; for a CPU, `make vllm-cpu` and device=cpu"
        )

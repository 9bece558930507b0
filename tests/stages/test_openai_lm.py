"""OpenAILM against a small HTTP server of the test: retries, waiting, order, concurrency, and answers of every wrong kind."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from materia.base.backends import BackendError
from stages import notices
from stages.backends import TransientError, build_backend
from stages.entities import Entities
from stages.entities.openai_lm import MOST_BYTES, OpenAILM
from stages.entities.prompt import load_prompt
from stages.records import Clip, Rejection, Sample
from stages.settings import EntitiesSettings

pytest.importorskip("openai")


class Scripted:
    """A server that gives each completion request to `reply(body, n)`, n counting from 0, and remembers what it saw.

    `reply` gives (status, headers, text, bytes or an iterator of bytes); or None to close the connection without an answer.
    """

    def __init__(self, reply, models=("m",)):
        self.reply, self.models = reply, models
        self.bodies, self.times, self.headers, self.most, self.now = [], [], [], 0, 0
        self.lock = threading.Lock()

    def handle(self, body, headers):
        with self.lock:
            n = len(self.bodies)
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            self.now += 1
            self.most = max(self.most, self.now)
        answer = self.reply(body, n)
        with self.lock:
            self.now -= 1
        return answer


@contextmanager
def serving(script):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(200, {}, json.dumps({"object": "list", "data": [{"id": name} for name in script.models]}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = script.handle({"path": self.path, **body}, {name.lower(): value for name, value in self.headers.items()})
            if answer is None:
                self.close_connection = True
            else:
                self.answer(*answer)

        def answer(self, status, headers, text):
            chunks = [text.encode() if isinstance(text, str) else text] if isinstance(text, str | bytes) else text
            length = {"Content-Length": str(len(chunks[0]))} if isinstance(chunks, list) else {}
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):  # the client has gone
                for chunk in chunks:
                    self.wfile.write(chunk)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def asking(script, **options):
    """A backend that is set up, on a server of its own."""
    with serving(script) as url:
        backend = OpenAILM(model="m", base_url=url, **options)
        backend.setup("cpu", 1)
        try:
            yield backend
        finally:
            backend.close()


def said(text):
    """A chat completion."""
    return 200, {}, json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def echo(body, n):
    return said(body["messages"][-1]["content"])


def then(*first):
    """Replies with these, then as an echo."""
    return lambda body, n: first[n] if n < len(first) else echo(body, n)


def ask(*captions):
    prompt = load_prompt("entities")
    return [prompt.ask(caption, ["dog"]) for caption in captions]


def test_answers_come_in_the_order_of_requests_whatever_the_server_does():
    def reply(body, n):
        time.sleep(0.02 * (7 - int(body["messages"][-1]["content"])))
        return echo(body, n)

    with asking(Scripted(reply), concurrency=8) as backend:
        assert backend.generate(ask(*map(str, range(8)))) == [str(i) for i in range(8)]


def test_no_more_requests_are_in_flight_than_configured():
    def reply(body, n):
        time.sleep(0.05)
        return echo(body, n)

    script = Scripted(reply)
    with asking(script, concurrency=3) as backend:
        backend.generate(ask(*map(str, range(9))))
    assert script.most == 3


def test_a_busy_server_is_asked_again_when_it_says_so():
    script = Scripted(then((429, {"Retry-After": "1.2"}, "{}")))
    with asking(script, retries=1) as backend:
        assert backend.generate(ask("a")) == ["a"]
    assert script.times[1] - script.times[0] >= 1.2


def test_errors_of_the_server_and_lost_connections_are_retried_with_growing_pauses():
    script = Scripted(then((500, {}, "{}"), (503, {}, "no"), None))
    with asking(script, retries=3) as backend:
        assert backend.generate(ask("a")) == ["a"]
    pauses = [after - before for before, after in zip(script.times, script.times[1:], strict=False)]
    assert pauses[0] >= 0.3
    assert pauses[1] > pauses[0]
    assert pauses[2] > pauses[1]


def test_after_the_last_retry_the_failure_is_transient():
    script = Scripted(lambda body, n: (503, {"Retry-After": "0.01"}, "{}"))
    with asking(script, retries=2) as backend:
        (answer,) = backend.generate(ask("a"))
    assert isinstance(answer, TransientError)
    assert "503" in str(answer)
    assert len(script.bodies) == 3


def test_a_server_that_hangs_costs_one_time_out_a_try():
    given_up = threading.Event()

    def hang(body, n):
        assert given_up.wait(60)
        return echo(body, n)

    with asking(Scripted(hang), timeout_s=0.3, retries=0) as backend:
        (answer,) = backend.generate(ask("a"))
        given_up.set()
        assert isinstance(answer, TransientError)


def test_a_server_that_trickles_costs_one_time_out_a_try():
    given_up = threading.Event()

    def drops():
        while not given_up.wait(0.1):
            yield b" "

    with asking(Scripted(lambda body, n: (200, {"Content-Length": "100000"}, drops())), timeout_s=0.4, retries=0) as backend:
        (answer,) = backend.generate(ask("a"))
        given_up.set()
        assert isinstance(answer, TransientError)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 302])
def test_what_the_server_refuses_is_not_asked_again_and_its_words_go_to_the_log(status):
    script = Scripted(lambda body, n: (status, {"Location": "/elsewhere"}, '{"error": {"message": "at 12:34 on host7"}}'))
    with asking(script, retries=3) as backend:
        (answer,) = backend.generate(ask("a"))
    assert len(script.bodies) == 1
    assert isinstance(answer, TransientError) == (status not in (400, 422))  # a login that is missing concerns every clip
    assert str(answer) == f"the server answered {status}"
    assert any("host7" in text for text in notices.drain())


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        "null",
        "[]",
        "{}",
        "<html>login</html>",
        '{"choices": []}',
        '{"choices": [{}]}',
        '{"choices": 7}',
        '{"choices": [{"message": {"content": null}}]}',
        '{"choices": [{"message": {"content": {"dog": "animal"}}}]}',
        b"\xff\xfe\x00",
        "[" * 100_000,
    ],
)
def test_an_answer_that_is_no_completion_costs_its_own_caption_only(garbage):
    def reply(body, n):
        return (200, {}, garbage) if body["messages"][-1]["content"] == "bad" else echo(body, n)

    with asking(Scripted(reply), retries=0) as backend:
        answers = backend.generate(ask("a", "bad", "b"))
    assert (answers[0], answers[2]) == ("a", "b")
    assert isinstance(answers[1], Exception)


def test_an_answer_is_read_up_to_a_limit_and_never_unpacked():
    with asking(Scripted(lambda body, n: said("x" * 2 * MOST_BYTES)), retries=0) as backend:
        assert isinstance(backend.generate(ask("a"))[0], Exception)
    with asking(Scripted(lambda body, n: (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")), retries=0) as backend:
        assert isinstance(backend.generate(ask("a"))[0], Exception)


def test_a_request_is_greedy_and_carries_the_constraint():
    script = Scripted(echo)
    with asking(script) as backend:
        backend.generate(ask("a"))
    with asking(script, constraint="json_schema", chat_template_kwargs={"enable_thinking": False}) as backend:
        backend.generate(ask("a"))
    grammar, schema = script.bodies
    assert grammar["temperature"] == schema["temperature"] == 0
    assert r"\"dog\"" in grammar["structured_outputs"]["grammar"]
    assert schema["response_format"]["json_schema"]["schema"] == ask("a")[0].json_schema
    assert schema["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_grammar_sent_accepts_the_compact_answer_and_nothing_else():
    xgrammar = pytest.importorskip("xgrammar")
    script = Scripted(echo)
    words = ["dog", '"cup" \\ 😀', "é\u2028::= # //"]
    request = load_prompt("entities").ask("a", words)
    with asking(script) as backend:
        backend.generate([request])
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([bytes([i]) for i in range(1, 256)]))
    grammar = compiler.compile_grammar(script.bodies[0]["structured_outputs"]["grammar"])

    def accepts(answer, **style):
        matcher = xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True)
        return matcher.accept_string(json.dumps(answer, ensure_ascii=False, **style)) and matcher.is_terminated()

    right = dict.fromkeys(words, "animal")
    assert accepts(right, separators=(",", ":"))
    assert not accepts(right)
    assert not accepts(right | {"flea": "animal"}, separators=(",", ":"))
    assert not accepts(dict.fromkeys(words, "dragon"), separators=(",", ":"))


def test_without_chat_the_examples_are_one_text_to_be_continued():
    script = Scripted(lambda body, n: (200, {}, json.dumps({"choices": [{"index": 0, "text": "{}"}]})))
    with asking(script, chat=False) as backend:
        assert backend.generate(ask("A dog.")) == ["{}"]
    assert script.bodies[0]["path"] == "/v1/completions"
    assert script.bodies[0]["prompt"].endswith('"}\n\nA dog.\n')


def test_the_key_comes_from_the_named_variable_and_from_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "not-for-this-server")
    monkeypatch.setenv("OUR_KEY", "ours")
    script = Scripted(echo)
    for options in ({}, {"api_key_env": "OUR_KEY"}):
        with asking(script, **options) as backend:
            backend.generate(ask("a"))
    assert not any("not-for-this-server" in value for value in script.headers[0].values())
    assert script.headers[1]["authorization"] == "Bearer ours"


def test_missing_asks_the_server_and_names_it_with_what_it_serves(monkeypatch):
    with serving(Scripted(echo, models=("big", "small"))) as url:
        assert OpenAILM(model="small", base_url=url).missing() == []
        (wrong,) = OpenAILM(model="m", base_url=url).missing()
        monkeypatch.delenv("OUR_KEY", raising=False)
        (key,) = OpenAILM(model="small", base_url=url, api_key_env="OUR_KEY").missing()
    (away,) = OpenAILM(model="small", base_url=url).missing()
    assert url in wrong.what
    assert "'m' but big, small" in wrong.what
    assert "OUR_KEY is not set" in key.what
    assert url in away.what


def test_options_that_cannot_change_results_stay_out_of_the_output():
    options = {"model": "m", "chat": True, "base_url": "http://host7:8000/v1", "api_key_env": "K", "concurrency": 2}
    settings = EntitiesSettings(backend="openai", options=options)
    assert settings.result_fields()["options"] == {"model": "m", "chat": True}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"model": "m", "base_url": "host7:8000"}, "base_url"),
        ({"model": "m", "base_url": "http://user:secret@host7/v1"}, "base_url"),
        ({"model": "m", "base_url": "file:///etc/passwd"}, "base_url"),
        ({"model": "m", "constraint": "regex"}, "regex"),
        ({"model": "m", "concurrency": 0}, "concurrency"),
        ({"model": "m", "api_key": "secret"}, "api_key"),
        ({}, "model"),
    ],
)
def test_wrong_options_are_named_and_secrets_are_not(options, named):
    with pytest.raises(BackendError, match=named) as error:
        build_backend("entities", "openai", options)
    assert "secret" not in str(error.value)


def test_a_server_that_is_away_gives_transient_rejections_without_its_address():
    with serving(Scripted(echo)) as url:
        pass
    stage = Entities(EntitiesSettings(backend="openai", options={"model": "m", "base_url": url, "retries": 0}))
    stage.setup()
    samples = [Sample(clip=Clip(row=i, key=f"k{i}", source_id="", uri="", caption="A dog runs.")) for i in range(3)]
    rows = stage.process(samples)
    stage.close()
    assert all(isinstance(row, Rejection) and row.reason == "transient_exhausted" for row in rows)
    assert all("127.0.0.1" not in row.message for row in rows)

"""The HTTP side of the page: what may be asked, and how a member of a tar is served byte range by byte range.

In: a `Viewer`. Out: an ASGI application (Starlette). JSON never holds picture bytes; pictures and clips are read from the place
that the index names. Anything that cannot be shown is answered with its sentence, as `{"problem": ...}` or as plain text.
"""

from __future__ import annotations

import functools
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import Any

import duckdb
import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from materia.base.errors import UserError
from materia.view import cards, pairs, pictures
from materia.view.database import QueryError
from materia.view.guard import Guard
from materia.view.marks import Mark
from materia.view.output import BRIEF, Output, Place, read_range
from materia.view.selection import State, joins
from materia.view.viewer import Viewer, decoded_state

_TYPES = {
    "jpg": "image/jpeg", "png": "image/png", "json": "application/json", "mp4": "video/mp4", "webm": "video/webm",
    "mkv": "video/x-matroska", "mov": "video/mp4", "avi": "video/x-msvideo", "ts": "video/mp2t", "gif": "image/gif",
    "mpg": "video/mpeg", "flv": "video/x-flv", "wmv": "video/x-ms-wmv", "js": "text/javascript", "css": "text/css",
    "html": "text/html", "svg": "image/svg+xml",
}  # fmt: skip
"""By extension; what is none of them is handed out as bytes."""
_PIECE = 1 << 20
"""Bytes of a clip that are read at once."""
_PAGE = 200
"""Most rows of an answer."""
_RANGE = re.compile(r"bytes=(?=.*\d)(?P<first>\d{0,15})-(?P<last>\d{0,15})")
"""One range; several are answered with the whole, as RFC 9110 allows."""
_STATIC = re.compile(r"index\.html|icon\.svg|[a-z]+\.(js|css)")


class _NotThere(UserError):
    """What is asked for is not there, or broken."""


def application(viewer: Viewer, hosts: Iterable[str] | None, token: str | None = None) -> Guard:
    """The whole server, guarded (guard.py)."""
    site = _Site(viewer)
    routes = [
        Route("/", _asset("index.html")),
        Route("/static/{name}", lambda request: _asset(request.path_params["name"])(request)),
        Route("/api/about", _answer(site.about)),
        Route("/api/select", _answer(site.select)),
        Route("/api/count", _answer(site.count)),
        Route("/api/cards", _answer(site.cards)),
        Route("/api/sample", _answer(site.sample)),
        Route("/api/neighbours", _answer(site.neighbours)),
        Route("/api/histogram", _answer(site.histogram)),
        Route("/api/words", _answer(site.words)),
        Route("/api/rejects", _answer(site.rejects)),
        Route("/api/rejection", _answer(site.rejection)),
        Route("/api/pairs", _answer(site.pairs)),
        Route("/api/audit", _answer(site.audit)),
        Route("/api/keys", site.keys),
        Route("/api/mark", site.mark, methods=["POST"]),
        Route("/api/sql", site.sql, methods=["POST"]),
        Route("/media/{o:int}/{n:int}/{member}", site.media),
        Route("/small/{o:int}/{n:int}/{member}", site.small),
        Route("/masks/{o:int}/{n:int}/{what}", site.masks),
        Route("/lost/{n:int}/{frame:int}", site.lost),
    ]
    return Guard(
        Starlette(routes=routes, exception_handlers={UserError: _explained, OSError: _explained, duckdb.Error: _explained}),
        hosts,
        token,
    )


def _explained(request: Request, error: Exception) -> Response:
    status = 404 if isinstance(error, _NotThere) else 400 if isinstance(error, QueryError) else 422
    return PlainTextResponse(str(error), status)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json", headers={"Cache-Control": "no-store"})


def _answer(ask: Callable[[dict[str, str]], Any]) -> Callable[[Request], Response]:
    """An endpoint of a question: parameters in, JSON out."""

    def endpoint(request: Request) -> Response:
        return _json(ask(dict(request.query_params)))

    return endpoint


def _asset(name: str) -> Callable[[Request], Response]:
    """A file that we ship; names of these only."""

    def endpoint(request: Request) -> Response:
        if not _STATIC.fullmatch(name):
            return PlainTextResponse("there is no such file", 404)
        file = files("materia.view") / "static" / name
        if not file.is_file():
            return PlainTextResponse("there is no such file", 404)
        kind = _TYPES[name.rpartition(".")[2]]
        return Response(file.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})

    return endpoint


def _whole(values: dict[str, str], name: str, default: int | None = None) -> int:
    text = values.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"\d{1,15}", text):
        raise QueryError(f"{name} must be a whole number, not {text!r}")
    return int(text)


class _Site:
    """The endpoints of one viewer."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        self._job: Any = None
        self._looking = threading.Lock()
        self.looked = functools.lru_cache(maxsize=64)(self._look)

    def about(self, values: dict[str, str]) -> Any:
        return self.viewer.about()

    def _output(self, number: int) -> Output:
        if number >= len(self.viewer.outputs):
            raise _NotThere("there is no such output")
        return self.viewer.outputs[number]

    def _state(self, values: dict[str, str]) -> State:
        return decoded_state(values.get("q", ""))

    def select(self, values: dict[str, str]) -> Any:
        """A page of a state's samples: what of them lies in the table."""
        state = self._state(values)
        numbers = self.viewer.selections.numbers(state)
        offset, limit = _whole(values, "offset", 0), min(_PAGE, _whole(values, "limit", 60))
        shown = [int(n) for n in numbers[offset : offset + limit]]
        return {"total": len(numbers), "offset": offset, "rows": self._narrow(shown, state.sort.removeprefix("-"))}

    def _narrow(self, numbers: list[int], sort: str) -> list[dict[str, Any]]:
        """Key, flags, mark and the value that is sorted by, of samples in their order."""
        if not numbers:
            return []
        value, tables = self.viewer.selections.value_of(sort) if sort else ("NULL", set[str]())
        inside = ", ".join(map(str, numbers))
        columns = f"s.n, s.key, s.flags, {value}, marks.bad, marks.why"
        sql = f"SELECT {columns} FROM samples s {joins({*tables, 'marks'})} WHERE s.n IN ({inside})"
        found = {row[0]: row for row in self.viewer.database.rows(sql)}
        names = ("n", "key", "flags", "value", "bad", "why")
        return [{name: _finite(part) for name, part in zip(names, found[n], strict=True)} for n in numbers if n in found]

    def count(self, values: dict[str, str]) -> Any:
        return {"total": self.viewer.selections.count(self._state(values))}

    def cards(self, values: dict[str, str]) -> Any:
        """Cards of samples by number: `n=3,1,2`."""
        numbers = values.get("n", "").split(",")[:_PAGE]
        output = self._output(_whole(values, "o", 0))
        return [cards.card(output, int(n)) for n in numbers if re.fullmatch(r"\d{1,9}", n) and int(n) < output.samples]

    def sample(self, values: dict[str, str]) -> Any:
        """A sample by key or number, with its row of the table and its mark."""
        which = _whole(values, "o", 0)
        output = self._output(which)
        number = self.viewer.number_of(values["key"], which) if "key" in values else _whole(values, "n")
        if number is None or number >= output.samples:
            raise _NotThere(
                f"{output.out} has no sample of this key" + ("" if self.viewer.done.is_set() else " among those read until now")
            )
        about = cards.sample(output, number)
        if which == 0:
            narrow = self._narrow([number], "")
            about["mark"] = (
                None if not narrow or narrow[0]["bad"] is None else {"bad": narrow[0]["bad"], "why": narrow[0]["why"] or []}
            )
        about["alike"] = self.viewer.embeddings if which == 0 else []
        return about

    def neighbours(self, values: dict[str, str]) -> Any:
        """Where a sample is in a state's order, and the keys before and after; one that has left it counts as at `at`."""
        numbers = self.viewer.selections.numbers(self._state(values))
        place = (numbers == _whole(values, "n")).nonzero()[0]
        at = int(place[0]) if len(place) else min(_whole(values, "at", 0), len(numbers))
        after = at + 1 if len(place) else at
        around = [int(numbers[i]) if 0 <= i < len(numbers) else None for i in (at - 1, after)]
        keys = [None if n is None else self._output(0).row(n, columns=BRIEF)["key"] for n in around]
        return {"at": at, "total": len(numbers), "here": bool(len(place)), "previous": keys[0], "next": keys[1]}

    def histogram(self, values: dict[str, str]) -> Any:
        return self.viewer.selections.histogram(values.get("column", ""), self._state(values))

    def words(self, values: dict[str, str]) -> Any:
        """Words that begin with, then words that contain, what has been typed; the most frequent first."""
        typed = values.get("typed", "").casefold()
        begin = [word for word in self.viewer.words if word[0].casefold().startswith(typed)]
        inside = [
            word for word in self.viewer.words if typed in word[0].casefold() and not word[0].casefold().startswith(typed)
        ]
        return [{"word": word, "kind": kind, "count": count} for word, kind, count in [*begin, *inside][:30]]

    def rejects(self, values: dict[str, str]) -> Any:
        """Reasons with their counts, and a page of the rows of one, or of all."""
        database, reason = self.viewer.database, values.get("reason", "")
        condition, given = ("reason = ?", [reason]) if reason else ("true", [])
        offset, limit = _whole(values, "offset", 0), min(_PAGE, _whole(values, "limit", 60))
        reasons = database.rows("SELECT stage, reason, count(*) AS c FROM rejects GROUP BY ALL ORDER BY c DESC, stage, reason")
        total = database.rows(f"SELECT count(*) FROM rejects WHERE {condition}", given)[0][0]
        rows = database.rows(f"SELECT n FROM rejects WHERE {condition} ORDER BY n LIMIT ? OFFSET ?", [*given, limit, offset])
        return {
            "reasons": [{"stage": stage, "reason": name, "count": count} for stage, name, count in reasons],
            "total": total,
            "offset": offset,
            "rows": [cards.rejection(self._output(0), row[0]) for row in rows],
        }

    def rejection(self, values: dict[str, str]) -> Any:
        """A rejected row, and how many pictures of its clip there are."""
        number = _whole(values, "n")
        if number >= self._output(0).rejections:
            raise _NotThere("there is no such rejection")
        seen = self.looked(number)
        frames = [{"percent": p.percent, "time_s": p.time_s, "width": p.width, "height": p.height} for p in seen.pictures[:3]]
        return {**cards.rejection(self._output(0), number), "frames": frames, "no_frames": seen.problem}

    def _look(self, number: int) -> Any:
        """Pictures of a rejected row's clip, decoded in a process of its own, by the rules of its job."""
        from materia.report.rejected_card import Job

        with self._looking:  # one at a time: a decoder takes a core
            self._job = self._job or Job(self._output(0).out)
            return self._job.look(self._output(0).row(number, "rejects"))

    def lost(self, request: Request) -> Response:
        """One of these pictures."""
        number, frame = request.path_params["n"], request.path_params["frame"]
        if number >= self._output(0).rejections or frame >= len(seen := self.looked(number).pictures):
            raise _NotThere("there is no such picture")
        return self._picture(seen[frame].jpeg, "image/jpeg")

    def pairs(self, values: dict[str, str]) -> Any:
        """A page of the two outputs side by side."""
        if len(self.viewer.outputs) < 2:
            raise QueryError("only one output is open: materia view OUT OUT2")
        if not self.viewer.done.is_set():
            return {"rows": [], "total": 0, "counts": {}}
        limit = min(_PAGE, _whole(values, "limit", 20))
        return pairs.page(self.viewer.database, values.get("only", "different"), _whole(values, "offset", 0), limit)

    def audit(self, values: dict[str, str]) -> Any:
        return self.viewer.audit_result(self._state(values))

    def keys(self, request: Request) -> Response:
        """Keys of a state's samples, one a line, to be saved."""
        state = self._state(dict(request.query_params))
        text = "".join(f"{key}\n" for key in self.viewer.keys_of(self.viewer.selections.numbers(state)))
        return PlainTextResponse(text, headers={"Content-Disposition": 'attachment; filename="keys.txt"'})

    async def mark(self, request: Request) -> Response:
        """Set or take away a mark; answered when it is written."""
        asked = _posted(await request.body(), _MARKINGS)
        mark = None if asked.bad is None else Mark(asked.bad, tuple(dict.fromkeys(asked.why)))
        await run_in_threadpool(self.viewer.mark, asked.n, mark)
        return _json({"saved": True})

    async def sql(self, request: Request) -> Response:
        """Answer a person's SELECT."""
        asked = _posted(await request.body(), _QUESTIONS)
        answer = await run_in_threadpool(self.viewer.ask, asked.sql)
        rows = [[_finite(value) for value in row] for row in answer.rows]
        return _json(
            {"columns": answer.columns, "types": answer.types, "rows": rows, "more": answer.more, "seconds": answer.seconds}
        )

    def media(self, request: Request) -> Response:
        """A member as it is; a range of it if the browser asks for one."""
        params = request.path_params
        output = self._output(params["o"])
        if params["n"] >= output.samples:
            raise _NotThere("there is no such sample")
        place = output.place(params["n"], params["member"])
        return ranged(place, request.headers.get("range"), f'"{self.viewer.version}-{place.offset}"')

    def small(self, request: Request) -> Response:
        """A picture made small: `w` px."""
        data = self._member(request)
        return self._picture(*pictures.small_picture(data, self._width(request)))

    def masks(self, request: Request) -> Response:
        """Masks of a frame, or of what the background has borrowed, to be laid over it."""
        params, width = request.path_params, self._width(request)
        output = self._output(params["o"])
        if params["n"] >= output.samples:
            raise _NotThere("there is no such sample")
        document = output.document(params["n"])
        match params["what"]:
            case "frame0" | "frame1" | "frame2" as what:
                return self._picture(pictures.frame_masks(document, int(what[-1]), width), "image/png")
            case "borrowed":
                return self._picture(pictures.borrowed_mask(document, width), "image/png")
        raise _NotThere("there are no such masks")

    def _member(self, request: Request) -> bytes:
        params = request.path_params
        output = self._output(params["o"])
        if params["n"] >= output.samples or not re.fullmatch(r"(frame|ref|background)\w*\.(jpg|png)", params["member"]):
            raise _NotThere("there is no such picture")
        return output.read_member(params["n"], params["member"])

    def _width(self, request: Request) -> int:
        return pictures.width_for(_whole(dict(request.query_params), "w", 384))

    def _picture(self, data: bytes, kind: str) -> Response:
        return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=86400"})


class _Marking(msgspec.Struct, forbid_unknown_fields=True):
    n: int
    bad: bool | None = None
    why: list[str] = []


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    sql: str


# Made here: msgspec crashes where threads decode a type for the first time together.
_MARKINGS, _QUESTIONS = msgspec.json.Decoder(_Marking), msgspec.json.Decoder(_Question)


def _posted(data: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"what was sent cannot be understood: {error}") from None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def ranged(place: Place, wanted: str | None, etag: str) -> Response:
    """A member, or the one range of it that is asked for (RFC 9110); read piece by piece.

    Raises OutputError before it begins.
    """
    start, end = 0, place.size
    found = _RANGE.fullmatch(wanted or "")
    if found:
        first, last = found["first"], found["last"]
        start = int(first) if first else max(0, place.size - int(last))
        end = min(place.size, int(last) + 1) if first and last else place.size
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{place.size}"})
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Length": str(end - start),
        "Cache-Control": "private, max-age=86400",
        "ETag": etag,
        "Content-Security-Policy": "sandbox",
    }
    if found:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{place.size}"
    read_range(place, 0, 0)  # is it the tar that the index describes?
    first_piece = read_range(place, start, min(end, start + _PIECE))
    kind = _TYPES.get(place.name.rpartition(".")[2], "application/octet-stream")
    return StreamingResponse(_pieces(place, first_piece, start, end), 206 if found else 200, headers, kind)


def _pieces(place: Place, first: bytes, start: int, end: int) -> Iterator[bytes]:
    yield first
    for at in range(start + _PIECE, end, _PIECE):
        yield read_range(place, at, min(end, at + _PIECE))

"""An output with playable clips for tests of the page, and a client that talks to the page's server without a network."""

import io
import json
from pathlib import Path

import numpy as np
from samples import PROVENANCE, make_dataset, make_rejection, make_sample

from materia.dataset import layout, writer

HOST = "127.0.0.1:8123"
OWN = {"origin": f"http://{HOST}"}


def film(seconds=8, size=(96, 72), fps=10, seed=0):
    """Bytes of an MP4 of noise, several hundred kB, so that a browser seeks in it by byte ranges."""
    import av

    random = np.random.default_rng(seed)
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "10", "g": "5"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(seconds * fps):
            frame = av.VideoFrame.from_ndarray(random.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def make_pages(folder: Path, kinds=("sss", "ssr"), clip=None, change=lambda sample: None) -> str:
    """An output as tests/dataset/samples.py makes it; `clip`: bytes of every clip; `change` each sample first."""
    out = str(folder / "out")
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    layout.write_info(out, make_dataset(sum(map(len, kinds)), len(kinds), max(map(len, kinds))))
    row = 0
    for chunk, kind in enumerate(kinds):
        rows = []
        for letter in kind:
            if letter == "s":
                sample = make_sample(folder / "clips", row, subject=("dog", "cat", "horse")[row % 3])
                if clip is not None:
                    Path(sample.clip.address).write_bytes(clip)
                change(sample)
                rows.append(sample)
            else:
                rows.append(make_rejection(row))
            row += 1
        writer.write_chunk(out, chunk, rows, provenance=PROVENANCE, extra={"views": "int64"})
    return out


def page(*outs, hosts=(HOST,), token=None, marks="marks", by="anna"):
    """(client, viewer) of outputs that are read."""
    from starlette.testclient import TestClient

    from materia.view.app import application
    from materia.view.viewer import Viewer

    viewer = Viewer(list(outs), marks, by)
    viewer.read_all()
    return TestClient(application(viewer, hosts, token), base_url=f"http://{HOST}", follow_redirects=False), viewer


def select(client, **state):
    """Keys of a state's samples, in order."""
    answer = client.get("/api/select", params={"q": json.dumps(state)})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["total"] == len(found["rows"])
    return [row["key"] for row in found["rows"]]

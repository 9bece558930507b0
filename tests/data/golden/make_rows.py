"""Makes rows.msgpack beside this script: two samples and a rejection, with the encoded pictures in it.

Stored rather than made by the test: the bytes of a JPEG or PNG depend on the version of Pillow. Run it only when the records
change, and pin the new hashes in tests/dataset/test_shards_golden.py.
"""

import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parents[1] / "pipeline")]

import msgspec  # noqa: E402
from samples import make_rejection, make_sample  # noqa: E402

from stages.records import encode_rows  # noqa: E402

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            make_sample(Path(folder), 0),
            make_rejection(1),
            make_sample(Path(folder), 2, subject="Häschen", thing="roter Ball"),
        ]
    for row in (rows[0], rows[2]):
        row.clip = msgspec.structs.replace(row.clip, address="")
    rows[2].media = b"a re-encoded cut"
    (HERE / "rows.msgpack").write_bytes(encode_rows(rows))

"""From manifests (JSONL, CSV, Parquet) or a folder of captioned videos to one `Clip` or `Rejection` a row, in manifest order.

In: an fsspec address. Out: a stream that never holds the manifest. Bad rows become rejections; only an input that cannot be
read at all (missing, truncated Parquet, no `video` column) raises `SourceError`. What a row is: a non-blank line of JSONL, a
value of a JSON array, a CSV record, a Parquet row, a video of a folder. Duplicate keys are the plan's business, which sees all
rows.
"""

from pipeline.sources.inputs import InputFile, Source, find_source, read_file, read_rows
from pipeline.sources.normalise import normalise
from pipeline.sources.rows import RawRow, SourceError

__all__ = ["InputFile", "RawRow", "Source", "SourceError", "find_source", "normalise", "read_file", "read_rows"]

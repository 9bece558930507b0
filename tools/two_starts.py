"""Start two jobs on one output in an object store at the same moment, many times: one runs, one says why not.

    python -m tools.two_starts [--times 20] [--server ministack]

In: nothing; it starts the server. Out: a line each time with the exit codes and what the claims say (`_run/lease/`), and a sum.
Exit code 1 if ever two wrote, or an output is not that of an undisturbed job. A job that begins after the other has ended finds
nothing to do: that is no fault, and counted apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import fsspec

from tools.faults import job
from tools.faults.servers import BUCKET, SERVERS, credentials, running


@click.command()
@click.option("--times", default=20, show_default=True)
@click.option("--server", type=click.Choice(SERVERS), default="ministack", show_default=True)
@click.option("--rows", default=24, show_default=True)
def main(times: int, server: str, rows: int) -> None:
    """Print what became of each pair."""
    os.environ.update(credentials())
    refused = 0
    with running(server) as address:
        job.make_input(address, rows)
        assert job.run(address, "calm", "serial").exit_code == 0
        calm = job.contents(address, "calm")
        for number in range(times):
            request = json.dumps({"server": address, "out": f"pair{number}", "engine": "serial"})
            command = [sys.executable, "-m", "tools.faults.job", request]
            pair = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
            ended = sorted((one.communicate()[1], one.returncode) for one in pair)
            codes = sorted(code for _, code in ended)
            claims = _claims(address, f"pair{number}")
            held = [claim["ended"] for claim in claims]  # one is only added when no other holds; a takeover would be said
            equal = job.contents(address, f"pair{number}") == calm
            why = next((said.strip().splitlines()[-1][:110] for said, code in ended if code), "the second found nothing to do")
            print(f"{number + 1:3}  exit codes {codes}  claims {held}  equal {equal}  {why}")
            refused += codes == [0, 2]
            if held != ["done"] * codes.count(0) or not equal or codes not in ([0, 2], [0, 0]):
                sys.exit(1)
    print(f"{times} pairs: {refused} times one was refused, {times - refused} times it came after the other had ended")


def _claims(server: str, out: str) -> list[dict[str, object]]:
    store = fsspec.filesystem("s3", endpoint_url=server, key="k", secret="s", use_listings_cache=False)
    claims: list[dict[str, object]] = json.loads(store.cat_file(f"{BUCKET}/{out}/_run/lease/claims.json"))["claims"]
    return claims


if __name__ == "__main__":
    main()

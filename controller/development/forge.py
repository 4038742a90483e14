"""What stands in for GitHub on a developer's machine? One repository over smart HTTP, its API, and its webhooks.

- A real `git push` makes a real, signed delivery, computed from the refs before and after it, and sent after the refs
  have moved, one at a time and in order. As at GitHub a delivery has ten seconds, is recorded, and is never sent again
  by itself; it can be sent again by hand.
- Whoever knows the token may do everything; who does not gets 401. /health and the page at / are open.
- All state is under one folder, so a forge that was killed starts again where it was.
- Under /_development there are knobs for what goes wrong at the real one: webhooks that come late, twice, in another
  order or never, outages, slow answers, limits, and pull requests from forks. `forge_doors` lists them.

It listens on loopback only. It is for development and tests, and holds no secrets worth stealing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from controller.development.forge_doors import build_app
from controller.development.forge_events import Forge, utc_text
from controller.development.forge_git import GitRepository
from controller.development.forge_records import Records
from controller.development.forge_shapes import Shapes
from controller.doors.log_output import hide_contents_of, log_to_stderr
from controller.model.names import REPOSITORY


def open_forge(
    *,
    root: Path,
    base_url: str,
    repository: str,
    webhook_url: str,
    webhook_secret_file: Path,
    token_file: Path,
) -> Forge:
    """Return the forge whose state is under `root`; an empty one if there is none."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    records = Records(root / "forge.sqlite")
    created_at = records.keep_fact("created_at", utc_text())
    forge = Forge(
        git=GitRepository(root, repository.rpartition("/")[2]),
        records=records,
        shapes=Shapes(base_url, repository, created_at=created_at),
        webhook_url=webhook_url,
        webhook_secret_file=webhook_secret_file,
        token_file=token_file,
    )
    names = records.load_fact("names")
    if names is not None:
        newest, former = json.loads(names)
        forge.shapes.rename(newest)
        forge.former_names.update(former)
    return forge


def main(words: Sequence[str], *, around: Callable[[ASGIApp], ASGIApp] = lambda app: app) -> int:
    """Serve until TERM or Ctrl-C; return the exit code. Tests look at every exchange from `around` the application."""
    parser = argparse.ArgumentParser(prog="python -m controller.development.forge", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the forge's state")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--repository", required=True, metavar="OWNER/NAME")
    parser.add_argument("--webhook-url", required=True)
    parser.add_argument("--webhook-secret-file", type=Path, required=True)
    parser.add_argument("--token-file", type=Path, required=True)
    options = parser.parse_args(words)
    if not REPOSITORY.match(options.repository):
        parser.error("--repository is not owner/name")
    log_to_stderr()
    hide_contents_of([options.webhook_secret_file, options.token_file])
    forge = open_forge(
        root=options.root.absolute(),
        base_url=f"http://127.0.0.1:{options.port}",
        repository=options.repository,
        webhook_url=options.webhook_url,
        webhook_secret_file=options.webhook_secret_file,
        token_file=options.token_file,
    )
    config = uvicorn.Config(
        around(build_app(forge)),
        host="127.0.0.1",
        port=options.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_level="warning",
        server_header=False,
        # The API tells the time by the forge's own clock.
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    server.run()
    return 0 if server.started else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

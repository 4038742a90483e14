"""`oroboros`: the command line."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from controller.model.config import Settings, read_settings
from controller.model.errors import ConfigInvalid, OroborosError, Refused, Unavailable


@click.group()
@click.option("--root", type=click.Path(path_type=Path), default=None)
@click.pass_context
def cli(context: click.Context, root: Path | None) -> None:
    """A GitOps controller for ordinary Linux hosts."""
    context.obj = root


def _settings() -> Settings:
    return read_settings(os.environ)


@cli.command()
def api() -> None:
    """Serve the receiver."""
    from controller.doors.api_server import serve
    from controller.effects.stack_files import read_topology

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = _settings()
    sys.exit(serve(settings, port=read_topology(settings.layout).ports.api))


@cli.command()
def worker() -> None:
    """Run the controller."""
    from controller.development.embedded_runtime import EmbeddedRuntime
    from controller.doors.worker import Worker

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = _settings()
    sys.exit(Worker(settings, EmbeddedRuntime(settings.runtime_socket)).run())


@cli.command()
@click.option("--root", type=click.Path(path_type=Path), required=True)
@click.option("--port-base", type=int, default=0)
@click.option("--free-ports", is_flag=True)
@click.option("--repository", default="acme/shop")
@click.option("--resync", "resync_s", type=float, default=300.0)
def up(root: Path, port_base: int, free_ports: bool, repository: str, resync_s: float) -> None:
    """Run everything on this machine."""
    from controller.development.up import Options, main_up

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    options = Options(root=root, port_offset=port_base, free_ports=free_ports, repository=repository, resync_s=resync_s)
    sys.exit(main_up(options, say=lambda text: click.echo(text)))


@cli.command()
@click.option("--exit", "leave", is_flag=True)
@click.option("--root", type=click.Path(path_type=Path), default=None)
@click.option("--port-base", type=int, default=None)
def demo(leave: bool, root: Path | None, port_base: int | None) -> None:
    """Show the three flows."""
    from controller.development.demo import main_demo

    sys.exit(main_demo(root=root, leave=leave, port_base=port_base, console=Console()))


def main() -> None:
    """Run a command; map errors to exit codes."""
    try:
        cli.main(standalone_mode=True)
    except OroborosError as error:
        click.echo(f"oroboros: {error}", err=True)
        match error:
            case ConfigInvalid():
                sys.exit(2)
            case Refused():
                sys.exit(3)
            case Unavailable():
                sys.exit(4)
            case _:
                sys.exit(1)


if __name__ == "__main__":
    main()

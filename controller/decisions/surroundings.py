"""What does an instance or a job get as argv, address and environment? Pure: recipe and facts in, words out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from controller.decisions.assets import leaves_assets
from controller.model.config import Recipe
from controller.model.names import MAIN, Colour, Layout, Sha, SlotName, Topology, number_of
from controller.model.nouns import Live, Run

#: Which version of the app's own environment file a process was started with.
CONFIGURED = "OROBOROS_CONFIGURED"


def visitor_headers(url: str) -> dict[str, str]:
    """Return what an app reads of a visitor to this public URL, as edge and surface say it, of ourselves at loopback.

    The Host header is the URL's authority, with its port; Caddy's reverse_proxy names the other three."""
    scheme, _, authority = url.partition("://")
    return {
        "Host": authority,
        "X-Forwarded-For": "127.0.0.1",
        "X-Forwarded-Host": authority,
        "X-Forwarded-Proto": scheme,
    }


def listening_address(
    recipe: Recipe, *, layout: Layout, topology: Topology, slot: SlotName, colour: Colour
) -> str | None:
    """Return where the instance itself listens, in Caddy's spelling of a dial address; None for a static release."""
    if recipe.api is None:
        return None
    if recipe.api.listen == "socket":
        return f"unix/{layout.instance_socket(slot, colour)}"
    return f"127.0.0.1:{topology.ports.instance(slot, colour)}"


def instance_address(
    recipe: Recipe, *, layout: Layout, topology: Topology, slot: SlotName, colour: Colour
) -> str | None:
    """Return where the instance is reached: where it listens, or at the socket that leads into its own network."""
    is_forwarded = topology.isolated_previews and slot != MAIN
    if is_forwarded and recipe.api is not None and recipe.api.listen == "port":
        return f"unix/{layout.forwarding_socket(slot, colour)}"
    return listening_address(recipe, layout=layout, topology=topology, slot=slot, colour=colour)


def environment(
    *,
    run: Run,
    slot: SlotName,
    listens_at: str | None,
    nonce: str,
    url: str,
    database_url: str | None,
    data_folder: Path,
    app_values: Mapping[str, str],
    configured: str,
    branch: str | None,
    ceilings: Sequence[str],
) -> dict[str, str]:
    """Return the environment of an instance or a job: the app's own values, then ours over them.

    `branch` is the one that the release came by, if it is known. `ceilings` are resolved folders in and above which git
    looks for no repository (git(1), GIT_CEILING_DIRECTORIES)."""
    values = dict(app_values)
    # The list has no way to write a colon in a path.
    values["GIT_CEILING_DIRECTORIES"] = ":".join(ceiling for ceiling in ceilings if ":" not in ceiling)
    if branch is not None:
        values["OROBOROS_BRANCH"] = branch
    values["OROBOROS_SLOT"] = slot
    values["OROBOROS_RELEASE"] = run.release
    values["OROBOROS_URL"] = url
    values["OROBOROS_DATA"] = str(data_folder)
    values[CONFIGURED] = configured
    if nonce:
        values["OROBOROS_NONCE"] = nonce
    pull_request = number_of(run.domain)
    if pull_request is not None:
        values["OROBOROS_PULL_REQUEST"] = str(pull_request)
    if database_url is not None:
        values["DATABASE_URL"] = database_url
    if listens_at is not None and listens_at.startswith("unix/"):
        values["OROBOROS_SOCKET"] = listens_at.removeprefix("unix/")
    elif listens_at is not None:
        values["HOST"], values["PORT"] = listens_at.rsplit(":", 1)
    return values


def live_for(
    run: Run,
    recipe: Recipe,
    *,
    topology: Topology,
    layout: Layout,
    base: Path,
    previous: Live | None,
) -> Live:
    """Return what `live` is to say once this run is switched to. `base` is the resolved release or build folder."""
    static_root = str(base / recipe.web.static) if recipe.web is not None else None
    address = None
    if run.colour is not None:
        address = instance_address(recipe, layout=layout, topology=topology, slot=run.slot, colour=run.colour)
    same_tenant = previous is not None and previous.state == "live" and previous.fence == run.fence
    return Live(
        slot=run.slot,
        state="live",
        generation=run.generation,
        fence=run.fence,
        release=run.release,
        tree=run.head.tree,
        colour=run.colour if address is not None else None,
        address=address,
        static_root=static_root,
        # A page that is still open in a browser asks for the old release's hashed assets; another tenant's never.
        previous_static_root=(
            previous.static_root if previous is not None and same_tenant and leaves_assets(run) else None
        ),
        fallback=recipe.web.fallback if recipe.web is not None else None,
        api_prefix="/" if recipe.web is None else (recipe.api.prefix if recipe.api is not None else "/"),
        health_path=recipe.gate.path,
        health_status=recipe.gate.status if address is not None else None,
    )


def free(slot: SlotName, *, generation: int = 0) -> Live:
    """Return what `live` says of a slot that serves nothing."""
    return Live(slot=slot, state="free", generation=generation)


def app_environment_file(config_dir: Path, slot: SlotName) -> Path:
    """Return where an app's own secrets for a slot lie; a preview never gets production's."""
    return config_dir / f"app-{slot}.env"


def release_base(layout: Layout, run: Run, recipe: Recipe, *, recipe_hash: str) -> Path:
    """Return the resolved folder that instances of this run work in: the release, or what its build made."""
    if recipe.build is None:
        return layout.release(Sha(run.release))
    return layout.build(run.domain, run.head.tree, recipe_hash)

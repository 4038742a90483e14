"""What lies in a slot's live folder for Caddy and for us to read, and may a value stand in it?

- `routes`, one line, read ONCE per request: state, prefix, folders of files, fallback. One read, so that a switch in
  the middle of a request never mixes two releases, nor a body and another's entity tag. Beside it lies `route`, its
  first fields, for surfaces of an earlier installation: a host's surfaces are installed, and api and worker may be
  what production serves. Nothing of the release before is in that one, since those would serve all of it, for ever.
- an address, in the dial itself: read again at each attempt, so that a request which finds the old instance gone goes
  to the new one. It always names somebody: when no instance runs, the surface's own responder, which routes anew.
  There are three of it, since the switch may fall between the two reads: a request that was routed for a release
  without files must not reach the instance of one with files. What does not fit names the responder.

Caddy would replace placeholders inside what it reads; so a value that holds a brace is refused (`check_value`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from controller.decisions.assets import hashed_by
from controller.model.config import Retention
from controller.model.errors import ConfigInvalid
from controller.model.names import Layout, parse_sha
from controller.model.nouns import Live

#: Names of the files in a live folder that Caddy reads.
ROUTES_FILE = "routes"
FORMER_ROUTE_FILE = "route"
#: The instance, for those who want nothing else: the backend port and the surface's `/health`.
ADDRESS_FILE = "address"
#: The instance of a release without static files: everything goes to it.
ADDRESS_OF_ALL_FILE = "address-of-all"
#: The instance of a release with static files: what is under its prefix, and what no file answers.
ADDRESS_BESIDE_FILES_FILE = "address-beside-files"

#: In the order of the line. A surface finds each as `{http.regexp.live.<name>}`.
FORMER_ROUTE_FIELDS = (
    "state",
    "instance",
    "release",
    "generation",
    "prefix",
    "static_root",
    "previous_static_root",
    "fallback",
    "health_path",
)
ROUTE_FIELDS = (
    *FORMER_ROUTE_FIELDS,
    "health_status",
    # Entity tag of every file of the release: its body and this change together.
    "content",
    # Second since 1970 until which the release before answers for hashed assets, and the pattern of those.
    "previous_until",
    "assets",
)
#: What `live` did not always say. A slot that was switched before goes on serving without it.
_ADDED = frozenset({"health_status"})


def _pattern(fields: Sequence[str], *, empty: Sequence[str] = ()) -> str:
    found = "\t".join(f"(?P<{name}>[^\t]*)" for name in fields)
    return f"^{found}{''.join(f'(?P<{name}>)' for name in empty)}$"


#: What a surface reads each line by. Of a slot that was switched before `routes` was, the release is the content.
ROUTE_PATTERN = _pattern(ROUTE_FIELDS)
FORMER_ROUTE_PATTERN = _pattern(
    FORMER_ROUTE_FIELDS, empty=[name for name in ROUTE_FIELDS if name not in (*FORMER_ROUTE_FIELDS, "content")]
).replace("(?P<release>[^\t]*)", "(?P<content>(?P<release>[^\t]*))")
_FIELDS = {field.name for field in dataclasses.fields(Live)}
_TEXT_OR_NONE = (
    "release",
    "tree",
    "colour",
    "address",
    "static_root",
    "previous_static_root",
    "fallback",
)
_NEVER_IN_A_VALUE = frozenset("{}\t") | {chr(code) for code in range(32)} | {"\x7f"}


def render_addresses(layout: Layout, live: Live) -> dict[str, str]:
    """Return the content of each file that a surface dials by, under its name."""
    responder = f"unix/{layout.surface_socket(live.slot)}"
    address = live.address if live.state == "live" and live.address is not None else responder
    check_value("address", address)
    has_files = live.static_root is not None
    return {
        ADDRESS_FILE: address,
        ADDRESS_OF_ALL_FILE: responder if has_files else address,
        ADDRESS_BESIDE_FILES_FILE: address if has_files else responder,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Assets:
    """What a policy says, at a switch, of assets with a hash of their content in the name."""

    #: Until when pages that are still open may load those of the release before; None: not at all.
    until: datetime | None = None
    #: `assets.hashed_by`; "": the names that bundlers make.
    pattern: str = ""


def assets_of(policy: Retention, *, now: datetime) -> Assets:
    """Return what a switch at `now` makes of a policy."""
    return Assets(
        until=now + timedelta(seconds=policy.assets_s) if policy.assets_s > 0 else None,
        pattern="" if policy.assets is None else hashed_by(policy.assets),
    )


def render_routes(live: Live, assets: Assets, *, content: str) -> dict[str, str]:
    """Return the lines of tab-separated fields that a surface routes by, under the names of their files; ConfigInvalid
    if a value cannot be written. `content` tells what the release's files hold from what any others do."""
    serving = live.state == "live"
    values = {
        "state": live.state,
        "instance": "yes" if serving and live.address is not None else "no",
        "release": live.release or "",
        "generation": str(live.generation),
        "prefix": live.api_prefix,
        "static_root": (live.static_root or "") if serving else "",
        "previous_static_root": (live.previous_static_root or "") if serving and assets.until is not None else "",
        "fallback": "/" + live.fallback.lstrip("/") if serving and live.fallback else "",
        "health_path": live.health_path,
        "health_status": "" if live.health_status is None else str(live.health_status),
        "content": content,
        "previous_until": "" if assets.until is None else str(int(assets.until.timestamp())),
        "assets": assets.pattern,
    }
    for name, value in values.items():
        check_value(name, value)
    former = {**values, "previous_static_root": ""}
    return {
        ROUTES_FILE: "\t".join(values[name] for name in ROUTE_FIELDS),
        FORMER_ROUTE_FILE: "\t".join(former[name] for name in FORMER_ROUTE_FIELDS),
    }


def check_value(name: str, value: str) -> None:
    """Refuse a value that Caddy would not read back as it is: ConfigInvalid."""
    bad = sorted(_NEVER_IN_A_VALUE.intersection(value))
    if bad:
        raise ConfigInvalid("LiveValueInvalid", f"{name}: {value!r:.100} must not hold {bad[0]!r}")


def render_live(live: Live) -> str:
    """Return the JSON that `parse_live` reads.

    What `live` did not always say is left out unless it says something: an older release of ours, to which a rollback
    may lead, takes no key that it does not know."""
    fields = dataclasses.asdict(live)
    return json.dumps({k: v for k, v in fields.items() if k not in _ADDED or v is not None}, indent=1, sort_keys=True)


def parse_live(text: str) -> Live:
    """Return the `Live` that its JSON says; ValueError when it is not exactly that."""
    fields = json.loads(text)
    if not isinstance(fields, dict) or not _FIELDS - _ADDED <= set(fields) <= _FIELDS:
        raise ValueError(f"not exactly the fields of Live: {text!r:.100}")
    for name in _TEXT_OR_NONE:
        if not isinstance(fields[name], str | None):
            raise ValueError(f"{name} is {fields[name]!r:.60}")
    for name in ("slot", "api_prefix", "health_path"):
        if not isinstance(fields[name], str):
            raise ValueError(f"{name} is {fields[name]!r:.60}")
    for name in ("generation", "fence"):
        if type(fields[name]) is not int or fields[name] < 0:
            raise ValueError(f"{name} is {fields[name]!r:.60}")
    if fields["state"] not in ("free", "live"):
        raise ValueError(f"state is {fields['state']!r:.60}")
    if fields["colour"] not in (None, "a", "b"):
        raise ValueError(f"colour is {fields['colour']!r:.60}")
    for name in ("release", "tree"):
        if fields[name] is not None:
            parse_sha(fields[name])
    if type(fields.get("health_status")) not in (int, type(None)):
        raise ValueError(f"health_status is {fields['health_status']!r:.60}")
    return Live(**fields)

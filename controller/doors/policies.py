"""Which policy is in force? That of the production branch as last fetched, the last valid one if the newest is not."""

from __future__ import annotations

from controller.doors.stacks import open_mirror
from controller.effects.store import RepositoryRow, Store
from controller.model.config import Freeze, Policy, Settings
from controller.model.deploy_toml import DEPLOY_TOML_BYTES_MAX, parse_policy
from controller.model.errors import ConfigInvalid, OroborosError, Stalled


def read_policy(settings: Settings, repository: RepositoryRow) -> Policy:
    """Return the policy of the production branch, the last valid one if the newest is not; Stalled when there is none
    that could be known."""
    mirror = open_mirror(settings)
    head = mirror.production_head()
    newest = None if head is None or repository.refused_sha == head.sha else head.sha
    commits = [commit for commit in (newest, repository.policy_sha) if commit]
    for commit in commits:
        try:
            body = mirror.read_file(commit, b"deploy.toml", bytes_max=DEPLOY_TOML_BYTES_MAX)
            return Policy() if body is None else parse_policy(body)
        except ConfigInvalid:
            continue
    raise Stalled("PolicyUnknown", "no valid deploy.toml of the production branch is known")


def read_freezes(settings: Settings, store: Store) -> tuple[Freeze, ...]:
    """Return the freezes of the policy in force, as the worker last saw them where the mirror is not ours to read."""
    repository = store.load_repository()
    try:
        return read_policy(settings, repository).production.freeze
    except OroborosError:
        return repository.freezes

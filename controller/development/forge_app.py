"""Who asks the development forge, and what may they do? The developer, a GitHub App by its JWT, or its installation.

As strict as GitHub: a JWT counts when the App's key signed it, it has begun, has not ended, and ends within ten
minutes; a token is minted for repositories and permissions that the installation has, no others, and lives an hour.
https://docs.github.com/apps/creating-github-apps/authenticating-with-a-github-app/generating-a-json-web-token-jwt-for-a-github-app
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from controller.development.forge_records import Records
from controller.development.forge_shapes import OWNER_ID, REPOSITORY_ID, Json, Object, Shapes

APP_ID: Final = 4242
INSTALLATION_ID: Final = 77
TOKEN_LIFE_S: Final = 3_600
JWT_AHEAD_S_MAX: Final = 600
TOKENS_KEPT: Final = 100
#: GitHub's new form: `ghs_<app id>_<JWT>`, about 520 characters with dots in it.
TOKEN_CHARS: Final = 520
TOKEN_CHARS_MAX: Final = 4_000
_LEVELS: Final = {"read": 1, "write": 2, "admin": 3}


class Unknown(Exception):
    """The asker is nobody that the forge knows; the message is GitHub's."""


class NotGranted(Exception):
    """A token was asked for that the installation does not cover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The one App that this forge knows."""

    id: int
    slug: str
    name: str
    homepage: str
    public_pem: str
    webhook_secret: str
    webhook_url: str
    permissions: dict[str, str]
    events: list[str]
    created_at: str
    content_type: str = "json"
    insecure_ssl: str = "0"
    installed: bool = False
    #: How long its tokens are.
    token_chars: int = TOKEN_CHARS
    suspended: bool = False
    #: What the owner of the repository accepted; may lag behind what the App asks for.
    granted: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: `developer` may everything, `app` speaks of itself, `installation` has permissions."""

    kind: str
    permissions: Mapping[str, str] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()

    def may(self, permission: str, level: str) -> bool:
        """Say whether the caller has a permission at a level."""
        if self.kind == "developer":
            return True
        return _LEVELS.get(self.permissions.get(permission, ""), 0) >= _LEVELS[level]


class Apps:
    """The App, its codes and its tokens; all of it outlives a kill."""

    def __init__(self, records: Records, shapes: Shapes) -> None:
        self._records = records
        self._shapes = shapes

    # -- the App ------------------------------------------------------------------------------------------------------

    def load(self) -> App | None:
        """Return the App, or None."""
        text = self._records.load_fact("app")
        return None if text is None else App(**json.loads(text))

    def keep(self, app: App) -> None:
        """Record what the App has become."""
        self._records.set_fact("app", json.dumps(asdict(app)))

    def register(self, manifest: Object, *, now: str) -> str:
        """Take a manifest that a person confirmed; return the code, good once, for what belongs to the App."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
        hook = manifest.get("hook_attributes")
        name = str(manifest.get("name") or "unnamed")[:34]
        app = App(
            id=APP_ID,
            slug="".join(c if c.isalnum() else "-" for c in name.lower()),
            name=name,
            homepage=str(manifest.get("url") or self._shapes.base_url),
            public_pem=key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
            webhook_secret=secrets.token_hex(20),
            webhook_url=str(hook.get("url") or "") if isinstance(hook, dict) else "",
            permissions=_texts(manifest.get("default_permissions")),
            events=_list(manifest.get("default_events")),
            created_at=now,
        )
        code = secrets.token_hex(20)
        self.keep(app)
        self._records.set_fact("app_code", json.dumps({"code": code, "pem": pem}))
        return code

    def convert(self, code: str) -> Object | None:
        """Return App and secrets for its code, once; None for any other."""
        kept = json.loads(self._records.load_fact("app_code") or "{}")
        app = self.load()
        if app is None or not secrets.compare_digest(str(kept.get("code", "")).encode(), code.encode()) or not code:
            return None
        self._records.set_fact("app_code", "{}")
        return {
            **self.app_shape(app),
            "client_id": "Iv1.0123456789abcdef",
            "client_secret": secrets.token_hex(20),
            "webhook_secret": app.webhook_secret,
            "pem": kept["pem"],
        }

    def install(
        self, *, installed: bool, suspended: bool, granted: dict[str, str] | None, token_chars: int | None
    ) -> App | None:
        """Do what the repository's owner does at the App's page, and say how long tokens are from now on."""
        app = self.load()
        if app is not None:
            app = replace(
                app,
                installed=installed,
                suspended=suspended,
                granted=dict(app.permissions) if granted is None else granted,
                token_chars=app.token_chars if token_chars is None else token_chars,
            )
            self.keep(app)
        return app

    # -- who asks -----------------------------------------------------------------------------------------------------

    def read_jwt(self, token: str, *, now_s: float) -> Caller:
        """Return the App as whom a JWT speaks; Unknown, with GitHub's words, when it does not."""
        app = self.load()
        parts = token.split(".")
        if app is None or len(parts) != 3:
            raise Unknown("A JSON web token could not be decoded")
        try:
            head, claims = (json.loads(_from_base64url(part)) for part in parts[:2])
            signature = _from_base64url(parts[2])
            if head.get("alg") != "RS256" or str(claims.get("iss")) != str(app.id):
                raise Unknown("A JSON web token could not be decoded")
            key = load_pem_public_key(app.public_pem.encode())
            assert isinstance(key, rsa.RSAPublicKey)
            key.verify(signature, ".".join(parts[:2]).encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, AttributeError, InvalidSignature, binascii.Error) as error:
            raise Unknown("A JSON web token could not be decoded") from error
        begins, ends = claims.get("iat"), claims.get("exp")
        if not isinstance(begins, int) or begins > now_s:
            raise Unknown("'Issued at' claim ('iat') must be an Integer representing the time that it was issued")
        if not isinstance(ends, int) or ends <= now_s:
            raise Unknown("'Expiration time' claim ('exp') must be a numeric value representing the future time")
        if ends > now_s + JWT_AHEAD_S_MAX:
            raise Unknown("'Expiration time' claim ('exp') is too far in the future")
        return Caller(kind="app")

    def read_token(self, token: str, *, now_s: float) -> Caller | None:
        """Return the installation as which a token speaks, None when it is unknown, ended or taken back."""
        kept = self._tokens().get(_hash(token))
        app = self.load()
        if kept is None or float(str(kept["ends_at_s"])) <= now_s or app is None or not app.installed or app.suspended:
            return None
        return Caller(
            kind="installation",
            permissions=_texts(kept["permissions"]),
            repositories=tuple(_list(kept["repositories"])),
        )

    def mint(self, content: Object, repository: Object, *, now_s: float) -> Object:
        """Return a new token for the repository, narrowed as asked; NotGranted when more is asked for than there is."""
        app = self.load()
        assert app is not None
        names, ids = content.get("repositories"), content.get("repository_ids")
        if names is not None and [str(name).lower() for name in _list(names)] != [self._shapes.name.lower()]:
            raise NotGranted("There is at least one repository that does not exist or is not accessible")
        if ids is not None and ids != [REPOSITORY_ID]:
            raise NotGranted("There is at least one repository that does not exist or is not accessible")
        asked = content.get("permissions")
        wanted = dict(app.granted) if asked is None else _texts(asked)
        granted = Caller(kind="installation", permissions={**app.granted, "metadata": "read"})
        for name, level in wanted.items():
            if level not in _LEVELS or not granted.may(name, level):
                raise NotGranted("The permissions requested are not granted to this installation.")
        token = f"ghs_{app.id}_eyJ{secrets.token_urlsafe(app.token_chars)}"[: app.token_chars]
        token = f"{token[:180]}.{token[181:350]}.{token[351:]}"
        ends_at_s = now_s + TOKEN_LIFE_S
        wanted = {**wanted, "metadata": "read"}
        kept = {
            **dict(list(self._tokens().items())[-TOKENS_KEPT + 1 :]),
            _hash(token): {"permissions": wanted, "repositories": [self._shapes.name], "ends_at_s": ends_at_s},
        }
        self._records.set_fact("app_tokens", json.dumps(kept))
        permissions: Object = dict(wanted.items())
        return {
            "token": token,
            "expires_at": datetime.fromtimestamp(ends_at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "permissions": permissions,
            "repository_selection": "selected",
            "repositories": [repository],
        }

    def revoke(self) -> None:
        """Take every token back, as a suspension or a new key does."""
        self._records.set_fact("app_tokens", "{}")

    def _tokens(self) -> dict[str, dict[str, Json]]:
        kept: dict[str, dict[str, Json]] = json.loads(self._records.load_fact("app_tokens") or "{}")
        return kept

    # -- shapes -------------------------------------------------------------------------------------------------------

    def app_shape(self, app: App) -> Object:
        """Return the App as the API shows it."""
        return {
            "id": app.id,
            "slug": app.slug,
            "node_id": f"A_{app.id}",
            "owner": self._shapes.user((self._shapes.owner, OWNER_ID)),
            "name": app.name,
            "description": None,
            "external_url": app.homepage,
            "html_url": f"{self._shapes.base_url}/apps/{app.slug}",
            "created_at": app.created_at,
            "updated_at": app.created_at,
            "permissions": dict(app.permissions.items()),
            "events": list(app.events),
            "installations_count": int(app.installed),
        }

    def installation_shape(self, app: App) -> Object:
        """Return the App's one installation."""
        api, owner = self._shapes.api_url, self._shapes.user((self._shapes.owner, OWNER_ID))
        return {
            "id": INSTALLATION_ID,
            "account": owner,
            "repository_selection": "selected",
            "access_tokens_url": f"{api}/app/installations/{INSTALLATION_ID}/access_tokens",
            "repositories_url": f"{api}/installation/repositories",
            "html_url": f"{self._shapes.base_url}/settings/installations/{INSTALLATION_ID}",
            "app_id": app.id,
            "app_slug": app.slug,
            "target_id": OWNER_ID,
            "target_type": "User",
            "permissions": {**dict(app.granted.items()), "metadata": "read"},
            "events": list(app.events),
            "created_at": app.created_at,
            "updated_at": app.created_at,
            "single_file_name": None,
            "has_multiple_single_files": False,
            "single_file_paths": [],
            "suspended_by": self._shapes.user((self._shapes.owner, OWNER_ID)) if app.suspended else None,
            "suspended_at": app.created_at if app.suspended else None,
        }

    @staticmethod
    def hook_shape(app: App) -> Object:
        """Return the configuration of the App's webhook; the secret is masked."""
        shape: Object = {"url": app.webhook_url, "content_type": app.content_type, "insecure_ssl": app.insecure_ssl}
        return {**shape, "secret": "********"} if app.webhook_secret else shape


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()


def _from_base64url(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def _texts(value: Json) -> dict[str, str]:
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def _list(value: Json) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []

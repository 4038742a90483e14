"""Where does a token to ask the forge with come from? A file, or the forge itself, for the key of our App.

Secret files are read when they are used, so that a new one takes effect at once; one that others may open is refused.
An installation token lives in memory only: it is had when there is none that is fresh, and once more when the forge
refuses it.

Safe to repeat: to have a token minted takes none away. Safe to use from several threads.
"""

from __future__ import annotations

import base64
import hmac
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from controller.decisions.github.identity import (
    Installation,
    Minted,
    compact,
    get_installation,
    is_fresh,
    jwt_parts,
    mint_to_look,
    mint_token,
    read_installation,
    read_minted,
)
from controller.decisions.github.repository import get_repository, read_repository
from controller.decisions.github.wire import Reply, Request, with_token
from controller.model.errors import Unavailable

TOKEN_BYTES_MAX: Final = 4096
KEY_BYTES_MAX: Final = 64 << 10
KEY_BITS_MIN: Final = 2048


class TokenFile:
    """A token of a person, in a file; or none, to ask as nobody."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def token(self) -> str | None:
        """Return what the file holds now."""
        if self._path is None:
            return None
        content = read_secret_file(self._path, reason="ForgeTokenUnreadable", bytes_max=TOKEN_BYTES_MAX).strip()
        if not content:
            return None  # a host has the file always, and a token in it once one was set
        # Checked here, since the HTTP library would put an illegal header's value into its error.
        if not all(0x21 <= byte <= 0x7E for byte in content):
            raise Unavailable(
                "ForgeTokenUnreadable",
                f"{self._path} holds no token: one line of 1 to {TOKEN_BYTES_MAX} printable ASCII characters",
            )
        return content.decode("ascii")

    def renew(self, refused: str) -> bool:
        """Say whether the file holds another token by now."""
        return not hmac.compare_digest((self.token() or "").encode(), refused.encode())


class AppIdentity:
    """Our GitHub App, installed for one repository."""

    def __init__(
        self,
        *,
        app_id: int,
        key_file: Path,
        repository: str,
        ask: Callable[[Request], Reply],
        clock: Callable[[], datetime],
    ) -> None:
        self._app_id = app_id
        self._key_file = key_file
        self._repository = repository
        self._ask = ask
        self._clock = clock
        self._lock = threading.Lock()
        self._installation: Installation | None = None
        self._repository_id: int | None = None
        self._minted: Minted | None = None

    def token(self) -> str:
        """Return a fresh installation token, a new one if need be."""
        with self._lock:
            if self._minted is None or not is_fresh(self._minted, now=self._clock()):
                self._minted = self._mint()
            return self._minted.token

    def renew(self, refused: str) -> bool:
        """Forget the token, unless somebody has had a new one meanwhile."""
        with self._lock:
            if self._minted is not None and hmac.compare_digest(self._minted.token.encode(), refused.encode()):
                self._minted = None
            return True

    def jwt(self) -> str:
        """Return a JWT in the name of the App itself."""
        now = self._clock()
        signed = b".".join(_base64url(compact(part)) for part in jwt_parts(self._app_id, now=now))
        signature = self._key().sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return b".".join((signed, _base64url(signature))).decode()

    def ask(self, request: Request) -> Reply:
        """Ask in the name of the App itself."""
        return self._ask(replace(with_token(request, self.jwt()), is_of_app=True))

    def installation(self) -> Installation:
        """Return where the App is installed for the repository."""
        reply = self.ask(get_installation(self._repository))
        return read_installation(reply, repository=self._repository, now=self._clock())

    def _mint(self) -> Minted:
        if self._installation is None:
            self._installation = self.installation()
        reply = self._ask_for_token(self._installation)
        if reply.status == 404:
            # It was installed anew since, under another id.
            self._installation = self.installation()
            reply = self._ask_for_token(self._installation)
        if reply.status == 422 and self._repository_id is None:
            self._repository_id = self._find_repository(self._installation)
            reply = self._ask_for_token(self._installation)
        minted = read_minted(reply, now=self._clock())
        self._repository_id = minted.repository_id or self._repository_id
        return minted

    def _ask_for_token(self, installation: Installation) -> Reply:
        return self.ask(mint_token(installation, self._repository, repository_id=self._repository_id))

    def _find_repository(self, installation: Installation) -> int:
        """Return the id of the repository, which may be called otherwise by now: the forge redirects old names."""
        look = read_minted(self.ask(mint_to_look(installation)), now=self._clock())
        reply = self._ask(with_token(get_repository(self._repository), look.token))
        return read_repository(reply, now=self._clock()).id

    def _key(self) -> rsa.RSAPrivateKey:
        pem = read_secret_file(self._key_file, reason="AppKeyUnreadable", bytes_max=KEY_BYTES_MAX)
        try:
            key = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            # What the library says may hold bytes of the key.
            raise Unavailable(
                "AppKeyUnreadable", f"{self._key_file} is not a private key in PEM form, without a passphrase"
            ) from None
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < KEY_BITS_MIN:
            raise Unavailable("AppKeyUnreadable", f"{self._key_file} is no RSA key of {KEY_BITS_MIN} bits or more")
        return key


def read_secret_file(path: Path, *, reason: str, bytes_max: int) -> bytes:
    """Return the bytes of a file that nobody else may open; Unavailable for any other.

    What systemd hands on lies in a folder of this process alone; there its modes are systemd's own.
    """
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    is_handed_on = bool(folder) and path.parent == Path(folder)
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise Unavailable(reason, f"{path} cannot be read: {error.strerror or type(error).__name__}") from error
    if mode & 0o077 and not is_handed_on:
        raise Unavailable(reason, f"{path} is open to others (mode {mode:04o}): chmod 600 {path}")
    if len(content) > bytes_max:
        raise Unavailable(reason, f"{path} has more than {bytes_max} bytes")
    return content


def _base64url(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")

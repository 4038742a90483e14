"""What does the development forge answer about its GitHub App? Registration, the App itself, its installation, its log.

What a person does in a browser at GitHub (to confirm a manifest, to install, to suspend) is done here by a form's POST
and by the knob `install`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from controller.development.forge_app import INSTALLATION_ID, TOKEN_CHARS, TOKEN_CHARS_MAX, NotGranted
from controller.development.forge_events import Problem, invalid
from controller.development.forge_guard import Guard
from controller.development.forge_input import read_body, read_object
from controller.development.forge_shapes import Json, Object

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")


class AppDoors:
    """What each address about the App answers."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._apps = guard.apps

    async def register(self, request: Request) -> Response:
        """Take the manifest that a person confirmed, and send the browser back with a code."""
        # Any page could post this form; only one of this machine may.
        origin = request.headers.get("origin")
        if origin not in (None, "null") and urlsplit(origin or "").hostname not in _LOOPBACK:
            raise Problem(403, "Forbidden")
        form = parse_qs((await read_body(request)).decode("utf-8", "replace"))
        try:
            manifest: Json = json.loads(form.get("manifest", [""])[0])
        except (ValueError, RecursionError) as error:
            raise Problem(422, "Invalid manifest") from error
        if not isinstance(manifest, dict) or not str(manifest.get("url", "")).startswith("http"):
            raise Problem(422, "Invalid manifest: url is required")
        hook = manifest.get("hook_attributes")
        if not isinstance(hook, dict) or not str(hook.get("url", "")).startswith("http"):
            raise Problem(422, "Invalid manifest: hook_attributes.url is required")
        code = self._apps.register(manifest, now=self._guard.forge.now_text())
        query = urlencode({"code": code, "state": request.query_params.get("state", "")})
        return RedirectResponse(f"{manifest.get('redirect_url')}?{query}", status_code=302)

    async def convert(self, request: Request) -> Response:
        """Hand over what belongs to a new App, once."""
        found = self._apps.convert(str(request.path_params["code"]))
        if found is None:
            raise Problem(404, "Not Found")
        return JSONResponse(found, status_code=201)

    async def app(self, request: Request) -> Response:
        self._guard.admit_app(request)
        app = self._apps.load()
        assert app is not None
        return JSONResponse(self._apps.app_shape(app))

    async def hook_config(self, request: Request) -> Response:
        self._guard.admit_app(request)
        app = self._apps.load()
        assert app is not None
        if request.method == "PATCH":
            content = await read_object(request)
            app = replace(
                app,
                webhook_url=str(content.get("url", app.webhook_url)),
                webhook_secret=str(content.get("secret", app.webhook_secret)),
                content_type=str(content.get("content_type", app.content_type)),
                insecure_ssl=str(content.get("insecure_ssl", app.insecure_ssl)),
            )
            self._apps.keep(app)
        return JSONResponse(self._apps.hook_shape(app))

    async def installation(self, request: Request) -> Response:
        self._guard.admit_app(request)
        self._guard.require_repository(request)
        app = self._apps.load()
        if app is None or not app.installed:
            raise Problem(404, "Not Found")
        return JSONResponse(self._apps.installation_shape(app))

    async def access_tokens(self, request: Request) -> Response:
        self._guard.admit_app(request)
        app = self._apps.load()
        if app is None or not app.installed or request.path_params["installation"] != INSTALLATION_ID:
            raise Problem(404, "Not Found")
        if app.suspended:
            raise Problem(403, "This installation has been suspended")
        content = await read_object(request)
        try:
            minted = self._apps.mint(content, self._guard.forge.repository_shape(), now_s=self._guard.now_s())
            return JSONResponse(minted, status_code=201)
        except NotGranted as error:
            raise Problem(422, str(error)) from error

    async def repositories(self, request: Request) -> Response:
        """Return what an installation token knows."""
        if self._guard.caller(request).kind != "installation":
            raise Problem(403, "You must authenticate with an installation access token")
        found: list[Json] = [self._guard.forge.repository_shape()]
        return JSONResponse({"total_count": 1, "repository_selection": "selected", "repositories": found})

    async def rate_limit(self, request: Request) -> Response:
        self._guard.caller(request)
        limits = self._guard.limits
        rate: Object = {
            "limit": limits.per_hour,
            "used": limits.used,
            "remaining": max(0, limits.per_hour - limits.used),
            "reset": int(limits.headers()["X-RateLimit-Reset"]),
        }
        return JSONResponse({"resources": {"core": rate, "search": rate}, "rate": rate})

    async def install(self, request: Request) -> Response:
        """Install, suspend or remove the App for the repository, with these permissions; take its tokens back."""
        self._guard.admit_developer(request)
        content = await read_object(request)
        granted, token_chars = content.get("permissions"), content.get("token_chars")
        if token_chars is not None and not (
            isinstance(token_chars, int) and TOKEN_CHARS <= token_chars <= TOKEN_CHARS_MAX
        ):
            raise invalid("Installation", "token_chars")
        if content.get("revoke") is True:
            self._apps.revoke()
        app = self._apps.install(
            installed=content.get("installed", True) is True,
            suspended=content.get("suspended", False) is True,
            granted={str(k): str(v) for k, v in granted.items()} if isinstance(granted, dict) else None,
            token_chars=token_chars if isinstance(token_chars, int) else None,
        )
        if app is None:
            raise invalid("Installation", "app")
        return JSONResponse(self._apps.installation_shape(app))

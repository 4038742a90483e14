"""Find out how a Node package is installed, built and started, and which of its scripts are a developer's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from controller.decisions.initial_folder import Folder, Guess, command, not_known

#: Scripts in the order in which they are preferred.
_STARTS = ("start:prod", "start:production", "start")
#: What runs on a developer's machine: it watches files, or serves what a build would make.
_DEVELOPMENT = re.compile(
    r"\b(react-scripts start|vite|ng serve|vue-cli-service serve|webpack-dev-server|webpack (serve|.*--watch)"
    r"|(next|nuxt|nuxi|astro|remix|storybook|vitepress|vuepress|wrangler|svelte-kit|vinxi|strapi|wasp) (dev|develop)"
    r"|(astro|docusaurus|expo) (start|preview|serve)|gatsby (develop|serve|start)|eleventy|parcel|hexo s(erver)?"
    r"|gulp|grunt|nodemon|ts-node-dev|tsx watch|node --watch|live-server|browser-sync|hugo server|jekyll serve"
    r"|nest start(?! .*prod)|electron)\b|\bnext\s*($|&|;)|--watch\b"
)
#: A dependency, where its build writes, and whether one page answers every path. The surest sign first.
_GENERATORS = (
    ("react-scripts", "build", True),
    ("@docusaurus/core", "build", False),
    ("gatsby", "public", False),
    ("@11ty/eleventy", "_site", False),
    ("hexo", "public", False),
    ("astro", "dist", False),
    ("@vue/cli-service", "dist", True),
    ("vite", "dist", True),
    ("parcel", "dist", True),
)
#: Lock files, and whose they are.
_LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
_VERSION = re.compile(r"(npm|pnpm|yarn|bun)@(\d{1,4}(?:\.\d{1,6}){0,2})(?![\d.])")
_SCRIPT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_-]{0,40}\Z")
_CALLED = re.compile(r"\b(?:npm run|npm|pnpm run|pnpm|yarn run|yarn|bun run)\s+([A-Za-z0-9][A-Za-z0-9:_-]{0,40})")
_OUT_DIR = re.compile(r"outDir\s*:\s*['\"](?:\./)?([A-Za-z0-9_][A-Za-z0-9_/-]{0,60})['\"]")
_NODE_FILE = re.compile(r"^node (?:--[\w-]+(?:=\S+)? )*([\w./-]+)")
CONFIGURATIONS = (
    *(f"vite.config.{ending}" for ending in ("js", "ts", "mjs", "mts")),
    *(f"next.config.{ending}" for ending in ("js", "ts", "mjs")),
    *(f"svelte.config.{ending}" for ending in ("js", "ts")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """What package.json says, as far as it is of the right shape."""

    scripts: Mapping[str, str]
    dependencies: frozenset[str]
    manager: str
    is_workspace: bool


def read_package(folder: Folder) -> Package | None:
    """Return the package at the root; None when there is none that can be read."""
    try:
        value: object = json.loads(folder.read("package.json"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    scripts = value.get("scripts")
    names: set[str] = set()
    for key in ("dependencies", "devDependencies", "optionalDependencies"):
        found = value.get(key)
        names |= {str(name) for name in found} if isinstance(found, dict) else set()
    manager = value.get("packageManager")
    several = ("pnpm-workspace.yaml", "lerna.json", "nx.json", "turbo.json", "rush.json")
    return Package(
        scripts={name: line for name, line in scripts.items() if isinstance(line, str)}
        if isinstance(scripts, dict)
        else {},
        dependencies=frozenset(names),
        manager=manager if isinstance(manager, str) else "",
        is_workspace=bool(value.get("workspaces")) or folder.has(*several),
    )


def install_line(folder: Folder, package: Package) -> str:
    """Return the shell line that installs a package's dependencies exactly as its lock file says.

    Other managers than npm come by npx, so that a host needs Node and npm only. Refused when two lock files differ in
    whose they are."""
    managers = {_LOCKS[name] for name in _LOCKS if folder.has(name)}
    named = _VERSION.match(package.manager)
    if named is not None:
        managers = {named[1]}
    if len(managers) > 1:
        locks = " and ".join(name for name in _LOCKS if folder.has(name))
        raise not_known(locks, "keep the lock file that counts, or say so by `packageManager` in package.json")
    version = named[2] if named is not None else ""
    match next(iter(managers), ""):
        case "npm":
            return "npm ci" if folder.has("package-lock.json", "npm-shrinkwrap.json") else "npm install"
        case "pnpm":
            frozen = " --frozen-lockfile" if folder.has("pnpm-lock.yaml") else ""
            return f"npx --yes pnpm@{version or _pnpm_version(folder)} install{frozen}"
        case "yarn":
            is_classic = "# yarn lockfile v1" in folder.read("yarn.lock") or version.startswith("1.")
            if is_classic:
                return f"npx --yes yarn@{version or '1'} install --frozen-lockfile"
            if not re.search(r"^nodeLinker:\s*[\"']?node-modules", folder.read(".yarnrc.yml"), re.MULTILINE):
                raise not_known("yarn.lock", "Yarn without `nodeLinker: node-modules` in .yarnrc.yml is not known here")
            return f"npx --yes @yarnpkg/cli-dist@{version or '4'} install --immutable"
        case "bun":
            return f"npx --yes bun@{version or '1'} install --frozen-lockfile"
    return "npm install"


def node(folder: Folder) -> Guess | None:
    """Recognise a Node package at the root: one that serves, or one that builds a site."""
    package = read_package(folder)
    if package is None:
        return None
    if package.is_workspace:
        raise not_known("a workspace of several packages", "which of them is to be deployed is not for `init` to say")
    scripts = package.scripts
    is_app = bool(scripts.keys() & {*_STARTS, "build"}) or (folder.has("server.js") and bool(package.dependencies))
    if not is_app:
        return None
    install = install_line(folder, package)
    build = f"{install} && npm run build" if "build" in scripts else install
    return _rendered(folder, package, build) or _started(folder, package, build) or _built(folder, package, build)


def _rendered(folder: Folder, package: Package, build: str) -> Guess | None:
    """Recognise the frameworks whose build writes a server, or a site, by their own configuration."""
    if "nuxt" in package.dependencies and "build" in package.scripts:
        if "generate" in package.scripts["build"]:
            return None
        return _server("a Nuxt app", build, "node .output/server/index.mjs")
    if "@sveltejs/kit" in package.dependencies and "build" in package.scripts:
        if "@sveltejs/adapter-node" in package.dependencies:
            return _server("a SvelteKit app", build, "node build")
        if "@sveltejs/adapter-static" in package.dependencies:
            return Guess(found="a SvelteKit site", build=command(build), static="build")
        raise not_known("a SvelteKit app", "take @sveltejs/adapter-node or @sveltejs/adapter-static")
    exported = any(
        re.search(r"output\s*:\s*['\"]export['\"]", folder.read(name))
        for name in CONFIGURATIONS
        if name.startswith("next")
    )
    if "next" in package.dependencies and exported and "build" in package.scripts:
        return Guess(found="a Next site that is exported", build=command(build), static="out")
    return None


def _server(found: str, build: str, api: str) -> Guess:
    return Guess(found=found, build=command(build), api=api, notes=("It listens as HOST and PORT say.",))


def _started(folder: Folder, package: Package, build: str) -> Guess | None:
    """Recognise a script that starts a server for visitors."""
    scripts = package.scripts
    name = next((name for name in _STARTS if name in scripts and not _DEVELOPMENT.search(_whole(scripts, name))), None)
    if name is None and not scripts.keys() & set(_STARTS) and folder.has("server.js") and package.dependencies:
        return Guess(
            found="a Node package with server.js",
            build=command(build),
            api="node server.js",
            notes=("server.js must listen on the port in PORT.",),
        )
    if name is None:
        return None
    runs = _NODE_FILE.match(scripts[name])
    if "build" not in scripts and runs is not None and "/" in runs[1].removeprefix("./"):
        wanted = runs[1].removeprefix("./")
        there = wanted in folder.files or f"{wanted}.js" in folder.files or wanted.count("/") >= 3
        if not there:
            raise not_known(f"the script {name!r}", f"it runs {wanted}, which is not here and which no script builds")
    if re.match(r"\s*(bun|deno)\b", _whole(scripts, name)):
        raise not_known(f"the script {name!r}", "it needs bun or deno on the host, which are not known here")
    prisma = folder.has_folder("prisma/migrations")
    return Guess(
        found="a Node package with a start script",
        build=command(build),
        api="npm start" if name == "start" else f"npm run {name}",
        migrate="npx prisma migrate deploy" if prisma else None,
        migrations="prisma/migrations" if prisma else None,
        notes=(f"The script {name!r} must listen on the port in PORT.",),
    )


def _built(folder: Folder, package: Package, build: str) -> Guess:
    """Recognise a package that builds a site; Refused when where it writes is not known."""
    script = package.scripts.get("build")
    start = next((name for name in _STARTS if name in package.scripts), None)
    if script is None:
        raise not_known(
            f"the script {start!r}", "it is for development (it serves or watches sources), and no script builds"
        )
    if package.dependencies & {"@astrojs/node", "@astrojs/vercel", "@astrojs/netlify", "@astrojs/cloudflare"}:
        raise not_known("an Astro app with an adapter", "how its server is started is not known here")
    if "vitepress" in package.dependencies:
        at = "docs/.vitepress" if folder.has_folder("docs/.vitepress") else ".vitepress"
        # No path with a name that begins with a dot is served.
        return Guess(found="a VitePress site", build=command(f"{build} && cp -R {at}/dist site"), static="site")
    known = next(
        (one for one in _GENERATORS if one[0] in package.dependencies or re.search(rf"\b{one[0]} build\b", script)),
        None,
    )
    angular = _angular_output(folder) if "@angular/cli" in package.dependencies else None
    if angular is not None:
        known = ("@angular/cli", angular, True)
    if known is None:
        raise not_known("the script 'build'", "which folder it writes is not known here")
    tool, output, is_one_page = known
    if tool == "vite":
        configured = [_OUT_DIR.search(folder.read(name)) for name in CONFIGURATIONS if name.startswith("vite")]
        output = next((found[1].rstrip("/") for found in configured if found is not None), output)
    return Guess(
        found="a Node package that builds a static site",
        build=command(build),
        static=output,
        fallback="index.html" if is_one_page else None,
        notes=(f"{tool} writes its build to {output}/.",),
    )


def _angular_output(folder: Folder) -> str | None:
    """Return where Angular's one project is built to (angular.dev, "Application builder")."""
    try:
        projects = json.loads(folder.read("angular.json"))["projects"]
        ((name, project),) = projects.items()
        build = project["architect"]["build"]
        output = build.get("options", {}).get("outputPath") or f"dist/{name}"
        inside = ""
        if isinstance(output, dict):
            output, inside = output["base"], output.get("browser", "browser")
        elif str(build["builder"]).endswith(":application"):
            inside = "browser"
        return f"{output}/{inside}".strip("/")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _whole(scripts: Mapping[str, str], name: str) -> str:
    """Return a script together with the scripts that it calls."""
    told, pending = "", [name]
    seen: set[str] = set()
    while pending:
        one = pending.pop()
        if one in seen or one not in scripts:
            continue
        seen.add(one)
        told += ("\n" if told else "") + scripts[one]
        pending += _CALLED.findall(scripts[one])
    return told


def _pnpm_version(folder: Folder) -> str:
    """Return the major version whose lock file this is (pnpm.io, "lockfileVersion")."""
    found = re.search(r"^lockfileVersion:\s*['\"]?(\d+)", folder.read("pnpm-lock.yaml"), re.MULTILINE)
    return {"5": "7", "6": "8"}.get(found[1], "9") if found is not None else "9"

"""Find the secrets among the values of an environment, and mask them in what a process writes, in whichever form.

Used where the values are known: by a host's launcher and by the keeper, which stand between a process and its log.

Which values are masked, by their name and their form:
- Fewer than 4 characters, or words of configuration (`true`, `3000`, `production`, `localhost`): never.
- 4 to 7 characters: where the name says that it is a secret, and only as a word of its own.
- 8 and more: always, unless it is plainly none: a path, a host, a number, a date, an address without a
  login, an option, or words of at most 16 letters whose name does not speak of a secret.
- Of an address or a connection string, the password and what was drawn in it; of JSON, its texts; of a key, its lines.
Of what Oroboros itself sets, `DATABASE_URL` and `OROBOROS_NONCE` count.

A value is found as it is, and escaped for JSON, Python, JavaScript, a shell, an address or HTML, in hexadecimal digits,
and anywhere inside base64. The beginning or the end of a long one is masked as well: what a program cuts stays masked.

Standard library only: the launcher runs with the system's Python, before any of our dependencies is there.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import quote, quote_plus, unquote

from controller.model.command import RESERVED
from controller.model.redaction import MASK, looks_random, names_secret, words

VALUE_CHARS_MIN: Final = 8
NAMED_CHARS_MIN: Final = 4
#: A value of digits alone.
DIGITS_MIN: Final = 6
#: A piece of a value that was cut is masked from this length on; one with letters and digits from the shorter.
PIECE_CHARS: Final = 12
DRAWN_PIECE_CHARS: Final = 7
WORD_CHARS_MAX: Final = 16
#: Forms of all values together; what is set beyond has only its plain form masked.
FORMS_MAX: Final = 4_000
JSON_DEPTH_MAX: Final = 8
#: Ours, and a secret.
_OURS: Final = frozenset({"DATABASE_URL", "OROBOROS_NONCE"})
_MASK: Final = MASK.encode()

_CONFIGURATION: Final = words(
    "true false yes no on off none null undefined enabled disabled production development staging testing preview test"
    " localhost debug info warning warn error critical verbose utf-8 utf8 c.utf-8 en_us.utf-8 postgres postgresql mysql"
    " sqlite redis memory local default main master public private root admin administrator application standard basic"
    " europe/berlin continuous automatic required optional anonymous"
)
_HOST: Final = re.compile(r"[a-z*][a-z0-9-]*(?:\.[a-z0-9-]+)+\.?(?::[0-9]{1,5})?")
_EMAIL: Final = re.compile(r"[A-Za-z0-9._+-]{1,64}@[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_NUMBER: Final = re.compile(r"[0-9:.,/_ TZ+-]{1,40}")
_ZONE: Final = re.compile(r"[A-Z][a-z]+(?:/[A-Z][A-Za-z_]+)+")
_LOCALE: Final = re.compile(r"[a-z]{2,3}(?:[_-][A-Z]{2})?(?:\.[A-Za-z0-9-]{1,12})?")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-?[0-9]")
_FILE_NAME: Final = re.compile(
    r"_(?:FILE|PATH|DIR|FOLDER|ROOT|HOME|BIN)$|^(?:PATH|HOME|PYTHON|TMPDIR|SHELL)$", re.IGNORECASE
)
_EXTENSION: Final = re.compile(r"\.[a-z][a-z0-9]{0,9}$")
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,40}://(.*)", re.DOTALL)
_PAIR: Final = re.compile(r"([A-Za-z][A-Za-z0-9 _-]{0,40})=([^;&\s]+)")
_LINE_ENDS: Final = re.compile(r"\\r\\n|\\n|\\r|\r\n|\n|\r")
_KEY_MARK: Final = re.compile(r"-{4,5} ?(?:BEGIN|END) [A-Z0-9 ]+-{4,5}")


@dataclass(frozen=True, slots=True)
class SecretValues:
    """The secrets of one environment, ready to be masked."""

    #: As bytes, the longest first: each whole form of each value.
    forms: tuple[bytes, ...] = ()
    #: Short ones: masked where no letter or digit stands beside them.
    words: tuple[bytes, ...] = ()
    #: Values whose beginning or end is masked, too.
    cut: tuple[bytes, ...] = ()
    #: Every four bytes in a row of a form, as a number, with the forms that have them.
    index: Mapping[int, frozenset[bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """Return the secrets among an environment's values."""
        shown = {environment.get("OROBOROS_RELEASE", ""), environment.get("OROBOROS_BRANCH", "")}
        found: dict[str, None] = {}
        for name, value in environment.items():
            is_ours = name.startswith("OROBOROS_") or name in RESERVED
            if (is_ours and name not in _OURS) or value in shown:
                continue
            found.update(dict.fromkeys(secrets_in(name, value)))
        return cls._of_secrets(found)

    @classmethod
    def _of_secrets(cls, found: Mapping[str, None]) -> Self:
        long = [secret for secret in found if len(secret) >= VALUE_CHARS_MIN]
        forms: dict[bytes, None] = dict.fromkeys(map(_encoded, long))
        for secret in long:
            for form in _forms(secret):
                if len(forms) < FORMS_MAX and len(form) >= VALUE_CHARS_MIN:
                    forms[form] = None
        index: dict[int, set[bytes]] = {}
        for form in forms:
            for at in range(len(form) - 3):
                index.setdefault(memoryview(form[at : at + 4]).cast("I")[0], set()).add(form)
        return cls(
            index={four: frozenset(having) for four, having in index.items()},
            forms=tuple(sorted(forms, key=len, reverse=True)),
            words=tuple(_encoded(secret) for secret in found if len(secret) < VALUE_CHARS_MIN),
            cut=tuple(_encoded(secret) for secret in long if len(secret) > _piece(_encoded(secret))),
        )

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to mask."""
        return not self.forms and not self.words

    @property
    def bytes_max(self) -> int:
        """Return how long the longest form is."""
        return max((len(form) for form in (*self.forms[:1], *self.words)), default=0)

    def mask(self, data: bytes) -> bytes:
        """Return the bytes without secrets."""
        likely = self._likely_in(data)
        return self._pieces(self._whole(data, likely), likely)

    def mask_whole(self, data: bytes) -> bytes:
        """Return the bytes without any whole form of a long secret."""
        return self._whole(data, self._likely_in(data))

    def mask_pieces(self, data: bytes) -> bytes:
        """Return the bytes without short secrets, and without beginnings and ends of long ones."""
        return self._pieces(data, self._likely_in(data))

    def _whole(self, data: bytes, likely: AbstractSet[bytes]) -> bytes:
        for form in sorted(likely, key=len, reverse=True):
            data = data.replace(form, _MASK)
        return data

    def _pieces(self, data: bytes, likely: AbstractSet[bytes]) -> bytes:
        for secret in self.cut:
            if secret in likely:
                data = _without_beginnings(data, secret)
                data = _without_beginnings(data[::-1], secret[::-1], _MASK[::-1])[::-1]
        for word in self.words:
            data = _without_word(data, word)
        return data

    def _likely_in(self, data: bytes) -> set[bytes]:
        """Return the forms that may be in the bytes: whatever has 7 bytes has four in a row that begin at a multiple
        of four. Logs are large, and secrets rarely in them."""
        fours = set(memoryview(data)[: len(data) & ~3].cast("I"))
        return set().union(*(self.index[four] for four in fours & self.index.keys()))

    def begun_at_end_of(self, data: bytes) -> int:
        """Return how many bytes at the end may be the beginning of a secret whose rest has not come."""
        longest = 0
        for form in (*self.forms, *self.words):
            for length in range(min(len(form) - 1, len(data)), longest, -1):
                if data.endswith(form[:length]):
                    longest = length
                    break
        return longest


def secrets_in(name: str, value: str, *, depth: int = 0) -> Iterator[str]:
    """Yield what of a value is secret: the value, or parts of it."""
    text = value.strip()
    is_named = names_secret(name) is True and not _FILE_NAME.search(name)
    if len(text) < NAMED_CHARS_MIN or text.lower() in _CONFIGURATION:
        return
    if text[0] == text[-1] and text[0] in "\"'":
        yield from secrets_in(name, text[1:-1], depth=depth + 1)
        return
    if text[0] in "{[" and depth < JSON_DEPTH_MAX and (leaves := _leaves(text)) is not None:
        for key, leaf in leaves:
            yield from secrets_in(key or name, leaf, depth=depth + 1)
        return
    if _KEY_MARK.search(text) or _LINE_ENDS.search(text):
        for line in _LINE_ENDS.split(text):
            part = line.strip()
            if not _KEY_MARK.fullmatch(part) and len(part) >= VALUE_CHARS_MIN:
                yield part
        return
    if (address := _ADDRESS.fullmatch(text)) is not None:
        yield from _in_address(address[1])
        return
    pairs = _PAIR.findall(text) if not is_named else []
    if len(pairs) > 1:
        for key, part in pairs:
            yield from secrets_in(key.strip(), part, depth=depth + 1)
        return
    is_pin = text.isdigit() and len(text) < DIGITS_MIN
    if (is_named and not is_pin) or (len(text) >= VALUE_CHARS_MIN and not _is_plain(name, text)):
        yield text
        if text != value and len(text) >= VALUE_CHARS_MIN:
            yield value
        if "%" in text and (plain := unquote(text)) != text and len(plain) >= VALUE_CHARS_MIN:
            yield plain


def _in_address(rest: str) -> Iterator[str]:
    """Yield the login's password or token, and what was drawn, of an address."""
    at = rest.rfind("@", 0, len(re.split(r"[/?#]", rest, maxsplit=1)[0]))
    at = at if at >= 0 else (rest.rfind("@") if ":" in rest.split("/", 1)[0] and not _has_port(rest) else -1)
    if at >= 0:
        user, colon, password = rest[:at].partition(":")
        for part in (password,) if colon and password else (user,):
            for form in {part, unquote(part)}:
                if len(form) >= NAMED_CHARS_MIN and form.lower() not in _CONFIGURATION:
                    yield form
        if colon and looks_random(user):
            yield user
    for part in re.split(r"[/?#&;=]", rest[at + 1 :]):
        if len(part) >= PIECE_CHARS and looks_random(part) and not _HOST.fullmatch(part):
            yield part
    for key, part in _PAIR.findall(rest[at + 1 :].replace("?", "&")):
        if names_secret(key) is True and len(part) >= NAMED_CHARS_MIN and part.lower() not in _CONFIGURATION:
            yield part
            yield unquote(part)


def _has_port(rest: str) -> bool:
    return bool(re.match(r"[^:/@]*:[0-9]{1,5}(?:[/?#]|$)", rest))


def _is_plain(name: str, text: str) -> bool:
    """Say whether a text is plainly no secret, whatever it is called."""
    if text.lower() in _CONFIGURATION or _NUMBER.fullmatch(text) or _ZONE.fullmatch(text) or _LOCALE.fullmatch(text):
        return True
    if (
        text.replace(" ", "").isalpha()
        and len(text) <= WORD_CHARS_MAX
        and names_secret(name) is None
        and not looks_random(text)
    ):
        return True
    if text.startswith("-") or _REGION.fullmatch(text):
        return not looks_random(text)
    if _HOST.fullmatch(text) or _EMAIL.fullmatch(text):
        return not looks_random(text)
    if text.startswith(("/", "./", "../", "~/")) or ":/" in text:
        parts = [part for part in re.split(r"[/:]", text) if part]
        is_file = _FILE_NAME.search(name) or _EXTENSION.search(text) or len(parts) > 1
        return bool(is_file) and (bool(_FILE_NAME.search(name)) or not any(map(looks_random, parts)))
    return "," in text and all(
        _is_plain(name, part.strip()) for part in text.split(",") if len(part) >= VALUE_CHARS_MIN
    )


def _leaves(text: str) -> list[tuple[str, str]] | None:
    """Return the texts in a JSON document, each with the key that it stands under; None when it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found: list[tuple[str, str]] = []
    pending: list[tuple[str, object]] = [("", document)]
    while pending:
        key, one = pending.pop()
        if isinstance(one, dict):
            pending += [(str(name), value) for name, value in one.items()]
        elif isinstance(one, list):
            pending += [(key, value) for value in one]
        elif isinstance(one, str):
            found.append((key, one))
    return found


def _forms(secret: str) -> Iterator[bytes]:
    """Yield a secret as programs write it."""
    in_json = json.dumps(secret)[1:-1]
    texts = {
        in_json,
        json.dumps(in_json)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        in_json.replace("/", "\\/"),
        repr(secret)[1:-1],
        secret.replace("\\", "\\\\").replace("'", "\\'"),
        secret.replace("'", "'\\''"),
        secret.replace("'", "'\"'\"'"),
        html.escape(secret),
        html.escape(secret).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    }
    data = _encoded(secret)
    for safe in ("", "/", "/:@!$&'()*+,;=~", "!'()*~"):
        escaped = quote(data, safe=safe)
        texts |= {escaped, re.sub("%[0-9A-F]{2}", lambda m: m[0].lower(), escaped), quote(escaped, safe="")}
    texts |= {quote_plus(data), data.hex(), data.hex().upper()}
    for text in texts:
        yield _encoded(text)
    for shift, lost in ((0, 0), (1, 2), (2, 3)):
        whole = (shift + len(data)) * 8 // 6
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            yield alphabet(bytes(shift) + data)[lost:whole]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _piece(value: bytes) -> int:
    """Return how much of a value's beginning is enough to know it by."""
    for length in range(DRAWN_PIECE_CHARS, PIECE_CHARS):
        begin = value[:length]
        if any(48 <= byte < 58 for byte in begin) and any(chr(byte).isalpha() for byte in begin if byte < 128):
            return length
    return PIECE_CHARS


def _without_beginnings(data: bytes, value: bytes, mask: bytes = _MASK) -> bytes:
    piece = _piece(value)
    begin = value[:piece]
    at = data.find(begin)
    if at < 0:
        return data
    shown: list[bytes] = []
    done = 0
    while at >= 0:
        end, length = at + piece, piece
        while length < len(value) and end < len(data) and data[end] == value[length]:
            end, length = end + 1, length + 1
        shown += [data[done:at], mask]
        done = end
        at = data.find(begin, end)
    return b"".join([*shown, data[done:]])


def _without_word(data: bytes, word: bytes) -> bytes:
    at = data.find(word)
    if at < 0:
        return data
    shown: list[bytes] = []
    done = 0
    while at >= 0:
        end = at + len(word)
        beside = data[at - 1 : at] + data[end : end + 1] if at else data[end : end + 1]
        if not any(byte < 128 and chr(byte).isalnum() for byte in beside):
            shown += [data[done:at], _MASK]
            done = end
        at = data.find(word, end)
    return b"".join([*shown, data[done:]])

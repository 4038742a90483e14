"""Mask the parts of a text that are secrets by their form: tokens, keys, passwords in addresses and after their names.

Each secret is masked to its very end, also where the text was cut before that end or after its beginning. A secret that
has no form of its own is masked by `secret_values`, where its value is known.
Sources: the prefixes that the services document, such as
https://github.blog/security/application-security/behind-githubs-new-authentication-token-formats/ ,
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html#identifiers-unique-ids ,
https://docs.gitlab.com/security/tokens/#token-prefixes ; RFC 3986 for addresses, RFC 7468 for keys.

Time is linear in the text: no expression can begin again inside a run of characters that it has read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

MASK: Final = "[secret]"
#: Shorter texts are words that stand in other words.
KNOWN_CHARS_MIN: Final = 8
#: A value is judged by its first characters.
JUDGED_CHARS_MAX: Final = 300


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# -- keys: PEM, PGP, SSH ----------------------------------------------------------------------------------------------

_KEY_NAME: Final = r"[A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?"
# A key may have been cut before its end; then the rest of the text is taken for it.
_KEY: Final = re.compile(
    rf"-{{4,5}} ?BEGIN {_KEY_NAME} ?-{{4,5}}.*?(?:-{{4,5}} ?END {_KEY_NAME} ?-{{4,5}}|\Z)"
    r"|AGE-SECRET-KEY-1[0-9A-Z]+",
    re.DOTALL,
)
_KEY_END: Final = re.compile(rf"-{{4,5}} ?END {_KEY_NAME} ?-{{4,5}}")
#: A line of a key, alone in its line. RFC 7468 has 64 characters a line, OpenSSH 70, OpenPGP 64, MIME 76.
_KEY_LINE: Final = re.compile(r"[A-Za-z0-9+/]{60,76}={0,2}")
_KEY_LAST_LINE: Final = re.compile(r"=?[A-Za-z0-9+/]{1,76}={0,2}")
_ESCAPED_KEY_LINE: Final = re.compile(r"(?<=\\n)[A-Za-z0-9+/]{60,76}={0,2}(?=\\n|[\"']|\Z)")
_KEY_HEADER: Final = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset): ?[^\n]{0,200}")
#: What of a key stands in one line, its line ends escaped.
_KEY_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\\"

# -- tokens -----------------------------------------------------------------------------------------------------------

_REST: Final = r"[A-Za-z0-9_.~+/=-]"
#: Before a token: what could not be the token's own beginning.
_START: Final = r"(?<![A-Za-z0-9_-])"
_TOKENS: Final = tuple(
    re.compile(_START + form)
    for form in (
        rf"gh[oprsu]_{_REST}+",
        r"github_pat_[A-Za-z0-9_]+",
        r"gl(?:pat|dt|rt|rtr|cbt|ptt|ft|imt|agent|soat|ffct)-[A-Za-z0-9_.-]{8,}",
        # A JSON Web Token by itself: its head is the base64 of `{"`.
        r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}",
        r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{8,}",
        r"xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{6,}",
        r"xapp-[A-Za-z0-9-]{6,}",
        r"(?:sk|rk)_(?:live|test)_[A-Za-z0-9]+",
        r"whsec_[A-Za-z0-9+/=]{6,}",
        r"npm_(?=[A-Za-z]*[0-9A-Z])[A-Za-z0-9]{10,}",
        r"pypi-AgE[A-Za-z0-9_-]+",
        r"AIza[0-9A-Za-z_-]{16,}",
        r"ya29\.[0-9A-Za-z_-]+",
        r"GOCSPX-[0-9A-Za-z_-]+",
        r"1//0[0-9A-Za-z_-]{16,}",
        r"sk-(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{16,}",
        r"SG\.[A-Za-z0-9_-]{12,}(?:\.[A-Za-z0-9_-]*)?",
        r"key-[0-9a-f]{32}",
        r"SK[0-9a-f]{32}",
        r"do[opr]_v1_[0-9a-f]+",
        r"hf_[A-Za-z0-9]{16,}",
        r"shp(?:at|ca|pa|ss)_[0-9A-Fa-f]{8,}",
        r"sq0[a-z]{3}-[0-9A-Za-z_-]{8,}",
        r"dckr_(?:pat|oat)_[A-Za-z0-9_-]{8,}",
        r"dapi[0-9a-f]{32}",
        r"lin_(?:api|oauth)_[A-Za-z0-9]{8,}",
        r"hv[sbr]\.[A-Za-z0-9_-]{8,}",
        r"dp\.(?:pt|st|ct|sa|scim|audit)\.[A-Za-z0-9_.-]{8,}",
        r"(?:sbp|ntn|rubygems|gls?a|glc|pscale_tkn|pscale_pw|sntry[su])_(?=[A-Za-z_]*[0-9])[A-Za-z0-9_+/=.-]{16,}",
        r"(?:NRAK|PMAK|HRKU)-[A-Za-z0-9-]{12,}",
        r"[0-9]{8,10}:AA[A-Za-z0-9_-]{30,}",
    )
)
#: An address that is a secret by itself, after what is none.
_SECRET_PATHS: Final = re.compile(
    r"(hooks\.slack\.com/(?:services|workflows|triggers)/"
    r"|discord(?:app)?\.com/api/webhooks/"
    r"|[a-z0-9-]{1,63}\.webhook\.office\.com/"
    r"|api\.telegram\.org/(?:file/)?bot)[^\s'\"<>)]+"
)
#: An access key of AWS is 40 characters without a mark of its own.
_AWS_CONTEXT: Final = re.compile(r"(?i)aws|secret|\bA[KS]IA")
_AWS_SECRET: Final = re.compile(r"(?<![A-Za-z0-9+/=_.-])[A-Za-z0-9+/]{40}(?![A-Za-z0-9+/=_.-])")

# -- addresses --------------------------------------------------------------------------------------------------------

#: Up to the next address, if one follows without a blank.
_ADDRESS: Final = re.compile(
    r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{0,40})://"
    r"([^\s\"<>`]+?)(?=[\s\"<>`]|\Z|[,;|'(=][A-Za-z][A-Za-z0-9+.-]{0,20}://)"
)
#: Those at which a name without a password is a token.
_WEB: Final = frozenset({"http", "https", "git+http", "git+https", "ws", "wss", "ftp", "ftps", "svn", "hg+https"})
_HOSTS: Final = re.compile(
    r"(?:\[[0-9A-Fa-f:.%]*\]|[^:\[\]@,]*)(?::(?:[0-9]{0,5}|[Pp][Oo][Rr][Tt]|\$\{?[A-Za-z_]+\}?|\{[A-Za-z_]*\}|\*))?"
)
_HOST: Final = re.compile(
    r"(?:localhost|[A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?(?:,.*)?"
)
#: `user:password@host:5432` and `user:password@tcp(host)`, without a scheme.
_BARE_LOGIN: Final = re.compile(
    r"(?<![A-Za-z0-9_.:/@%+-])([A-Za-z0-9_.%+-]{1,64}+):((?!//)[^\s\"'<>`@]{1,256}+)"
    r"@(?=(?:tcp|unix|udp)\(|(?:localhost|(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z0-9-]{1,63})(?::[0-9]|/))"
)
_NO_LOGINS: Final = words("mailto npm sip sips xmpp acct workspace link file git https http")

# -- names, each followed by its value --------------------------------------------------------------------------------

_NAME: Final = re.compile(
    r"(?<![A-Za-z0-9_-])(-{0,2}[A-Za-z_][A-Za-z0-9_-]{0,80}+)"
    r"((?:\\*[\"'])?\]?[ \t]{0,8}(?:=>|:=|[=:])[ \t]{0,8}|[ \t]{1,8})"
)
_QUOTE: Final = re.compile(r"[bruf]{0,2}(\\*)([\"'])")
_BARE: Final = re.compile(r"[^\s\"'`,;&<>(){}]+")
_BARE_WITH_SIGNS: Final = re.compile(r"[^\s\"'`<>]{1,512}")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_STRONG: Final = words("password passwd passphrase secret token apikey pwd")
#: A name with one of these as its last word names a secret.
_SECRET_WORDS: Final = _STRONG | words(
    "passcode pass jwt accesskey privatekey secretkey signingkey encryptionkey credential credentials authtoken"
    " accesstoken refreshtoken psk otp totp csrf xsrf hmac pgpassword bindpw userpw adminpw rootpw dbpw pw"
    " authcode"
)
#: Names whose values are secrets only if they look like one.
_MAYBE_WORDS: Final = words(
    "key auth session license nonce salt pepper sid sessionid phpsessid jsessionid sessid signature sig cookie"
    " authorization bearer"
)
_KEY_OWNERS: Final = words(
    "api access private secret signing encryption account shared master auth service storage client server admin"
    " deploy webhook aws stripe openai anthropic sendgrid mailgun twilio algolia jwt hmac rails"
)
_TELLING_ENDS: Final = ("password", "passwd", "passphrase", "secret", "apikey", "accesskey", "token")
#: A name that ends so speaks about a secret, and has none as its value.
_NEUTRAL_ENDS: Final = words(
    "count counts type length len min max url uri endpoint name names file path dir folder expires expiry expiration in"
    " ttl size limit field fields policy format id ids class error errors reset strength provider algorithm algo at"
    " lifetime required enabled rotation version prefix header headers store manager host port user users index line"
    " column start end position pos kind hint label attempts age rules rule change changed status state usage"
)
#: What stands where a value would, and is none.
_NO_VALUES: Final = words(
    "none null nil undefined true false yes no on off string str number int object array bool boolean bytes symbol"
    " function any void unset empty missing required invalid expired wrong incorrect blank redacted masked hidden"
    " filtered secret identifier punc keyword operator eof name unknown denied failed ok default optional set eol"
    " newline comma colon"
)
#: A value in which one of these stands is a sentence.
_SENTENCE_WORDS: Final = words(
    "a an and are as at be been but by can cannot check could did do does doesn't for from given got had has have in"
    " is isn't it least longer match may more must neither no not of on or our should than that the their this to too"
    " use was were when which will with without would you your can't couldn't didn't won't wasn't please required"
    " missing invalid expected unexpected failed field expired"
)
#: What a program says where its text stands: a name of something else, not a value.
_CODE: Final = re.compile(
    r"\$\{|\$[A-Z_][A-Z0-9_]*(?![A-Za-z0-9!-])|\$[a-z_]+->|%[({]|\{\{"
    r"|(?:os|process|settings|config|self|this|req|request|ctx|cls|args|opts|options|params|ENV|env|user|credentials)\??[.\[]"
    r"|(?:await|new|lambda|async|typeof)\b"
    r"|\$?[A-Za-z_][A-Za-z0-9_.:]{0,80}[(\[]"
)
_HEADER: Final = re.compile(
    r"(?i)(?<![A-Za-z0-9_])((?:proxy-)?authorization(?:\\*[\"'])?[ \t]{0,4}[:=,][ \t]{0,4}(?:b?\\*[\"'])?)"
    r"([^\s\"'\\,;][^\r\n\"'\\]*)"
)
_AUTH_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]{1,30})([ \t]{1,8})(?=\S)")
_ONE_WORD_SCHEMES: Final = words("basic bearer token apikey bot negotiate ntlm")
_COOKIES: Final = re.compile(
    r"(?i)(?<![A-Za-z0-9_])((?:set-)?cookie(?:\\*[\"'])?[ \t]{0,4}[:,][ \t]{0,4}(?:b?\\*[\"'])?)"
    r"(?=[^\s=;\"'\\]{1,128}=)([^\r\n\"'\\]+)"
)
_SCHEMES: Final = re.compile(rf"(?i)(\b(?:bearer|basic|apikey)[ \t]{{1,4}})({_REST}{{8,}}+)")
_USER_OPTION: Final = re.compile(r"((?<![\w-])(?:-u|--user|--proxy-user)[ =]['\"]?[^\s:'\"]{1,64}+:)([^\s'\"]+)")
_IDENTIFIED: Final = re.compile(r"(?i)(\bidentified by[ \t]{1,4}(?:password[ \t]{1,4})?['\"])([^'\"\r\n]+)")
_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_DIGEST: Final = re.compile(r"(?:sha(?:1|256|512)[-:])?(?:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})")
_RUNS: Final = re.compile(r"[A-Za-z0-9+=]{8,}")


def redact(text: str, *, known: Iterable[str] = ()) -> str:
    """Return the text with every secret masked whole: those of a known form, and those that are named."""
    # The longest first: one may be the beginning of another.
    for secret in sorted(filter(_is_worth, known), key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _without_keys(text)
    if "://" in text:
        text = _ADDRESS.sub(_without_login, text)
    if "@" in text:
        text = _BARE_LOGIN.sub(lambda m: m[0] if m[1].lower() in _NO_LOGINS else f"{m[1]}:{MASK}@", text)
    text = _SECRET_PATHS.sub(rf"\g<1>{MASK}", text)
    for pattern in _TOKENS:
        text = pattern.sub(MASK, text)
    if _AWS_CONTEXT.search(text):
        text = _AWS_SECRET.sub(lambda m: MASK if _has_all_kinds(m[0]) else m[0], text)
    text = _HEADER.sub(_without_credentials, text)
    text = _COOKIES.sub(rf"\g<1>{MASK}", text)
    text = _SCHEMES.sub(lambda m: f"{m[1]}{MASK}" if looks_random(m[2]) else m[0], text)
    text = _USER_OPTION.sub(rf"\g<1>{MASK}", text)
    text = _IDENTIFIED.sub(rf"\g<1>{MASK}", text)
    return _without_named(text)


def looks_random(text: str) -> bool:
    """Say whether a text has a part that was drawn, and not written: letters and digits in turns."""
    for run in _RUNS.findall(text):
        digits = sum(c.isdigit() for c in run)
        if 0 < digits < len(run) and (len(run) >= 12 or _has_all_kinds(run)):
            return True
        turns = sum(a.islower() != b.islower() for a, b in pairwise(run))
        if len(run) >= 12 and turns * 3 >= len(run):
            return True
    return False


def _is_worth(secret: str) -> bool:
    return len(secret) >= KNOWN_CHARS_MIN


def _has_all_kinds(text: str) -> bool:
    return any(c.isupper() for c in text) and any(c.islower() for c in text) and any(c.isdigit() for c in text)


def _without_keys(text: str) -> str:
    text = _KEY.sub(MASK, text)
    if "PRIVATE KEY" in text:
        text = _without_cut_keys(text)
    text = _ESCAPED_KEY_LINE.sub(lambda m: MASK if _has_all_kinds(m[0]) else m[0], text)
    return _without_key_lines(text)


def _without_cut_keys(text: str) -> str:
    """Mask what stands before the end of a key whose beginning was cut."""
    shown: list[str] = []
    at = 0
    for end in _KEY_END.finditer(text):
        lines = text[at : end.start()].split("\n")
        count = len(lines)
        while lines and (not lines[-1].strip() or _is_of_key(lines[-1])):
            lines.pop()
        if len(lines) == count:
            # Its line ends may be escaped: then all of it is in this line.
            lines[-1] = lines[-1].rstrip(_KEY_CHARS)
        else:
            lines.append("")
        shown += ["\n".join(lines), MASK]
        at = end.end()
    return "".join([*shown, text[at:]])


def _is_of_key(line: str) -> bool:
    word = line.strip()
    return bool(_KEY_LAST_LINE.fullmatch(word) or _KEY_HEADER.fullmatch(word))


def _without_key_lines(text: str) -> str:
    """Mask lines out of the middle of a key, and the shorter one at its end."""
    lines = text.split("\n")
    was_key = False
    for number, line in enumerate(lines):
        word = line.strip()
        if _KEY_LINE.fullmatch(word) and _has_all_kinds(word):
            lines[number], was_key = line.replace(word, MASK), True
        elif was_key and word and _KEY_LAST_LINE.fullmatch(word) and looks_random(word):
            lines[number], was_key = line.replace(word, MASK), False
        else:
            was_key = False
    return "\n".join(lines)


def _without_login(found: re.Match[str]) -> str:
    """Mask the password in an address, or the token that stands for a name; both may hold slashes, or be cut."""
    scheme, rest = found[1], found[2]
    is_web = scheme.lower() in _WEB
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    name, colon, _ = authority.partition(":")
    if "@" in name:
        login, _, host = authority.rpartition("@")
        is_token = (is_web and login != "git") or looks_random(login)
        return f"{scheme}://{MASK}@{host}{rest[len(authority) :]}" if is_token else found[0]
    if not colon:
        return found[0]
    if "@" in authority:
        end = authority.rfind("@")
        host = authority[end + 1 :]
        if not _HOST.fullmatch(host) and rest.rfind("@") > end:
            end = rest.rfind("@")
    elif all(map(_HOSTS.fullmatch, authority.split(","))) and (is_web or "@" not in rest):
        return found[0]  # a port
    else:
        end = rest.rfind("@")
    if end < 0:
        # It was cut before its end.
        kept = rest[len(_trimmed(rest, "'),;]}.")) :]
        return f"{scheme}://{name}:{MASK}{kept}"
    password = rest[len(name) + 1 : end]
    if not password or password == "x-oauth-basic" or looks_random(name):  # noqa: S105 - a word of GitHub's
        name = MASK if name else ""
    return f"{scheme}://{name}:{MASK if password else ''}{rest[end:]}"


def _without_credentials(found: re.Match[str]) -> str:
    scheme = _AUTH_SCHEME.match(found[2])
    if scheme is not None and scheme[1].lower() in _ONE_WORD_SCHEMES:
        rest = found[2][scheme.end() :]
        credential = _trimmed(rest.split(None, 1)[0], ",}])")
        return f"{found[1]}{scheme[0]}{MASK}{rest[len(credential) :]}"
    if _is_sentence(found[2]):
        return found[0]
    return f"{found[1]}{scheme[0] if scheme is not None else ''}{MASK}"


def _without_named(text: str) -> str:
    shown: list[str] = []
    at = look = 0
    while (found := _NAME.search(text, look)) is not None:
        look = found.end()
        is_secret = names_secret(found[1])
        if is_secret is None:
            continue
        is_option = not found[2].strip()
        if is_option and not found[1].startswith("--"):
            continue
        is_spaced = found[2][-1] in " \t"
        if not is_secret and not _may_be_secret(text, found.end(), is_spaced=is_spaced, is_option=is_option):
            continue
        span = _value_after(text, found.end(), is_spaced=is_spaced, is_option=is_option)
        if span is None or (not is_secret and not _is_unnamed_secret(text[slice(*span)])):
            continue
        shown += [text[at : span[0]], MASK]
        at = look = span[1]
    return "".join([*shown, text[at:]])


def _may_be_secret(text: str, at: int, *, is_spaced: bool, is_option: bool) -> bool:
    """Say whether the beginning of a value looks like a secret. Only one that does is read to its end, and passed over
    then: a name in each place of a long value would have the rest of it read anew."""
    piece = text[at : at + JUDGED_CHARS_MAX]
    span = _value_after(piece, 0, is_spaced=is_spaced, is_option=is_option)
    if span is None:
        return False
    value = piece[slice(*span)]
    return looks_random(value) if span[1] == len(piece) else _is_unnamed_secret(value)


def _is_unnamed_secret(value: str) -> bool:
    return looks_random(value) and not _UUID.fullmatch(value) and not _DIGEST.fullmatch(value)


def names_secret(name: str) -> bool | None:
    """Say whether a name is one of a secret: True, False for one that may be, None for others."""
    parts = [word.lower().rstrip("0123456789") for part in re.split("[_-]+", name) for word in _CAMEL.split(part)]
    parts = [part for part in parts if part]
    if not parts or parts[-1] in _NEUTRAL_ENDS:
        return None
    last, joined = parts[-1], "".join(parts)
    if last in _SECRET_WORDS or joined.endswith(_TELLING_ENDS) or not _STRONG.isdisjoint(parts):
        return True
    if last == "key" and len(parts) > 1 and parts[-2] in _KEY_OWNERS:
        return True
    return False if last in _MAYBE_WORDS or joined.endswith(("key", "pass")) else None


def _value_after(text: str, at: int, *, is_spaced: bool, is_option: bool) -> tuple[int, int] | None:
    """Return where a secret's value stands; None when a sentence, a piece of a program, or nothing stands there."""
    quote = _QUOTE.match(text, at)
    if quote is not None:
        end = _end_of_quoted(text, quote.end(), quote[2], escapes=len(quote[1]))
        value = text[quote.end() : end]
        judged = value[:JUDGED_CHARS_MAX]
        if not value or _is_no_value(value) or (" " in judged and _is_sentence(judged)):
            return None
        return quote.end(), end
    bare = _BARE.match(text, at)
    if bare is None or _CODE.match(text, at) or (is_option and bare[0].startswith("-")):
        return None
    value = _trimmed(bare[0], ".:]") or bare[0]
    if _is_no_value(value):
        return None
    end = at + len(value)
    if value.isdigit():
        return None if is_spaced and len(value) <= 4 else (at, end)
    if is_spaced and value.replace("-", "").isalpha():
        line = text[at : at + JUDGED_CHARS_MAX].split("\n", 1)[0]
        if _is_sentence(line):
            return None
        if not is_option:
            # A passphrase has many words.
            phrase = re.match(r"[A-Za-z-]++(?: [A-Za-z-]++)*(?! [A-Za-z-])(?=\s|\Z)", line)
            end = at + len(phrase[0]) if phrase is not None else end
    elif len(bare[0]) < len(text) - at and text[at + len(bare[0])] in ",;&(){}":
        # A comma ends it, unless what follows belongs to no list: then it is a part of the secret.
        end = _with_odd_signs(text, at)
    return at, end


def _with_odd_signs(text: str, at: int) -> int:
    whole = _BARE_WITH_SIGNS.match(text, at)
    value = whole[0] if whole is not None else ""
    parts = re.split(r"[,;&(){}]", value)
    is_list = any("=" in part or ":" in part for part in parts[1:]) or not all(parts[:-1])
    if is_list or not parts[-1]:
        return at + len(parts[0])
    return at + len(value)


def _end_of_quoted(text: str, at: int, quote: str, *, escapes: int) -> int:
    """Return where a quoted value ends: at a quote that is escaped as the first one is; else at the end of its line."""
    look = at
    while (end := text.find(quote, look)) >= 0:
        before = end
        while before > at and text[before - 1] == "\\":
            before -= 1
        escaped = end - before
        if escaped == escapes or (escapes == 0 and escaped % 2 == 0):
            return before if escapes else end
        look = end + 1
    line_end = text.find("\n", at)
    return len(text) if line_end < 0 else line_end


def _trimmed(text: str, signs: str) -> str:
    """Return the text without what ends a sentence or a list around it."""
    end = len(text)
    while end and text[end - 1] in signs and not text.endswith(MASK, 0, end):
        end -= 1
    return text[:end]


def _is_no_value(value: str) -> bool:
    word = value.strip("<>[](){}*.…").lower()
    return word in _NO_VALUES or not any(c.isalnum() for c in word) or set(word) == {"x"}


def _is_sentence(text: str) -> bool:
    return any(word.strip(".,:;()'\"").lower() in _SENTENCE_WORDS for word in text.split())

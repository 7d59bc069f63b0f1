"""How a setting's text becomes a value: durations, sizes, addresses, destinations. Pure, but for files that must exist.

Never repeats what it was given: a wrong value may be a password pasted into the wrong line. Each parser raises
ValueError with one of our own fixed sentences, which `settings.py` puts behind the setting's name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from steward import domains
from steward.exchange import Origin
from steward.words import Secret

T = TypeVar("T")
Parser = Callable[[str], T]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)?")
_SECONDS: Mapping[str, float] = MappingProxyType({"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400})
_SIZE = re.compile(r"([0-9]{1,15})(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?")
_FACTORS: Mapping[str, int] = MappingProxyType(
    {"B": 1}
    | {unit: 1000**power for power, unit in enumerate(("KB", "MB", "GB", "TB"), 1)}
    | {unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), 1)}
)
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62}))*\.?"
)
_URL_TEXT = re.compile(r"[!-~]{1,2048}")
_BASE_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_SWITCH = {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}
_STEWARD_TOKEN = re.compile(r"mdm_st_[A-Za-z0-9_-]{16,128}")
_MAX_BUTLER_URL = 2000
_HEX_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_TOKEN = re.compile(r"[!-~]+")
_FIELD_NAMES = re.compile(r"[a-z0-9_-]{1,64}\*?")
CREDENTIAL_FIELDS = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
"""Those of `wire/headers.py`."""
_VERSION_ENDS = ("/v1", "/v1beta")
_PRIVATE_ENDS = (".localhost", ".local", ".internal")
_PRIVATE_NETWORKS = tuple(
    ipaddress.ip_network(block) for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
MIN_ADMIN_TOKEN = 32
MAX_TEXT = 1024
MAX_FILE_BYTES = 4 << 20
_PEM = b"-----BEGIN CERTIFICATE-----"


def duration(least: float, most: float) -> Parser[float]:
    """`600s`, `5m`, `1h`, `250ms` or bare seconds, within bounds in seconds."""

    def parse(text: str) -> float:
        found = _DURATION.fullmatch(text)
        if found is None:
            raise ValueError("not a duration; write 600s, 5m, 1h or bare seconds")
        seconds = float(found[1]) * _SECONDS[found[2] or "s"]
        if not least <= seconds <= most:
            raise ValueError(f"out of range; from {least:g}s to {most:g}s")
        return seconds

    return parse


def duration_or_none(least: float, most: float) -> Parser[float]:
    """The same, or 0 for none."""
    bounded = duration(0, most)

    def parse(text: str) -> float:
        seconds = bounded(text)
        if 0 < seconds < least:
            raise ValueError(f"too short; 0, or at least {least:g}s")
        return seconds

    return parse


def size(least: int, most: int) -> Parser[int]:
    """`256MiB`, `1GB` or bare bytes, within bounds in bytes."""

    def parse(text: str) -> int:
        found = _SIZE.fullmatch(text)
        if found is None:
            raise ValueError("not a size; write 256MiB, 1GB or bare bytes")
        octets = int(found[1]) * _FACTORS[found[2] or "B"]
        if not least <= octets <= most:
            raise ValueError(f"out of range; from {least} to {most} bytes")
        return octets

    return parse


def whole(least: int, most: int) -> Parser[int]:
    """A whole number in decimal digits, within bounds."""

    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"[0-9]{1,10}", text) else -1
        if not least <= number <= most:
            raise ValueError(f"not a whole number from {least} to {most}")
        return number

    return parse


def choice(*words: str) -> Parser[str]:
    """One of a closed list, whatever its case."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"none of: {', '.join(words)}")
        return text.lower()

    return parse


def text(given: str) -> str:
    """Printable text on one line, at most 1,024 characters."""
    if len(given) > MAX_TEXT or not given.isprintable():
        raise ValueError(f"not printable text on one line of at most {MAX_TEXT} characters")
    return given


def secret(given: str) -> Secret[str]:
    """A password: any UTF-8 text without NUL."""
    if "\0" in given or not _is_utf8(given):
        raise ValueError("not UTF-8 text without NUL")
    return Secret(given)


def steward_token(given: str) -> Secret[str]:
    """What Butler shows once when a Steward is made there."""
    if not _STEWARD_TOKEN.fullmatch(given.strip()):
        raise ValueError("not a Steward token; it starts with mdm_st_, and Butler shows it once")
    return Secret(given.strip())


def encryption_key(given: str) -> Secret[bytes]:
    """64 hex digits, and not one repeated byte."""
    if not _HEX_KEY.fullmatch(given):
        raise ValueError("not 64 hex digits; make one with: openssl rand -hex 32")
    key = bytes.fromhex(given)
    if len(set(key)) == 1:
        raise ValueError("a key of one repeated byte protects nothing; make one with: openssl rand -hex 32")
    return Secret(key)


def admin_token(given: str) -> Secret[str]:
    """At least 32 visible ASCII characters."""
    if len(given) < MIN_ADMIN_TOKEN or not _TOKEN.fullmatch(given):
        raise ValueError(f"not {MIN_ADMIN_TOKEN} or more visible ASCII characters; make one with: openssl rand -hex 32")
    return Secret(given)


def existing_file(given: str) -> Path:
    """A file that is there."""
    path = Path(given)
    if "\0" in given or not path.is_file():
        raise ValueError("no such file")
    return path


def folder(given: str) -> Path:
    """A folder named from the root: what it is then does not hang on where a command was started."""
    path = Path(given)
    if not path.is_absolute() or ".." in path.parts or path == Path("/"):
        raise ValueError("not a folder that is named from the root, such as /var/lib/steward/spool")
    return Path(text(given))


def certificate_file(given: str) -> Path:
    """A file that is there and holds at least one PEM certificate."""
    path = existing_file(given)
    try:
        with path.open("rb") as file:
            held = file.read(MAX_FILE_BYTES)
    except OSError:
        raise ValueError("the file cannot be read") from None
    if _PEM not in held:
        raise ValueError("the file holds no PEM certificate")
    return path


def host(given: str) -> str:
    """A host name or a literal address, without brackets."""
    if address(given) is None and not _HOST_NAME.fullmatch(given):
        raise ValueError("not a host name or address")
    return given


def postgres_host(given: str) -> str:
    """A host name, a literal address, or a socket folder that begins with `/`."""
    return text(given) if given.startswith("/") else host(given)


def address(given: str) -> Address | None:
    """The literal IP address, or None for anything else."""
    try:
        literal = ipaddress.ip_address(given)
    except ValueError:
        return None
    return getattr(literal, "ipv4_mapped", None) or literal


def is_loopback(name: str) -> bool:
    """A loopback address, `localhost` or a name under it."""
    literal = address(name)
    if literal is not None:
        return literal.is_loopback
    bare = name.lower().rstrip(".")
    return bare == "localhost" or bare.endswith(".localhost")


def is_private(name: str) -> bool:
    """Loopback, an RFC 1918 or RFC 4193 address, or a name that public DNS cannot answer.

    Such names have a single label, or end in `.localhost` (RFC 6761), `.local` (RFC 6762) or `.internal` (reserved
    by ICANN). Link-local addresses, where clouds keep their metadata services, are not private here.
    """
    if is_loopback(name):
        return True
    literal = address(name)
    if literal is not None:
        return any(literal in network for network in _PRIVATE_NETWORKS)
    bare = name.lower().rstrip(".")
    return "." not in bare or bare.endswith(_PRIVATE_ENDS)


def url_parts(given: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of a URL of visible ASCII with one of these schemes. Raises ValueError."""
    if not _URL_TEXT.fullmatch(given) or "\\" in given:
        raise ValueError("not a URL of at most 2,048 visible ASCII characters")
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in schemes:
        raise ValueError(f"does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    return parts


def web_address(given: str) -> SplitResult:
    """An https:// URL without user or fragment; http:// for private addresses only. Raises ValueError."""
    parts = url_parts(given, ("https", "http"))
    if not parts.hostname:
        raise ValueError("names no host")
    if "@" in parts.netloc:
        raise ValueError("a URL with a user name or password in it is not accepted")
    if "#" in given:
        raise ValueError("a URL with a fragment is not accepted")
    if parts.port == 0:
        raise ValueError("port 0 is no address")
    host(parts.hostname)
    if parts.scheme == "http" and not is_private(parts.hostname):
        raise ValueError("http:// is accepted for loopback and private addresses only; use https://")
    return parts


def feed_url(given: str) -> str:
    """The address of a price list; empty for none."""
    if given:
        web_address(given)
    return given


def origin(given: str) -> Origin:
    """A provider's base URL. A final `/v1` or `/v1beta` goes: every route brings its own."""
    parts = web_address(given)
    if "?" in given:
        raise ValueError("a base URL with a query is not accepted")
    path = parts.path.rstrip("/")
    for end in _VERSION_ENDS:
        path = path.removesuffix(end)
    path = path.rstrip("/")
    segments = path.split("/")
    if not _BASE_PATH.fullmatch(path) or "." in segments or ".." in segments:
        raise ValueError("its path holds empty, dot or percent-encoded segments")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Origin(parts.scheme, (parts.hostname or "").lower(), port, path.encode())


def endpoint(given: str) -> str:
    """A storage endpoint: scheme, host and port, no more."""
    parts = web_address(given)
    if parts.path.strip("/") or parts.query:
        raise ValueError("an endpoint has neither path nor query")
    return f"{parts.scheme}://{parts.netloc}"


def store_endpoint(given: str) -> str:
    """A storage endpoint, written in one way: lower case, no default port, no final dot. Raises ValueError.

    Link-local addresses, where clouds keep their metadata services, are no store's.
    """
    parts = web_address(endpoint(given))
    name = (parts.hostname or "").lower().rstrip(".")
    literal = address(name)
    if literal is not None and (literal.is_link_local or literal.is_multicast or literal.is_unspecified):
        raise ValueError("names no address of a store")
    host_part = f"[{name}]" if ":" in name else name
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host_part}{'' if parts.port in (None, default) else f':{parts.port}'}"


def proxy(given: str) -> Secret[str]:
    """An egress proxy, `http://[user:password@]host:port`; `host:port` means the same."""
    whole_url = given if "://" in given else f"http://{given}"
    parts = url_parts(whole_url, ("http",))
    if not parts.hostname or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("not http://host:port")
    host(parts.hostname)
    return Secret(whole_url.rstrip("/"))


def shown_proxy(proxy_url: Secret[str]) -> str:
    """A proxy's address without user name and password."""
    parts = urlsplit(proxy_url.reveal())
    place = parts.netloc.rpartition("@")[2]
    return f"http://***@{place}" if "@" in parts.netloc else f"http://{place}"


def names(given: str) -> tuple[str, ...]:
    """A comma-separated list of hosts, as NO_PROXY has it."""
    return tuple(part.strip() for part in text(given).split(",") if part.strip())


def field_names(given: str) -> tuple[str, ...]:
    """Names of header fields between commas, lower-case then; a `*` at the end of one stands for any rest.

    Raises ValueError for one that would take a provider's credential.
    """
    found = tuple(part.strip().lower() for part in given.split(",") if part.strip())
    for name in found:
        if not _FIELD_NAMES.fullmatch(name):
            raise ValueError("not names of header fields between commas (x-forwarded-*,x-amzn-trace-id)")
        if any(each.startswith(name[:-1]) if name.endswith("*") else each == name for each in CREDENTIAL_FIELDS):
            raise ValueError("names the field of a provider's credential")
    return found


ALL_TAGS = ("*",)


def tag_names(given: str) -> tuple[str, ...]:
    """`*` for all, `none`, or names between commas, in Title-Case then."""
    text = given.strip()
    if text == "*":
        return ALL_TAGS
    if text.lower() == "none":
        return ()
    named = [domains.tag_name(part.strip()) for part in text.split(",")]
    found = tuple(name for name in named if name is not None)
    if len(found) < len(named) or len(found) > domains.MAX_TAGS:
        raise ValueError("neither *, none nor at most 64 tag names between commas (User-Id,Feature)")
    return found


def shown_tag_names(names: tuple[str, ...]) -> str:
    """As it is written."""
    return ",".join(names) or "none"


def unquoted(path: str) -> str:
    """A URL's path with its percent-escapes undone. Raises ValueError where they are no UTF-8 text."""
    try:
        plain = unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its path is not UTF-8") from None
    if not plain.isprintable():
        raise ValueError("its path holds control characters")
    return plain


def _is_utf8(given: str) -> bool:
    try:
        given.encode()
    except UnicodeEncodeError:
        return False
    return True


def butler_url(given: str) -> str:
    """Where Butler is, written in one way: https, or http on loopback; no user, query or fragment (SECURITY F20).

    Raises ValueError, which does not repeat what was given.
    """
    given = given.strip()
    if given.lower().startswith("http://") and not is_loopback(url_parts(given, ("http",)).hostname or ""):
        raise ValueError("http:// is accepted for loopback addresses only; use https://")
    parts = web_address(given)
    path = parts.path.rstrip("/")
    if "?" in given:
        raise ValueError("a URL with a query is not accepted")
    if len(given) > _MAX_BUTLER_URL or not _BASE_PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError("its path holds more than plain segments")
    name = (parts.hostname or "").lower()
    host_part = f"[{name}]" if ":" in name else name
    default = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host_part}{'' if parts.port in (None, default) else f':{parts.port}'}{path}"


def butler_urls(given: str) -> tuple[str, ...]:
    """A comma-separated list of them."""
    return tuple(butler_url(part) for part in given.split(",") if part.strip())


def switch(given: str) -> bool:
    """`on` or `off`; `true`, `false`, `1` and `0` mean the same."""
    if (word := given.lower()) not in _SWITCH:
        raise ValueError("neither on nor off")
    return _SWITCH[word]


def shown_switch(on: bool) -> str:
    """As it is set."""
    return "on" if on else "off"

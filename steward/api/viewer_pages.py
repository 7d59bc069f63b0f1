"""The viewer's pages: facts and text in, HTML out. Pure.

Whatever is put into a page is escaped, because it goes in through `Markup.format` alone; no page has a script, an image
or a link out of content, and a character that is not seen, or that turns text around, is shown by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final
from urllib.parse import quote
from uuid import UUID

from markupsafe import Markup

from steward.body_reading import Reading, Side
from steward.conversation import Part, Turn, answered, asked
from steward.exchange import BodyState, Record
from steward.view_values import shown_organisation

PAGE_CHARACTERS: Final = 200_000
"""Of a body, at a time."""
_PART_CHARACTERS: Final = 20_000
_TALK_CHARACTERS: Final = 400_000

_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_BODY_WORDS: Final = {
    BodyState.NONE: "No body was kept: no store was set when this call was made, or its answer hands out credentials.",
    BodyState.OFF: "No body was kept: CAPTURE is metadata.",
    BodyState.PENDING: "The body is on its way to the store. Look again in a moment.",
    BodyState.FAILED: "The store refused the body for so long that it was set aside: steward spool ls.",
    BodyState.SHED: "The body was shed: there was no room for it when the call ended.",
    BodyState.LOST: "The body is lost: the process or the disk that held it went before it was stored.",
}

_NO_STORE: Final = (
    "The body was stored as {}, where BODY_STORE_URL led when this call was made. This Steward has no BODY_STORE_URL "
    "now: set it again to open the body here, or fetch the object by its key."
)
_NOT_ASKED: Final = (
    "The body was stored as {}, in a bucket that Butler named for this key's owner. This Steward does not ask it any "
    "more: it was removed in Butler or replaced more than once, or local settings and approvals do not allow it. To "
    "open the body here, set the bucket again in Butler with the same access key or service account, and approve it "
    "if it waits: steward pending. Or fetch the object from the bucket by its key."
)

_PAGE: Final = Markup(
    "<!doctype html><html lang=en><head><meta charset=utf-8>"
    "<meta name=viewport content='width=device-width, initial-scale=1'><meta name=color-scheme content='light dark'>"
    "<title>{title}</title><link rel=stylesheet href='/style.css'></head><body>"
    "<header class=top><a class=brand href='/'><span class=mark aria-hidden=true></span>Majordomo"
    "<span class=sub>Body viewer</span></a>{who}</header><main>{content}</main>"
    "<footer>Inside your network. Every opening is written down: who, what, when.</footer></body></html>"
)
_WHO: Final = Markup(
    "<form class=who method=post action='/sign-out'><span class=name>{who}</span>"
    "<button class=quiet>Sign out</button></form>"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A call and what there is to read of it."""

    row: Record
    reading: Reading | None = None
    document: str | None = None
    """The object itself, where it cannot be laid out."""


def sign_in(next_id: UUID | None, failed: bool = False) -> str:
    """Asks for a token."""
    wrong = Markup("<p class=wrong role=alert>This token opens nothing: it is unknown, expired or revoked.</p>")
    hidden = Markup("<input type=hidden name=next value='{}'>").format(next_id) if next_id else Markup("")
    content = Markup(
        "<section class=card><h1>Sign in</h1><p>Request and response bodies are opened with a token of this "
        "Steward.</p>{wrong}<form method=post action='/sign-in'>{hidden}<label for=token>Token</label>"
        "<input id=token name=token type=password autocomplete=off spellcheck=false required autofocus "
        "placeholder='mdm_vt_...'><button>Sign in</button></form>"
        "<p class=hint>An operator makes one: <code>steward view-token create --org local --expires 8h</code></p>"
        "</section>"
    )
    return _page("Sign in", content.format(wrong=wrong if failed else "", hidden=hidden))


def sign_in_elsewhere(next_id: UUID | None) -> str:
    """Leads to the OpenID provider."""
    content = Markup(
        "<section class=card><h1>Sign in</h1><p>Request and response bodies are opened by people whom your own "
        "sign-in service knows.</p><a class=button href='/sign-in/oidc{next}'>Sign in with your organisation</a>"
        "</section>"
    )
    return _page("Sign in", content.format(next=f"?next={next_id}" if next_id else ""))


def message(title: str, words: str, who: str | None = None, way: tuple[str, str] | None = None) -> str:
    """One thing to say, and perhaps a way on: address and words."""
    on = Markup("<a class=button href='{}'>{}</a>").format(way[0], shown_text(way[1])) if way else Markup("")
    content = Markup("<section class=card><h1>{}</h1><p>{}</p>{}</section>").format(
        shown_text(title), shown_text(words), on
    )
    return _page(title, content, who)


def index(who: str, org_ids: Sequence[UUID], org_id: UUID, rows: Sequence[Record]) -> str:
    """The newest calls of one organisation, and a box for a request's id."""
    orgs = Markup("").join(
        Markup("<a class='chip{}' href='/?org={}'>{}</a>").format(" here" if each == org_id else "", each, _org(each))
        for each in org_ids
    )
    content = Markup(
        "<section class=bar><div><h1>Calls</h1><p class=muted>The newest {count} calls of {org}. No body is on this "
        "page.</p></div><form class=find method=get action='/find'><label for=id>Request id</label><span class=pair>"
        "<input id=id name=id required maxlength=64 spellcheck=false placeholder='X-Majordomo-Request-Id'>"
        "<button>Open</button></span></form></section>{orgs}{table}"
    ).format(
        count=len(rows),
        org=_org(org_id),
        orgs=Markup("<nav class=chips aria-label=Organisations>{}</nav>").format(orgs) if len(org_ids) > 1 else "",
        table=_table(rows) if rows else Markup("<p class=empty>There are no calls yet.</p>"),
    )
    return _page("Calls", content, who)


def call(who: str, shown: Shown) -> str:
    """One call: its facts, what was said, and the two bodies."""
    row = shown.row
    download = Markup("<a class='button quiet' href='/requests/{}/download'>Download</a>").format(row.id)
    content = Markup(
        "<section class=bar><div><p class=muted><a href='/'>Calls</a> / call</p><h1 class=id>{id}</h1>"
        "<p class=line>{badge}<code>{method} {path}</code></p></div>{download}</section>{facts}{body}"
    ).format(
        id=row.id,
        badge=_status(row),
        method=shown_text(row.request_method),
        path=shown_text(row.request_path),
        download=download if shown.reading or shown.document is not None else "",
        facts=_facts(row),
        body=_body(shown),
    )
    return _page(f"Call {row.id}", content, who)


def part_of(who: str, request_id: UUID, side: str, text: str, page: int) -> str:
    """A page of one body that is too long for one."""
    pages = max(1, -(-len(text) // PAGE_CHARACTERS))
    page = min(max(page, 1), pages)
    place = Markup("/requests/{}/{}?page={}")
    ways = [(page - 1, "Earlier"), (page + 1, "Later")]
    content = Markup(
        "<section class=bar><div><p class=muted><a href='/'>Calls</a> / <a href='/requests/{id}'>{id}</a></p>"
        "<h1>{side}</h1><p class=muted>Page {page} of {pages}</p></div></section>{body}<nav class=chips>{ways}</nav>"
    ).format(
        id=request_id,
        side=side.capitalize(),
        page=page,
        pages=pages,
        body=_pre(text[(page - 1) * PAGE_CHARACTERS : page * PAGE_CHARACTERS]),
        ways=Markup("").join(
            Markup("<a class=chip href='{}'>{}</a>").format(place.format(request_id, side, number), words)
            for number, words in ways
            if 1 <= number <= pages
        ),
    )
    return _page(f"{side.capitalize()} of {request_id}", content, who)


def shown_text(text: str) -> Markup:
    """Text, escaped; what nobody would see, or what would turn the rest around, by its number."""
    pieces: list[Markup | str] = []
    at = 0
    for found in _UNSEEN.finditer(text):
        pieces += [text[at : found.start()], Markup("<span class=unseen>U+{}</span>").format(f"{ord(found[0]):04X}")]
        at = found.end()
    return Markup("").join([*pieces, text[at:]])


def _page(title: str, content: Markup, who: str | None = None) -> str:
    signed_in = _WHO.format(who=shown_text(who)) if who is not None else ""
    plain = _UNSEEN.sub("", title)
    return str(_PAGE.format(title=f"{plain} - Majordomo body viewer", who=signed_in, content=content))


def _org(org_id: UUID) -> str:
    return "this installation's own keys" if not org_id.int else f"organisation {shown_organisation(org_id)}"


def _status(row: Record) -> Markup:
    failed = row.status_code is None or row.status_code >= 400 or row.outcome.value != "complete"
    said = str(row.status_code or "none") if row.outcome.value == "complete" else row.outcome.value.replace("_", " ")
    return Markup("<span class='badge {}'>{}</span>").format("bad" if failed else "good", said)


def _table(rows: Sequence[Record]) -> Markup:
    head = Markup(
        "<table class=calls><thead><tr><th scope=col>Time (UTC)</th><th scope=col>Model</th><th scope=col>Status</th>"
        "<th scope=col class=n>Tokens in / out</th><th scope=col class=n>Cost</th><th scope=col class=n>Latency</th>"
        "<th scope=col>Body</th></tr></thead><tbody>{}</tbody></table>"
    )
    return head.format(Markup("").join(map(_line, rows)))


def _line(row: Record) -> Markup:
    return Markup(
        "<tr><td class=when><a href='/requests/{id}'>{at}</a></td><td><span class=model>{model}</span>"
        "<span class=muted>{provider}</span></td><td>{status}</td><td class=n data-name=Tokens>{tokens}</td>"
        "<td class=n data-name=Cost>{cost}</td><td class=n data-name=Latency>{time}</td>"
        "<td><span class='state {state}'>{state}</span></td></tr>"
    ).format(
        id=row.id,
        at=f"{row.requested_at:%Y-%m-%d %H:%M:%S}",
        model=shown_text(row.model or "-"),
        provider=shown_text(row.provider),
        status=_status(row),
        tokens=f"{_count(row.input_tokens)} / {_count(row.output_tokens)}",
        cost=_usd(row.total_cost),
        time=_ms(row.response_time_ms),
        state=row.body_state.value,
    )


def _facts(row: Record) -> Markup:
    first = [
        ("Model", row.model or "-"),
        ("Provider", row.provider),
        ("Tokens in / out", f"{_count(row.input_tokens)} / {_count(row.output_tokens)}"),
        ("Cost", _usd(row.total_cost)),
        ("Latency", _ms(row.response_time_ms)),
        ("First token", _ms(row.ttft_ms)),
    ]
    cached = (
        (row.cached_tokens, "cached"),
        (row.cache_creation_tokens, "written"),
        (row.reasoning_tokens, "reasoning"),
    )
    rest = [
        ("Time (UTC)", f"{row.requested_at:%Y-%m-%d %H:%M:%S}"),
        ("Outcome", row.outcome.value.replace("_", " ")),
        ("Error", row.error_message.value if row.error_message else ""),
        ("Of these tokens", ", ".join(f"{_count(count)} {word}" for count, word in cached if count)),
        ("Usage from", row.usage_source.value),
        ("Price from", row.price_source or ""),
        ("Asked for model", row.original_model or ""),
        ("Organisation", shown_organisation(row.org_id)),
        ("Key", str(row.api_key_id)),
        ("Client", row.client or ""),
        ("Sizes", f"{_size(row.request_bytes)} asked, {_size(row.response_bytes)} answered"),
        ("Body object", row.body_key or ""),
        ("Its SHA-256", row.body_sha256 or ""),
    ]
    tags = Markup("").join(
        Markup("<span class=tag><b>{}</b>{}</span>").format(shown_text(name), shown_text(value))
        for name, value in sorted(row.tags.items())
    )
    return Markup(
        "<dl class=tiles>{}</dl>{}<details class=more><summary>All facts</summary><dl class=facts>{}</dl></details>"
    ).format(
        _terms(first),
        Markup("<p class=tags>{}</p>").format(tags) if tags else "",
        _terms(each for each in rest if each[1]),
    )


def _terms(pairs: Iterable[tuple[str, str]]) -> Markup:
    return Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(shown_text(name), shown_text(value)) for name, value in pairs
    )


def _body(shown: Shown) -> Markup:
    if shown.reading is not None:
        talk = _talk(shown.reading)
        return Markup("{}{}{}").format(
            talk,
            _side(shown.row.id, "request", shown.reading.request),
            _side(shown.row.id, "response", shown.reading.response),
        )
    if shown.document is not None:
        note = Markup(
            "<p class=note>This body is too large, or nested too deep, to be laid out. It is shown as it is.</p>"
        )
        return note + _text(shown.row.id, "document", shown.document)
    return Markup("<p class=note>{}</p>").format(shown_text(_without_body(shown.row)))


def _without_body(row: Record) -> str:
    """Why there is nothing to read, and what to do."""
    if row.body_state is not BodyState.STORED:
        return _BODY_WORDS[row.body_state]
    where = row.body_url or row.body_key or "an object without a name"
    if row.storage_config_id is None:
        return _NO_STORE.format(where)
    return _NOT_ASKED.format(where)


def _talk(reading: Reading) -> Markup:
    room = _TALK_CHARACTERS
    shown: list[Markup] = []
    for side, turns in (("asked", asked(reading)), ("answered", answered(reading))):
        for turn in turns:
            if room <= 0:
                shown.append(Markup("<p class=note>The rest is in the bodies below.</p>"))
                break
            shown.append(_turn(turn, side))
            room -= sum(min(len(part.text), _PART_CHARACTERS) for part in turn.parts)
    if not shown:
        return Markup("")
    return Markup("<section class=talk><h2>Conversation</h2>{}</section>").format(Markup("").join(shown))


def _turn(turn: Turn, side: str) -> Markup:
    return Markup("<article class='turn {}'><h3>{}</h3>{}</article>").format(
        side, shown_text(turn.role), Markup("").join(map(_part, turn.parts))
    )


def _part(part: Part) -> Markup:
    kind = Markup("<p class=kind>{} <code>{}</code></p>").format(part.kind, shown_text(part.name))
    left = len(part.text) - _PART_CHARACTERS
    more = Markup("<p class=note>{} more characters are in the body below.</p>").format(f"{left:,}") if left > 0 else ""
    look = "said" if part.kind == "text" else "thing"
    return Markup("{}<pre class={} dir=auto>{}</pre>{}").format(
        kind if part.kind != "text" else "", look, shown_text(part.text[:_PART_CHARACTERS]), more
    )


def _side(request_id: UUID, name: str, side: Side) -> Markup:
    headers = _terms([*side.query, *side.headers])
    kept = Markup(
        "<details class=more><summary>Kept headers and query</summary><dl class=facts>{}</dl></details>"
    ).format(headers)
    cut = dict(side.facts).get("truncated") == "true"
    note = Markup("<p class=note>This body was cut when it was captured.</p>") if cut else ""
    open_now = " open" if name == "response" else ""
    return Markup(
        "<section><h2>{}</h2>{}{}<details class=more{}><summary>Body, {}</summary>{}</details></section>"
    ).format(
        name.capitalize(), kept if headers else "", note, open_now, side.encoding, _text(request_id, name, side.text())
    )


def _text(request_id: UUID, side: str, text: str) -> Markup:
    if len(text) <= PAGE_CHARACTERS:
        return _pre(text)
    on = Markup("<p class=note>{} characters in all. <a href='/requests/{}/{}?page=2'>Read on</a></p>")
    return _pre(text[:PAGE_CHARACTERS]) + on.format(f"{len(text):,}", request_id, quote(side))


def _pre(text: str) -> Markup:
    return Markup("<pre class=raw tabindex=0 dir=auto>{}</pre>").format(shown_text(text))


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _usd(value: Decimal | None) -> str:
    if value is None:
        return "-"
    return f"${value:.2f}" if value >= 1 or not value else f"${value:.6f}".rstrip("0")


def _ms(value: int | None) -> str:
    if value is None:
        return "-"
    return f"{value} ms" if value < 1000 else f"{value / 1000:.2f} s"


def _size(value: int) -> str:
    if value < 1024:
        return f"{value} B"
    return f"{value / 1024:.1f} KiB" if value < 1 << 20 else f"{value / (1 << 20):.1f} MiB"

"""The viewer's pages: whatever goes in is text."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.api import viewer_pages as pages
from steward.api.viewer_pages import Shown, shown_text
from steward.body_reading import laid_out
from steward.exchange import BodyState
from tests.contracts.records import ORG, OTHER_ORG, a_full_record
from tests.servers.viewers import a_document

ELEMENTS = frozenset(
    (
        *(
            "html",
            "head",
            "meta",
            "title",
            "link",
            "body",
            "header",
            "a",
            "span",
            "form",
            "button",
            "main",
            "footer",
            "b",
        ),
        *("section", "h1", "h2", "h3", "p", "div", "table", "thead", "tbody", "tr", "th", "td", "dl", "dt", "dd"),
        *("details", "summary", "pre", "code", "article", "nav", "label", "input"),
    )
)
ATTRIBUTES = frozenset(
    (
        *(
            "lang",
            "charset",
            "name",
            "content",
            "rel",
            "href",
            "class",
            "aria-hidden",
            "aria-label",
            "method",
            "action",
        ),
        *("id", "type", "for", "autocomplete", "spellcheck", "required", "autofocus", "placeholder", "value", "role"),
        *("maxlength", "scope", "data-name", "open", "dir", "tabindex"),
    )
)
_ID = "[0-9a-f-]{36}"
OURS = re.compile(
    rf"/(?:style\.css|sign-in(?:/oidc(?:\?next={_ID})?)?|sign-out|find|\?org={_ID}"
    rf"|requests/{_ID}(?:/(?:download|request|response|document)(?:\?page=\d+)?)?)?"
)
"""Every address that a page of ours leads to."""
NASTY = "</pre></title><script>alert(1)</script><img src=x onerror=alert(1)> ' onload=x \" {0} {title} %s \u2028 \u202e"


class Checked(HTMLParser):
    """Every element and attribute is one of ours, and every address ours."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ELEMENTS, tag
        for name, value in attrs:
            assert name in ATTRIBUTES, name
            if name in ("href", "action"):
                assert value is not None
                assert OURS.fullmatch(value), value

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def words(page: str) -> str:
    checked = Checked()
    checked.feed(page)
    return "".join(checked.words)


def shown(text: str) -> Shown:
    document = a_document(text, text, headers={text[:20]: text})
    document["request"]["path"] = text
    facts = {"model": text[:99], "provider": text[:20], "tags": {text[:9]: text}, "client": text, "request_path": text}
    reading = laid_out(orjson.dumps(document))
    assert reading is not None
    return Shown(a_full_record(**facts), reading)


def test_no_text_becomes_markup_on_any_page() -> None:
    one = shown(NASTY)
    made = [
        pages.call(NASTY, one),
        pages.call(NASTY, Shown(one.row, document=NASTY)),
        *(pages.call(NASTY, Shown(a_full_record(body_state=state, tags={NASTY: NASTY}))) for state in BodyState),
        pages.index(NASTY, [ORG, OTHER_ORG], ORG, [one.row] * 3),
        pages.index(NASTY, [UUID(int=0)], UUID(int=0), []),
        pages.part_of(NASTY, one.row.id, "response", NASTY * 10_000, 2),
        pages.message(NASTY, NASTY, NASTY, ("/", NASTY)),
        pages.sign_in(one.row.id, failed=True),
        pages.sign_in(None),
        pages.sign_in_elsewhere(one.row.id),
        pages.sign_in_elsewhere(None),
    ]
    for page in made:
        words(page)
        assert page.count("<script") == 0
        assert not {"\u2028", "\u202e"} & set(page)


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), max_size=60))
def test_whatever_a_completion_says_is_said_as_text(text: str) -> None:
    said = words(pages.call("ada", shown(text)))
    letters = "".join(each for each in text if each.isalnum())
    assert letters in "".join(each for each in said if each.isalnum())


UNSEEN = [
    *(
        0x0,
        0x8,
        0xB,
        0xD,
        0x1B,
        0x7F,
        0x85,
        0xAD,
        0x61C,
        0x200B,
        0x200E,
        0x200F,
        0x2028,
        0x2029,
        0x202A,
        0x202E,
        0x2066,
    ),
    *(0x2069, 0xFEFF, 0xE0041),
]


@pytest.mark.parametrize("point", UNSEEN)
def test_what_is_not_seen_is_named(point: int) -> None:
    assert str(shown_text(f"a{chr(point)}b")) == f"a<span class=unseen>U+{point:04X}</span>b"


@pytest.mark.parametrize(
    "text",
    ["a\nb\tc", "caf\u00e9", "\u05e9\u05dc\u05d5\u05dd", "\u0633\u0644\u0627\u0645", "\U0001f468\u200d\U0001f469"],
)
def test_what_people_write_is_left_as_it_is(text: str) -> None:
    assert str(shown_text(text)) == text


def test_what_is_unknown_is_a_dash_and_never_zero() -> None:
    row = a_full_record(input_tokens=None, output_tokens=0, total_cost=None, response_time_ms=None, model=None)
    said = words(pages.call("ada", Shown(row)))
    assert "- / 0" in said
    assert "$0" not in said


@pytest.mark.parametrize(
    ("cost", "said"), [("0", "$0.00"), ("0.0000015", "$0.000002"), ("0.0123", "$0.0123"), ("21.123", "$21.12")]
)
def test_money_is_readable(cost: str, said: str) -> None:
    assert said in words(pages.call("ada", Shown(a_full_record(total_cost=Decimal(cost)))))


def test_a_talk_without_end_is_cut_and_says_so() -> None:
    document = a_document("x" * 90_000)
    document["request"]["body"] = {"messages": [{"role": "user", "content": "y" * 30_000}] * 400}
    reading = laid_out(orjson.dumps(document))
    page = pages.call("ada", Shown(a_full_record(), reading))
    assert len(page) < 1_500_000
    assert "The rest is in the bodies below." in page
    assert "10,000 more characters" in page


def test_pages_of_a_body_are_within_it() -> None:
    text = "a" * pages.PAGE_CHARACTERS + "b"
    row = a_full_record()
    for page, expected in ((1, "a"), (2, "b"), (99, "b"), (-5, "a"), (0, "a")):
        said = words(pages.part_of("ada", row.id, "request", text, page))
        assert f"Page {1 if expected == 'a' else 2} of 2" in said
    assert "Page 1 of 1" in words(pages.part_of("ada", row.id, "request", "", 1))


def test_a_body_that_cannot_be_asked_for_says_why_and_what_to_do() -> None:
    row = a_full_record(body_state=BodyState.STORED, body_url="s3://acme/<b>/x.json.gz", storage_config_id=None)
    page = pages.call("ada", pages.Shown(row))
    assert "s3://acme/&lt;b&gt;/x.json.gz" in page
    assert "BODY_STORE_URL" in page and "steward pending" not in page
    theirs = pages.call("ada", pages.Shown(replace(row, storage_config_id=UUID(int=3))))
    assert "set the bucket again in Butler" in theirs and "steward pending" in theirs
    assert "BODY_STORE_URL" not in theirs

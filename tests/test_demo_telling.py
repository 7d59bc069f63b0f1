"""The words of the demo: what is shown can be pasted, read and trusted."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from steward import demo_telling as telling
from steward.demo_telling import SAMPLES, Sample

URL = "http://127.0.0.1:7680"
ROW: dict[str, Any] = {
    "id": UUID(int=7),
    "provider": "openai",
    "model": "gpt-4o-mini",
    "status_code": 200,
    "outcome": "complete",
    "usage_source": "provider",
    "input_tokens": 12,
    "output_tokens": 0,
    "total_cost": Decimal("0.0000123000"),
    "price_source": "genai-prices 0.2.3",
    "response_time_ms": 38,
    "first_byte_us": 37400,
    "body_state": "stored",
    "requested_at": datetime(2026, 11, 21, 8, 1, 2, tzinfo=UTC),
}
UNKNOWN = {**ROW, "model": None, "input_tokens": None, "output_tokens": None, "total_cost": None, "price_source": None}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.provider)
def test_a_curl_line_is_one_shell_command(sample: Sample, streamed: bool) -> None:
    """It parses as a shell would parse it, and carries key, credential and a JSON body."""
    line = telling.curl(sample, URL, "mdm_sk_x", real=False, streamed=streamed)
    words = shlex.split(line)
    assert "\n" not in line
    assert words[0] == "curl"
    assert URL in words[2]
    headers = [words[at + 1] for at, word in enumerate(words) if word == "-H"]
    assert "X-Majordomo-Key: mdm_sk_x" in headers
    assert f"{sample.credential}anything" in headers
    assert isinstance(json.loads(words[words.index("-d") + 1]), dict)
    assert ("stream" in line) is streamed


def test_a_real_key_stays_in_its_variable() -> None:
    """The line names the variable; the shell puts the key in."""
    line = telling.curl(SAMPLES[0], URL, "mdm_sk_x", real=True)
    assert '-H "Authorization: Bearer $OPENAI_API_KEY"' in line


@pytest.mark.parametrize(
    ("sample", "document"),
    [
        (SAMPLES[0], {"choices": [{"message": {"content": "yes"}}]}),
        (SAMPLES[1], {"content": [{"text": "yes"}]}),
        (SAMPLES[2], {"candidates": [{"content": {"parts": [{"text": "yes"}]}}]}),
    ],
)
def test_the_text_of_an_answer(sample: Sample, document: Any) -> None:
    """Found where the dialect has it; nothing in an error, never an exception."""
    assert sample.text(document) == "yes"
    others: list[Any] = [{"error": {"message": "no"}}, [], None, "x", {"choices": []}, {"content": [{"text": 7}]}]
    for other in others:
        assert sample.text(other) == ""


def test_a_row_names_what_it_knows() -> None:
    """Model, tokens, cost, latency, outcome and state; a zero is a zero."""
    shown = telling.row(ROW)
    for words in (
        "gpt-4o-mini",
        "12 in, 0 out",
        "$0.0000123",
        "38 ms, first byte after 37.4 ms",
        "complete",
        "stored",
        "genai-prices",
    ):
        assert words in shown
    assert "12 in 0 out" in telling.line(ROW)


def test_unknown_is_not_zero() -> None:
    """In the row as in the line."""
    assert "unknown in, unknown out" in telling.row(UNKNOWN)
    assert "$" not in telling.row(UNKNOWN) + telling.line(UNKNOWN)


def test_money_has_no_exponent() -> None:
    """However small."""
    assert telling.money(Decimal("1E-9")) == "$0.000000001"
    assert telling.money(Decimal("10.00")) == "$10"


def test_an_excerpt_is_short_and_harmless() -> None:
    """So many lines of a width, and no control character, of either kind, reaches the terminal."""
    deep = {"text": "\x1b[2J\x9b31m" + "x" * 500, "list": list(range(2000))}
    lines = telling.excerpt({"id": 7, "request": {"method": "POST", "body": deep}}).splitlines()
    assert len(lines) == 6 + telling.MAX_ENTRY_LINES
    assert all(len(line) <= telling.WIDTH for line in lines)
    assert all(letter.isprintable() for line in lines for letter in line)
    assert lines[-3].strip() == "..."


def test_a_small_excerpt_is_whole() -> None:
    """Nothing is left out that has room: it is the document."""
    document = {"id": 7, "response": {"status_code": 200, "body": {"text": "Grüße", "list": [1, None, True]}}}
    shown = telling.excerpt(document)
    assert "..." not in shown
    assert json.loads(shown) == document


def test_every_sdk_is_told() -> None:
    """Its base URL, in its own way."""
    shown = telling.sdks(URL)
    assert f'OpenAI(base_url="{URL}/v1"' in shown
    assert f'Anthropic(base_url="{URL}"' in shown
    assert f'HttpOptions(base_url="{URL}"' in shown


def test_steps_stand_in_columns() -> None:
    """Each word in the same place."""
    lines = [telling.step(label) + telling.done("ready", 1.25, "note") for label in ("a", "a longer label")]
    assert len({line.index("ready") for line in lines}) == 1
    assert lines[0].endswith("1.2 s   note\n")

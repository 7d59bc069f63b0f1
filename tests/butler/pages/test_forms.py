"""Fields of forms: bounded lines, secrets that are not shown again."""

from __future__ import annotations

import pytest

from steward.butler.errors import NotAcceptable
from steward.butler.pages.forms import Form
from steward.words import Secret


def test_a_line_is_stripped_and_may_be_missing() -> None:
    form = Form({"name": "  checkout \n".replace("\n", " ")})
    assert form.line("name") == "checkout" and form.line("other") == ""
    assert form.needed("name") == "checkout"


@pytest.mark.parametrize("said", ["a\x00b", "a\nb", "a\u2028b", "\ud800", "a\u202eb", "a\u200bb", "x" * 11])
def test_what_is_no_line_is_refused_without_being_repeated(said: str) -> None:
    with pytest.raises(NotAcceptable) as refused:
        Form({"name": said}).line("name", 10)
    assert refused.value.field == "name" and said not in refused.value.message
    assert refused.value.message.startswith("Name is too long")


def test_what_is_needed_must_say_something() -> None:
    with pytest.raises(NotAcceptable, match="Email is missing"):
        Form({"email": "  "}).needed("email")


def test_a_secret_is_masked_and_may_have_lines() -> None:
    secret = Form({"json": '{"a":\n1}'}).secret("json")
    assert secret == Secret('{"a":\n1}') and "a" not in repr(secret)
    assert Form({}).secret("json") is None
    with pytest.raises(NotAcceptable):
        Form({"json": "x" * 2000}).secret("json")


def test_a_form_that_failed_shows_its_lines_and_nothing_else() -> None:
    form = Form({"name": "a", "password": "secret", "odd": "a\x00"})
    assert form.shown("name", "odd", "missing") == {"name": "a", "odd": "", "missing": ""}

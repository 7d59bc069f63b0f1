"""JSON that a terminal can be shown."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from steward.printing import as_json


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=50))
def test_whatever_the_words_they_come_back_and_command_nothing(words: str) -> None:
    printed = as_json({"said": words})
    assert json.loads(printed) == {"said": words}
    assert all(each.isprintable() or each == "\n" for each in printed)

"""The style sheet: it loads nothing."""

from __future__ import annotations

import re

from steward.api.viewer_style import CSS


def test_it_loads_nothing_from_anywhere() -> None:
    assert not re.search(r"url\(|@import|@font-face|expression|https?:|//", CSS)
    assert CSS.isascii()


def test_every_colour_has_its_dark_twin() -> None:
    light, dark = re.findall(r":root\{(.*?)\}", CSS, re.DOTALL)
    names = [set(re.findall(r"--([a-z-]+):", each)) - {"mono"} for each in (light, dark)]
    assert names[0] == names[1]
    assert set(re.findall(r"var\(--([a-z-]+)\)", CSS)) - {"mono"} <= names[0]
    assert CSS.count("{") == CSS.count("}")

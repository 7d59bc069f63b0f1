"""Templates escape, holes are errors, no file names a foreign host, and the style sheet's colours can be read."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from steward.butler.pages import rendering
from steward.butler.pages.rendering import Renderer

HERE = Path(rendering.__file__).parents[1]
TEMPLATES = sorted((HERE / "templates").glob("*.html"))
CSS = (HERE / "static" / "butler.css").read_text()


def test_no_template_marks_text_as_safe_or_styles_in_line() -> None:
    assert len(TEMPLATES) > 10
    for file in TEMPLATES:
        text = file.read_text()
        assert not re.search(r"\|\s*safe|autoescape|Markup| style=| on[a-z]+=|javascript:", text), file.name


def test_no_file_of_ours_names_a_foreign_host() -> None:
    for file in [*TEMPLATES, *(HERE / "static").iterdir()]:
        found = [
            each for each in re.findall(r"https?://[^\s\"'<>]+", file.read_text()) if "www.w3.org/2000/svg" not in each
        ]
        assert not found, (file.name, found)


def test_a_name_that_is_not_given_is_an_error_and_no_hole() -> None:
    with pytest.raises(UndefinedError):
        Renderer().html("sign_in.html", wrong="", said="")


def test_the_script_writes_text_and_never_markup() -> None:
    script = (HERE / "static" / "butler.js").read_text()
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|setAttribute\(\"style", script
    )


@pytest.mark.parametrize(
    ("value", "kind", "step", "text"),
    [
        (0, "cost", 0.5, "$0"),
        (1.5, "cost", 0.5, "$1.5"),
        (0.002, "cost", 0.001, "$0.002"),
        (20_000, "cost", 10_000, "$20.0\u00a0k"),
        (500, "latency", 250, "500\u00a0ms"),
        (5_000, "latency", 5_000, "5\u00a0s"),
        (0, "latency", 5_000, "0\u00a0s"),
        (1_500_000, "count", 500_000, "1.5\u00a0M"),
        (0.25, "count", 0.25, "0.25"),
    ],
)
def test_marks_of_an_axis_are_told_apart(value: float, kind: str, step: float, text: str) -> None:
    assert rendering.tick(value, kind, step) == text


def test_a_moment_says_its_zone_where_it_is_whole() -> None:
    at = datetime(2026, 3, 1, 9, 5, 7, tzinfo=UTC)
    assert rendering.clock(at, "second") == "1 Mar, 09:05:07" and rendering.clock(at, "full").endswith("UTC")
    assert rendering.clock(at, "ago") == rendering.clock(at)


# The style sheet


def _tokens(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6});", block))


LIGHT = _tokens(CSS.split("@media (prefers-color-scheme: dark)")[0])
DARK = _tokens(CSS.split(':root[data-theme="dark"]')[1].split("}")[0])
SYSTEM_DARK = _tokens(CSS.split("@media (prefers-color-scheme: dark)")[1].split(':root[data-theme="dark"]')[0])


def _linear(colour: str) -> tuple[float, float, float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)
    return red, green, blue


def _light(colour: str) -> float:
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG's ratio."""
    high, low = sorted((_light(one), _light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_every_word_stands_out_from_its_ground(theme: dict[str, str]) -> None:
    grounds = ("page", "side", "raised", "sunken", "hover", "accent-soft")
    pairs = [(text, ground) for text in ("text", "muted", "accent") for ground in grounds]
    pairs += [(each, f"{each}-soft") for each in ("bad", "warn", "good")] + [
        ("on-accent", "accent"),
        ("on-accent", "accent-strong"),
    ]
    pairs += [(each, "raised") for each in ("bad", "warn", "good")] + [
        ("text", f"{each}-soft") for each in ("bad", "warn", "good")
    ]
    low = {pair: round(contrast(theme[pair[0]], theme[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}


def test_the_two_ways_to_the_dark_theme_are_one() -> None:
    assert DARK == SYSTEM_DARK and set(DARK) == set(LIGHT) and len(LIGHT) > 25


# Vienot, Brettel and Mollon 1999: what who lacks the red or the green cones sees, in linear light.
_BLIND = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
    "none": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}


def _lab(linear: tuple[float, float, float]) -> tuple[float, float, float]:
    """OKLab, in which equal steps look equal."""
    red, green, blue = (max(0.0, each) for each in linear)
    long = (0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue) ** (1 / 3)
    middle = (0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue) ** (1 / 3)
    short = (0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def _seen(colour: str, matrix: tuple[tuple[float, float, float], ...]) -> tuple[float, float, float]:
    linear = _linear(colour)
    red, green, blue = (sum(a * b for a, b in zip(row, linear, strict=True)) for row in matrix)
    return _lab((red, green, blue))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("sight", list(_BLIND))
def test_data_colours_are_told_apart_also_by_the_colour_blind(theme: dict[str, str], sight: str) -> None:
    colours = [f"d{index}" for index in range(8)]
    seen = {name: _seen(theme[name], _BLIND[sight]) for name in colours}
    near = {}
    for index, one in enumerate(colours):
        for other in colours[index + 1 :]:
            apart = sum((a - b) ** 2 for a, b in zip(seen[one], seen[other], strict=True)) ** 0.5
            if apart < 0.055:
                near[one, other] = round(apart, 3)
    assert near == {}


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_data_colours_stand_out_from_the_ground(theme: dict[str, str]) -> None:
    assert {
        name: round(contrast(theme[name], theme["raised"]), 2)
        for name in theme
        if re.fullmatch(r"d[0-7]", name) and contrast(theme[name], theme["raised"]) < 2
    } == {}


def test_there_are_four_sizes_two_weights_and_no_shadow() -> None:
    sizes = set(re.findall(r"font-size: (\d+)px", CSS)) | set(re.findall(r"font: \d+ (\d+)px", CSS))
    assert sizes == {"12", "14", "18", "28"} and set(re.findall(r"font-weight: (\d+)", CSS)) == {"400", "600"}
    assert "box-shadow" not in CSS and "text-shadow" not in CSS and "@import" not in CSS and "url(" not in CSS

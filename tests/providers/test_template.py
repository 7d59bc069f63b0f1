"""A table of paths: what fits, what is covered, what stands at the model's place."""

from __future__ import annotations

import pytest

from steward.exchange import Dialect, Operation
from steward.providers.template import PathTable, Template

TABLE = PathTable(
    "acme",
    Dialect.OPENAI,
    [
        Template("/v1/things", writes=Operation.CHAT),
        Template("/v1/things/{id}"),
        Template("/v1/things/special", writes=Operation.EMBEDDINGS),
        Template("/v1/things/{id}/parts/{id}"),
        Template("/v1/models/{model}:ask", writes=Operation.CHAT),
        Template("/v1/models/{model}"),
        Template("/v1/files:register"),
    ],
    ["/v1/things", "/upload"],
)


@pytest.mark.parametrize(
    ("path", "text", "verb", "model"),
    [
        (b"/v1/things", "/v1/things", False, None),
        (b"/v1/things/7", "/v1/things/{id}", False, None),
        (b"/v1/things/special", "/v1/things/special", False, None),
        (b"/v1/things/7/parts/8", "/v1/things/{id}/parts/{id}", False, None),
        (b"/v1/models/m:ask", "/v1/models/{model}:ask", True, b"m"),
        (b"/v1/models/a:b:ask", "/v1/models/{model}:ask", True, b"a:b"),
        (b"/v1/models/m%3aask", "/v1/models/{model}:ask", True, b"m"),
        (b"/v1/models/m:tell", "/v1/models/{model}", False, b"m:tell"),
        (b"/v1/models/:ask", "/v1/models/{model}", False, b":ask"),
        (b"/v1/files:register", "/v1/files:register", False, None),
    ],
)
def test_fits(path: bytes, text: str, verb: bool, model: bytes | None) -> None:
    fit = TABLE.fit(path)
    assert fit is not None
    assert (fit.template.text, fit.verb, fit.model) == (text, verb, model)


@pytest.mark.parametrize("path", [b"/", b"/v1", b"/v1/", b"/v1/things/", b"/v1/things//parts/8", b"/v1/THINGS", b"/x"])
def test_does_not_fit(path: bytes) -> None:
    assert TABLE.fit(path) is None


def test_covers_its_areas_and_no_more() -> None:
    assert TABLE.covers(b"/v1/things/7/unheard")
    assert TABLE.covers(b"/upload")
    assert TABLE.covers(b"/upload/v1/x")
    assert not TABLE.covers(b"/v1/thingsandmore")
    assert not TABLE.covers(b"/v1/models")


def test_reading_generates_nothing() -> None:
    template = Template("/x", writes=Operation.CHAT)
    assert {template.operation(method) for method in (b"GET", b"HEAD", b"DELETE", b"OPTIONS")} == {Operation.FREE}
    assert {template.operation(method) for method in (b"POST", b"PUT", b"PATCH", b"BREW")} == {Operation.CHAT}

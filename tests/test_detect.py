"""Where a call goes: by header, by path, by the signs that tell shared paths apart; else a useful error."""

from __future__ import annotations

import timeit
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steward.detect import Detector
from steward.errors import BadRequest, CallerFault, UnknownProvider, UnknownRoute
from steward.exchange import Dialect, Headers, Operation, Route
from steward.providers import TEMPLATES
from tests.servers.corpus import Recording

COMMON: Headers = [
    (b"host", b"steward"),
    (b"x-majordomo-key", b"mdm_sk_x"),
    (b"content-type", b"application/json"),
    (b"authorization", b"Bearer sk-x"),
]
ANTHROPIC: Headers = [(b"anthropic-version", b"2023-06-01")]
X_API_KEY: Headers = [(b"x-api-key", b"sk-ant-x")]
GOOGLE: Headers = [(b"x-goog-api-key", b"AIza")]


def find(path: str, headers: Headers = (), query: str = "", method: str = "POST") -> Route:  # type: ignore[assignment]
    return Detector().route(method.encode(), path.encode("latin-1"), query.encode("latin-1"), [*COMMON, *headers])


def named(provider: str) -> Headers:
    return [(b"x-majordomo-provider", provider.encode())]


@pytest.mark.parametrize(
    ("method", "path", "provider", "operation", "template"),
    [
        ("POST", "/v1/chat/completions", "openai", Operation.CHAT, "/v1/chat/completions"),
        ("GET", "/v1/chat/completions", "openai", Operation.FREE, "/v1/chat/completions"),
        ("POST", "/v1/completions", "openai", Operation.COMPLETIONS, "/v1/completions"),
        ("POST", "/v1/responses", "openai", Operation.RESPONSES, "/v1/responses"),
        ("GET", "/v1/responses/resp_1", "openai", Operation.RESPONSES_RETRIEVE, "/v1/responses/{id}"),
        ("DELETE", "/v1/responses/resp_1", "openai", Operation.RESPONSES_RETRIEVE, "/v1/responses/{id}"),
        ("POST", "/v1/responses/compact", "openai", Operation.RESPONSES_COMPACT, "/v1/responses/compact"),
        ("POST", "/v1/responses/input_tokens", "openai", Operation.FREE, "/v1/responses/input_tokens"),
        ("POST", "/v1/embeddings", "openai", Operation.EMBEDDINGS, "/v1/embeddings"),
        ("POST", "/v1/images/edits", "openai", Operation.IMAGES, "/v1/images/edits"),
        ("POST", "/v1/audio/transcriptions", "openai", Operation.TRANSCRIPTION, "/v1/audio/transcriptions"),
        ("POST", "/v1/audio/speech", "openai", Operation.SPEECH, "/v1/audio/speech"),
        ("POST", "/v1/moderations", "openai", Operation.FREE, "/v1/moderations"),
        ("GET", "/v1/models", "openai", Operation.FREE, "/v1/models"),
        ("GET", "/v1/models/ft:gpt-4o:acme::x1", "openai", Operation.FREE, "/v1/models/{id}"),
        ("GET", "/v1/files/file-1/content", "openai", Operation.FREE, "/v1/files/{id}/content"),
        ("PROPFIND", "/v1/files/file-1", "openai", Operation.OTHER, "/v1/files/{id}"),
        ("POST", "/v1/threads/t/runs/r/submit_tool_outputs", "openai", Operation.OTHER, None),
        ("POST", "/v1/videos/v/something/new", "openai", Operation.OTHER, "/{other}"),
        ("POST", "/v1/messages", "anthropic", Operation.MESSAGES, "/v1/messages"),
        ("POST", "/v1/messages/count_tokens", "anthropic", Operation.FREE, "/v1/messages/count_tokens"),
        ("GET", "/v1/messages/batches/b/results", "anthropic", Operation.FREE, "/v1/messages/batches/{id}/results"),
        ("POST", "/v1/complete", "anthropic", Operation.OTHER, "/v1/complete"),
        ("GET", "/v1/organizations/me", "anthropic", Operation.FREE, "/v1/organizations/me"),
        ("POST", "/v1beta/interactions", "gemini", Operation.INTERACTIONS, "/v1beta/interactions"),
        ("POST", "/v1beta/cachedContents", "gemini", Operation.OTHER, "/v1beta/cachedContents"),
        ("GET", "/v1alpha/models", "gemini", Operation.FREE, "/v1alpha/models"),
        ("POST", "/upload/v1beta/files", "gemini", Operation.OTHER, "/upload/v1beta/files"),
        ("GET", "/v1beta/files/f:download", "gemini", Operation.FREE, "/v1beta/files/{id}:download"),
        ("POST", "/v1beta/models/something/quite/new", "gemini", Operation.OTHER, "/{other}"),
    ],
)
def test_paths(method: str, path: str, provider: str, operation: Operation, template: str | None) -> None:
    found = find(path, method=method)
    assert (found.provider, found.operation, found.path) == (provider, operation, path.encode())
    assert found.dialect is Dialect(provider)
    assert found.template in TEMPLATES
    assert template in (found.template, None)


@pytest.mark.parametrize("version", ["/v1beta", "/v1alpha", "/v1"])
@pytest.mark.parametrize(
    ("verb", "operation"),
    [
        ("generateContent", Operation.GENERATE_CONTENT),
        ("streamGenerateContent", Operation.GENERATE_CONTENT),
        ("embedContent", Operation.EMBED_CONTENT),
        ("batchEmbedContents", Operation.EMBED_CONTENT),
        ("countTokens", Operation.FREE),
        ("batchGenerateContent", Operation.FREE),
    ],
)
def test_gemini_names_its_model_in_the_path(version: str, verb: str, operation: Operation) -> None:
    """Its verb tells it apart also where OpenAI has a path of the same shape."""
    found = find(f"{version}/models/gemini-2.5-flash:{verb}")
    assert (found.provider, found.operation, found.model) == ("gemini", operation, "gemini-2.5-flash")
    assert found.template == f"{version}/models/{{model}}:{verb}"


def test_percent_encodings_stay_in_the_path_and_leave_the_model() -> None:
    found = find("/v1beta/models/my%2Fmodel%20x%3AgenerateContent")
    assert found.path == b"/v1beta/models/my%2Fmodel%20x%3AgenerateContent"
    assert (found.model, found.operation) == ("my/model x", Operation.GENERATE_CONTENT)


def test_geminis_openai_endpoint_is_gemini_in_openais_dialect() -> None:
    found = find("/v1beta/openai/chat/completions")
    assert (found.provider, found.dialect, found.operation) == ("gemini", Dialect.OPENAI, Operation.CHAT)
    assert found.template == "/v1beta/openai/chat/completions"


def test_openais_paths_come_without_a_version_and_leave_with_one() -> None:
    for bare, template in (
        ("/chat/completions", "/v1/chat/completions"),
        ("/models", "/v1/models"),
        ("/files/file-1/content", "/v1/files/{id}/content"),
        ("/vector_stores/vs/unheard", "/{other}"),
    ):
        found = find(bare)
        assert (found.provider, found.path, found.template) == ("openai", b"/v1" + bare.encode(), template)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/v1/files/f", "/v1/batches", "/v1/files/f/new"])
def test_shared_paths_go_by_the_signs(path: str) -> None:
    assert find(path).provider == "openai"
    assert find(path, ANTHROPIC).provider == "anthropic"
    assert find(path, X_API_KEY).provider == "anthropic"
    assert find(path, GOOGLE).provider == "gemini"
    assert find(path, query="alt=json&key=AIza").provider == "gemini"
    assert find(path, query="monkey=1&keys=2").provider == "openai"
    assert find(path, [*ANTHROPIC, *GOOGLE]).provider == "anthropic"


def test_signs_do_not_move_what_is_not_shared() -> None:
    assert find("/v1/chat/completions", [*ANTHROPIC, *GOOGLE]).provider == "openai"
    assert find("/v1/messages", GOOGLE).provider == "anthropic"


def test_the_header_wins_whatever_the_path() -> None:
    for value in ("anthropic", "Anthropic", " ANTHROPIC "):
        found = find("/v1/models", [*GOOGLE, *named(value)])
        assert (found.provider, found.template) == ("anthropic", "/v1/models")
    found = find("/v1/something/new", named("gemini"))
    assert (found.provider, found.template, found.path) == ("gemini", "/{other}", b"/v1/something/new")
    found = find("/v1/chat/completions", named("anthropic"))
    assert (found.provider, found.dialect, found.operation) == ("anthropic", Dialect.OPENAI, Operation.CHAT)
    assert find("/chat/completions", named("openai")).path == b"/v1/chat/completions"
    assert find("/odd", named("openai")).path == b"/odd"


@pytest.mark.parametrize("value", ["", "azure", "openai2", "open ai", "\xff"])
def test_an_unknown_name_is_an_error(value: str) -> None:
    with pytest.raises(UnknownProvider):
        find("/v1/chat/completions", [(b"x-majordomo-provider", value.encode("latin-1"))])


def test_two_names_are_an_error_and_stay_one() -> None:
    detector = Detector()
    twice = [*named("openai"), *named("anthropic")]
    detector.route(b"POST", b"/v1/messages", b"", named("anthropic"))
    for _ in range(2):
        with pytest.raises(BadRequest):
            detector.route(b"POST", b"/v1/messages", b"", twice)


UNKNOWN = (
    "/ /v1 /v1/ /foo /v1/foo /v2/chat/completions /V1/chat/completions /v1/Chat/completions /v1beta/foo "
    "/v1beta1/projects/p /v1//chat/completions /openai/v1/chat/completions /v1/chatter"
)


@pytest.mark.parametrize("path", UNKNOWN.split())
def test_what_nobody_knows_names_the_header_to_set(path: str) -> None:
    with pytest.raises(UnknownRoute) as caught:
        find(path)
    assert "X-Majordomo-Provider" in caught.value.message
    assert caught.value.status == 400


def test_what_is_not_configured_is_not_served() -> None:
    alone = Detector(["anthropic"])
    assert alone.route(b"GET", b"/v1/models", b"", []).provider == "anthropic"
    with pytest.raises(UnknownRoute):
        alone.route(b"POST", b"/v1/chat/completions", b"", [])
    with pytest.raises(UnknownProvider):
        alone.route(b"POST", b"/v1/messages", b"", named("openai"))


HOSTILE = (
    "v1/models * //evil/v1/models /v1/../models /v1/files/.. /.. /v1/./models /v1/files/. /v1/%2e%2e/models "
    "/v1/%2E./models /v1/.%2e /v1/files/..%2f..%2fkeys /v1/files/%2e%2e%5Ckeys /v1/..;/models /v1\\models "
    "/v1/models#x /v1/models?x"
)
UNPRINTABLE = ("", "/v1/mod els", "/v1/models\n", "/v1/m\x00", "/v1/m\x7f", "/v1/caf\xe9", "/v1/\x85", "\n/v1/models")


@pytest.mark.parametrize("path", [*HOSTILE.split(), *UNPRINTABLE])
@pytest.mark.parametrize("headers", [[], named("openai")], ids=["by path", "by header"])
def test_targets_that_servers_read_differently_are_refused(path: str, headers: Headers) -> None:
    with pytest.raises(BadRequest):
        find(path, headers)


@pytest.mark.parametrize(
    "path", ["/v1/files/...", "/v1/files/a..b", "/v1/files/.hidden", "/v1/files/a%5Cb", "/v1/files/%252e%252e"]
)
def test_dots_and_escapes_that_lead_nowhere_are_passed(path: str) -> None:
    assert find(path).path == path.encode()


@pytest.mark.parametrize("query", ["a#b", "a b", "a\x00", "a\r\nb", "caf\xe9", "\x7f"])
def test_queries_are_held_to_the_same_also_on_a_repeat(query: str) -> None:
    detector = Detector()
    detector.route(b"POST", b"/v1/messages", b"beta=true", [])
    with pytest.raises(BadRequest):
        detector.route(b"POST", b"/v1/messages", query.encode("latin-1"), [])
    assert find("/v1/messages", query="a=%00&b[]={}|\\^`~'").provider == "anthropic"


@pytest.mark.parametrize(
    ("path", "provider"),
    [
        ("/v1/organization/admin_api_keys", None),
        ("/v1/organization/projects/p/service_accounts", None),
        ("/v1/organization/usage/unheard", "openai"),
        ("/v1/realtime/client_secrets", None),
        ("/v1/realtime/sessions", None),
        ("/v1/chatkit/sessions", None),
        ("/v1/organizations/api_keys", None),
        ("/v1/organizations/whatever/comes", None),
        ("/v1/oauth/token", "anthropic"),
        ("/v1/vaults/v/credentials", "anthropic"),
        ("/v1beta/auth_tokens", None),
        ("/v1alpha/auth_tokens", None),
        ("/upload/v1beta/files", None),
        ("/upload/v1beta/fileSearchStores/s:uploadToFileSearchStore", None),
        ("/upload/v1beta/anything", None),
        ("/somewhere/api_keys/else", "gemini"),
    ],
)
def test_routes_that_hand_out_secrets_keep_no_body(path: str, provider: str | None) -> None:
    assert find(path, named(provider) if provider else []).secretive


def test_ordinary_routes_keep_theirs() -> None:
    for path in (
        "/v1/chat/completions",
        "/v1/messages",
        "/v1beta/models/m:generateContent",
        "/v1/files",
        "/v1/uploads",
    ):
        assert not find(path).secretive


def test_what_was_asked_before_is_answered_the_same() -> None:
    detector = Detector()
    asked = [
        (b"GET", b"/v1/models", b"", []),
        (b"GET", b"/v1/models", b"", ANTHROPIC),
        (b"GET", b"/v1/models", b"key=x", []),
        (b"GET", b"/v1/models", b"", named("gemini")),
        (b"POST", b"/v1/models", b"", []),
    ]
    first = [detector.route(*each) for each in asked]
    assert [detector.route(*each) for each in asked] == first
    assert [each.provider for each in first] == ["openai", "anthropic", "gemini", "gemini", "openai"]


def test_memory_is_bounded() -> None:
    detector = Detector()
    for number in range(5000):
        detector.route(b"GET", b"/v1/files/%d" % number, b"", [])
    detector.route(b"GET", b"/v1/files/" + b"x" * 60_000, b"", [])
    assert len(detector._known) <= 2048
    assert all(len(path) <= 512 for _, path, _, _ in detector._known)


def test_a_repeat_costs_next_to_nothing() -> None:
    """It runs while the caller waits: about 1.4 us measured; the bound leaves room for a busy machine."""
    detector, headers = Detector(), [*COMMON, *((b"x-stainless-%d" % number, b"v") for number in range(8))]
    taken = timeit.repeat(lambda: detector.route(b"POST", b"/v1/chat/completions", b"", headers), number=2000, repeat=7)
    assert min(taken) / 2000 < 20e-6


def test_every_recording_finds_its_provider_by_path_alone(dialect_corpus: list[Recording]) -> None:
    signs = {"openai": [], "anthropic": ANTHROPIC, "gemini": GOOGLE}
    for recording in dialect_corpus:
        path, _, query = recording.target.partition("?")
        if (recording.provider, path) == ("anthropic", "/v1/chat/completions"):
            continue  # Anthropic's OpenAI endpoint: the header must say so
        found = find(path, signs[recording.provider], query, recording.method)
        assert found.provider == recording.provider, recording.id
        assert found.template != "/{other}", recording.id
        assert found.path == path.encode(), recording.id


@given(st.binary(max_size=60), st.binary(max_size=20), st.sampled_from([[], ANTHROPIC, GOOGLE, named("gemini")]))
def test_any_target_is_routed_or_refused(path: bytes, query: bytes, headers: Headers) -> None:
    detector = Detector()
    for target in (path, b"/" + path, b"/v1/files/" + path, b"/v1beta/models/" + path):
        with suppress(CallerFault):
            found = detector.route(b"POST", target, query, headers)
            assert found.template in TEMPLATES
            assert found.path.endswith(target)
            assert target.isascii()

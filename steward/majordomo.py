"""`majordomo ...`: Butler from a terminal. Signs in, makes and revokes keys and Stewards, sets storage, shows usage.

It answers on stdout, complains on stderr in one line, and shows a secret once. Passwords and secrets are asked for, or
read from standard input (`-`); none is taken from the command line, where other users read it.
"""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from steward import values
from steward.errors import SettingError
from steward.majordomo_client import ButlerClient, ButlerSaid, Credentials, Kept, shown
from steward.words import Secret

_AGE: Final = values.duration(3600, 400 * 86400)
_MAX_SECRET: Final = 65536

_EXAMPLES: Final = """\
examples:
  majordomo login --url https://butler.example.com --email you@example.com
  majordomo stewards create --name prod              the token is shown once
  majordomo keys create --name checkout              the key is shown once
  majordomo storage set --provider s3 --bucket bodies --region eu-central-1 --access-key-id AKIA... --secret - < secret
  majordomo usage --by model --since 7d
"""

Run = Callable[[argparse.Namespace, "Door"], int]


class Door:
    """Where commands find Butler, and how they ask the person for a secret."""

    def __init__(self, environ: Mapping[str, str], home: Path) -> None:
        self.kept = Kept(environ, home)

    def ask(self, method: str, path: str, body: object = None, **query: str) -> Any:
        """Asks as who is signed in; when the change needs the password again, asks the person for it, once."""
        client = ButlerClient(self.kept.read())
        try:
            try:
                return client.ask(method, path, body, **query)
            except ButlerSaid as said:
                if said.said_code != "password_needed":
                    raise
            if not sys.stdin.isatty():
                raise SettingError("this change asks for your password again; a login is good for five minutes of them")
            client.ask("POST", "/password/confirm", {"password": secret_of(None, "Password").reveal()})
            return client.ask(method, path, body, **query)
        finally:
            client.close()


def main(argv: Sequence[str] | None, environ: Mapping[str, str]) -> int:
    """Returns the exit code: 0 done, 1 refused or unreachable, 2 not signed in or a wrong argument."""
    arguments = _parser().parse_args(argv)
    run: Run = arguments.run
    try:
        return run(arguments, Door(environ, Path.home()))
    except SettingError as error:
        print(f"majordomo: {error.message}", file=sys.stderr)
        return 2
    except ButlerSaid as said:
        hint = "; run: majordomo login" if said.said_code == "not_signed_in" else ""
        print(f"majordomo: {said.message}{hint}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, EOFError):
        return 130


def secret_of(said: str | None, what: str) -> Secret[str]:
    """Asked for at the terminal; `-`, or a standard input that is none, gives one whole. Raises SettingError."""
    if said not in {None, "-"}:
        raise SettingError(f"{what.lower()}: give `-` and the value on standard input, or nothing to be asked for it")
    if said == "-" or not sys.stdin.isatty():
        given = sys.stdin.read(_MAX_SECRET).rstrip("\r\n")
    else:
        given = getpass.getpass(f"{what}: ")
    if not given:
        raise SettingError(f"{what.lower()}: none was given")
    return Secret(given)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="majordomo",
        description="Butler from a terminal: Stewards, keys, storage, usage.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    login = _command(commands, "login", "Sign in; the token is kept in a file of yours.", _login)
    login.add_argument("--url", required=True, help="https://..., where Butler is")
    login.add_argument("--email", required=True)
    login.add_argument("--password", metavar="-", help="`-` reads standard input (default: you are asked)")
    login.add_argument("--org", metavar="ID", help="which of your organisations (default: where you were last)")
    login.add_argument("--ca-file", metavar="PEM", help="whose word is taken for Butler's certificate")
    _command(commands, "logout", "End this sign-in.", _logout)
    stewards = _family(commands, "stewards", "The Stewards of your organisation.")
    create = _command(stewards, "create", "Make a Steward's token. It is shown this once.", _stewards_create)
    create.add_argument("--name", required=True)
    create.add_argument("--host", help="where it is to run, in your words")
    _command(stewards, "list", "All Stewards, and when each was last seen.", _stewards_list)
    _command(stewards, "revoke", "Refuse a Steward's token, for ever.", _stewards_revoke).add_argument("id")
    keys = _family(commands, "keys", "The keys that applications call with.")
    create = _command(keys, "create", "Make a key. It is shown this once.", _keys_create)
    create.add_argument("--name", required=True)
    create.add_argument("--description")
    choices = ("passthrough", "redirect", "warn")
    create.add_argument("--deprecated-models", choices=choices, default="passthrough", help="what becomes of them")
    _command(keys, "list", "All keys and what each did in 30 days.", _keys_list)
    _command(keys, "revoke", "Revoke a key, for ever.", _keys_revoke).add_argument("id")
    storage = _family(commands, "storage", "Where bodies go.")
    _storage_set(_command(storage, "set", "Set the organisation's bucket, or your own.", _set_storage))
    _command(storage, "list", "What is set; no secret is shown.", _storage_list)
    usage = _command(commands, "usage", "Calls, tokens and cost.", _usage)
    usage.add_argument("--by", default="model", help="model, provider, key or tag:NAME (default: model)")
    usage.add_argument("--since", type=_since, default="24h", metavar="AGE", help="7d, 36h (default: 24h)")
    return parser


def _storage_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider", required=True, choices=("s3", "gcs"))
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--region")
    parser.add_argument("--endpoint", help="https://..., for an S3 that is not Amazon's")
    parser.add_argument("--access-key-id")
    parser.add_argument("--project", help="Google's")
    parser.add_argument("--secret", metavar="-", help="secret access key or credentials JSON: `-` reads standard input")
    parser.add_argument("--keep-secret", action="store_true", help="the destination is the same; its secret stays")
    parser.add_argument("--personal", action="store_true", help="for calls with your own keys alone")


def _family(commands: Any, name: str, what: str) -> Any:
    parser = commands.add_parser(name, help=what, description=what)
    return parser.add_subparsers(title="actions", metavar="ACTION", required=True)


def _command(commands: Any, name: str, what: str, run: Run) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    return parser


def _since(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=_AGE(text))
    except ValueError:
        raise argparse.ArgumentTypeError("not an age of an hour to 400 days; write 36h or 7d") from None


def _login(arguments: argparse.Namespace, door: Door) -> int:
    try:
        url = values.butler_url(arguments.url)
    except ValueError as refused:
        raise SettingError(f"--url: {refused.args[0]}") from None
    password = secret_of(arguments.password, "Password")
    body = {"email": arguments.email, "password": password.reveal(), "name": socket.gethostname()[:100] or "majordomo"}
    client = ButlerClient(Credentials(url, Secret(""), arguments.ca_file))
    try:
        said = client.ask("POST", "/login", body | ({"org_id": arguments.org} if arguments.org else {}))
    finally:
        client.close()
    door.kept.write(Credentials(url, Secret(str(said.pop("token"))), arguments.ca_file))
    return _tell(arguments, said, f"Signed in to {shown(said['org_name'])} as {shown(said['email'])}.")


def _logout(arguments: argparse.Namespace, door: Door) -> int:
    door.ask("POST", "/logout")
    door.kept.forget()
    return _tell(arguments, {}, "Signed out.")


def _stewards_create(arguments: argparse.Namespace, door: Door) -> int:
    body = {"name": arguments.name} | ({"host": arguments.host} if arguments.host else {})
    made = door.ask("POST", "/stewards", body)
    lines = (
        f"token  {shown(made['token'])}\nid     {shown(made['id'])}\n\n"
        "Keep the token now: it is not shown again. Inside your network:\n"
        f"  steward register --token - --butler-url {door.kept.read().url}"
    )
    return _tell(arguments, made, lines)


def _stewards_list(arguments: argparse.Namespace, door: Door) -> int:
    found = door.ask("GET", "/stewards")
    rows = [
        (each["id"], _state(each["revoked_at"] is None), each["last_seen_at"], each["version"], each["name"])
        for each in found
    ]
    return _table(arguments, found, ("id", "state", "last seen", "version", "name"), rows)


def _stewards_revoke(arguments: argparse.Namespace, door: Door) -> int:
    said = door.ask("DELETE", f"/stewards/{_id(arguments.id)}")
    return _tell(arguments, said, "Revoked. Its next call is refused.")


def _keys_create(arguments: argparse.Namespace, door: Door) -> int:
    body = {"name": arguments.name, "deprecated_model_behavior": arguments.deprecated_models}
    made = door.ask("POST", "/keys", body | ({"description": arguments.description} if arguments.description else {}))
    lines = f"key  {shown(made['key'])}\nid   {shown(made['id'])}\n\nKeep the key now: it is not shown again."
    return _tell(arguments, made, lines)


def _keys_list(arguments: argparse.Namespace, door: Door) -> int:
    found = door.ask("GET", "/keys")
    rows = [
        (each["id"], _state(each["is_active"]), each["last_used_at"], each["calls_30d"], each["cost_30d"], each["name"])
        for each in found
    ]
    return _table(arguments, found, ("id", "state", "last used", "calls 30d", "USD 30d", "name"), rows)


def _keys_revoke(arguments: argparse.Namespace, door: Door) -> int:
    said = door.ask("DELETE", f"/keys/{_id(arguments.id)}")
    return _tell(arguments, said, "Revoked. Stewards learn of it at their next look, within seconds.")


def _set_storage(arguments: argparse.Namespace, door: Door) -> int:
    wanted = {
        "provider": arguments.provider,
        "bucket": arguments.bucket,
        "s3_region": arguments.region,
        "s3_endpoint": arguments.endpoint,
        "s3_access_key_id": arguments.access_key_id,
        "gcs_project_id": arguments.project,
    }
    body = {name: value for name, value in wanted.items() if value is not None}
    if not arguments.keep_secret and (arguments.secret or arguments.access_key_id or arguments.provider == "gcs"):
        body["secret"] = secret_of(arguments.secret, "Secret").reveal()
    said = door.ask("PUT", f"/storage/{'user' if arguments.personal else 'org'}", body)
    return _tell(arguments, said, "Set. A Steward may ask a person inside your network to approve it: steward pending")


def _storage_list(arguments: argparse.Namespace, door: Door) -> int:
    found = door.ask("GET", "/storage")
    rows = [
        (each["owner_type"], each["provider"], each["s3_bucket"] or each["gcs_bucket"], each["owner_email"])
        for each in found
    ]
    return _table(arguments, found, ("scope", "provider", "bucket", "owner"), rows)


def _usage(arguments: argparse.Namespace, door: Door) -> int:
    said = door.ask("GET", "/usage", by=arguments.by, since=arguments.since.isoformat())
    measures = ("calls", "errors", "input_tokens", "output_tokens", "cost")
    rows = [(*(each[name] for name in measures), each["group"] or "-") for each in said["groups"]]
    rows.append((*(said["total"][name] for name in measures), "total"))
    heads = ("calls", "errors", "tokens in", "tokens out", "USD", arguments.by)
    return _table(arguments, said, heads, rows)


def _id(text: str) -> str:
    """An id goes into a path: nothing else may."""
    if not text or any(each not in "0123456789abcdef-" for each in text):
        raise SettingError("not an id; the list shows them")
    return text


def _state(active: bool) -> str:
    return "active" if active else "revoked"


def _tell(arguments: argparse.Namespace, said: object, words: str) -> int:
    print(json.dumps(said, indent=2) if arguments.json else words)
    return 0


def _table(arguments: argparse.Namespace, said: object, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> int:
    if arguments.json:
        print(json.dumps(said, indent=2))
        return 0
    cells = [list(heads), *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(heads))]
    for row in cells:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return shown(value)

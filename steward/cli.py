"""`steward ...`: the commands, their help and their exit codes. 0: done. 1: it did not work. 2: a setting is wrong.

It answers on stdout, complains on stderr in one line, shows a key's plaintext once, and never a traceback.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from steward import cloud_run, log, values, view_values
from steward.errors import SettingError, StewardError
from steward.exchange import LOCAL_ORG
from steward.ports import ApiKey, Registration
from steward.settings import PROVIDERS, Settings, describe, load
from steward.version import VERSION

if TYPE_CHECKING:
    from steward.butler.settings import ButlerSettings

KEY_PREFIX = "mdm_sk_"
_MAX_NAME = 200
_MAX_WORKERS = 64
_MAX_LINES = 100_000
_AGE = values.duration(1, 3650 * 86400)
_VIEW_LASTS = values.duration(60, 90 * 86400)

_EXAMPLES = """\
examples:
  steward migrate                          make or update the tables
  steward keys create --name checkout      make a key; its plaintext is shown once
  steward serve --workers 2                relay calls on PORT (7680)
  steward settle                           settle what waits in SPOOL_DIR, beside a `serve` or without one
  steward spool ls                         what was set aside, and why
  steward queue redrive                    what a cloud's queue set aside, sent back
  steward reconcile --since 2d             whether rows, bodies and spool agree
  steward pending                          what Butler wants and waits for a person inside
  steward demo                             the whole story on this machine, nothing to configure
  steward config                           every setting, and where it came from

Settings come from the environment and from .env; README.md lists them all.
"""
_COMMAND_EXAMPLES = {
    "serve": ("steward serve --workers 2", "OPS_PORT=7682 BODY_STORE_URL=file:///var/lib/steward/bodies steward serve"),
    "settle": ("steward settle", "SPOOL_DIR=/mnt/old-volume steward settle"),
    "ls": ("steward spool ls", "steward spool ls --json"),
    "show": ("steward spool show ID", "steward spool show ID --content > call.json"),
    "retry": ("steward spool retry ID", "steward spool retry --all"),
    "drop": ("steward spool drop ID",),
    "depth": ("steward queue depth", "steward queue depth --json"),
    "redrive": ("steward queue redrive --dry-run", "steward queue redrive --most 1000 --json"),
    "reconcile": (
        "steward reconcile --since 2d",
        "steward reconcile --since 2026-11-01 --fix",
        "steward reconcile --json",
    ),
    "migrate": ("steward migrate", "steward migrate --json"),
    "create": ("steward keys create --name checkout", "steward keys create --name ci --json"),
    "list": ("steward keys list", "steward keys list --org 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e --json"),
    "revoke": (
        "steward keys revoke 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e",
        "steward keys revoke --org 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3f",
    ),
    "register": (
        "steward register --token mdm_st_... --butler-url https://butler.example.com",
        "steward register --token - --butler-url https://butler.example.com < token.txt",
        "MDM_STEWARD_TOKEN_FILE=/run/secrets/token steward register --butler-url https://butler.example.com",
    ),
    "orgs": ("steward orgs", "steward orgs --json"),
    "deregister": ("steward deregister 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e",),
    "tail": ("steward egress tail -n 50", "steward egress tail --follow", "steward egress tail -n 1 --content"),
    "verify": ("steward egress verify", "steward egress verify --json"),
    "backfill": ("steward export backfill --since 30d", "steward export backfill --since 2026-11-01 --json"),
    "resend": ("steward export resend --since 7d", "steward export resend --since 7d --json"),
    "pending": ("steward pending", "steward pending --json"),
    "approve": ("steward approve 5f0c1d...", "steward approve 5f0c1d... 77ab90... --json"),
    "set": (
        "steward provider-keys set openai < key.txt",
        "steward provider-keys set anthropic --file /run/secrets/anthropic --org 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e",
    ),
    "provider-keys list": ("steward provider-keys list", "steward provider-keys list --json"),
    "rm": ("steward provider-keys rm openai",),
    "check": ("steward storage check", "steward storage check --json"),
    "schema": ("steward egress schema > what-may-leave.json",),
    "hosts": ("steward egress hosts", "steward egress hosts --json"),
    "butler serve": ("steward butler serve", "BUTLER_PUBLIC_URL=https://butler.example.com steward butler serve"),
    "butler migrate": ("steward butler migrate", "steward butler migrate --json"),
    "butler create-admin": (
        "steward butler create-admin --email you@example.com --org Acme",
        "steward butler create-admin --email you@example.com --org Acme --password - < password.txt",
    ),
    "view-token create": (
        "steward view-token create --org local --expires 8h",
        "steward view-token create --org 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e --expires 1h --name audit --json",
    ),
    "view-token list": ("steward view-token list", "steward view-token list --json"),
    "view-token revoke": ("steward view-token revoke 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e",),
    "view-audit": ("steward view-audit", "steward view-audit --limit 20 --json"),
    "config": ("steward config", "steward config --json"),
    "demo": ("steward demo", "PORT=8000 steward demo", "steward demo --once"),
    "version": ("steward version", "steward version --json"),
}
_SPOOL_EXAMPLES = """\
examples:
  steward spool ls                         what was set aside, and why: facts alone
  steward spool show ID                    one record's facts; --content: what was said in the call
  steward spool retry --all                settle it anew, once what stood in the way is gone
  steward spool drop ID                    give one up, for good
"""
_QUEUE_EXAMPLES = """\
examples:
  steward queue depth                      messages in the queue and in its dead-letter queue
  steward queue redrive --dry-run          what would go back, and what does not open
  steward queue redrive --most 1000        back into the queue, to be settled anew
"""
_EGRESS_EXAMPLES = """\
examples:
  steward egress schema                    every call to Butler, its fields and what each may hold, as a JSON Schema
  steward egress hosts                     every host and port that the settings allow: the firewall's list
  steward egress tail --follow             every call to Butler as it leaves
  steward egress verify                    whether the log of these calls is what was written
"""
_EXPORT_EXAMPLES = """\
examples:
  steward export backfill --since 30d      calls of before the registration go out too
  steward export resend --since 7d         rows that were set aside are tried again
"""
_BUTLER_EXAMPLES = """\
examples:
  steward butler migrate                   make or update Butler's tables, in a schema of their own
  steward butler create-admin --email you@example.com --org Acme
  steward butler serve                     the control plane and its dashboard on BUTLER_PORT (7690)
"""
_VIEW_EXAMPLES = """\
examples:
  steward view-token create --org local --expires 8h
  steward view-token list
  steward view-token revoke 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e
"""
_PROVIDER_KEYS_EXAMPLES = """\
examples:
  steward provider-keys set openai < key.txt      a key for jobs, entered inside: it wins over Butler's
  steward provider-keys list                      which are kept, and which wait
  steward provider-keys rm openai                 forget it
"""
_STORAGE_EXAMPLES = """\
examples:
  steward storage check                    put, get and delete one small object at each place that bodies go to
"""
_KEYS_EXAMPLES = """\
examples:
  steward keys create --name checkout
  KEY=$(steward keys create --name ci --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["key"])')
  steward keys list
  steward keys revoke 0192f0c1-8a53-7c3e-9d1a-2b6f5a1c0d3e
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. Returns the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a reader who left is noticed now, not while the interpreter ends
    except SettingError as error:
        print(f"steward: {error.message}", file=sys.stderr)
        return 2
    except StewardError as error:
        print(f"steward: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our answer (`| head`) has seen enough; nothing more is flushed into the closed pipe.
        _abandon_stdout()
        return 0
    except Exception as exc:  # a defect of ours, or a disk that is full: its facts, never its words (SECURITY F4)
        log.error("command_failed", exc)
        print("steward: the command failed; the line above says where", file=sys.stderr)
        _abandon_stdout()
        return 1


def majordomo(argv: Sequence[str] | None = None) -> int:
    """The second console script: Butler from a terminal. Returns the exit code."""
    from steward.majordomo import main as run

    log.configure("error")
    try:
        return run(argv, os.environ)
    except BrokenPipeError:
        _abandon_stdout()
        return 0


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    log.configure()
    if arguments.unset:
        answer: Callable[[argparse.Namespace], int] = arguments.run
        return answer(arguments)
    settings = load(cloud_run.settings_there(os.environ))
    log.configure(settings.log_level, severity=cloud_run.is_here(os.environ))
    run: Callable[[argparse.Namespace, Settings], int] = arguments.run
    return run(arguments, settings)


def _abandon_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="steward",
        description="The LLM gateway inside your network: relays calls unchanged, keeps the bodies, meters the cost.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve = _command(commands, "serve", "Relay calls until told to stop.", _serve)
    serve.add_argument("--workers", type=_workers, metavar="N", help="relaying processes (default: WORKERS, 1)")
    _command(commands, "settle", "Settle what waits in SPOOL_DIR until told to stop; `serve` does so itself.", _settle)
    migrate = _command(commands, "migrate", "Make or update the tables. Safe to repeat, and from two hosts.", _migrate)
    migrate.add_argument("--json", action="store_true", help="print an object")
    _keys_parser(commands)
    _spool_parser(commands)
    _queue_parser(commands)
    reconcile = _command(commands, "reconcile", "Compare rows, bodies and spool; 1 when there is a gap.", _reconcile)
    reconcile.add_argument("--since", type=_since, metavar="T", help="from this date, time or age (default: 7d)")
    reconcile.add_argument("--fix", action="store_true", help="put again what is still here, mark the rest in the rows")
    reconcile.add_argument("--json", action="store_true", help="print JSON")
    _registration_parsers(commands)
    _trust_parsers(commands)
    _egress_parser(commands)
    _export_parser(commands)
    _butler_parser(commands)
    _view_parsers(commands)
    config = _command(commands, "config", "Every setting as it is in effect; secrets are masked.", _config)
    config.add_argument("--json", action="store_true", help="print a list of objects")
    demo = _command(commands, "demo", "The whole story on this machine, with nothing configured.", _demo)
    demo.add_argument("--once", action="store_true", help="tell the story and exit")
    shown = _command(commands, "version", "The version.", _version)
    shown.set_defaults(unset=True)  # a wrong setting must not keep the version from being told
    shown.add_argument("--json", action="store_true", help="print an object")
    return parser


def _keys_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    keys = commands.add_parser(
        "keys",
        help="Create, list and revoke the keys that applications call with.",
        epilog=_KEYS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = keys.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _command(actions, "create", "Make a key. Its plaintext is shown this once.", _keys_create)
    create.add_argument("--name", required=True, type=_name, help="what the key is for, at most 200 characters")
    create.add_argument("--description", type=_name, help="more about it")
    listed = _command(actions, "list", "All keys, newest first.", _keys_list)
    revoke = _command(actions, "revoke", "Revoke a key, for ever. Every process knows within 10 s.", _keys_revoke)
    revoke.add_argument("id", type=_uuid, help="the key's id, as `steward keys list` shows it")
    for parser in (listed, revoke):
        parser.add_argument("--org", type=_org, default=LOCAL_ORG, help="keys that came with this organisation")
    for parser in (create, listed, revoke):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _spool_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    spool = commands.add_parser(
        "spool",
        help="What was set aside in SPOOL_DIR: list it, look at it, try it again, give it up.",
        epilog=_SPOOL_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = spool.add_subparsers(title="actions", metavar="ACTION", required=True)
    listed = _command(actions, "ls", "What was set aside, oldest call first. It is kept for 14 days.", _spool_ls)
    shown = _command(actions, "show", "One record: its facts, or with --content what was said.", _spool_show)
    shown.add_argument("id", type=_spooled, help="the record's id, as `steward spool ls` shows it")
    shown.add_argument("--content", action="store_true", help="the call as its body object would hold it, as JSON")
    retried = _command(actions, "retry", "Back into the spool, to be settled anew.", _spool_retry)
    retried.add_argument("id", type=_spooled, nargs="*", help="records' ids")
    retried.add_argument("--all", action="store_true", help="all that was set aside")
    dropped = _command(actions, "drop", "Give records up, for good.", _spool_drop)
    dropped.add_argument("id", type=_spooled, nargs="+", help="records' ids")
    for parser in (listed, shown, retried, dropped):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _queue_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    queue = commands.add_parser(
        "queue",
        help="The queue of AFTER_RESPONSE=sqs or pubsub: how much waits, and send back what was set aside.",
        epilog=_QUEUE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = queue.add_subparsers(title="actions", metavar="ACTION", required=True)
    depth = _command(actions, "depth", "About how many messages wait, in hand or not, and are set aside.", _queue_depth)
    redriven = _command(
        actions, "redrive", "Send dead letters that open back to the queue; 1 when one does not.", _queue_redrive
    )
    redriven.add_argument("--most", type=_limit, metavar="N", help="at most so many (default: all)")
    redriven.add_argument("--dry-run", action="store_true", help="look, and move nothing")
    for parser in (depth, redriven):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _registration_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    register = _command(commands, "register", "Work for the organisation that a Steward token is of.", _register)
    register.add_argument("--token", metavar="T", help="mdm_st_...; `-` reads one line (default: MDM_STEWARD_TOKEN)")
    register.add_argument("--butler-url", required=True, type=_butler_url, metavar="URL", help="https://...")
    listed = _command(commands, "orgs", "The organisations that are, and were, registered.", _orgs)
    ended = _command(commands, "deregister", "Forget an organisation's token; its keys open no call.", _deregister)
    ended.add_argument("org_id", type=_org, help="the organisation's id, as `steward orgs` shows it")
    for parser in (register, listed, ended):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _trust_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    waiting = _command(commands, "pending", "What Butler wants and is not in force, and why.", _pending)
    approved = _command(commands, "approve", "Allow what waits: a bucket, a provider's key for jobs.", _approve)
    approved.add_argument("fingerprint", type=_fingerprint, nargs="+", help="as `steward pending` shows them, whole")
    keys = _group(commands, "provider-keys", "Providers' keys for jobs, entered inside.", _PROVIDER_KEYS_EXAMPLES)
    entered = _command(keys, "set", "Keep a key, read from standard input or a file.", _provider_keys_set)
    listed = _command(keys, "list", "Which are kept, and which wait.", _provider_keys_list, "provider-keys")
    ended = _command(keys, "rm", "Forget a local key.", _provider_keys_rm)
    for parser in (entered, ended):
        parser.add_argument("provider", choices=PROVIDERS, help="whose key it is")
        parser.add_argument("--org", type=_org, metavar="ID", help="the organisation (default: the only one)")
    entered.add_argument("--file", metavar="F", help="read it from this file (default: standard input)")
    storage = _group(commands, "storage", "The places that bodies go to.", _STORAGE_EXAMPLES)
    checked = _command(storage, "check", "Try each of them; 1 when one fails.", _storage_check)
    for parser in (waiting, approved, entered, listed, ended, checked):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _group(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, what: str, examples: str
) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    parser = commands.add_parser(name, help=what, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    return parser.add_subparsers(title="actions", metavar="ACTION", required=True)


def _egress_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    egress = commands.add_parser(
        "egress",
        help="What may leave this network, to whom, and what has left.",
        epilog=_EGRESS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = egress.add_subparsers(title="actions", metavar="ACTION", required=True)
    schema = _command(actions, "schema", "Every call to Butler and what each field may hold.", _egress_schema)
    schema.set_defaults(unset=True)
    hosts = _command(actions, "hosts", "Every host and port that the present settings allow.", _egress_hosts)
    hosts.add_argument("--json", action="store_true", help="print a list of objects")
    tail = _command(actions, "tail", "The newest calls to Butler.", _egress_tail)
    tail.add_argument("-n", type=_lines, default=20, metavar="N", help="how many (default: 20)")
    tail.add_argument("--follow", action="store_true", help="go on with each new one")
    tail.add_argument("--content", action="store_true", help="with what was sent, of the newest 200")
    tail.add_argument("--json", action="store_true", help="print one object a line")
    verified = _command(actions, "verify", "Walk the log; exit 1 at the first row that was changed.", _egress_verify)
    verified.add_argument("--json", action="store_true", help="print JSON")


def _export_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export",
        help="What goes to Butler.",
        epilog=_EXPORT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = export.add_subparsers(title="actions", metavar="ACTION", required=True)
    backfill = _command(actions, "backfill", "Let calls of before the registration go out too.", _export_backfill)
    resend = _command(actions, "resend", "Try rows again that were set aside.", _export_resend)
    for parser in (backfill, resend):
        parser.add_argument("--since", type=_since, required=True, metavar="T", help="a date, a time, or an age (30d)")
        parser.add_argument("--json", action="store_true", help="print JSON")


def _butler_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    butler = commands.add_parser(
        "butler",
        help="A Butler of your own: the control plane and its dashboard.",
        epilog=_BUTLER_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = butler.add_subparsers(title="actions", metavar="ACTION", required=True)
    serve = _command(actions, "serve", "Answer Stewards and people until told to stop.", _butler_serve, "butler")
    migrate = _command(actions, "migrate", "Make or update Butler's tables.", _butler_migrate, "butler")
    admin = _command(actions, "create-admin", "An organisation and its owner.", _butler_create_admin, "butler")
    admin.add_argument("--email", required=True, help="the owner's e-mail address, by which he signs in")
    admin.add_argument("--org", required=True, type=_name, help="the organisation's name")
    admin.add_argument("--password", metavar="-", help="`-` reads one line (default: one is made, and shown once)")
    for parser in (migrate, admin):
        parser.add_argument("--json", action="store_true", help="print an object")
    for parser in (serve, migrate, admin):
        parser.set_defaults(unset=True)  # Butler has settings of its own


def _view_parsers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    view = commands.add_parser(
        "view-token",
        help="Create, list and revoke the tokens that open bodies in the viewer.",
        epilog=_VIEW_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = view.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = _command(actions, "create", "Make a token. Its plaintext is shown this once.", _view_create, "view-token")
    create.add_argument("--org", required=True, type=_viewed, metavar="O", help="whose bodies: an id, or `local`")
    create.add_argument("--expires", type=_view_lasts, metavar="T", default="8h", help="after 1m to 90d (default: 8h)")
    create.add_argument("--name", type=_name, default="view", help="who it is for; stands in the account of openings")
    listed = _command(actions, "list", "All view tokens, newest first.", _view_list, "view-token")
    revoke = _command(actions, "revoke", "Revoke one; sessions that began with it end.", _view_revoke, "view-token")
    revoke.add_argument("id", type=_view_token, help="the token's id, as `steward view-token list` shows it")
    audit = _command(commands, "view-audit", "Who opened which body, when, from where; newest first.", _view_audit)
    audit.add_argument("--limit", type=_limit, metavar="N", default="1000", help="lines (default: 1000)")
    for parser in (create, listed, revoke, audit):
        parser.add_argument("--json", action="store_true", help="print JSON")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    what: str,
    run: Callable[..., int],
    above: str = "",
) -> argparse.ArgumentParser:
    """`above`: the command that it is an action of, where another's action has the same name."""
    examples = _COMMAND_EXAMPLES[f"{above} {name}".strip()]
    shown = "examples:\n" + "".join(f"  {line}\n" for line in examples)
    parser = commands.add_parser(
        name, help=what, description=what, epilog=shown, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run, unset=False)
    return parser


def _workers(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MAX_WORKERS}")
    return int(text)


def _lines(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MAX_LINES:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {_MAX_LINES}")
    return int(text)


def _name(text: str) -> str:
    if not text.strip() or len(text) > _MAX_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(f"1 to {_MAX_NAME} printable characters")
    return text.strip()


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an id; `steward keys list` shows them") from None


def _org(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an id; `steward orgs` shows them") from None


def _viewed(text: str) -> UUID:
    try:
        return view_values.organisation(text)
    except ValueError as refused:
        raise argparse.ArgumentTypeError(refused.args[0]) from None


def _view_token(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an id; `steward view-token list` shows them") from None


def _view_lasts(text: str) -> timedelta:
    try:
        return timedelta(seconds=_VIEW_LASTS(text))
    except ValueError as refused:
        raise argparse.ArgumentTypeError(refused.args[0]) from None


def _limit(text: str) -> int:
    try:
        return values.whole(1, 100_000)(text)
    except ValueError as refused:
        raise argparse.ArgumentTypeError(refused.args[0]) from None


def _fingerprint(text: str) -> str:
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise argparse.ArgumentTypeError("not a fingerprint of 64 hex digits; `steward pending` shows them")
    return text


def _butler_url(text: str) -> str:
    try:
        return values.butler_url(text)
    except ValueError as refused:
        raise argparse.ArgumentTypeError(refused.args[0]) from None


def _spooled(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise argparse.ArgumentTypeError("not an id; `steward spool ls` shows them") from None


def _since(text: str) -> datetime:
    try:
        return datetime.now(UTC) - timedelta(seconds=_AGE(text))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("neither a date, a time (2026-11-01T12:00Z) nor an age (2d, 36h)") from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _serve(arguments: argparse.Namespace, settings: Settings) -> int:
    from handlers.container import serve
    from steward.wiring.database import CONNS_A_RELAY, CONNS_FOR_TURNS, viewer_conns

    if arguments.workers is not None:
        settings = dataclasses.replace(settings, workers=arguments.workers)
    settles = 1 + CONNS_FOR_TURNS if settings.after_response == "spool" else 0
    least = CONNS_A_RELAY * settings.workers + settles + viewer_conns(settings)
    if settings.postgres_max_conns < least:
        more = (", one to settle and one to sync" if settles else "") + (
            ", two to view" if viewer_conns(settings) else ""
        )
        raise SettingError(f"POSTGRES_MAX_CONNS: {settings.workers} workers need at least {least}, two each{more}")
    return serve(settings, by_call=cloud_run.is_here(os.environ))


def _settle(arguments: argparse.Namespace, settings: Settings) -> int:
    from handlers.container import settle_alone
    from steward.wiring.database import CONNS_FOR_TURNS

    least = 1 + CONNS_FOR_TURNS
    if settings.postgres_max_conns < least:
        raise SettingError(f"POSTGRES_MAX_CONNS: settling needs at least {least}, one to settle and one to sync")
    return settle_alone(settings)


def _spool_ls(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import spool_command

    return spool_command.ls(settings, arguments.json)


def _spool_show(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import spool_command

    return spool_command.show(settings, arguments.id, arguments.content, arguments.json)


def _spool_retry(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import spool_command

    if bool(arguments.id) == arguments.all:
        print("steward: name the records to try again, or --all of them", file=sys.stderr)
        return 2
    return spool_command.retry(settings, arguments.id, arguments.json)


def _spool_drop(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import spool_command

    return spool_command.drop(settings, arguments.id, arguments.json)


def _queue_depth(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import queue_command

    return queue_command.depth(settings, arguments.json)


def _queue_redrive(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import queue_command

    return queue_command.redrive(settings, arguments.most, arguments.dry_run, arguments.json)


def _reconcile(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.reconcile_command import run

    return run(settings, arguments.since, arguments.fix, arguments.json)


def _register(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.registering import register
    from steward.registration_command import given_token, told
    from steward.wiring.commands import open_register

    token = given_token(arguments.token, settings, sys.stdin)
    with ExitStack() as undo:
        directory, open_butler = open_register(settings, undo)
        made = register(directory, open_butler, arguments.butler_url, token, settings.butler_urls_allow)
    print(told(made, arguments.json), end="")
    return 0


def _orgs(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.registration_command import listed
    from steward.wiring.commands import open_orgs

    with ExitStack() as undo:
        directory, waiting = open_orgs(settings, undo)
        said = listed(directory.registrations(), arguments.json, waiting)
    print(said, end="")
    return 0


def _deregister(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.registration_command import told
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        ended = directory.deregister(arguments.org_id)
    if ended is None:
        print("steward: no such organisation; `steward orgs` lists them", file=sys.stderr)
        return 1
    print(told(ended, arguments.json), end="")
    return 0


def _view_create(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.view_command import made
    from steward.viewing import new_token
    from steward.wiring.commands import open_view_book

    with open_view_book(settings) as book:
        plaintext, token = new_token(book, arguments.org, arguments.name, arguments.expires)
    print(made(plaintext, token, settings.view_url, arguments.json), end="")
    if settings.view_auth != "token":
        print("steward: VIEW_AUTH is not token: until it is, the viewer takes no token", file=sys.stderr)
    return 0


def _view_list(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.view_command import listed
    from steward.wiring.commands import open_view_book

    with open_view_book(settings) as book:
        tokens = book.tokens()
    print(listed(tokens, arguments.json), end="")
    return 0


def _view_revoke(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.view_command import revoked
    from steward.wiring.commands import open_view_book

    with open_view_book(settings) as book:
        token = book.revoke_token(arguments.id)
    if token is None:
        print("steward: there is no such token; `steward view-token list` shows them", file=sys.stderr)
        return 1
    print(revoked(token, arguments.json), end="")
    return 0


def _view_audit(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.view_command import noted
    from steward.wiring.commands import open_view_book

    with open_view_book(settings) as book:
        entries = book.notes(arguments.limit)
    print(noted(entries, arguments.json), end="")
    return 0


def _pending(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import trust_command
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        print(trust_command.pending(directory, arguments.json), end="")
    return 0


def _approve(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import trust_command
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        by = trust_command.whoever()
        print(trust_command.approve(directory, arguments.fingerprint, by, arguments.json), end="")
    return 0


def _provider_keys_set(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import provider_keys_command
    from steward.wiring.commands import open_directory

    if arguments.file is None:
        key = provider_keys_command.read_key(sys.stdin)
    else:
        try:
            with open(arguments.file, encoding="ascii") as file:
                key = provider_keys_command.read_key(file)
        except (OSError, UnicodeDecodeError):
            raise SettingError("provider-keys: the file cannot be read as plain text") from None
    with open_directory(settings) as directory:
        org_id = provider_keys_command.organisation(directory, arguments.org)
        kept = directory.set_provider_key(org_id, arguments.provider, key)
    print(provider_keys_command.told(kept, arguments.json), end="")
    return 0


def _provider_keys_list(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import provider_keys_command
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        print(provider_keys_command.listed(directory, arguments.json), end="")
    return 0


def _provider_keys_rm(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import provider_keys_command
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        org_id = provider_keys_command.organisation(directory, arguments.org)
        gone = directory.remove_provider_key(org_id, arguments.provider)
    print(provider_keys_command.removed(arguments.provider, gone, arguments.json), end="")
    return 0


def _storage_check(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import storage_command
    from steward.arriving import all_in_force
    from steward.sent import Wanted
    from steward.wiring.body_stores import open_decided
    from steward.wiring.commands import open_directory
    from steward.wiring.database import trust_of

    with open_directory(settings) as directory:
        kept = directory.kept_configs()
        waiting = sum(each.wanted is Wanted.STORAGE for each in directory.pending_approvals())
    places = storage_command.targets(settings.body_store, all_in_force(kept, trust_of(settings)))
    checked = [storage_command.check(each, open_decided, uuid4()) for each in places]
    print(storage_command.told(checked, waiting, arguments.json), end="")
    return 0 if all(each.step is None for each in checked) else 1


def _egress_schema(arguments: argparse.Namespace) -> int:
    from steward.egress_command import schema

    return schema()


def _egress_hosts(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.egress_command import hosts

    return hosts(settings, arguments.json, _registered(settings))


def _registered(settings: Settings) -> list[Registration] | None:
    """None when the database cannot say."""
    from steward.wiring.commands import open_directory

    try:
        with open_directory(settings) as directory:
            return directory.registrations()
    except StewardError:
        return None


def _egress_tail(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.egress_log_command import Shown, tail
    from steward.wiring.commands import open_egress_log

    with ExitStack() as undo:
        shown = Shown(arguments.n, arguments.follow, arguments.json, arguments.content)
        return tail(open_egress_log(settings, undo), shown)


def _egress_verify(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.egress_log_command import verify
    from steward.wiring.commands import open_egress_log

    with ExitStack() as undo:
        return verify(open_egress_log(settings, undo), arguments.json)


def _export_backfill(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.export_command import backfill
    from steward.wiring.commands import open_outbox

    with ExitStack() as undo:
        return backfill(open_outbox(settings, undo), arguments.since, arguments.json)


def _export_resend(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.export_command import resend
    from steward.wiring.commands import open_outbox

    with ExitStack() as undo:
        return resend(open_outbox(settings, undo), arguments.since, arguments.json)


def _butler_settings() -> ButlerSettings:
    from steward.butler.settings import load as load_butler

    settings = load_butler(os.environ)
    log.configure(settings.log_level)
    return settings


def _butler_serve(arguments: argparse.Namespace) -> int:
    settings = _butler_settings()
    from steward.butler import command

    return command.serve(settings)


def _butler_migrate(arguments: argparse.Namespace) -> int:
    settings = _butler_settings()
    from steward.butler import command

    return command.migrate(settings, arguments.json)


def _butler_create_admin(arguments: argparse.Namespace) -> int:
    settings = _butler_settings()
    from steward.butler import command

    password = command.given_password(arguments.password, sys.stdin)
    return command.create_admin(settings, arguments.email, arguments.org, password, arguments.json)


def _migrate(arguments: argparse.Namespace, settings: Settings) -> int:
    from migrations import migrate
    from steward.wiring.database import open_database

    engine, keyring = open_database(settings)
    try:
        result = migrate(engine, keyring)
    finally:
        engine.dispose()
    if arguments.json:
        _print_json({"before": result.before, "after": result.after})
    elif result.before == result.after:
        print(f"The schema is up to date ({result.after}).")
    else:
        print(f"The schema went from {result.before or 'nothing'} to {result.after}.")
    return 0


def _keys_create(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.wiring.commands import open_directory

    plaintext = KEY_PREFIX + secrets.token_urlsafe(32)
    with open_directory(settings) as directory:
        digest = hashlib.sha256(plaintext.encode()).hexdigest()
        key = directory.create_key(LOCAL_ORG, arguments.name, digest, arguments.description)
    if arguments.json:
        _print_json({"key": plaintext, **_shown(key)})
        return 0
    print(f"key   {plaintext}\nid    {key.id}\nname  {key.name}\n")
    print("Keep the key now: it is not shown again. Send it as the header X-Majordomo-Key.")
    return 0


def _keys_list(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.ingress import shown
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        keys = directory.list_keys(arguments.org)
    if arguments.json:
        _print_json([_shown(key) for key in keys])
        return 0
    if not keys:
        print("There are no keys yet. Make one: steward keys create --name NAME")
        return 0
    print(f"{'id':36}  {'state':7}  {'created':16}  name")
    for key in keys:
        state = "active" if key.is_active else "revoked" if key.revoked_at else "rests"
        print(f"{key.id!s:36}  {state:7}  {key.created_at:%Y-%m-%d %H:%M}  {shown(key.name)}")
    return 0


def _keys_revoke(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward.ingress import shown
    from steward.wiring.commands import open_directory

    with open_directory(settings) as directory:
        key = directory.revoke_key(arguments.org, arguments.id)
    if key is None:
        print("steward: there is no such key; `steward keys list` shows them", file=sys.stderr)
        return 1
    if arguments.json:
        _print_json(_shown(key))
    else:
        print(f"Revoked {shown(key.name)} ({key.id}). Every process refuses it within 10 seconds.")
    return 0


def _shown(key: ApiKey) -> dict[str, object]:
    return {
        "id": str(key.id),
        "name": key.name,
        "description": key.description,
        "is_active": key.is_active,
        "created_at": key.created_at.isoformat(),
        "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
    }


def _config(arguments: argparse.Namespace, settings: Settings) -> int:
    lines = describe(settings)
    if arguments.json:
        _print_json([line._asdict() for line in lines])
        return 0
    width = max(len(line.name) for line in lines)
    for line in lines:
        print(f"{line.name:{width}}  {line.value or '(not set)'}  [{line.source}]")
    for warning in settings.warnings:
        print(f"steward: {warning}", file=sys.stderr)
    return 0


def _demo(arguments: argparse.Namespace, settings: Settings) -> int:
    from steward import demo

    return demo.run(port=settings.port, once=arguments.once, environ=os.environ)


def _version(arguments: argparse.Namespace) -> int:
    if arguments.json:
        _print_json({"version": VERSION})
    else:
        print(f"majordomo-steward {VERSION}")
    return 0


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))

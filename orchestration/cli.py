"""The command `miss`: names, options and exit codes; the work is in `orchestration.commands`.

- Nothing but typer is imported before a command runs.
- An error made on purpose is one sentence on stderr and the exit code of its class (`model.errors`); usage errors exit with 2.
- Anything else is a defect: one sentence, the traceback in a log file, or on the terminal with MISS_DEBUG=1; exit code 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from model.errors import MissError

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    help="From behavior logs to a promoted, served index; state in MISS_HOME (.miss).",
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the ledger.")]
Host = Annotated[str, typer.Option("--host", help="Address to listen on.")]


def _port(name: str, what: str) -> typer.models.OptionInfo:
    return typer.Option(name, min=1, max=65535, help=f"Port of {what}.")


@app.command(help="Make everything on the embedded demo, with simulated users.")
def demo() -> None:
    from orchestration.commands import build

    build.demo()


@app.command(help="Add an export of items and behaviors to the warehouse.")
def ingest(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="Neutral parquet/CSV folder, MovieLens folder, or NAME.txt of Amazon sequences (its folder, where it is "
            "the only one there).",
        ),
    ],
    as_json: Json = False,
) -> None:
    from orchestration.commands import build

    build.ingest(path, as_json=as_json)


@app.command(help="Make what is missing, judge it, promote a first champion.")
def materialize(
    select: Annotated[
        str | None, typer.Option("--select", help="Only these assets: a Dagster selection, e.g. 'key:index_tree+'.")
    ] = None,
) -> None:
    from orchestration.commands import build

    build.materialize(select)


@app.command(help="Bring days of landed logs into the warehouse again.")
def backfill(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="First day, as 2026-01-31 (UTC).")],
    last: Annotated[str | None, typer.Argument(metavar="LAST", help="Last day; the first by default.")] = None,
) -> None:
    from orchestration.commands import days

    days.backfill(first, last or first)


@app.command(help="Make the warehouse anew from all that has landed.")
def rebuild() -> None:
    from orchestration.commands import days

    days.rebuild()


@app.command(help="Search the training options, every trial a run in MLflow.")
def tune(
    trials: Annotated[int, typer.Option("--trials", min=1, help="How many, earlier ones included.")] = 10,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of the dense path in a trial.")] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of what is tried.")] = 0,
    space: Annotated[
        Path | None,
        typer.Option(
            "--space",
            metavar="FILE.json",
            help='Options and their values or ranges: {"scorer.layers": [2, 4], "dense.learning_rate": {"low": 5e-4, '
            '"high": 5e-3, "log": true}}.',
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    from orchestration.commands import tune as command

    command.tune(trials=trials, epochs=epochs, seed=seed, space=space, as_json=as_json)


@app.command(help="Show the champion's metrics beside every baseline's.")
def evaluate(as_json: Json = False) -> None:
    from orchestration.commands import build

    build.evaluate(as_json=as_json)


@app.command(help="Show what the champion recommends to a user, or to all.")
def recommend(
    user: Annotated[str | None, typer.Option("--user", "-u", help="User id.")] = None,
    k: Annotated[int, typer.Option("-k", help="How many items.")] = 10,
    everybody: Annotated[bool, typer.Option("--all-users", help="Every user of the bundle, as Parquet.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for --all-users; one in the home by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    from orchestration.commands import build

    if (user is None) != everybody or (out is not None and not everybody):
        raise typer.BadParameter("give --user ID, or --all-users and, if you like, --out DIR")
    if user is not None:
        build.recommend(user, k, as_json=as_json)
    else:
        build.recommend_all_users(k, out, as_json=as_json)


@app.command(help="Show champion, challenger, the gate's rules, the warehouse.")
def status(as_json: Json = False) -> None:
    from orchestration.commands import release

    release.status(as_json=as_json)


@app.command(help="Make the challenger, or a named version, champion.")
def promote(
    reason: Reason, version: Annotated[str | None, typer.Argument(help="Version; the challenger by default.")] = None
) -> None:
    from orchestration.commands import release

    release.promote(version, reason)


@app.command(help="Make the previous champion champion again.")
def rollback(reason: Reason) -> None:
    from orchestration.commands import release

    release.rollback(reason)


@app.command(help="Show the promotion ledger: who, what, when, why.")
def history(as_json: Json = False) -> None:
    from orchestration.commands import release

    release.history(as_json=as_json)


@app.command(help="Serve the champion over HTTP: page, /v1, /v2, /mcp, /metrics.")
def serve(
    host: Host = "127.0.0.1",
    port: Annotated[int, _port("--port", "the service")] = 8000,
    challenger: Annotated[
        bool, typer.Option("--challenger", help="Load the challenger too, for the page to compare.")
    ] = False,
) -> None:
    from orchestration.commands import up

    up.serve(host, port, challenger=challenger)


@app.command(help="Offer the champion to an agent, as MCP tools on stdin/stdout.")
def mcp() -> None:
    from orchestration.commands import agents

    agents.mcp()


@app.command(help="Start Dagster's UI, MLflow's UI and the service together.")
def up(
    host: Host = "127.0.0.1",
    port: Annotated[int, _port("--port", "the service")] = 8000,
    dagster_port: Annotated[int, _port("--dagster-port", "the Dagster UI")] = 3000,
    mlflow_port: Annotated[int, _port("--mlflow-port", "the MLflow UI")] = 5000,
) -> None:
    from orchestration.commands import up as command

    command.up(host, {"dagster": dagster_port, "mlflow": mlflow_port, "service": port})


@app.command(help="Check what is installed, what is missing and what is stale.")
def doctor(as_json: Json = False) -> None:
    from orchestration.commands import doctor as command

    if not command.doctor(as_json=as_json):
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `miss` and leave the process with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a title must not end a command on a terminal that lacks its letters
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(sys.argv[1:] if arguments is None else list(arguments)))


def _run(arguments: list[str]) -> int:
    import click

    try:
        return int(typer.main.get_command(app).main(arguments, prog_name="miss", standalone_mode=False) or 0)
    except MissError as error:
        return _fail(str(error), error.exit_code, error)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "", file=sys.stderr)
        return 2
    except click.ClickException as error:
        message = error.format_message()
        return _fail(f"{message[:1].lower()}{message[1:].rstrip('.')}; see `miss --help`", error.exit_code, error)
    except (KeyboardInterrupt, click.Abort):
        print("miss: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        return _fail(f"unexpected {type(error).__name__}: {told} ({_keep_traceback()})", 1, error)


def _fail(sentence: str, code: int, error: BaseException) -> int:
    if os.environ.get("MISS_DEBUG"):
        import traceback

        traceback.print_exception(error)
    print(f"miss: {sentence}", file=sys.stderr)
    return code


def _keep_traceback() -> str:
    """Write the traceback of what is being handled to a file; says where."""
    import tempfile
    import time
    import traceback

    home = Path(os.environ.get("MISS_HOME", ".miss")).expanduser()
    folder = home / "logs" if home.is_dir() else Path(tempfile.gettempdir())
    path = folder / f"miss-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError:
        return "MISS_DEBUG=1 shows the traceback"
    return f"the traceback is in {path}; MISS_DEBUG=1 shows it here"


if __name__ == "__main__":
    main()

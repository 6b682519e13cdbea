"""Runs the program and reads what it says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence, Union

Value = Union[str, int, float, "os.PathLike[str]"]
Progress = Callable[[str, int, int, str], None]

# Exit codes of the program.
_USAGE = 2
_INTERRUPTED = 130
# Lines that come back as the message of an Error.
_OF_ERRORS = ("error: ", "hint: ", "  tip: ", "For more information", "Usage: ")


class Error(Exception):
    """What the program refused or could not do.

    message: one line that names the file, what was expected and what was found
    hint: what to do about it, or None
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}\nhint: {hint}")
        self.message = message
        self.hint = hint


class UsageError(Error):
    """An option that the command does not have, or a value that it does not take."""


def program() -> Path:
    """Where the program is: installed with this package, else on the PATH."""
    name = "adapruner.exe" if os.name == "nt" else "adapruner"
    beside = Path(sysconfig.get_path("scripts")) / name
    found = beside if beside.is_file() else shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{beside}: the program is missing; install this package again")
    return Path(found)


def version() -> str:
    """The version of the program."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[-1]


def words(options: Iterable[tuple[str, str, Any]]) -> list[str]:
    """Options as words of a command line: (name, form, value) for each."""
    out: list[str] = []
    for name, form, value in options:
        if value is None:
            continue
        many = [value] if isinstance(value, (str, int, float, os.PathLike)) else list(value)
        if form == "flag" or (form == "value" and isinstance(value, bool)):
            out += [name] if value else []
        elif form == "switch":
            out.append(f"{name}={str(bool(value)).lower()}")
        elif form == "joined":
            out.append(f"{name}={','.join(_word(one) for one in many)}")
        elif form == "repeated":
            out += [f"{name}={_word(one)}" for one in many]
        else:
            out.append(f"{name}={_word(value)}")
    return out


def _word(value: Any) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def run_command(
    command: str,
    places: Sequence[Value | None],
    options: Iterable[tuple[str, str, Any]],
    progress: Progress | bool | None,
) -> dict[str, Any]:
    """Runs a command with --json; its result.

    Raises Error for what the program refuses, KeyboardInterrupt when it was interrupted.
    """
    listener = _listener(progress)
    line = [str(program()), command, *words(options), "--json"]
    line.append(f"--progress={'off' if listener is None else 'json'}")
    line += ["--", *(_word(place) for place in places if place is not None)]
    process = subprocess.Popen(
        line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8", errors="replace",
    )
    said: list[str] = []
    failed: list[BaseException] = []

    def listen() -> None:
        assert process.stderr is not None
        for text in process.stderr:
            event = _event(text)
            if event is None:
                said.append(text)
                if text.strip() and not text.startswith(_OF_ERRORS):
                    print(text, end="", file=sys.stderr)
            elif listener is not None and not failed:
                try:
                    listener(event["stage"], event["done"], event["all"], event.get("note", ""))
                except BaseException as error:  # told to the caller
                    failed.append(error)
                    process.send_signal(signal.SIGINT)

    ear = threading.Thread(target=listen, daemon=True)
    ear.start()
    try:
        assert process.stdout is not None
        out = process.stdout.read()
        process.wait()
    except KeyboardInterrupt:
        # A terminal has told the program too; elsewhere nobody has.
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        ear.join()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        if isinstance(listener, _Bars):
            listener.close()
    if failed:
        raise failed[0]
    if process.returncode == _INTERRUPTED:
        raise KeyboardInterrupt
    result = json.loads(out) if out.strip() else {}
    if process.returncode == 0:
        return result
    if process.returncode == _USAGE:
        raise UsageError("".join(said).strip())
    if "error" in result:
        raise Error(result["error"]["message"], result["error"].get("hint"))
    raise Error("".join(said).strip() or f"the program ended with {process.returncode}")


def _event(text: str) -> dict[str, Any] | None:
    if not text.startswith("{"):
        return None
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"stage", "done", "all"} <= event.keys() else None


def _listener(progress: Progress | bool | None) -> Progress | None:
    if progress is None:
        progress = sys.stderr.isatty() or "ipykernel" in sys.modules
    if progress is False:
        return None
    return _Bars() if progress is True else progress


class _Bars:
    """A bar for each stage: tqdm's where it is installed, else a line that is written over."""

    def __init__(self) -> None:
        self.stage: str | None = None
        self.bar: Any = None
        try:
            from tqdm.auto import tqdm  # type: ignore[import-untyped]

            self.tqdm: Any = tqdm
        except ImportError:
            self.tqdm = None

    def __call__(self, stage: str, done: int, all: int, note: str) -> None:
        if stage != self.stage:
            self.close()
            self.stage = stage
            self.bar = self.tqdm(total=all, desc=stage) if self.tqdm else None
        if self.bar is not None:
            self.bar.total = all
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(done - self.bar.n)
        else:
            print(f"\r{stage}: {done} of {all} {note}", end="", file=sys.stderr, flush=True)
        if done >= all:
            self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.stage is not None:
            print(file=sys.stderr)
        self.stage = self.bar = None

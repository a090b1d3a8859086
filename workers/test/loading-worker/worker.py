#!/usr/bin/env python3
"""Behaves like a worker that loads a model, streams a text and unloads the model again, without a model and without a GPU.

It prints the protocol's events on stdout, one JSON object per line, and debug lines on stderr. README.md lists the environment variables
that set its pace and make it fail in the ways that real workers fail.
"""
import base64
import json
import math
import os
import re
import select
import signal
import sys
import time

PHASES = ("initializing", "loading", "streaming", "cleaning_up")
DEFAULT_TEXT = "Hello World! This text was streamed word by word by a worker that only pretends to load a model."
# One line of the protocol holds at most 1 MiB; a character takes up to 12 bytes of JSON.
MAX_TEXT_LENGTH = 80_000
MAX_INPUT_BYTES = 1024 * 1024


class InvalidSetting(Exception):
    """An environment variable or the task's input cannot be used."""


class Cancelled(Exception):
    """SIGTERM or SIGINT has arrived."""


def emit_event(event_type, data):
    print(json.dumps({"event": event_type, **data}), flush=True)


def debug(message):
    print(message, file=sys.stderr, flush=True)


# --- Settings -----------------------------------------------------------------------------------------------------------------------


def number(name, default, maximum):
    raw = os.environ.get(name, "").strip()
    if raw == "":
        return default
    try:
        value = float(raw)
    except ValueError:
        value = math.nan
    if not 0 <= value <= maximum:
        raise InvalidSetting(f"{name} must be a number from 0 to {maximum}, not {raw!r}")
    return value


def integer(name, default, maximum, minimum=0):
    raw = os.environ.get(name, "").strip()
    if raw == "":
        return default
    if not re.fullmatch(r"[0-9]{1,9}", raw) or not minimum <= int(raw) <= maximum:
        raise InvalidSetting(f"{name} must be a whole number from {minimum} to {maximum}, not {raw!r}")
    return int(raw)


def switch(name):
    raw = os.environ.get(name, "").strip().lower()
    if raw not in ("", "0", "1", "false", "true", "no", "yes"):
        raise InvalidSetting(f"{name} must be true or false, not {raw!r}")
    return raw in ("1", "true", "yes")


def choice(name, allowed):
    raw = os.environ.get(name, "").strip()
    if raw not in ("", *allowed):
        raise InvalidSetting(f"{name} must be one of {', '.join(allowed)}, not {raw!r}")
    return raw


class Settings:
    def __init__(self):
        self.model = os.environ.get("MODEL_NAME") or "test-loading"
        self.model_path = os.environ.get("MODEL_PATH") or "/models"
        self.gpu = os.environ.get("GPU_DEVICE") or "none"
        self.init_seconds = number("INIT_SECONDS", 0.2, 86_400)
        self.load_seconds = number("LOAD_SECONDS", 1.0, 86_400)
        self.load_steps = integer("LOAD_STEPS", 5, 10_000, minimum=1)
        self.token_delay_seconds = number("TOKEN_DELAY_SECONDS", 0.08, 3_600)
        self.cleanup_seconds = number("CLEANUP_SECONDS", 0.3, 86_400)
        self.repeat = integer("REPEAT", 1, MAX_TEXT_LENGTH, minimum=1)
        self.extra_events = switch("EXTRA_EVENTS")
        self.fail_at = choice("FAIL_AT", PHASES)
        self.fail_message = os.environ.get("FAIL_MESSAGE") or f"Failed while {self.fail_at}, as FAIL_AT asked"
        self.crash_at = choice("CRASH_AT", PHASES)
        self.hang_at = choice("HANG_AT", (*PHASES, "finish"))
        self.no_finish = switch("NO_FINISH")
        self.exit_code = integer("EXIT_CODE", None, 255)
        self.ignore_sigterm = switch("IGNORE_SIGTERM")
        self.stderr_lines = integer("STDERR_LINES", 0, 1_000_000)
        self.stray_lines = integer("STRAY_LINES", 0, 1_000_000)
        self.broken_events = integer("BROKEN_EVENTS", 0, 1_000_000)
        self.allocate_mb = integer("ALLOCATE_MB", 0, 1_000_000)
        self.text = read_text()
        if len(self.text) * self.repeat > MAX_TEXT_LENGTH:
            raise InvalidSetting(f"The text times REPEAT is longer than {MAX_TEXT_LENGTH} characters")


def read_text():
    """The task's input, `{"text": …}`, `{"prompt": …}` or a plain JSON text; else TEXT; else a default."""
    source, raw = read_input()
    if raw is None:
        return os.environ.get("TEXT") or DEFAULT_TEXT
    try:
        task_input = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidSetting(f"{source} is not JSON: {error}") from error
    if isinstance(task_input, dict):
        task_input = next((task_input[key] for key in ("text", "prompt") if task_input.get(key) is not None), None)
    if task_input is None or task_input == "":
        return os.environ.get("TEXT") or DEFAULT_TEXT
    if not isinstance(task_input, str):
        raise InvalidSetting(f'{source} must hold a text, or an object with a text in "text" or "prompt"')
    return task_input


def read_input():
    path = os.environ.get("INPUT_FILE")
    if not path:
        return "TASK_INPUT", os.environ.get("TASK_INPUT") or None
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InvalidSetting(f"INPUT_FILE cannot be read: {error}") from error
    if len(raw) > MAX_INPUT_BYTES:
        raise InvalidSetting(f"INPUT_FILE is larger than {MAX_INPUT_BYTES} bytes")
    return "INPUT_FILE", raw


# --- Waiting, so that a signal ends it at once --------------------------------------------------------------------------------------


class Pauses:
    """Waits that SIGTERM and SIGINT end. The signal never strikes in the middle of an event's line."""

    def __init__(self, ignore_sigterm):
        # The interpreter writes a byte to this pipe for every signal that has a handler.
        self.wake_reader, wake_writer = os.pipe()
        os.set_blocking(wake_writer, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if ignore_sigterm else lambda *_: None)

    def wait(self, seconds):
        if select.select([self.wake_reader], [], [], seconds)[0]:
            raise Cancelled

    def wait_for_signal(self):
        while True:
            self.wait(3_600)


# --- The work -----------------------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """FAIL_AT asked for it."""


class Worker:
    def __init__(self, settings, pauses):
        self.settings = settings
        self.pauses = pauses
        self.ballast = b""

    def run(self):
        self.enter("initializing")
        emit_event("worker", {"status": "initializing", "message": f"Starting {self.settings.model}"})
        self.pauses.wait(self.settings.init_seconds)
        self.load()
        self.stream(self.settings.text * self.settings.repeat)
        self.clean_up()

    def enter(self, phase):
        """Where a phase is to fail, crash or hang, it does so here."""
        if self.settings.hang_at == phase:
            debug(f"hanging at {phase}, as HANG_AT asked")
            self.pauses.wait_for_signal()
        if self.settings.crash_at == phase:
            raise RuntimeError(f"Crashed while {phase}, as CRASH_AT asked")
        if self.settings.fail_at == phase:
            raise Failed

    def load(self):
        settings = self.settings
        for step in range(settings.load_steps + 1):
            progress = step / settings.load_steps
            message = f"Loading {settings.model} from {settings.model_path}: {progress:.0%}"
            emit_event("worker", {"status": "loading", "message": message, "progress": round(progress, 4)})
            if step == 0:
                debug(f"model={settings.model} path={settings.model_path} gpu={settings.gpu}")
                self.enter("loading")
                self.allocate()
            if step < settings.load_steps:
                self.pauses.wait(settings.load_seconds / settings.load_steps)

    def allocate(self):
        self.ballast = bytearray(self.settings.allocate_mb * 1024 * 1024)
        # Memory that was never written to is not taken from the machine.
        for page in range(0, len(self.ballast), 4096):
            self.ballast[page] = 1

    def stream(self, text):
        settings = self.settings
        pieces = re.findall(r"\S+\s*|\s+", text)
        for index, piece in enumerate(pieces):
            emit_event("text_delta", {"delta": piece})
            if index == len(pieces) // 2:
                self.enter("streaming")
                self.make_noise()
            self.pauses.wait(settings.token_delay_seconds)
        emit_event("text", {"content": text})
        if settings.extra_events:
            self.emit_extras(text, len(pieces))

    def make_noise(self):
        for line in range(self.settings.stderr_lines):
            debug(f"debug line {line + 1}")
        for line in range(self.settings.stray_lines):
            print(f"a library printed this, line {line + 1}", flush=True)
        for line in range(self.settings.broken_events):
            print(f'{{"event": "text_delta", "delta": "broken {line + 1}', flush=True)

    def emit_extras(self, text, token_count):
        emit_event("progress", {"completed": token_count, "total": token_count, "unit": "tokens"})
        emit_event("result", {"value": {"words": len(text.split()), "characters": len(text)}})
        emit_event("usage", {"completion_tokens": token_count})
        emit_event("log", {"level": "info", "message": f"streamed {token_count} tokens"})
        name = "text.txt"
        raw = text.encode("utf-8", "replace")
        folder = os.environ.get("OUTPUT_DIR")
        if folder:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(raw)
            source = {"path": name}
        else:
            source = {"data": base64.b64encode(raw).decode()}
        emit_event("artifact", {**source, "name": name, "media_type": "text/plain"})

    def clean_up(self):
        emit_event("worker", {"status": "cleaning_up", "message": f"Unloading {self.settings.model}"})
        self.enter("cleaning_up")
        self.pauses.wait(self.settings.cleanup_seconds)


def main():
    started = time.monotonic()
    try:
        settings = Settings()
    except InvalidSetting as error:
        emit_event("connection", {"status": "connected"})
        emit_event("finish", {"status": "failed", "error": {"code": "INVALID_SETTING", "message": str(error)}})
        return 2

    pauses = Pauses(settings.ignore_sigterm)
    emit_event("connection", {"status": "connected"})
    exit_code = 0
    finish = {"status": "completed"}
    try:
        Worker(settings, pauses).run()
    except Failed:
        finish = {"status": "failed", "error": {"code": "FAILED_AS_ASKED", "message": settings.fail_message}}
        exit_code = 1
    except Cancelled:
        emit_event("worker", {"status": "cleaning_up", "message": "Stopping: a signal arrived"})
        finish = {"status": "cancelled"}

    if not settings.no_finish:
        emit_event("finish", finish)
    debug(f"{finish['status']} after {time.monotonic() - started:.1f} s")
    if settings.hang_at == "finish":
        try:
            pauses.wait_for_signal()
        except Cancelled:
            pass
    return exit_code if settings.exit_code is None else settings.exit_code


if __name__ == "__main__":
    sys.exit(main())

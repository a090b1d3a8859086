"""Makes a worker for GPU Service of one function.

    import gpu_service_worker as gpu

    def load(progress):
        progress(0.1, "Reading weights")
        return Model()

    def run(task):
        for piece in task.model.generate(task.input["prompt"]):
            yield piece

    if __name__ == "__main__":
        gpu.serve(run, load=load, slots=4)

The same program serves one task and exits, or stays and takes one task after the other: its environment decides. This file needs Python 3.9
and nothing else; install it, or copy it beside your worker.
"""
import asyncio
import base64
import collections
import concurrent.futures
import fcntl
import hashlib
import inspect
import json
import os
import queue
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["serve", "Task", "TaskFile", "TaskFailed", "InvalidInput", "Cancelled"]
__version__ = "0.1.0"

MAX_LINE_BYTES = 1024 * 1024
# Of text in one event. A character takes up to 12 bytes of JSON, and the rest of the line some more.
MAX_PIECE_LENGTH = 40_000
MAX_INLINE_BYTES = 512 * 1024
# How long the main thread may take to come back from a library, and threads of a library to end. A task that is to stop may take any time, to
# save a checkpoint for instance: the preset's `stop_grace` bounds it.
GRACE_SECONDS = 2.0
# Descriptors from here on are out of the way of programs that count on the low ones.
FIRST_DESCRIPTOR = 64


class TaskFailed(Exception):
    """Raised by a worker: the task cannot be done. The code tells the service what kind of failure it was; see "What failed" in PROTOCOL.md."""

    def __init__(self, message, code="TASK_FAILED"):
        super().__init__(message)
        self.code = code


class InvalidInput(TaskFailed):
    """Raised by a worker: the input is at fault. Such a task is never tried again."""

    def __init__(self, message):
        super().__init__(message, "INVALID_INPUT")


class Cancelled(Exception):
    """Raised where a worker speaks for a task that somebody has cancelled. Let it pass, or clean up and raise it again."""


def serve(run, *, load=None, slots=1):
    """Does tasks with `run` until there are none to come, then ends the process.

    `run(task)` gives a text, which is the whole output text; or another JSON value, which is the result; or None. Where it is a generator
    (or gives an iterator), each text that it yields is the next piece of the output text. It may be an `async` function or generator: then
    all tasks run in one event loop. What it raises fails the task, and the worker goes on.

    `load(progress)` is called once, before the first task, in the main thread; what it gives is `task.model`. It may call
    `progress(share, message)`, `share` from 0 to 1. Import heavy libraries in it.

    So many tasks as there are `slots` run at a time, each in a thread of its own; what comes beyond that waits.

    Standard output belongs to the events from here on: what anybody prints, in whatever language, goes to standard error.
    """
    sys.exit(_Worker(run, load, slots, _Events()).work())


@dataclass(frozen=True)
class TaskFile:
    """A file that a task was given. It is the service's own, and other tasks may have it too: read it, and copy what is to be changed."""

    # As its task calls it: free text, and one file name.
    name: str
    media_type: str
    bytes: int
    # In lower-case hex.
    sha256: str
    path: Path


class Task:
    """One task, as its worker has it. All methods may be called from any thread.

    Once somebody has cancelled it, a `yield` ends the generator as `close()` does, and `delta`, `text`, `progress`, `status`, `result` and `sleep` raise
    `Cancelled`. An `async` function is cancelled where it awaits.
    """

    def __init__(self, events, task_id, task_input, files, previous, output_dir):
        self.id = task_id
        self.input = task_input
        # What it was given, each a `TaskFile`, in the order of its submission.
        self.files = files
        # What earlier attempts at it have left, such as a checkpoint to go on from: each a `TaskFile`, of each name the latest.
        self.previous = previous
        # Where its files go; None where it was started by hand, without a folder.
        self.output_dir = Path(output_dir) if output_dir else None
        # What `load` gave.
        self.model = None
        self._events = events
        self._cancelled = threading.Event()
        self._on_cancel = None
        self._has_deltas = False
        self._is_over = False
        self._has_failed = False

    @property
    def cancelled(self):
        """Somebody has asked for its end."""
        return self._cancelled.is_set()

    def check(self):
        """Raises `Cancelled` where it is cancelled; for long work that says nothing."""
        if self.cancelled:
            raise Cancelled("the task was cancelled")

    def sleep(self, seconds):
        self._cancelled.wait(seconds)
        self.check()

    def delta(self, piece):
        """The next piece of the output text; `yield piece` does the same."""
        self.check()
        if not isinstance(piece, str):
            raise TypeError(f"a worker yields pieces of text, not {type(piece).__name__}; a result is returned, or given to task.result()")
        for start in range(0, len(piece), MAX_PIECE_LENGTH):
            self._has_deltas = True
            self._say("text_delta", {"delta": piece[start : start + MAX_PIECE_LENGTH]})

    def text(self, content):
        """The whole output text, in the place of all pieces; returning it does the same."""
        self.check()
        if len(content) > MAX_PIECE_LENGTH and not self._has_deltas:
            self.delta(content)
        else:
            self._say("text", {"content": content})

    def progress(self, completed, total=None, unit=None, message=None):
        """How far long work has come: steps, epochs, seconds of audio."""
        self.check()
        self._say("progress", _given(completed=completed, total=total, unit=unit, message=message))

    def status(self, status, message=None, progress=None):
        """What it is doing: any word, with a share from 0 to 1 where there is one."""
        self.check()
        self._say("worker", _given(status=status, message=message, progress=progress))

    def result(self, value):
        """The structured output, any JSON. NaN and the infinities become null, arrays of NumPy and PyTorch lists."""
        self.check()
        self._say("result", {"value": value})

    def artifact(self, path, name=None, media_type=None):
        """Announces a file in the output folder; `path` may be relative to that."""
        folder, file = self._inside(path)
        if not file.is_file():
            raise FileNotFoundError(f"{path} is no file in the output folder {folder}")
        relative = file.relative_to(folder).as_posix()
        self._say("artifact", _given(path=relative, name=name, media_type=media_type))

    def save(self, name, content, media_type=None):
        """Writes a file, of text or bytes, into the output folder and announces it."""
        raw = content.encode() if isinstance(content, str) else bytes(content)
        if self.output_dir is None:
            # Started by hand: small ones travel in the event.
            if len(raw) > MAX_INLINE_BYTES:
                raise ValueError(f"{name} is too large without an output folder: OUTPUT_DIR is not set")
            self._say("artifact", _given(data=base64.b64encode(raw).decode(), name=name, media_type=media_type))
            return
        _, file = self._inside(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
        self.artifact(name, name, media_type)

    def usage(self, **numbers):
        """What it has used, as numbers under any names (`prompt_tokens`, `gpu_memory_mb`); the latest under each name counts."""
        self._say("usage", numbers)

    def metrics(self, **values):
        """What was measured on the way (`step=10, loss=0.3`), as a custom event."""
        self._say("metrics", values)

    def log(self, message, level="info"):
        """A line for its log; levels are `debug`, `info`, `warning`, `error`."""
        self._say("log", {"level": level, "message": str(message)})

    def emit(self, event, **fields):
        """An event that is not among these, delivered whole."""
        self._say(event, fields)

    def _inside(self, path):
        """The output folder and a path in there, with all links followed."""
        if self.output_dir is None:
            raise ValueError("there is no output folder: OUTPUT_DIR is not set")
        folder = Path(os.path.realpath(self.output_dir))
        file = Path(os.path.realpath(folder / path))
        if folder not in file.parents:
            raise ValueError(f"{path} is not in the output folder {folder}")
        return folder, file

    def _say(self, event, fields):
        with self._events.lock:
            if self._is_over:
                _note(f"not said, for task {self.id} has ended: {event}")
            else:
                self._events.emit(event, self.id, fields)

    def _finish(self, finish):
        with self._events.lock:
            if not self._is_over:
                self._events.emit("finish", self.id, finish)
            self._is_over = True

    def _cancel(self):
        self._cancelled.set()
        if self._on_cancel is not None:
            self._on_cancel()


class _Events:
    """The event stream, which takes standard output for itself: each event one whole line, counted, and on its way when `emit` returns."""

    def __init__(self):
        # A child of the worker that is another program does not inherit it.
        self._descriptor = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        os.dup2(2, 1)
        if sys.stdout is not None:
            sys.stdout.flush()
            sys.stdout.reconfigure(line_buffering=True)
        self.lock = threading.RLock()
        self._seq = 0
        # Called once where nobody reads any more; what is said then is dropped.
        self.on_broken = None
        self.is_broken = False

    def emit(self, event, task_id, fields):
        with self.lock:
            envelope = {"event": event, "seq": self._seq + 1, **({} if task_id is None else {"task_id": task_id})}
            # First, and not to be overwritten by a field of the same name.
            line = _json({**envelope, **fields, **envelope}).encode() + b"\n"
            if len(line) > MAX_LINE_BYTES:
                raise ValueError(f"a {event} event of {len(line)} bytes is too long: write it into a file and announce it with task.save()")
            self._seq += 1
            self._write(line)

    def _write(self, line):
        view = memoryview(line)
        while view and not self.is_broken:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.is_broken = True
                _note(f"nobody reads the events any more ({error.strerror})")
                if self.on_broken is not None:
                    self.on_broken()


class _Stopped(BaseException):
    """A signal has come before the first task could begin."""


class _Worker:
    def __init__(self, run, load, slots, events):
        self._run = run
        self._load = load
        self._slots = slots
        self._events = events
        # What is to be done: commands, signals, tasks that have ended. Putting into it is safe in a signal handler.
        self._mailbox = queue.SimpleQueue()
        self._running = {}
        self._waiting = collections.OrderedDict()
        self._is_loading = True
        self._is_stopping = False
        self._model = None
        # For all that is `async`; there once it is needed.
        self._loop = None
        self._loop_lock = threading.Lock()
        events.on_broken = lambda: self._mailbox.put({"command": "shutdown"})

    # In the main thread

    def work(self):
        """Gives the exit code."""
        is_one_off = any(os.environ.get(name) for name in ("TASK_ID", "INPUT_FILE", "TASK_INPUT"))
        self._heed_signals()
        self._events.emit("connection", None, {"status": "connected"})
        try:
            code = self._serve_one() if is_one_off else self._serve_all()
        except _Stopped:
            code = 128 + signal.SIGTERM
        # Threads of a library must not keep the process, and its GPU memory, alive.
        _after(GRACE_SECONDS, lambda: os._exit(code))
        return 1 if self._events.is_broken else code

    def _serve_one(self):
        task = Task(self._events, os.environ.get("TASK_ID"), None, [], [], os.environ.get("OUTPUT_DIR"))
        try:
            task.input, task.files, task.previous = _read_task()
            self._prepare()
        except _Stopped:
            self._events.emit("worker", task.id, {"status": "cleaning_up"})
            task._finish({"status": "cancelled"})
            raise
        except BaseException as error:
            task._finish(_failure(error))
            return 1
        self._start(task)
        self._mailbox.put({"command": "end"})
        self._work_off()
        return 1 if task._has_failed else 0

    def _serve_all(self):
        # A program that the worker starts must not read its commands.
        commands = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, FIRST_DESCRIPTOR)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        try:
            self._prepare()
        except _Stopped:
            raise
        except BaseException as error:
            message = _failure(error)["error"]["message"]
            self._events.emit("log", None, {"level": "error", "message": f"The model could not be loaded: {message}"})
            return 1
        self._events.emit("worker", None, {"status": "ready"})
        threading.Thread(target=self._listen, args=(commands,), daemon=True).start()
        self._work_off()
        return 0

    def _prepare(self):
        if self._load is not None:
            self._model = self._loaded()
        self._is_loading = False

    def _loaded(self):
        def progress(share, message=None):
            share = min(max(float(share), 0.0), 1.0)
            self._events.emit("worker", os.environ.get("TASK_ID"), _given(status="loading", progress=share, message=message))

        progress(0.0)
        model = self._load(progress)
        if inspect.isawaitable(model):
            return self._in_loop(_wait_for(model))
        return model

    def _work_off(self):
        is_at_end = False
        while self._running or self._waiting or not is_at_end:
            message = self._mailbox.get()
            command = message["command"]
            if command == "run" and not is_at_end:
                self._accept(message)
            elif command == "cancel":
                self._cancel(message.get("task_id"))
            elif command == "shutdown":
                is_at_end = True
                self._stop()
            elif command == "end":
                is_at_end = True
            elif command == "ended":
                self._running.pop(message["task_id"])[1].join()
                self._start_waiting()

    def _accept(self, message):
        task_id = message["task_id"]
        if task_id in self._running or task_id in self._waiting:
            _note(f"the task {task_id} is here already")
            return
        files = _files_in(message.get("input_dir"), message.get("files"))
        previous = _files_in(message.get("previous_dir"), message.get("previous_files"))
        task = Task(self._events, task_id, message.get("input"), files, previous, message.get("output_dir"))
        if len(self._running) < self._slots:
            self._start(task)
        else:
            # The acknowledgement: whoever sent the task waits for it.
            task._say("worker", {"status": "waiting", "message": f"All {self._slots} slots are taken"})
            self._waiting[task_id] = task

    def _start(self, task):
        task.model = self._model
        thread = threading.Thread(target=self._perform, args=(task,), daemon=True)
        self._running[task.id] = (task, thread)
        thread.start()

    def _start_waiting(self):
        while self._waiting and len(self._running) < self._slots:
            self._start(self._waiting.popitem(last=False)[1])

    def _cancel(self, task_id):
        if task_id in self._waiting:
            self._waiting.pop(task_id)._finish({"status": "cancelled"})
        elif task_id in self._running:
            self._running[task_id][0]._cancel()

    def _stop(self):
        if not self._is_stopping:
            self._events.emit("worker", None, {"status": "cleaning_up"})
        self._is_stopping = True
        for task_id in [*self._waiting, *self._running]:
            self._cancel(task_id)

    # Signals

    def _heed_signals(self):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Written to at once, whatever the main thread is doing: it may be deep in a library and not come back.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, args=(reader,), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number, frame):
        if self._is_loading:
            self._is_loading = False
            raise _Stopped
        self._mailbox.put({"command": "shutdown"})

    def _watch_signals(self, reader):
        interrupts = 0
        while True:
            numbers = os.read(reader, 64)
            interrupts += numbers.count(signal.SIGINT)
            if self._is_loading:
                time.sleep(GRACE_SECONDS)
            if self._is_loading or interrupts > 1:
                _note("ended by a signal, at once")
                os._exit(128 + signal.SIGTERM)

    # In the thread that reads standard input

    def _listen(self, descriptor):
        rest = b""
        while chunk := os.read(descriptor, 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._hear(line)
        self._mailbox.put({"command": "end"})

    def _hear(self, line):
        try:
            command = json.loads(line)
            is_valid = command.get("command") != "run" or isinstance(command.get("task_id"), str)
        except (ValueError, RecursionError, AttributeError):
            is_valid = not line.strip()
            command = {}
        if not is_valid:
            _note(f"not a command: {line[:200]!r}")
        elif command.get("command") in ("run", "cancel", "shutdown"):
            self._mailbox.put(command)

    # In the task's own thread

    def _perform(self, task):
        finish = {"status": "completed"}
        try:
            task._say("worker", {"status": "working"})
            value = self._call(task)
            if isinstance(value, str):
                task.text(value)
            elif value is not None:
                task.result(value)
            # One that has returned early because it is cancelled is not completed.
            task.check()
        except BaseException as error:
            finish = {"status": "cancelled"} if task.cancelled and _is_cancellation(error) else _failure(error)
        task._has_failed = finish["status"] == "failed"
        task._finish(finish)
        self._mailbox.put({"command": "ended", "task_id": task.id})

    def _call(self, task):
        output = self._run(task)
        if inspect.isawaitable(output) or hasattr(output, "__anext__"):
            return self._in_loop(self._follow(task, output))
        if not isinstance(output, Iterator):
            return output
        try:
            while True:
                task.delta(next(output))
        except StopIteration as end:
            return end.value
        finally:
            if hasattr(output, "close"):
                output.close()

    async def _follow(self, task, output):
        call = asyncio.current_task()
        task._on_cancel = lambda: self._loop.call_soon_threadsafe(call.cancel)
        if not hasattr(output, "__anext__"):
            return await output
        try:
            async for piece in output:
                task.delta(piece)
        finally:
            if hasattr(output, "aclose"):
                await output.aclose()
        return None

    def _in_loop(self, coroutine):
        """Waits for what runs in the one event loop."""
        with self._loop_lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _read_task():
    """Input, files and what earlier attempts have left, of a one-off worker; the input is None where there is none."""
    path = os.environ.get("INPUT_FILE")
    try:
        raw = Path(path).read_bytes() if path else os.environ.get("TASK_INPUT")
        task_input = json.loads(raw) if raw else None
        return task_input, _read_files("INPUT_DIR", "TASK_FILES"), _read_files("PREVIOUS_DIR", "PREVIOUS_FILES")
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the input cannot be read: {error}") from error


def _read_files(folder_name, told_name):
    folder = os.environ.get(folder_name)
    told = os.environ.get(told_name)
    if not folder or told:
        return _files_in(folder, json.loads(told) if told else None)
    # Started by hand, with a folder alone.
    paths = sorted(path for path in Path(folder).iterdir() if path.is_file())
    return [TaskFile(path.name, "application/octet-stream", path.stat().st_size, _sha256(path), path) for path in paths]


def _files_in(folder, told):
    """The files in a folder, as the protocol tells of them; what it does not tell of is not there."""
    if not isinstance(folder, str) or not isinstance(told, list):
        return []
    return [TaskFile(file["name"], file["media_type"], file["bytes"], file["sha256"], Path(folder) / file["name"]) for file in told if _is_file(file)]


def _is_file(told):
    return isinstance(told, dict) and all(isinstance(told.get(name), kind) for name, kind in (("name", str), ("media_type", str), ("bytes", int), ("sha256", str)))


def _sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
    return digest.hexdigest()


def _json(value):
    try:
        return json.dumps(value, allow_nan=False, default=_plain)
    except ValueError:
        whole = json.dumps(value, default=_plain)
        return json.dumps(json.loads(whole, parse_constant=lambda name: None))


def _plain(value):
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _given(**fields):
    return {name: value for name, value in fields.items() if value is not None}


def _failure(error):
    if isinstance(error, TaskFailed):
        code = error.code
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
        code = "OUT_OF_MEMORY" if isinstance(error, MemoryError) else type(error).__name__
    return {"status": "failed", "error": {"code": code, "message": str(error) or type(error).__name__}}


def _is_cancellation(error):
    """A library may have wrapped it."""
    while error is not None:
        if isinstance(error, (Cancelled, asyncio.CancelledError, concurrent.futures.CancelledError)):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _wait_for(awaitable):
    return await awaitable


def _after(seconds, act):
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def _note(text):
    print(f"gpu_service_worker: {text}", file=sys.stderr, flush=True)

#!/usr/bin/env python3
"""Loads its model once, then takes one task after the other, any number at a time, as they come on its standard input.

The model is pretended: it says the words of its prompt. To make a worker of your own, copy this file and put your model in the place of
`Model`; what follows it is the worker protocol and can stay as it is.
"""
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback

MAX_TOKENS = 1_000_000
MAX_INTERVAL_MS = 3_600_000


class TaskFailed(Exception):
    """The task cannot be done; the worker goes on."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# --- The model ----------------------------------------------------------------------------------------------------------------------


class Model:
    def __init__(self):
        self.name = os.environ.get("MODEL_NAME") or "test-session"
        self.load_seconds = setting("LOAD_SECONDS", 1.0)
        self.gpu_memory_mb = int(setting("GPU_MEMORY_MB", 0.0))

    def load(self):
        """Yields how far it is, from 0 to 1."""
        steps = 10
        for step in range(steps):
            yield step / steps
            time.sleep(self.load_seconds / steps)
        yield 1.0

    def generate(self, task_input, pause):
        """Yields the answer piece by piece. `pause` waits so many seconds, or less where the task is cancelled meanwhile."""
        words, tokens, seconds = parse_input(task_input)
        for index in range(tokens):
            pause(seconds)
            yield words[index % len(words)] + ("" if index == tokens - 1 else " ")

    def usage(self, tokens):
        memory = {"gpu_memory_mb": self.gpu_memory_mb} if self.gpu_memory_mb else {}
        return {"completion_tokens": tokens, **memory}


def setting(name, default):
    raw = os.environ.get(name) or default
    try:
        value = float(raw)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1e9:
        sys.exit(f"{name} must be a number from 0 on, not {raw!r}")
    return value


def parse_input(task_input):
    """`{"text": …}` or `{"prompt": …}`; with `tokens` so many of its words, over and over, each after `interval_ms`."""
    fields = task_input if isinstance(task_input, dict) else {"text": task_input}
    text = next((fields[key] for key in ("text", "prompt") if fields.get(key) is not None), "Hello from a warm model")
    if not isinstance(text, str):
        raise TaskFailed("INVALID_INPUT", '"text" and "prompt" are texts')
    words = text.split(" ")
    tokens = whole_number(fields, "tokens", len(words), MAX_TOKENS)
    return words, tokens, whole_number(fields, "interval_ms", 0, MAX_INTERVAL_MS) / 1000


def whole_number(fields, name, default, maximum):
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise TaskFailed("INVALID_INPUT", f'"{name}" is a whole number from 0 to {maximum}')
    return value


# --- The protocol -------------------------------------------------------------------------------------------------------------------


class Output:
    """Prints events, each as one whole line, and counts them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seq = 0

    def emit(self, event, **fields):
        with self.lock:
            self.seq += 1
            # One write: two threads do not mix their lines.
            sys.stdout.write(json.dumps({"event": event, "seq": self.seq, **fields}) + "\n")
            sys.stdout.flush()


class Task:
    def __init__(self, command):
        self.id = command["task_id"]
        self.attempt = command.get("attempt", 1)
        self.input = command.get("input")
        self.cancelled = threading.Event()
        self.failed = False
        self.thread = None

    def stop_if_cancelled(self):
        if self.cancelled.is_set():
            raise Cancelled


class Cancelled(Exception):
    """Somebody asked for the end of the task."""


class Worker:
    def __init__(self, model, output):
        self.model = model
        self.output = output
        # What is to be done: commands from stdin, signals, and tasks that have ended. Putting into it is safe in a signal handler.
        self.mailbox = queue.SimpleQueue()
        self.tasks = {}

    # In the main thread

    def load(self):
        self.output.emit("connection", status="connected")
        for progress in self.model.load():
            message = f"Loading {self.model.name}: {progress:.0%}"
            self.output.emit("worker", status="loading", message=message, progress=progress)
        if self.model.gpu_memory_mb:
            self.output.emit("usage", gpu_memory_mb=self.model.gpu_memory_mb)

    def serve(self):
        """Does what comes on stdin until `shutdown` or a signal. At the end of stdin the tasks that run are still done."""
        self.heed_signals()
        self.output.emit("worker", status="ready")
        threading.Thread(target=self.listen, daemon=True).start()
        self.work()

    def serve_one(self, task):
        """Does one task and no other; gives the exit code."""
        self.heed_signals()
        self.start(task)
        self.mailbox.put({"command": "end"})
        self.work()
        return 1 if task.failed else 0

    def heed_signals(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.mailbox.put({"command": "shutdown"}))

    def work(self):
        at_end = False
        while self.tasks or not at_end:
            message = self.mailbox.get()
            command = message.get("command")
            if command == "run" and not at_end:
                self.start(Task(message))
            elif command == "cancel":
                self.cancel(message.get("task_id"))
            elif command == "shutdown":
                self.shut_down()
                at_end = True
            elif command == "end":
                at_end = True
            elif command == "ended":
                self.tasks.pop(message["task_id"]).thread.join()

    def start(self, task):
        task.thread = threading.Thread(target=self.run, args=(task,))
        self.tasks[task.id] = task
        task.thread.start()

    def cancel(self, task_id):
        # A cancel may cross the task's finish on its way.
        if task_id in self.tasks:
            self.tasks[task_id].cancelled.set()

    def shut_down(self):
        self.output.emit("worker", status="cleaning_up")
        for task_id in self.tasks:
            self.cancel(task_id)

    # In the thread that reads stdin

    def listen(self):
        rest = b""
        # Not through sys.stdin: its lock would be held at the interpreter's exit.
        while chunk := os.read(0, 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.hear(line)
        self.mailbox.put({"command": "end"})

    def hear(self, line):
        try:
            command = json.loads(line)
            is_valid = command.get("command") != "run" or isinstance(command.get("task_id"), str)
        except (ValueError, RecursionError, AttributeError):
            is_valid = False
        # Commands and fields that it does not know are passed over.
        if is_valid and command.get("command") in ("run", "cancel", "shutdown"):
            self.mailbox.put(command)
        elif not is_valid:
            print(f"not a command: {line[:200]!r}", file=sys.stderr, flush=True)

    # In the task's own thread

    def run(self, task):
        finish = {"status": "completed"}
        try:
            # The acknowledgement, at once: whoever sent the task waits for it.
            self.output.emit("worker", task_id=task.id, status="working")
            self.answer(task)
        except Cancelled:
            finish = {"status": "cancelled"}
        except TaskFailed as error:
            finish = {"status": "failed", "error": {"code": error.code, "message": str(error)}}
        except Exception as error:
            traceback.print_exc()
            finish = {"status": "failed", "error": {"code": type(error).__name__, "message": str(error)}}
        task.failed = finish["status"] == "failed"
        self.output.emit("finish", task_id=task.id, **finish)
        self.mailbox.put({"command": "ended", "task_id": task.id})

    def answer(self, task):
        pieces = []
        for piece in self.generate(task):
            task.stop_if_cancelled()
            pieces.append(piece)
            self.output.emit("text_delta", task_id=task.id, delta=piece)
        self.output.emit("text", task_id=task.id, content="".join(pieces))
        self.output.emit("usage", task_id=task.id, **self.model.usage(len(pieces)))

    def generate(self, task):
        return self.model.generate(task.input, task.cancelled.wait)


def main(worker):
    # Until the model is there, nothing needs to be tidied up. In a container that is process 1 the signal has no effect by itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    worker.load()
    input_file = os.environ.get("INPUT_FILE")
    if not input_file:
        worker.serve()
        return 0
    # Started for one task only, as a preset without `mode: session` does.
    with open(input_file, encoding="utf-8") as file:
        task_input = json.load(file)
    return worker.serve_one(Task({"task_id": os.environ.get("TASK_ID"), "input": task_input}))


if __name__ == "__main__":
    sys.exit(main(Worker(Model(), Output())))

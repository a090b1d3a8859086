#!/usr/bin/env python3
"""Does what its task's input says, line by counted line, and misbehaves as it says. For trying out a service; not to be copied.

README.md lists the fields of the input. Every line that it prints for a task bears a mark, `[o7 RUN]` for the seventh of run RUN on stdout
and `[e7 RUN]` on stderr, so that whoever reads them can tell by arithmetic what has been lost or told twice.
"""
import base64
import json
import os
import signal
import socket
import sys
import threading
import time

FOR_EVER = 86_400
#: Where each run leaves a line when it begins; runs are also ended by files here.
MARKERS_DIR = os.environ.get("MARKERS_DIR")


class Output:
    """Prints whole lines, one at a time, and counts the events of the process."""

    def __init__(self):
        self.lock = threading.Lock()
        self.seq = 0

    def line(self, text, stream=1):
        with self.lock:
            self.write(text, stream)

    def event(self, fields, counted=True, shape=json.dumps):
        """`shape` makes the line of it, maybe a faulty one. Its number is taken and printed in one go: numbers never change places."""
        with self.lock:
            if counted:
                self.seq += 1
                fields = {**fields, "seq": self.seq}
            self.write(shape(fields), 1)

    def write(self, text, stream):
        raw = (text + "\n").encode()
        while raw:
            raw = raw[os.write(stream, raw):]


class Cancelled(Exception):
    """The task is to stop."""


class Task:
    """One run, as its input wants it."""

    def __init__(self, output, run_id, attempt, fields, output_dir, in_session):
        self.output = output
        self.id = run_id
        self.fields = fields if isinstance(fields, dict) else {}
        self.output_dir = output_dir
        self.in_session = in_session
        self.misbehaves = attempt <= self.get("until_attempt", sys.maxsize)
        self.cancelled = threading.Event()
        self.said = {"o": 0, "e": 0}

    def get(self, name, default=None):
        return self.fields.get(name, default)

    def fault(self, name, default=None):
        """A field that counts only while the task misbehaves."""
        return self.get(name, default) if self.misbehaves else default

    @property
    def counted(self):
        return self.get("seq", True)

    def mark(self, stream):
        self.said[stream] += 1
        return f"[{stream}{self.said[stream]} {self.id}]"

    def emit(self, event, /, shape=json.dumps, **fields):
        whose = {"task_id": self.id} if self.in_session else {}
        self.output.event({"event": event, **whose, **fields}, self.counted, shape)

    # Its course

    def run(self):
        leave_marker(self.id)
        if self.fault("acknowledge", True) is False:
            return
        self.pause(self.get("start_delay_ms", 0))
        if not self.in_session:
            self.emit("connection", status="connected")
        self.emit("worker", status="working", message=self.mark("o"))
        ballast = bytearray(self.fault("allocate_mb", 0) * 1024 * 1024)
        ballast[::4096] = b"x" * len(ballast[::4096])
        if self.fault("fork"):
            linger()
        try:
            self.speak()
        except Cancelled:
            self.emit("finish", status="cancelled")
            return
        self.end(self.fault("end", "completed"))

    def speak(self):
        lines, garbage = self.get("lines", 20), self.get("garbage", [])
        for index in range(lines):
            self.say_line()
            for place, kind in enumerate(garbage):
                if index == (place + 1) * lines // (len(garbage) + 1):
                    self.say_garbage(kind)
        while self.get("until") is not None and not os.path.exists(os.path.join(MARKERS_DIR, self.get("until"))):
            self.say_line()
        for index in range(self.get("artifacts", 0)):
            self.give_artifact(index)

    def say_line(self):
        self.emit("text_delta", delta=f"{self.mark('o')} {'x' * self.get('size', 10)} ")
        if self.get("stderr", True):
            self.output.line(f"{self.mark('e')} {'y' * self.get('size', 10)}", 2)
        self.pause(self.get("interval_ms", 10))

    def pause(self, milliseconds):
        heeds = not (self.in_session and self.fault("ignore_stop"))
        if heeds and self.cancelled.wait(milliseconds / 1000):
            raise Cancelled
        if not heeds:
            time.sleep(milliseconds / 1000)

    def say_garbage(self, kind):
        mark = self.mark("o")
        if kind == "stray":
            self.output.line(f"a library printed this {mark}")
        elif kind == "broken":
            self.emit("text_delta", delta=mark, shape=lambda fields: json.dumps(fields)[:-2])
        elif kind == "fields":
            self.emit("progress", completed="many", message=mark)
        elif kind == "unknown":
            self.emit("mood", mark=mark)
        elif kind == "deep":
            self.emit("result", value=mark, shape=lambda fields: json.dumps(fields)[:-1] + f', "deep": {"[" * 99}{"]" * 99}}}')
        elif kind == "long":
            self.emit("text_delta", delta=mark + "z" * 1_100_000)
        elif kind == "text":
            self.emit("progress", completed=1, message=f"{mark} \ud800 \u0000 \u2603")
        else:
            raise ValueError(f"no garbage of the kind {kind}")

    def give_artifact(self, index):
        name, text = f"part-{index}.txt", self.mark("o")
        if index % 2 == 0 and self.output_dir:
            with open(os.path.join(self.output_dir, name), "w", encoding="utf-8") as file:
                file.write(text)
            self.emit("artifact", path=name, name=text)
        else:
            self.emit("artifact", data=base64.b64encode(text.encode()).decode(), name=text)

    def end(self, how):
        self.emit("result", value={"stdout": self.said["o"], "stderr": self.said["e"]})
        if how in ("completed", "hang_after_finish"):
            self.emit("finish", status="completed")
            if how == "hang_after_finish":
                time.sleep(FOR_EVER)
        elif how == "failed":
            self.emit("finish", status="failed", error={"code": "AS_ASKED", "message": "Failed, as the input asked"})
        elif how == "cancelled":
            self.emit("finish", status="cancelled")
        elif how == "exit":
            os._exit(self.get("exit_code", 3))
        elif how == "signal":
            os.kill(os.getpid(), self.get("signal", signal.SIGKILL))
            time.sleep(FOR_EVER)
        elif how == "silent":
            self.pause(FOR_EVER * 1000)
        elif how != "no_finish":
            raise ValueError(f"no end of the kind {how}")


def leave_marker(run_id):
    if MARKERS_DIR:
        with open(os.path.join(MARKERS_DIR, run_id), "a", encoding="utf-8") as file:
            file.write(f"{socket.gethostname()} {os.getpid()}\n")


def linger():
    """A child that holds the output open and heeds no SIGTERM."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(FOR_EVER)


# --- One task, then the end ---------------------------------------------------------------------------------------------------------


def run_one(input_file):
    with open(input_file, encoding="utf-8") as file:
        fields = json.load(file)
    run_id = os.environ["TASK_ID"]
    task = Task(Output(), run_id, int(run_id.rpartition(".")[2]), fields, os.environ.get("OUTPUT_DIR"), False)
    if task.fault("ignore_stop"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    task.run()
    return task.fault("exit_code", 0)


# --- A session ----------------------------------------------------------------------------------------------------------------------


class Session:
    def __init__(self, output):
        self.output = output
        self.tasks = {}

    def serve(self):
        self.output.event({"event": "connection", "status": "connected"})
        self.output.event({"event": "worker", "status": "loading", "progress": 0.5})
        time.sleep(float(os.environ.get("LOAD_SECONDS", "0")))
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        self.output.event({"event": "worker", "status": "ready"})
        rest = b""
        while chunk := os.read(0, 65536):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.hear(json.loads(line))
        self.exit_when_idle()

    def hear(self, command):
        if command["command"] == "run":
            run_id = command["task_id"]
            task = Task(self.output, run_id, command["attempt"], command["input"], command["output_dir"], True)
            self.tasks[run_id] = task
            threading.Thread(target=self.work, args=(task,), daemon=True).start()
        elif command["command"] == "cancel" and command["task_id"] in self.tasks:
            self.tasks[command["task_id"]].cancelled.set()
        elif command["command"] == "shutdown":
            self.stop()

    def work(self, task):
        try:
            task.run()
        except Cancelled:
            task.emit("finish", status="cancelled")
        finally:
            del self.tasks[task.id]

    def stop(self):
        for task in list(self.tasks.values()):
            task.cancelled.set()
        threading.Thread(target=self.exit_when_idle).start()

    def exit_when_idle(self):
        while self.tasks:
            time.sleep(0.01)
        os._exit(0)


def main():
    input_file = os.environ.get("INPUT_FILE")
    if input_file:
        return run_one(input_file)
    Session(Output()).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())

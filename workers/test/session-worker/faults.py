#!/usr/bin/env python3
"""The session worker, made to misbehave in the ways that real workers do, so that a service can be tried with it. Not to be copied.

README.md lists the faults. Those of the whole process are named in FAULTS, those of a task in FAULTS or in its input's `fault`; several
are separated by commas.
"""
import json
import os
import signal
import sys
import time

# The folder of a worker package is not written to.
sys.dont_write_bytecode = True

import worker  # noqa: E402

FOR_EVER = 86_400


def names(raw):
    return {name.strip() for name in (raw or "").split(",") if name.strip()}


PROCESS_FAULTS = names(os.environ.get("FAULTS"))


class FaultyTask:
    """What a task's input says of its faults."""

    def __init__(self, task):
        fields = task.input if isinstance(task.input, dict) else {}
        strikes = task.attempt <= fields.get("until_attempt", sys.maxsize)
        self.names = PROCESS_FAULTS | (names(fields.get("fault")) if strikes else set())
        self.after_tokens = fields.get("after_tokens", 1)
        self.exit_code = fields.get("exit_code", 1)
        self.signal = fields.get("signal", signal.SIGKILL)
        self.error = fields.get("error", {"code": "FAILED_AS_ASKED", "message": "Failed, as the input asked"})

    def has(self, name):
        return name in self.names


class FaultyWorker(worker.Worker):
    def __init__(self, model, output):
        super().__init__(model, output)
        self.leaked = []

    def load(self):
        if "hang_loading" in PROCESS_FAULTS:
            self.output.emit("connection", status="connected")
            self.output.emit("worker", status="loading", progress=0.5)
            time.sleep(FOR_EVER)
        if "exit_loading" in PROCESS_FAULTS:
            sys.exit(3)
        super().load()

    def heed_signals(self):
        super().heed_signals()
        if "ignore_shutdown" in PROCESS_FAULTS:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def listen(self):
        if "deaf" in PROCESS_FAULTS:
            time.sleep(FOR_EVER)
        super().listen()

    def cancel(self, task_id):
        if task_id in self.tasks and not FaultyTask(self.tasks[task_id]).has("ignore_cancel"):
            super().cancel(task_id)

    def shut_down(self):
        if "ignore_shutdown" in PROCESS_FAULTS:
            time.sleep(FOR_EVER)
        super().shut_down()

    def run(self, task):
        fault = FaultyTask(task)
        if fault.has("leak"):
            self.leaked.append(os.urandom(1024 * 1024))
        if fault.has("silent"):
            return
        if fault.has("foreign"):
            task_id = f"another-{task.id}"
            self.output.emit("worker", task_id=task_id, status="working")
            self.output.emit("finish", task_id=task_id, status="completed")
            return
        super().run(task)
        if fault.has("late"):
            self.output.emit("text_delta", task_id=task.id, delta="too late")
            self.output.emit("finish", task_id=task.id, status="failed", error="too late")

    def generate(self, task):
        fault = FaultyTask(task)
        for index, piece in enumerate(super().generate(task)):
            if index == fault.after_tokens:
                self.strike(fault, task)
            yield piece

    def strike(self, fault, task):
        if fault.has("exit"):
            os._exit(fault.exit_code)
        if fault.has("signal"):
            os.kill(os.getpid(), fault.signal)
            # It may be another thread that the signal interrupts.
            task.cancelled.wait(FOR_EVER)
        if fault.has("hang"):
            task.cancelled.wait(FOR_EVER)
        if fault.has("fail"):
            raise worker.TaskFailed(fault.error["code"], fault.error["message"])
        if fault.has("crash"):
            raise RuntimeError("crashed, as the input asked")
        if fault.has("stray"):
            with self.output.lock:
                print("a library printed this", flush=True)
            self.output.emit("text_delta", delta="whose is this? ")
        if fault.has("broken"):
            with self.output.lock:
                print(json.dumps({"event": "text_delta", "delta": "cut short"})[:-3], flush=True)
        if fault.has("seq_hole"):
            with self.output.lock:
                self.output.seq += 1


if __name__ == "__main__":
    sys.exit(worker.main(FaultyWorker(worker.Model(), worker.Output())))

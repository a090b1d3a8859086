"""A worker without an SDK that follows the protocol, both for one task and as a session. The tests break it in one place each."""
import json
import os
import signal
import subprocess
import sys
import threading
import time

lock = threading.Lock()
count = 0


def emit(event, task_id=None, **fields):
    global count
    with lock:
        count += 1
        named = {} if task_id is None else {"task_id": task_id}
        print(json.dumps({"event": event, "seq": count, **named, **fields}), flush=True)


class Task:
    def __init__(self, task_id, task_input, folder):
        self.id = task_id
        self.input = task_input
        self.folder = folder
        self.cancelled = threading.Event()

    def run(self):
        emit("worker", self.id, status="working")
        try:
            finish = self.work()
        except (TypeError, KeyError) as error:
            finish = {"status": "failed", "error": {"code": "INVALID_INPUT", "message": repr(error)}}
        emit("finish", self.id, **finish)

    def work(self):
        tokens = self.input["tokens"]
        for index in range(tokens):
            if self.cancelled.wait(self.input["interval"]):
                return {"status": "cancelled"}
            emit("text_delta", self.id, delta=f"{index} ")
        emit("text", self.id, content="".join(f"{index} " for index in range(tokens)))
        with open(os.path.join(self.folder, "count.txt"), "w") as file:
            file.write(str(tokens))
        emit("artifact", self.id, path="count.txt")
        emit("usage", self.id, tokens=tokens)
        return {"status": "completed"}


tasks = {}


def serve():
    emit("worker", status="ready")
    for line in sys.stdin:
        hear(line)


def hear(line):
    if not line.strip():
        return
    command = json.loads(line)
    kind = command.get("command")
    if kind == "run":
        task = Task(command["task_id"], command["input"], command["output_dir"])
        tasks[task.id] = task
        threading.Thread(target=task.run, daemon=True).start()
    elif kind == "cancel":
        if command["task_id"] in tasks:
            tasks[command["task_id"]].cancelled.set()
    elif kind == "shutdown":
        os._exit(0)


def stop(*_):
    os._exit(0)


def main():
    signal.signal(signal.SIGTERM, stop)
    emit("connection", status="connected")
    emit("worker", status="loading", progress=0.5)
    if "INPUT_FILE" not in os.environ:
        serve()
        return
    with open(os.environ["INPUT_FILE"]) as file:
        task = Task(os.environ["TASK_ID"], json.load(file), os.environ["OUTPUT_DIR"])
    task.run()


main()

"""Does what its input asks for; `behaviours.mjs` does the same in the other language."""
import asyncio
import ctypes
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../python"))
import gpu_service_worker as gpu


class Broken(Exception):
    pass


def load(progress):
    if os.environ.get("LOAD") == "fail":
        raise Broken("no such weights")
    progress(0.5, "Halfway")
    if os.environ.get("LOAD") == "hang":
        time.sleep(3600)
    if os.environ.get("LOAD") == "native":
        wait_in_native_code()
    return "the model"


def stream(task):
    for piece in task.input["pieces"]:
        yield piece
    return task.input.get("value")


def files(task):
    return contents(task.files)


def previous(task):
    return contents(task.previous)


def contents(files):
    return [
        {"name": file.name, "mediaType": file.media_type, "bytes": file.bytes, "sha256": file.sha256, "path": file.path, "content": file.path.read_text()}
        for file in files
    ]


def endless(task):
    try:
        while True:
            yield "on "
            task.sleep(0.005)
    finally:
        task.log("cleaned up")


def patient(task):
    task.progress(1)
    while not task.cancelled:
        time.sleep(0.005)
    return "too late"


def everything(task):
    task.status("decoding", message="Latents", progress=0.25)
    task.progress(3, total=4, unit="steps", message="Nearly")
    task.log("careful", "warning")
    task.metrics(step=1, loss=float("nan"))
    task.usage(prompt_tokens=3, gpu_memory_mb=10)
    task.save("notes/a.txt", "héllo", media_type="text/plain")
    with open(task.output_dir / "b.bin", "wb") as file:
        file.write(b"\0\1")
    task.artifact("b.bin", name="Second")
    task.emit("sampled", temperature=0.5, seq=99, task_id="another")


def noisy(task):
    yield "before "
    print("printed")
    sys.stdout.write("without a newline")
    os.write(1, b"written to the descriptor\n")
    subprocess.run(["echo", "by another program"], check=True)
    libc = ctypes.CDLL(None)
    libc.puts(b"by native code")
    libc.fflush(None)
    yield "after"


def late(task):
    def speak():
        time.sleep(0.05)
        task.log("too late")

    threading.Thread(target=speak).start()


def refuse(task):
    raise gpu.InvalidInput("the prompt is missing")


def fail_with_code(task):
    raise gpu.TaskFailed("it does not fit", "CUDA_OUT_OF_MEMORY")


def crash(task):
    yield "so far "
    raise Broken("a tensor is missing")


def escape(task):
    task.artifact("../../etc/passwd")


def number(task):
    yield 7


async def converse(task):
    try:
        for index in range(task.input.get("count", 1_000_000)):
            yield f"{index} "
            await asyncio.sleep(0.005)
    finally:
        task.log("cleaned up")


async def answer(task):
    await asyncio.sleep(0.005)
    return "answered"


def read_stdin(task):
    return repr(sys.stdin.read())


def exit_the_thread(task):
    sys.exit("no more")


def wait_in_native_code():
    """For ever, and no signal interrupts it: locks a mutex twice."""
    mutex = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(mutex)


BEHAVIOURS = {
    "stream": stream,
    "text": lambda task: task.input["text"],
    "result": lambda task: task.input["value"],
    "nothing": lambda task: None,
    "model": lambda task: task.model,
    "input": lambda task: {"input": task.input},
    "files": files,
    "previous": previous,
    "endless": endless,
    "patient": patient,
    "everything": everything,
    "noisy": noisy,
    "late": late,
    "refuse": refuse,
    "fail with code": fail_with_code,
    "crash": crash,
    "escape": escape,
    "number": number,
    "long result": lambda task: ["x" * 2_000_000],
    "repeated": lambda task: task.input["text"] * task.input["times"],
    "converse": converse,
    "answer": answer,
    "overwrite": lambda task: task.save("../outside.txt", "x"),
    "read stdin": read_stdin,
    "exit": exit_the_thread,
}


def run(task):
    wanted = task.input.get("do", "input") if isinstance(task.input, dict) else "input"
    return BEHAVIOURS[wanted](task)


if __name__ == "__main__":
    gpu.serve(run, load=load, slots=int(os.environ.get("SLOTS", "1")))

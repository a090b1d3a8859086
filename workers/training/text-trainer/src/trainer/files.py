"""The files that a training reads and writes."""
import dataclasses
import os
import pickle
import zipfile
from pathlib import Path

import gpu_service_worker as gpu
import torch

from .order import Course, Size

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SUFFIX = ".pt"
FORMAT = "gpu-service-text-trainer-1"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    # As messages call it.
    name: str
    text_sha256: str
    course: Course
    size: Size
    state: dict


def read_text(order, files):
    """The bytes of the text: of a file of the task, else of one below the models folder."""
    given = [file for file in files if not file.name.endswith(CHECKPOINT_SUFFIX)]
    path = _chosen(order.text, given) or _in_models(order.text)
    if path is None:
        what = "the task has no text" if order.text is None else f'there is no file "{order.text}"'
        raise gpu.InvalidInput(f'{what}: give it a file, or name one of the models folder as "text"')
    return path.read_bytes()


def find_checkpoint(order, files, previous):
    """What to go on from; None: from the beginning. What an earlier attempt has left comes before what the task was given."""
    if order.resume is False:
        return None
    left = [file for file in previous if file.name == CHECKPOINT]
    if left:
        return _read_checkpoint(left[0])
    if order.resume is not True:
        named = [file for file in files if file.name == order.resume]
        if not named:
            raise gpu.InvalidInput(f'the task has no file "{order.resume}" to resume from')
        return _read_checkpoint(named[0])
    given = [file for file in files if file.name.endswith(CHECKPOINT_SUFFIX)]
    if len(given) > 1:
        raise gpu.InvalidInput(f'the task has {len(given)} checkpoints: name one as "resume"')
    return _read_checkpoint(given[0]) if given else None


def write_checkpoint(folder, training):
    """Whole or not at all, and durable; an older one is replaced."""
    content = {
        "format": FORMAT,
        "text_sha256": training.windows.sha256,
        "course": dataclasses.asdict(training.order.course),
        "size": dataclasses.asdict(training.size),
        "state": training.state(),
    }
    write_whole(folder / CHECKPOINT, lambda file: torch.save(content, file))


def write_whole(path, write):
    draft = path.with_name(f".{path.name}.partial")
    with open(draft, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _chosen(name, given):
    if name is None:
        if len(given) > 1:
            raise gpu.InvalidInput(f'the task has {len(given)} files: name one as "text"')
        return given[0].path if given else None
    return next((file.path for file in given if file.name == name), None)


def _in_models(name):
    root = Path(os.path.realpath(os.environ.get("MODEL_PATH") or "/nowhere"))
    path = Path(os.path.realpath(root / name)) if name is not None else root
    is_inside = path == root or root in path.parents
    return path if is_inside and path.is_file() else None


def _read_checkpoint(file):
    try:
        # Only tensors and plain values: a file that somebody sent must not run anything.
        content = torch.load(file.path, map_location="cpu", weights_only=True)
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}")
        course, size = Course(**content["course"]), Size(**content["size"])
        return Checkpoint(file.name, content["text_sha256"], course, size, content["state"])
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise gpu.InvalidInput(f'"{file.name}" is no checkpoint of this trainer: {error}') from error

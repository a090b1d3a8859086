"""A task from its beginning to its end."""
import dataclasses
import json
import time

import gpu_service_worker as gpu
import torch

from . import export
from .files import CHECKPOINT, find_checkpoint, read_text, write_checkpoint, write_whole
from .order import SIZE, read_order
from .training import Training
from .windows import Windows

# So often is told how far it is.
TELL_SECONDS = 1.0


def train(task):
    if task.output_dir is None:
        raise gpu.TaskFailed("there is no folder for checkpoints and the model: OUTPUT_DIR is not set")
    order = read_order(task.input)
    checkpoint = find_checkpoint(order, task.files, task.previous)
    windows = Windows(read_text(order, task.files), order.course, task.model)
    training = _begin(task, order, checkpoint, windows)
    resumed_from = training.steps_done or None
    teller = _Teller(task, training)
    saver = _Saver(task, training)
    try:
        while training.stopped is None:
            task.check()
            if training.is_epoch_trained:
                teller.epoch(training.end_epoch(task.check))
                saver.epoch()
            else:
                teller.step(training.train_step())
                saver.step()
    except gpu.Cancelled:
        saver.save()
        raise
    saver.save()
    return {**_save_model(task, training), "resumed_from_step": resumed_from}


def _begin(task, order, checkpoint, windows):
    size = order.size or (SIZE if checkpoint is None else checkpoint.size)
    if checkpoint is not None and size != checkpoint.size:
        raise gpu.InvalidInput(f'"{checkpoint.name}" has a model of another size: {dataclasses.asdict(checkpoint.size)}')
    training = Training(order, size, windows, task.model)
    if checkpoint is None:
        task.log(f"begins with a model of {training.model.parameter_count()} parameters")
        return training
    is_same_text = checkpoint.text_sha256 == windows.sha256
    if is_same_text and checkpoint.course != order.course:
        raise gpu.InvalidInput(f'"{checkpoint.name}" can be gone on from with {dataclasses.asdict(checkpoint.course)} only')
    try:
        if is_same_text:
            training.restore(checkpoint.state)
            task.log(f"goes on from {checkpoint.name} after {training.epoch} epochs and {training.step} steps")
        else:
            training.start_with(checkpoint.state["weights"])
            task.log(f"begins with the weights of {checkpoint.name}, whose text was another one")
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise gpu.InvalidInput(f'"{checkpoint.name}" is no whole checkpoint: {error}') from error
    return training


class _Teller:
    """Says how far it is and what was measured: with each epoch, and between them now and then."""

    def __init__(self, task, training):
        self._task = task
        self._training = training
        self._said_at = time.monotonic()
        self._said_tokens = training.tokens

    def step(self, loss):
        if time.monotonic() - self._said_at >= TELL_SECONDS:
            self._say(epoch=self._training.epoch + 1, loss=loss)

    def epoch(self, said):
        self._say(**{name: value for name, value in said.items() if value is not None})
        memory = {"gpu_memory_mb": torch.cuda.max_memory_reserved() / 2**20} if self._task.model.type == "cuda" else {}
        self._task.usage(trained_tokens=self._training.tokens, **memory)

    def _say(self, **measured):
        training, now = self._training, time.monotonic()
        rate = (training.tokens - self._said_tokens) / max(now - self._said_at, 1e-9)
        self._said_at, self._said_tokens = now, training.tokens
        self._task.metrics(
            step=training.steps_done, **measured, learning_rate=training.learning_rate(), tokens_per_second=round(rate)
        )
        epoch = f"epoch {min(training.epoch + 1, training.order.epochs)} of {training.order.epochs}"
        self._task.progress(training.steps_done, training.steps_total, "steps", epoch)


class _Saver:
    """Saves a checkpoint when one is due, and announces it."""

    def __init__(self, task, training):
        self._task = task
        self._training = training
        self._saved_at = time.monotonic()
        # Where nothing is lost: at the very beginning, and at the last checkpoint of this attempt.
        self._saved_place = (0, 0)

    def epoch(self):
        every = self._training.order.checkpoint_epochs
        if every is not None and self._training.epoch % every == 0:
            self.save()
        else:
            self.step()

    def step(self):
        every = self._training.order.checkpoint_seconds
        if every is not None and time.monotonic() - self._saved_at >= every:
            self.save()

    def save(self):
        training = self._training
        place = (training.epoch, training.step)
        if place == self._saved_place:
            return
        write_checkpoint(self._task.output_dir, training)
        self._saved_at, self._saved_place = time.monotonic(), place
        self._task.artifact(CHECKPOINT, CHECKPOINT, "application/octet-stream")
        self._task.emit("checkpoint", epoch=training.epoch, step=training.steps_done)


def _save_model(task, training):
    """The weights of the best epoch, in all forms; gives the result."""
    weights, order, size = training.best_weights(), training.order, training.size
    history = {"size": dataclasses.asdict(size), "course": dataclasses.asdict(order.course), "epochs": training.history}
    writers = {
        "model.safetensors": lambda file: export.write_safetensors(file, weights),
        "model.gguf": lambda file: export.write_gguf(file, weights, size, order.course.context, "text-trainer"),
        "history.json": lambda file: file.write(json.dumps(history, indent=1).encode()),
    }
    for name, write in writers.items():
        write_whole(task.output_dir / name, write)
        task.artifact(name, name)
    last, best = training.history[-1], training.history[training.best_epoch - 1]
    return {
        "stopped": training.stopped,
        "epochs": training.epoch,
        "steps": training.steps_done,
        "trained_tokens": training.tokens,
        "parameters": training.model.parameter_count(),
        "loss": last["loss"],
        "validation_loss": last["validation_loss"],
        "best": best,
        "files": [CHECKPOINT, *writers],
    }

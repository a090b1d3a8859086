"""What a task asks for."""
from dataclasses import dataclass

import gpu_service_worker as gpu


@dataclass(frozen=True)
class Size:
    """Of a model."""

    width: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def head_width(self):
        return self.width // self.heads

    @property
    def forward_width(self):
        """As much work as a layer of four times the width without a gate."""
        return (8 * self.width // 3 + 31) // 32 * 32


@dataclass(frozen=True)
class Course:
    """What decides the way that a training takes, together with its text and the size of its model."""

    seed: int
    batch_size: int
    context: int
    validation: float


@dataclass(frozen=True)
class Order:
    # A file of the task or one in the models folder; None: there is only one.
    text: str | None
    epochs: int
    learning_rate: float
    course: Course
    # None: the checkpoint's, or else what `SIZE` says.
    size: Size | None
    # None: it does not stop early.
    patience: int | None
    min_delta: float
    # None: not so.
    checkpoint_epochs: int | None
    checkpoint_seconds: float | None
    # Whether to go on from a checkpoint where there is one; or its name.
    resume: bool | str


SIZE = Size(width=128, layers=4, heads=4, kv_heads=2)


def read_order(task_input):
    """Raises `InvalidInput`, and says what is wrong."""
    fields = _Fields("", {} if task_input is None else task_input)
    order = Order(
        text=fields.text("text"),
        epochs=fields.whole("epochs", 10, 1, 100_000),
        learning_rate=fields.number("learning_rate", 0.003, 1e-7, 1),
        course=Course(
            seed=fields.whole("seed", 0, 0, 2**32 - 1),
            batch_size=fields.whole("batch_size", 32, 1, 65_536),
            context=fields.whole("context", 128, 8, 32_768),
            validation=fields.number("validation", 0.1, 0, 0.5),
        ),
        size=_size(fields.part("model")),
        **_early_stop(fields.part("early_stop")),
        **_checkpoints(fields.part("checkpoint_every")),
        resume=_resume(fields),
    )
    fields.end()
    return order


def _size(fields):
    if fields is None:
        return None
    heads = fields.whole("heads", SIZE.heads, 1, 128)
    size = Size(
        width=fields.whole("width", SIZE.width, 16, 8_192),
        layers=fields.whole("layers", SIZE.layers, 1, 128),
        heads=heads,
        kv_heads=fields.whole("kv_heads", min(SIZE.kv_heads, heads), 1, 128),
    )
    fields.end()
    if size.width % (2 * size.heads) != 0:
        raise gpu.InvalidInput('"model.width" is a multiple of twice "model.heads"')
    if size.heads % size.kv_heads != 0:
        raise gpu.InvalidInput('"model.heads" is a multiple of "model.kv_heads"')
    return size


def _early_stop(fields):
    if fields is None:
        return {"patience": None, "min_delta": 0.0}
    found = {"patience": fields.whole("patience", 3, 1, 100_000), "min_delta": fields.number("min_delta", 0, 0, 100)}
    fields.end()
    return found


def _checkpoints(fields):
    if fields is None:
        return {"checkpoint_epochs": None, "checkpoint_seconds": 1_800}
    found = {
        "checkpoint_epochs": fields.whole("epochs", None, 1, 100_000),
        "checkpoint_seconds": fields.number("seconds", None, 1, 604_800),
    }
    fields.end()
    return found


def _resume(fields):
    value = fields.take("resume", True)
    if not isinstance(value, (bool, str)) or value == "":
        raise gpu.InvalidInput('"resume" is true, false or the name of a file')
    return value


class _Fields:
    """An object of the input, of which field after field is taken."""

    def __init__(self, path, value):
        if not isinstance(value, dict):
            raise gpu.InvalidInput(f'"{path}" is an object' if path else "the input is an object")
        self._prefix = f"{path}." if path else ""
        self._fields = value
        self._known = set()

    def take(self, key, default):
        self._known.add(key)
        value = self._fields.get(key)
        return default if value is None else value

    def part(self, key):
        value = self.take(key, None)
        return None if value is None else _Fields(key, value)

    def text(self, key):
        value = self.take(key, None)
        if value is not None and (not isinstance(value, str) or value == ""):
            raise gpu.InvalidInput(f'"{self._prefix}{key}" is a text')
        return value

    def whole(self, key, default, least, most):
        value = self.number(key, default, least, most)
        if value is not None and value != int(value):
            raise gpu.InvalidInput(f'"{self._prefix}{key}" is a whole number')
        return None if value is None else int(value)

    def number(self, key, default, least, most):
        value = self.take(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise gpu.InvalidInput(f'"{self._prefix}{key}" is a number from {least} to {most}')
        return value

    def end(self):
        """Whatever was not taken is not known."""
        for key in self._fields:
            if key not in self._known:
                raise gpu.InvalidInput(f'"{self._prefix}{key}" is not known; these are: {", ".join(sorted(self._known))}')

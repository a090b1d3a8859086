"""What a task asks for. It is what `src/order.ts` makes of an input for the other engine: `test/orders.json` holds both to it."""
from dataclasses import dataclass

import gpu_service_worker as gpu

SAMPLERS = ("euler", "euler_a", "dpm++2m", "lcm")
SIDE_STEP = 64
MOST_SIDE = 2048
SEEDS = 2**32

_KEYS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "steps",
    "guidance",
    "sampler",
    "seed",
    "count",
    "init_image",
    "strength",
)


@dataclass(frozen=True)
class Order:
    prompt: str
    negative_prompt: str
    steps: int
    guidance: float
    sampler: str
    # Of the first image; each further one has the next. None: one is drawn.
    seed: "int | None"
    count: int
    # What it begins with: noise of a size, or another image, of which so much is made anew (`strength`, from 0 to 1).
    width: "int | None"
    height: "int | None"
    init_image: "str | None"
    strength: "float | None"


def read_order(task_input, files):
    """Reads a task's input; `files`: the names of the files that it was given. Raises an `InvalidInput` that says what is wrong."""
    if not isinstance(task_input, dict):
        raise gpu.InvalidInput("the input is an object")
    unknown = next((key for key in task_input if key not in _KEYS), None)
    if unknown is not None:
        raise gpu.InvalidInput(f'"{unknown}" is not known; these are: {", ".join(_KEYS)}')
    prompt = _text(task_input, "prompt")
    if prompt == "":
        raise gpu.InvalidInput('"prompt" is missing: say what is to be seen')
    steps = _whole(task_input, "steps", 20, 1, 150)
    return Order(
        prompt=prompt,
        negative_prompt=_text(task_input, "negative_prompt"),
        steps=steps,
        guidance=_number(task_input, "guidance", 7, 0, 30),
        sampler=_sampler(task_input),
        seed=_whole(task_input, "seed", 0, 0, SEEDS - 1) if "seed" in task_input else None,
        count=_whole(task_input, "count", 1, 1, 16),
        **_start(task_input, files, steps),
    )


def input_for(order, seed):
    """The input that makes one image again, of those that an order is for."""
    if order.init_image is None:
        start = {"width": order.width, "height": order.height}
    else:
        start = {"init_image": order.init_image, "strength": order.strength}
    return {
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        **start,
        "steps": order.steps,
        "guidance": order.guidance,
        "sampler": order.sampler,
        "seed": seed,
    }


def _start(fields, files, steps):
    """Presets fill in what was not said: so a size is no mistake beside an image, nor a strength without one."""
    file = _text(fields, "init_image")
    width, height = _side(fields, "width"), _side(fields, "height")
    strength = _number(fields, "strength", 0.75, 0, 1)
    if file == "":
        return {"width": width, "height": height, "init_image": None, "strength": None}
    if file not in files:
        raise gpu.InvalidInput(f'the task has no file "{file}"')
    if steps * strength < 1:
        raise gpu.InvalidInput(f'"strength" is too small: of {steps} steps it leaves none to be done')
    return {"width": None, "height": None, "init_image": file, "strength": strength}


def _sampler(fields):
    sampler = fields.get("sampler", "euler_a")
    if sampler not in SAMPLERS:
        raise gpu.InvalidInput(f'"sampler" is one of {", ".join(SAMPLERS)}')
    return sampler


def _text(fields, key):
    value = fields.get(key)
    value = "" if value is None else value
    if not isinstance(value, str) or len(value) > 10_000:
        raise gpu.InvalidInput(f'"{key}" is a text of at most 10000 letters')
    return value


def _side(fields, key):
    value = _number(fields, key, 512, SIDE_STEP, MOST_SIDE)
    if value % SIDE_STEP != 0:
        raise gpu.InvalidInput(f'"{key}" is a multiple of {SIDE_STEP}')
    return int(value)


def _whole(fields, key, otherwise, least, most):
    value = _number(fields, key, otherwise, least, most)
    if value != int(value):
        raise gpu.InvalidInput(f'"{key}" is a whole number')
    return int(value)


def _number(fields, key, otherwise, least, most):
    value = fields.get(key, otherwise)
    # True and False are numbers to Python.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise gpu.InvalidInput(f'"{key}" is a number from {least} to {most}')
    return value

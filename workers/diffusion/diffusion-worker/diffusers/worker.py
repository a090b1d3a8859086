"""Makes images with diffusers, on a GPU of NVIDIA: the same tasks as the worker in `src`, whose engine has no CUDA."""
import io
import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path

import gpu_service_worker as gpu
from order import MOST_SIDE, SEEDS, SIDE_STEP, input_for, read_order

MAX_INIT_BYTES = 32 * 1024 * 1024
SCHEDULERS = {
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "lcm": "LCMScheduler",
}


class Model:
    """A pipeline that is loaded, and another one, of the same weights, that begins with an image."""

    def __init__(self, folder, from_text, from_image):
        self.name = folder.name
        self.from_text = from_text
        self.from_image = from_image
        # Of the model's own scheduler, which the others are made from.
        self.scheduler_config = from_text.scheduler.config


def load(progress):
    import torch

    folder = Path(os.environ.get("MODEL_PATH", ""))
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(f'MODEL_PATH does not name a folder as diffusers writes them: there is no model_index.json in "{folder}"')
    if not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU: the preset must give one, and the host have a driver for the CUDA of this image")
    # Takes seconds.
    import diffusers

    progress(0.1, "Reading weights")
    with memory_errors():
        from_text = diffusers.AutoPipelineForText2Image.from_pretrained(
            str(folder),
            torch_dtype=torch.float16,
            # Many folders have the weights twice.
            variant="fp16" if any(folder.rglob("*.fp16.safetensors")) else None,
            use_safetensors=True,
            local_files_only=True,
        )
        progress(0.7, "Moving weights to the GPU")
        from_text.to("cuda")
        from_image = diffusers.AutoPipelineForImage2Image.from_pipe(from_text)
    for pipeline in (from_text, from_image):
        pipeline.set_progress_bar_config(disable=True)
    return Model(folder, from_text, from_image)


def run(task):
    order = read_order(task.input, [file.name for file in task.files])
    start = None if order.init_image is None else read_image(task, order.init_image)
    width, height = (order.width, order.height) if start is None else start.size
    first_seed = secrets.randbelow(SEEDS) if order.seed is None else order.seed
    images = []
    done = 0

    def on_step(steps):
        nonlocal done
        done += 1
        # Raises where the task is cancelled, through the pipeline: that ends it at once, and the next call sets it up anew.
        task.progress(done, total=steps * order.count, unit="steps")

    try:
        while len(images) < order.count:
            seed = (first_seed + len(images)) % SEEDS
            with memory_errors():
                image = paint(task.model, order, start, seed, on_step)
            name = f"image-{len(images) + 1}.png"
            task.check()
            task.save(name, png_of(image, task.model, order, seed), media_type="image/png")
            images.append({"file": name, "seed": seed, "width": width, "height": height})
    finally:
        task.usage(images=len(images), steps=done)
    return {"images": images}


def paint(model, order, start, seed, on_step):
    import diffusers
    import torch

    def on_step_end(pipeline, step, timestep, tensors):
        on_step(pipeline.num_timesteps)
        return tensors

    if start is None:
        pipeline = model.from_text
        beginning = {"width": order.width, "height": order.height}
    else:
        pipeline = model.from_image
        beginning = {"image": start, "strength": order.strength}
    pipeline.scheduler = getattr(diffusers, SCHEDULERS[order.sampler]).from_config(model.scheduler_config)
    result = pipeline(
        prompt=order.prompt,
        negative_prompt=order.negative_prompt,
        **beginning,
        num_inference_steps=order.steps,
        guidance_scale=order.guidance,
        # Of the CPU: one of a GPU depends on which it is.
        generator=torch.Generator("cpu").manual_seed(seed),
        callback_on_step_end=on_step_end,
    )
    return result.images[0]


def read_image(task, name):
    from PIL import Image, UnidentifiedImageError

    file = next(file for file in task.files if file.name == name)
    if file.bytes > MAX_INIT_BYTES:
        raise gpu.InvalidInput(f'"{name}" is larger than {MAX_INIT_BYTES // 1024 // 1024} MiB')
    try:
        image = Image.open(file.path, formats=("PNG", "JPEG"))
        width, height = image.size
        if not all(0 < side <= MOST_SIDE and side % SIDE_STEP == 0 for side in image.size):
            raise gpu.InvalidInput(f'"{name}" is {width}x{height}: its sides must be multiples of {SIDE_STEP}, up to {MOST_SIDE}')
        # Only now it is decoded.
        return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise gpu.InvalidInput(f'"{name}" is neither a PNG nor a JPEG') from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise gpu.InvalidInput(f'"{name}" is no image that can be read') from error


def png_of(image, model, order, seed):
    """With all in it that makes it again, under the keys that the other engine's images have."""
    from PIL.PngImagePlugin import PngInfo
    import diffusers

    texts = PngInfo()
    texts.add_itxt("parameters", json.dumps(input_for(order, seed), ensure_ascii=False))
    texts.add_itxt("model", model.name)
    texts.add_itxt("Software", f"diffusion-worker with diffusers {diffusers.__version__}")
    png = io.BytesIO()
    image.save(png, format="PNG", pnginfo=texts)
    return png.getvalue()


@contextmanager
def memory_errors():
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise gpu.TaskFailed(str(error), "OUT_OF_MEMORY") from error


if __name__ == "__main__":
    gpu.serve(run, load=load)

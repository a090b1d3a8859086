"""Of diffusers, what the worker asks of it, by the names and parameters that diffusers has: a pipeline of one colour, which depends on all that it is given."""
import hashlib
import os
import time
from types import SimpleNamespace

import torch
from PIL import Image

__version__ = "0"
# How long a step takes.
STEP_SECONDS = float(os.environ.get("STEP_SECONDS", "0"))


class _Scheduler:
    def __init__(self, config):
        self.config = config

    @classmethod
    def from_config(cls, config):
        return cls(config)


class EulerDiscreteScheduler(_Scheduler):
    pass


class EulerAncestralDiscreteScheduler(_Scheduler):
    pass


class DPMSolverMultistepScheduler(_Scheduler):
    pass


class LCMScheduler(_Scheduler):
    pass


class _Pipeline:
    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.num_timesteps = None
        self._is_on_gpu = False

    def to(self, device):
        self._is_on_gpu = device == "cuda"
        return self

    def set_progress_bar_config(self, *, disable):
        pass

    def _paint(self, size, steps, generator, callback_on_step_end, *given):
        if not self._is_on_gpu:
            raise RuntimeError("the weights are not on the GPU")
        if "much" in given[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        self.num_timesteps = steps
        for step in range(steps):
            time.sleep(STEP_SECONDS)
            tensors = callback_on_step_end(self, step, 999 - step, {})
            if not isinstance(tensors, dict):
                raise TypeError("a callback gives its tensors back")
        text = repr((generator.initial_seed(), type(self.scheduler).__name__, steps, *given))
        return SimpleNamespace(images=[Image.of(size, hashlib.sha256(text.encode()).digest()[:3])])


class _FromText(_Pipeline):
    def __call__(self, *, prompt, negative_prompt, width, height, num_inference_steps, guidance_scale, generator, callback_on_step_end):
        return self._paint((width, height), num_inference_steps, generator, callback_on_step_end, prompt, negative_prompt, guidance_scale)


class _FromImage(_Pipeline):
    def __call__(self, *, prompt, negative_prompt, image, strength, num_inference_steps, guidance_scale, generator, callback_on_step_end):
        steps = min(int(num_inference_steps * strength), num_inference_steps)
        if steps < 1:
            raise ValueError("no step is left")
        return self._paint(image.size, steps, generator, callback_on_step_end, prompt, negative_prompt, guidance_scale, image.colour)


class AutoPipelineForText2Image:
    @staticmethod
    def from_pretrained(path, *, torch_dtype, variant, use_safetensors, local_files_only):
        return _FromText(DPMSolverMultistepScheduler({"path": path, "variant": variant}))


class AutoPipelineForImage2Image:
    @staticmethod
    def from_pipe(pipeline):
        return _FromImage(pipeline.scheduler).to("cuda" if pipeline._is_on_gpu else "cpu")

"""Of PyTorch, what the worker for diffusers asks of it."""
import os
from types import SimpleNamespace

float16 = "float16"
cuda = SimpleNamespace(is_available=lambda: os.environ.get("GPU_DEVICE", "") != "")


class OutOfMemoryError(RuntimeError):
    pass


class Generator:
    def __init__(self, device):
        if device != "cpu":
            raise ValueError(device)
        self._seed = None

    def manual_seed(self, seed):
        self._seed = seed
        return self

    def initial_seed(self):
        return self._seed

"""The text, cut into windows."""
import hashlib

import gpu_service_worker as gpu
import torch

from .model import FIRST_BYTE


class Windows:
    """What is trained on is the beginning of the text, what is validated with its end. A window has one token more than the model sees at once."""

    def __init__(self, text, course, device):
        self.sha256 = hashlib.sha256(text).hexdigest()
        self._course = course
        self._device = device
        least = course.context + 1
        held_back = int(len(text) * course.validation)
        if course.validation > 0:
            held_back = max(held_back, least)
        if len(text) - held_back < least:
            both = " for training and as many for validation" if course.validation > 0 else ""
            raise gpu.InvalidInput(f'the text has {len(text)} bytes, and needs "context" + 1 = {least}{both}')
        tokens = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(device)
        self._training, self._validation = tokens[: len(text) - held_back], tokens[len(text) - held_back :]
        self._count = (len(self._training) - 1) // course.context
        self.steps = -(-self._count // course.batch_size)
        self.has_validation = held_back > 0

    def order(self, epoch):
        """Where an epoch's windows begin, in their order. It is drawn from seed and epoch alone: whoever comes to the epoch later finds the same."""
        context, seed = self._course.context, self._course.seed
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        rest = len(self._training) - 1 - self._count * context
        offset = int(torch.randint(rest + 1, (), generator=generator))
        return torch.randperm(self._count, generator=generator) * context + offset

    def batch(self, order, step):
        size = self._course.batch_size
        return self._cut(self._training, order[step * size : (step + 1) * size])

    def validation_batches(self):
        context, size = self._course.context, self._course.batch_size
        starts = torch.arange(0, len(self._validation) - context, context)
        for first in range(0, len(starts), size):
            yield self._cut(self._validation, starts[first : first + size])

    def _cut(self, tokens, starts):
        places = starts[:, None] + torch.arange(self._course.context + 1)
        return tokens[places.to(self._device)].long() + FIRST_BYTE

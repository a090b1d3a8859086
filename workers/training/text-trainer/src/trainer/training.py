"""A training and all that decides how it goes on."""
import math

import gpu_service_worker as gpu
import torch

from .model import Model

CLIP = 1.0
WARM_UP_SHARE = 0.05
WARM_UP_STEPS = 100
LAST_SHARE = 0.1


class Training:
    """Does one step or validation after the other. Between any two of them `state` is all that is needed to go on, with the same numbers to the last bit."""

    def __init__(self, order, size, windows, device):
        self.order = order
        self.size = size
        self.windows = windows
        self.model = Model(size)
        self.model.start(order.course.seed)
        self.model.to(device)
        self._device = device
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=order.learning_rate, betas=(0.9, 0.95))
        # Epochs that are over, and steps of the one after them.
        self.epoch = 0
        self.step = 0
        self.tokens = 0
        self._loss_sum = 0.0
        self._loss_tokens = 0
        # Of each epoch that is over: `epoch`, `loss`, `validation_loss`.
        self.history = []
        self.best_epoch = None
        self._best_weights = None
        self._windows_of = (None, None)

    @property
    def steps_done(self):
        return self.epoch * self.windows.steps + self.step

    @property
    def steps_total(self):
        return self.order.epochs * self.windows.steps

    @property
    def stopped(self):
        """`completed`, `early_stop`, or None: it goes on."""
        patience = self.order.patience
        if patience is not None and self.best_epoch is not None and self.epoch - self.best_epoch >= patience:
            return "early_stop"
        return "completed" if self.epoch >= self.order.epochs else None

    @property
    def is_epoch_trained(self):
        """What is left of the epoch is its validation."""
        return self.step >= self.windows.steps

    def learning_rate(self):
        """Of the next step: it rises at first, and falls as a cosine then."""
        done, total = self.steps_done, self.steps_total
        warm_up = max(1, min(WARM_UP_STEPS, int(total * WARM_UP_SHARE)))
        if done < warm_up:
            return self.order.learning_rate * (done + 1) / warm_up
        way = min(1.0, (done - warm_up) / max(1, total - warm_up))
        return self.order.learning_rate * (LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * way)) / 2)

    def train_step(self):
        """Gives its loss."""
        if self._windows_of[0] != self.epoch:
            self._windows_of = (self.epoch, self.windows.order(self.epoch))
        batch = self.windows.batch(self._windows_of[1], self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._optimizer.zero_grad()
        loss = self.model.loss(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        value = loss.item()
        if not math.isfinite(value):
            # Another attempt would come to the same.
            raise gpu.InvalidInput(f'the loss is {value} at step {self.steps_done + 1}: try a smaller "learning_rate"')
        self._optimizer.step()
        tokens = batch[:, 1:].numel()
        self.tokens += tokens
        self._loss_sum += value * tokens
        self._loss_tokens += tokens
        self.step += 1
        return value

    def end_epoch(self, check):
        """Validates, and begins the next one; gives what there is to say of the epoch. `check` is called often, and may raise."""
        validation_loss = self._validate(check) if self.windows.has_validation else None
        said = {"epoch": self.epoch + 1, "loss": self._loss_sum / self._loss_tokens, "validation_loss": validation_loss}
        self.history.append(said)
        self.epoch, self.step = self.epoch + 1, 0
        self._loss_sum, self._loss_tokens = 0.0, 0
        if self.best_epoch is None or _watched(said) < _watched(self.history[self.best_epoch - 1]) - self.order.min_delta:
            self.best_epoch = self.epoch
            self._best_weights = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        return said

    def best_weights(self):
        """Of the best epoch, on the CPU."""
        return {name: weight.cpu() for name, weight in self._best_weights.items()}

    def state(self):
        return {
            "epoch": self.epoch,
            "step": self.step,
            "tokens": self.tokens,
            "loss_sum": self._loss_sum,
            "loss_tokens": self._loss_tokens,
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_weights": self._best_weights,
            "weights": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def restore(self, state):
        self.start_with(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.tokens = state["epoch"], state["step"], state["tokens"]
        self._loss_sum, self._loss_tokens = state["loss_sum"], state["loss_tokens"]
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        best = state["best_weights"]
        self._best_weights = None if best is None else {name: weight.to(self._device) for name, weight in best.items()}

    def start_with(self, weights):
        self.model.load_state_dict(weights)

    @torch.no_grad()
    def _validate(self, check):
        total, count = 0.0, 0
        for batch in self.windows.validation_batches():
            check()
            tokens = batch[:, 1:].numel()
            total += self.model.loss(batch).item() * tokens
            count += tokens
        return total / count


def _watched(said):
    return said["loss"] if said["validation_loss"] is None else said["validation_loss"]

#!/usr/bin/env python3
"""Trains a small language model on a text."""
import os

import gpu_service_worker as gpu

# More do not make models of this size faster on most machines.
MOST_THREADS = 8


def load(progress):
    progress(0.1, "Importing PyTorch")
    import torch

    device = choose_device(torch)
    threads = os.environ.get("THREADS", "")
    torch.set_num_threads(int(threads) if threads else min(len(os.sched_getaffinity(0)), MOST_THREADS))
    # The optimizer imports a compiler at its first step; here it is a part of loading.
    parameter = torch.nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW([parameter]).step()
    progress(1.0, f"PyTorch {torch.__version__} on {device}")
    return device


def choose_device(torch):
    """Inside a container CUDA counts from 0, whatever GPU_DEVICE says."""
    if not os.environ.get("GPU_DEVICE"):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise gpu.TaskFailed(f"it was given a GPU, and PyTorch {torch.__version__} finds none", "GPU_ERROR")
    # In the units that are made for it, at nearly the precision of a whole one.
    torch.set_float32_matmul_precision("high")
    return torch.device("cuda:0")


def run(task):
    import torch
    from trainer import train

    try:
        return train(task)
    except torch.OutOfMemoryError as error:
        raise gpu.TaskFailed(f"{error} A smaller batch_size or context needs less.", "CUDA_OUT_OF_MEMORY") from error


if __name__ == "__main__":
    gpu.serve(run, load=load)

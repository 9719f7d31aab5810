"""Where models live: on the first GPU that torch sees, otherwise on the CPU. ``CUDA_VISIBLE_DEVICES=`` (empty) hides all GPUs."""

import torch


def here() -> torch.device:
    """The device that models are loaded to and batches are moved to."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

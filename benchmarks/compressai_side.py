"""What the halves of benchmarks that run in CompressAI's environment have in common. It imports nothing of mlic_jax."""

import contextlib


def load_torch(threads: int):
    """PyTorch, with so many threads, such that CompressAI can be imported behind it."""
    import torch

    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        # PyPI's torchvision, a CUDA build, does not load its operators beside a CPU build of PyTorch: declare them.
        # (Where it does, they are there already.) The declarations last as long as the library.
        library = load_torch.library = torch.library.Library("torchvision", "DEF")
        for name in ("nms(Tensor boxes, Tensor scores, float t)", "qnms(Tensor boxes, Tensor scores, float t)"):
            with contextlib.suppress(RuntimeError):
                library.define(f"{name} -> Tensor")
    return torch

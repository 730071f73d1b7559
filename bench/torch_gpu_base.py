"""What the parts of the GPU benchmarks' peer share: where PyTorch computes, and how a call is timed."""

import math
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend

TINY = "--tiny" in sys.argv
DEVICE = "cpu" if TINY else "cuda"
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION,
            "efficient": SDPBackend.EFFICIENT_ATTENTION, "math": SDPBackend.MATH}


def random(*shape, dtype=torch.bfloat16, grad=False, std=1.0):
    return (torch.randn(shape, dtype=dtype, device=DEVICE) * std).requires_grad_(grad)


def seconds(call):
    def batch(calls):
        if TINY:
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls

    batch(1)
    once = batch(1)
    if once >= 1.0:
        return {"seconds": batch(1)}
    calls = max(1, min(1000, math.ceil(20e-3 / once)))
    batch(calls)
    return {"seconds": statistics.median(batch(calls) for _ in range(1 if TINY else 5))}


def compiled(f):
    """torch.compile; on the CPU, where times say nothing, without its last and longest part."""
    return torch.compile(f, dynamic=False, **({"backend": "aot_eager"} if TINY else {}))


def memory():
    """Bytes in use; 0 on the CPU."""
    return 0 if TINY else torch.cuda.memory_allocated()


def reset_peak():
    if not TINY:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks():
    """The most since reset_peak(): taken from the device, and of that in use."""
    if TINY:
        return {}
    return {"peak_MB": torch.cuda.max_memory_reserved() / 1e6, "allocated_MB": torch.cuda.max_memory_allocated() / 1e6}

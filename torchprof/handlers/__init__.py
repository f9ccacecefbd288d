"""What to do with the trace of every cycle: `save` it, or write it for Chrome, as HTML, or for TensorBoard.

A handler is given to `torchprof.profile` as ``on_trace_ready``, as those of ``torch.profiler`` are:

    schedule = torchprof.schedule(wait=98, active=2, repeat=0)
    with torchprof.profile(model, schedule=schedule, on_trace_ready=torchprof.handlers.save("traces")) as prof:
        ...

The files of a cycle are named by its steps, and of several processes by their rank: ``trace.steps98-99.rank3.torchprof``. A
file that is there is never written over: the next one is ``trace.steps98-99-2.rank3.torchprof``.
"""

from torchprof.handlers.each import each
from torchprof.handlers.files import Files, chrome, html, save
from torchprof.handlers.tensorboard import tensorboard

__all__ = ["Files", "chrome", "each", "html", "save", "tensorboard"]

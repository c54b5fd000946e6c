"""An engine in a thread of its own: one for each base model in memory."""

from __future__ import annotations

import logging
import threading
import weakref
from functools import partial

from caikit_pt import ending
from caikit_pt.base_model.loading.memory import free_memory_of
from caikit_pt.base_model.model import BaseModel
from caikit_pt.errors import BackendUnavailable
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.engine import Engine
from caikit_pt.serving.generation import Generation
from caikit_pt.serving.input_tokens import input_tokens
from caikit_pt.serving.request import Request, Token
from caikit_pt.serving.scheduler import KV_BYTES_ON_A_CPU, Limits
from caikit_pt.settings import Settings

_LOG = logging.getLogger(__name__)


class Worker(Backend):
    """Answers requests as they come. It ends when nobody holds it, and with it its base model's last use."""

    def __init__(self, base: BaseModel, limits: Limits) -> None:
        base.serving.prompts.limit(limits.prompt_bytes)
        base.serving.pack()
        base.serving.capture_steps(limits.cuda_graphs)
        self.engine = Engine(base, limits)
        self._wake = wake = threading.Event()
        ending.start(partial(_work, weakref.ref(self.engine), wake), wake.set, "engine")
        # What it is told when nobody holds it is nothing that the interpreter's end has to wait for.
        weakref.finalize(self, wake.set).atexit = False

    def submit(self, request: Request) -> Generation:
        if ending.is_near():
            raise BackendUnavailable("This process is ending, and answers nothing more")
        generation = self.engine.submit(request)
        self._wake.set()
        return generation

    def input_tokens(self, request: Request) -> list[Token]:
        return input_tokens(request, self.engine.base)


def _work(engine: weakref.ref[Engine], wake: threading.Event) -> None:
    while not ending.is_near():
        alive = engine()
        if alive is None:
            return
        busy = alive.busy
        if busy:
            try:
                alive.step()
            except (
                BaseException
            ) as error:  # a defect, or SystemExit; whoever comes next is served nevertheless
                _LOG.exception("the engine failed, and begins anew")
                alive.give_up(error)
        # Held only while there is work: else a base model would never be freed.
        del alive
        if not busy:
            wake.wait()
            wake.clear()
    last = engine()
    if last is not None:
        last.give_up(BackendUnavailable("This process is ending, and answers nothing more"))


def limits(base: BaseModel, settings: Settings) -> Limits:
    """What the worker of `base` may take on, by the settings and by the device."""
    return Limits(
        rows=settings.max_batch_size,
        waiting=settings.max_waiting_requests,
        wait_seconds=settings.max_wait_seconds,
        kv_bytes=settings.kv_cache_mib * 2**20 or _free(base),
        read_positions=settings.max_prefill_tokens,
        attention_bytes=_free(base),
        prompt_bytes=settings.prompt_cache_mib * 2**20,
        cuda_graphs=settings.cuda_graphs,
    )


def _free(base: BaseModel) -> int:
    if base.weights.device.type == "cpu":
        return KV_BYTES_ON_A_CPU
    return free_memory_of(str(base.weights.device)) // 2


_WORKERS: weakref.WeakKeyDictionary[BaseModel, weakref.ref[Worker]] = weakref.WeakKeyDictionary()
# One is started by one thread while others wait; a lock of each base model, so that nobody else does.
_STARTING: weakref.WeakKeyDictionary[BaseModel, threading.Lock] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def worker_for(base: BaseModel, limits: Limits) -> Worker:
    """The one worker of `base`, started with `limits` if there is none yet."""
    with _LOCK:
        starting = _STARTING.setdefault(base, threading.Lock())
    with starting:
        worker = _known(base)
        if worker is None:
            # Whoever asks first tries kernels and batches, in whatever thread that is.
            with ending.waits_for_this():
                worker = Worker(base, limits)
            with _LOCK:
                _WORKERS[base] = weakref.ref(worker)
        return worker


def _known(base: BaseModel) -> Worker | None:
    with _LOCK:
        known = _WORKERS.get(base)
    return known() if known else None


def workers() -> list[Worker]:
    """Those there are now, the oldest first."""
    with _LOCK:
        known = list(_WORKERS.values())
    return [worker for one in known if (worker := one()) is not None]

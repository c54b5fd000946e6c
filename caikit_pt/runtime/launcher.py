"""Starts the server: looks at the settings, quiets what is no news in caikit's log, and waits for the end."""

from __future__ import annotations

import logging
import os

from caikit_pt import settings
from caikit_pt.errors import CaikitPtError, without_excerpts
from caikit_pt.runtime.signals import Signals, leave

_LOG = logging.getLogger(__name__)
# Threads that wait for one another in a product sleep, here and in the processes of jobs. Where other
# processes want the cores, those that spin have been seen to make a training take 35 times as long.
_PATIENT_THREADS = {"OMP_WAIT_POLICY": "PASSIVE"}
# MLflow's client would try one request for four minutes; who tells it of trainings tries again, and says so.
_IMPATIENT_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


def serve() -> None:
    """Until SIGTERM or SIGINT; then the process ends. Raises SystemExit where it can't start."""
    signals = Signals()
    import caikit
    from caikit.core.toolkit.logging import configure

    from caikit_pt.runtime import start_log
    from caikit_pt.runtime.configuration import check
    from caikit_pt.runtime.connections import raise_limit

    os.environ.update({**_PATIENT_THREADS, **_IMPATIENT_REQUESTS, **os.environ})
    try:
        doubtful = [*raise_limit(), *check()]
    except CaikitPtError as error:
        raise SystemExit(f"caikit_pt: {error}") from None
    configure()
    for text in doubtful:
        _LOG.warning(text)
    start_log.quiet()
    # Its import makes what the settings say of threads.
    from caikit_pt.runtime import metrics, tracing
    from caikit_pt.runtime.published import PublishedPrompts
    from caikit_pt.runtime.server import Server

    logging.getLogger("MDLMNG").addFilter(_is_news)
    # caikit takes the manager that there is.
    prompts = PublishedPrompts()
    for channel in ("GT-SERVICR-I", "SERVER-WRAPR"):
        logging.getLogger(channel).addFilter(_without_excerpts)
    try:
        server = Server()
    except CaikitPtError as error:
        raise SystemExit(f"caikit_pt: {error}") from None
    metrics.expose(metrics.metrics_of(server.trainer.store, lambda: len(prompts.loaded_models)))
    trainer = server.trainer
    tracing.begin(settings.current().tracing.endpoint, trainer.store, lambda: trainer.is_first)
    start_log.tell(caikit.get_config(), settings.current())
    signals.serve()
    server.start(blocking=False)
    signals.wait()
    server.drain()
    leave(0)


def _is_news(record: logging.LogRecord) -> bool:
    """caikit takes an id for one that names its trainer; that it doesn't is an error to it, at every poll."""
    return "<COR55057389E>" not in str(record.msg)


def _without_excerpts(record: logging.LogRecord) -> bool:
    """caikit logs what it refuses; what a user has sent isn't for the log."""
    if isinstance(record.msg, dict):
        record.msg = {
            name: without_excerpts(told) if isinstance(told, str) else told
            for name, told in record.msg.items()
        }
    elif isinstance(record.msg, str):
        record.msg = without_excerpts(record.msg)
    return True

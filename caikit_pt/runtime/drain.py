"""How a server ends: whoever has been let in gets an answer, and whoever comes is sent elsewhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from caikit_pt.errors import ServerStopping
from caikit_pt.runtime.guard.door import TRAININGS, WATCHES
from caikit_pt.runtime.guard.guard import Guard
from caikit_pt.runtime.health import Health

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_LOOKS = 0.02
# From the end of the grace period on: who is cut off is told so, and trainings have their ten seconds.
_SECONDS_TO_TELL, _SECONDS_FOR_TRAININGS = 3.0, 12.0


class Drain:
    """Of one server, once."""

    def __init__(
        self, server: Any, guard: Guard, health: Health, end_trainings: Callable[[], object]
    ) -> None:
        self._server, self._guard, self._health = server, guard, health
        self._trainings = threading.Thread(target=end_trainings, name="stopping", daemon=True)

    def run(self, pause: float, grace: float) -> None:
        """Not ready, and for `pause` seconds yet answering, so that those who choose a server notice. Then
        nobody is let in, and what is under way has `grace` seconds. No longer than either is needed."""
        began = time.monotonic()
        _LOG.info("the server ends: not ready any more, new work for %g s yet", pause)
        self._health.drain()
        # They would wait for the next server anyway.
        self._guard.close(TRAININGS, WATCHES)
        self._trainings.start()
        time.sleep(pause)
        # Connections are told that they end (GOAWAY), and the port is closed: clients come to another server.
        self._server.stop(grace + _SECONDS_TO_TELL)
        self._guard.close()
        if not self._is_idle(grace):
            told = f"The server ends, and the {grace:g} seconds are over that answers under way had for it"
            cut = self._guard.cut_off(ServerStopping(told))
            _LOG.warning("%d RPCs were cut off at the end of the grace period", cut)
        self._is_idle(_SECONDS_TO_TELL)
        self._health.close()
        self._server.wait_for_termination(_SECONDS_TO_TELL)
        self._trainings.join(_SECONDS_FOR_TRAININGS)
        _LOG.info("the server has ended within %.1f s", time.monotonic() - began)

    def _is_idle(self, seconds: float) -> bool:
        """Whether nothing is under way any more, after so long at most."""
        deadline = time.monotonic() + seconds
        while self._guard.busy:
            if time.monotonic() > deadline:
                return False
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return True

"""Loads the base models that the setting `preload` names, before the first request needs them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from caikit_pt.base_model.language_model import LanguageModel
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.base_model.loading.libraries import import_libraries
from caikit_pt.errors import CaikitPtError, InvalidParameter
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.backends import backend_for, base_for
from caikit_pt.settings import Settings, as_set

_LOG = logging.getLogger(__name__)
_SECONDS_BETWEEN_TRIES = 10.0


class Preload:
    """Holds them for as long as the server lives: a base model that nobody holds is freed."""

    def __init__(self, now: Settings, on_loaded: Callable[[], object]) -> None:
        """`on_loaded` is called when all of them are there, at once where there are none."""
        self._settings, self._on_loaded = now, on_loaded
        self._held: list[tuple[LanguageModel, Backend]] = []

    def start(self) -> None:
        """In the background, one after the other."""
        if self._settings.preload:
            threading.Thread(target=self._load_all, name="preload", daemon=True).start()
        else:
            self._on_loaded()

    def _load_all(self) -> None:
        import_libraries()
        for name in self._settings.preload:
            began = time.monotonic()
            while not self._has_loaded(name):
                time.sleep(_SECONDS_BETWEEN_TRIES)
            _LOG.info("%s is loaded, in %.1f s", name, time.monotonic() - began)
        self._on_loaded()

    def _has_loaded(self, name: str) -> bool:
        try:
            base = base_for(locate(name, self._settings), self._settings)
            self._held.append((base, backend_for(base, self._settings)))
        except Exception as error:  # whatever it is, it may be mended, and until then the server isn't ready
            foreseen = isinstance(error, CaikitPtError)
            told = "%s can't be loaded, and the server isn't ready: %s"
            _LOG.error(told, name, error, exc_info=not foreseen)
            return False
        return True


def check(now: Settings) -> None:
    """Raises InvalidParameter where a name isn't that of a base model that is there."""
    for name in now.preload:
        try:
            locate(name, now)
        except InvalidParameter as error:
            raise InvalidParameter(as_set("preload"), name, error.allowed) from None

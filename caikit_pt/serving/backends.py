"""Which backend a base model has: who holds its weights answers."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from caikit_pt.base_model.language_model import LanguageModel
from caikit_pt.base_model.loading.checkpoint import Checkpoint
from caikit_pt.base_model.model import BaseModel
from caikit_pt.base_model.pool import shared
from caikit_pt.serving.backend import Backend
from caikit_pt.serving.worker import limits, worker_for
from caikit_pt.settings import Remote, Settings

if TYPE_CHECKING:
    from caikit_pt.serving.vllm_text import VllmModel

_Key = tuple[str, str, Remote]
_REMOTE: weakref.WeakValueDictionary[_Key, VllmModel] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def base_for(checkpoint: Checkpoint, settings: Settings) -> LanguageModel:
    """The one copy of `checkpoint` here; only its text side where the settings name servers for it.

    Raises InvalidParameter where it can't be loaded, BackendUnavailable and BackendMismatch.
    """
    remote = _remote(checkpoint.name, settings)
    return _at(remote, checkpoint, settings) if remote else shared(checkpoint, settings)


def backend_for(base: LanguageModel, settings: Settings) -> Backend:
    """Who answers requests to `base`, which `base_for` or a training has returned."""
    if isinstance(base, BaseModel):
        return worker_for(base, limits(base, settings))
    from caikit_pt.serving.vllm import VllmBackend
    from caikit_pt.serving.vllm_text import VllmModel

    assert isinstance(base, VllmModel)
    return VllmBackend(base, settings.max_waiting_requests)


def servers_asked() -> Iterator[tuple[str, str, bool]]:
    """The servers of all base models that are elsewhere: the model's name, the address, and whether it is
    asked, or has failed and isn't well yet."""
    # The lock is held while servers are asked what they have.
    models = [reference() for reference in _REMOTE.valuerefs()]
    for model in filter(None, models):
        for server in model.text.servers.all:
            yield model.checkpoint.name, server.address, model.text.servers.is_asked(server)


def _remote(name: str, settings: Settings) -> Remote | None:
    """The first entry whose pattern matches the name of a base model (case-insensitive)."""
    for remote in settings.backends:
        if fnmatchcase(name.lower(), remote.base_model.lower()):
            return remote
    return None


def _at(remote: Remote, checkpoint: Checkpoint, settings: Settings) -> VllmModel:
    from caikit_pt.serving.vllm_server import Server
    from caikit_pt.serving.vllm_servers import Servers
    from caikit_pt.serving.vllm_text import VllmModel, VllmText

    key = (str(checkpoint.directory), checkpoint.fingerprint, remote)
    with _LOCK:
        model = _REMOTE.get(key)
        if model is None:
            servers = [Server(one, remote.model, settings.max_wait_seconds) for one in remote.vllm]
            model = VllmModel(VllmText(checkpoint, Servers(servers)))
            # Where none can be reached, or one has other models, that shows now.
            _ = model.text.context_length
            _REMOTE[key] = model
        return model

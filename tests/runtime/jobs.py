"""A job for tests that train nothing."""

from __future__ import annotations

from typing import Any

from caikit_pt.runtime.job import Job


def job(id: str, digest: str = "d", **parameters: Any) -> Job:
    known = {"base_model": "b", "torch_dtype": "float32", "device": "cpu", "origins": {}, **parameters}
    return Job(id=id, model_name=id, path=f"/models/{id}", digest=digest, parameters=known, submitted=1.0)

"""A server that speaks S3, on this machine, with a bucket in it: it can be frozen and let go again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from examples.local_server import free_port

_SECONDS_TO_START = 60.0
_BUCKET = "trainings"


class S3Server:
    """`address`: of the bucket; `environment`: what finds it there, with credentials."""

    def __init__(self, log: Path) -> None:
        port = free_port()
        self.address = f"s3://{_BUCKET}"
        self.environment: Mapping[str, str] = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "somebody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                stdout=output,
                stderr=output,
                env={**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": f"http://127.0.0.1:{port}"},
            )
        self._make_bucket()

    def freeze(self) -> None:
        """It answers nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It answers all who have asked, and still wait."""
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """It ends."""
        self._process.kill()
        self._process.wait()

    def _make_bucket(self) -> None:
        import boto3  # type: ignore[import-not-found, import-untyped, unused-ignore]

        names = {"aws_access_key_id": "AWS_ACCESS_KEY_ID", "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY"}
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_DEFAULT_REGION"],
            **{name: self.environment[variable] for name, variable in names.items()},
        )
        deadline = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                client.create_bucket(Bucket=_BUCKET)
                return
            except Exception:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """For so long."""
    with TemporaryDirectory(prefix="s3-") as directory:
        made = S3Server(Path(directory, "log"))
        try:
            yield made
        finally:
            made.thaw()
            made.close()

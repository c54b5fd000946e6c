"""What is so of jobs in processes of the server is so of those on a Ray cluster: the same tests.

`make cluster` does all of it; `make test` has what takes no minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from tests.runtime.executors.ray_nodes import ray_nodes
from tests.runtime.test_jobs import (
    test_a_crash_is_a_reason_on_its_job_and_on_nothing_else,
    test_a_database_that_is_locked_for_a_while_harms_no_job,
    test_a_full_disk_delays_a_publication,
    test_a_full_disk_refuses_jobs_and_loses_none,
    test_a_job_is_cancelled_at_any_moment,
    test_a_job_is_served_as_soon_as_it_is_complete,
    test_a_paused_training_outlives_the_server,
    test_a_queued_and_a_running_job_are_cancelled,
    test_a_slow_and_a_vanished_watcher_cost_nothing,
    test_a_training_that_is_paused_ends_with_the_same_bits,
    test_events_are_replayed_from_any_point,
    test_every_job_survives_kills_bit_for_bit,
    test_many_jobs_are_queued_and_remembered,
    test_training_a_name_again_replaces_it_while_it_is_asked,
    test_without_its_database_a_server_has_its_jobs_from_their_folders,
)

__all__ = [
    "test_a_crash_is_a_reason_on_its_job_and_on_nothing_else",
    "test_a_database_that_is_locked_for_a_while_harms_no_job",
    "test_a_full_disk_delays_a_publication",
    "test_a_full_disk_refuses_jobs_and_loses_none",
    "test_a_job_is_cancelled_at_any_moment",
    "test_a_job_is_served_as_soon_as_it_is_complete",
    "test_a_paused_training_outlives_the_server",
    "test_a_queued_and_a_running_job_are_cancelled",
    "test_a_slow_and_a_vanished_watcher_cost_nothing",
    "test_a_training_that_is_paused_ends_with_the_same_bits",
    "test_events_are_replayed_from_any_point",
    "test_every_job_survives_kills_bit_for_bit",
    "test_many_jobs_are_queued_and_remembered",
    "test_training_a_name_again_replaces_it_while_it_is_asked",
    "test_without_its_database_a_server_has_its_jobs_from_their_folders",
]
pytest.importorskip("ray", reason="needs the extra ray")


@pytest.fixture(scope="module")
def executor() -> Iterator[Mapping[str, object]]:
    """A node that has room for one of them, as a server of its own has."""
    with ray_nodes(1) as nodes:
        yield {"EXECUTOR_KIND": "ray", "EXECUTOR_ADDRESS": nodes.address}

"""What `make test` leaves out, to be done in minutes, and `make whole` has."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence

import pytest

WHOLE = os.environ.get("WHOLE") == "1"
_LEFT_OUT = pytest.mark.skip(reason="`make whole` has it")
# Of the parameters of a test, those that `make test` has; of one that has none, nothing.
KEPT: dict[str, tuple[str, ...]] = {
    "device/test_decode.py::test_the_host_waits_once_a_step": ("tiny-t5", "gemma3"),
    "device/test_decode.py::test_answers_of_families_are_those_of_a_cpu": ("gpt2", "gemma3", "bart"),
    "device/test_decode.py::test_captured_steps_give_the_same_answers": ("tiny-t5", "gemma3"),
    "device/test_decode.py::test_what_is_captured_wrong_is_taken_plainly": (
        "tiny-llama-WrongStep",
        "tiny-t5-RefusedStep",
    ),
    "device/test_on_device.py::test_a_training_that_is_judged_is_that_of_a_cpu": (
        "tiny-llama-search",
        "tiny-t5-labels",
    ),
    "device/test_on_device.py::test_a_source_training_is_that_of_a_cpu": ("tiny-t5",),
    "device/test_on_device.py::test_a_training_that_was_interrupted_goes_on_there": (
        "tiny-llama-plain",
        "tiny-t5-adafactor",
    ),
    # What is so whatever the shapes of steps are has all families.
    "numerics/test_growing_batches.py::test_a_row_is_what_it_is_alone_where_steps_have_few_shapes": (
        "llama-DECODER",
        "bloom-DECODER",
        "gemma3-DECODER",
        "mixtral-DECODER",
        "phi3_longrope-DECODER",
        "t5-ENCODER",
        "t5-DECODER",
        "bart-ENCODER-DECODER",
        "umt5-ENCODER-DECODER",
    ),
    "tuning/test_search.py::test_the_first_candidate_trains_in_company_as_it_does_alone": ("tiny-llama",),
    "tuning/test_search.py::test_a_candidate_that_diverges_is_dropped": ("tiny-llama",),
    "tuning/test_search.py::test_when_nearly_all_diverge_one_is_enough_and_none_is_an_error": (
        "tiny-llama-1",
        "tiny-t5-0",
    ),
    "tuning/test_choice.py::test_the_best_prompt_is_kept_and_not_the_last": (
        "tiny-llama-PROMPT_TUNING",
        "tiny-llama-residual",
        "tiny-t5-MULTITASK_PROMPT_TUNING",
    ),
    "tuning/test_snapshot.py::test_it_goes_on_from_anywhere": (
        "tiny-llama-plain",
        "tiny-llama-multitask",
        "tiny-llama-search",
        "tiny-t5-residual",
        "tiny-t5-adafactor",
        "tiny-t5-early",
    ),
    "tuning/test_snapshot.py::test_it_goes_on_again_and_again": ("tiny-llama-search", "tiny-t5-plain"),
    "tuning/test_source_tuner.py::test_it_goes_on_from_anywhere": (
        "tiny-llama-alone",
        "tiny-llama-stopping",
        "tiny-t5-ranks",
        "tiny-t5-taught",
    ),
    "tuning/test_source_tuner.py::test_the_same_seed_has_the_same_bits": ("ranks", "taught"),
    "tuning/test_source_tuner.py::test_teachers_are_what_they_would_be_alone": (
        "tiny-llama-taught",
        "tiny-t5-stopping",
    ),
    "tuning/test_source_trial.py::test_it_goes_on_from_anywhere_in_a_trial": ("t5",),
    "tuning/test_source_trial.py::test_it_is_counted_in_the_updates_that_are_made": ("llama",),
    "tuning/test_crew.py::test_a_worker_that_dies_at_any_update_changes_no_bit": (
        "tiny-llama-who comes back-before its share",
        "tiny-llama-who stays away-behind its share",
        "tiny-t5-who comes back-behind its share",
    ),
    "tuning/test_crew.py::test_a_source_training_is_shared_too": ("tiny-t5-ranks",),
    "tuning/test_crew.py::test_processes_that_meet_do_what_one_does_alone": ("tiny-llama-3", "tiny-t5-5"),
    "tuning/test_search.py::test_a_search_costs_less_than_three_trainings": ("classification-2.67",),
    "tuning/test_crew.py::test_every_kind_of_training_is_that_of_one_worker": (
        "tiny-llama-plain",
        "tiny-llama-search",
        "tiny-t5-multitask",
        "tiny-t5-early",
    ),
    # Of what can become of a server among others, the shortest.
    "runtime/test_sharing.py::test_a_training_that_takes_each_server_along_ends": (),
    "runtime/test_sharing.py::test_a_server_that_stood_still_spoils_nothing": (),
    "runtime/test_sharing.py::test_a_server_that_is_cut_off_gives_up_and_comes_again": (),
    "runtime/test_sharing.py::test_all_wait_for_a_database_that_is_away": (),
    "runtime/test_sharing.py::test_no_job_is_lost_whatever_becomes_of_whom": (),
    # Two nodes are what two processes of one are, but for how torchrun lets them meet.
    "tuning/test_launched.py::test_each_of_two_nodes_gets_the_prompt": (),
    # Of workers, what becomes of the helpers and of their leader is in tests/tuning/test_crew.py, too.
    "runtime/test_workers.py::test_a_helper_that_is_killed_and_who_leads_change_no_bit": (),
    "runtime/test_workers.py::test_none_is_left_of_a_server_that_was_killed": (),
    # What a store between server and nodes does to a run is in test_exchange.py, and in test_kubernetes.py on
    # a real server; deaths of processes, servers and jobs in the tests of jobs and of several servers.
    "runtime/executors/test_ray_exchange.py::test_it_goes_on_elsewhere_when_its_node_dies": (),
    # A helper on another node is in tests/runtime/test_workers.py, without Ray.
    "runtime/executors/test_ray.py::test_nodes_share_a_training_and_one_that_dies_changes_no_bit": (),
    "runtime/executors/test_ray.py::test_it_ends_with_the_bits_of_a_training_here": (),
    "runtime/executors/test_ray.py::test_what_a_frozen_node_does_later_counts_for_nothing": (),
    "runtime/executors/test_ray.py::test_it_goes_on_without_its_server": (),
    "runtime/executors/test_ray.py::test_it_is_paused_resumed_and_cancelled": (),
    "runtime/executors/test_ray.py::test_a_gpu_has_to_have_the_memory": (),
    "runtime/executors/test_ray.py::test_no_job_is_lost_whatever_dies": (),
    "runtime/executors/test_ray_exchange.py::test_it_ends_with_the_bits_of_a_training_here": (),
    "runtime/executors/test_ray_exchange.py::test_it_goes_on_without_its_server": (),
    "runtime/executors/test_ray_exchange.py::test_a_store_that_is_away_ends_nothing": (),
    "runtime/executors/test_ray_exchange.py::test_what_a_frozen_node_does_later_counts_for_nothing": (),
    "runtime/executors/test_ray_exchange.py::test_it_is_paused_resumed_and_cancelled": (),
    "runtime/executors/test_kubernetes.py::test_helpers_are_jobs_and_call_where_a_store_says": (),
    "runtime/executors/test_kubernetes.py::test_what_kueue_has_not_let_begin_waits": (),
    "runtime/executors/test_kubernetes.py::test_a_cluster_that_is_away_begins_nothing_and_comes_back": (),
    # A damaged database, and what an earlier server has left, are in two other files, too.
    "runtime/test_jobs.py::test_without_its_database_a_server_has_its_jobs_from_their_folders": (),
    "runtime/test_jobs.py::test_a_crash_is_a_reason_on_its_job_and_on_nothing_else": ("11",),
    # Of a watch on a server that ends and comes again there is one more, of the command line.
    "runtime/test_drain.py::test_a_training_goes_on_after_the_end_and_its_watchers_are_told": (),
    "runtime/test_drain.py::test_a_second_signal_ends_it_at_once": ("15",),
    "runtime/test_leftovers.py::test_nothing_stays": (
        "unary-done",
        "unary-killed",
        "stream-cancelled",
        "stream-deadline",
        "watch-bad",
        "watch-overload",
    ),
    "runtime/test_rolling.py::test_a_client_that_chooses_by_the_prompt_loses_nothing": (),
    "runtime/executors/test_exchange.py::test_whatever_is_interrupted_all_of_it_comes": (
        "file-True",
        "s3-False",
    ),
    # Of a source training that is ended and goes on there is one in a server, too (test_source_jobs.py).
    "test_source_training.py::test_it_goes_on_after_ctrl_c_and_kill": (),
    "test_endings.py::test_a_script_that_ends_ends_well": (
        "others wait for answers-tiny-llama",
        "a training runs in a thread-tiny-llama",
        "a stream is open-tiny-t5",
    ),
    "test_service.py::test_every_combination_is_tuned_and_served": (
        "PROMPT_TUNING-tiny-llama",
        "MULTITASK_PROMPT_TUNING-tiny-t5",
    ),
    "test_service.py::test_source_prompts_are_found_by_name_and_by_default": (
        "tiny-llama-AVERAGE_SOURCE",
        "tiny-llama-ONLY_SOURCE_SHARED",
        "tiny-t5-AVERAGE_SOURCE_TASKS",
    ),
}
# Their tests are those of another file, elsewhere: `make test` has none of them.
ELSEWHERE = ("runtime/executors/test_jobs_on_ray.py",)


def leave_out(items: Sequence[pytest.Item]) -> None:
    """Skips what the table above hasn't got, unless all is wanted."""
    for item in () if WHOLE else items:
        name, parameters = named(item)
        if name.partition("::")[0] in ELSEWHERE or parameters not in KEPT.get(name, (parameters,)):
            item.add_marker(_LEFT_OUT)


def unknown(items: Sequence[pytest.Item]) -> list[str]:
    """What the table keeps of tests that are among `items`, and isn't there: it would keep nothing."""
    found = defaultdict[str, set[str]](set)
    for name, parameters in map(named, items):
        found[name].add(parameters)
    return [f"{name}[{one}]" for name in found for one in KEPT.get(name, ()) if one not in found[name]]


def named(item: pytest.Item) -> tuple[str, str]:
    """The name of a test, from tests/ on, and its parameters."""
    name, _, parameters = item.nodeid.removesuffix("]").partition("[")
    return name.removeprefix("tests/"), parameters

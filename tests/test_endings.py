"""Programs that simply end, with work under way or just done: exit code 0, at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from examples.local_server import ROOT

PREAMBLE = """
import sys, time
from caikit.core.data_model import DataStream
import caikit_pt
from caikit_pt import GenerationTrainRecord, PeftPromptTuning, TuningConfig
records = [GenerationTrainRecord(input=f"the lamp is {mood}", output=mood) for mood in ("good", "bad")]
def tuned(name, num_epochs=1):
    base = caikit_pt.load_base_model(f"examples/base_models/{name}")
    config = TuningConfig(num_virtual_tokens=4)
    stream = DataStream.from_iterable(records)
    return PeftPromptTuning.train(base, stream, config, num_epochs=num_epochs, silence_progress_bars=True)
many = dict(max_new_tokens=400, min_new_tokens=400)
"""
ENDS = {
    "a stream is open": """
        stream = iter(tuned(NAME).run_stream_out("the lamp", **many))
        next(stream)
        """,
    "many streams are open": """
        model = tuned(NAME)
        streams = [iter(model.run_stream_out(f"the lamp {number}", **many)) for number in range(20)]
        [next(stream) for stream in streams]
        """,
    "answers have come": """
        model = tuned(NAME)
        [model.run("the lamp", max_new_tokens=2) for _ in range(50)]
        """,
    "others wait for answers": """
        import threading
        model = tuned(NAME)
        for _ in range(8):
            threading.Thread(target=model.run, args=["the lamp"], kwargs=many, daemon=True).start()
        time.sleep(0.3)
        """,
    "sys.exit": """
        stream = iter(tuned(NAME).run_stream_out("the lamp", **many))
        next(stream)
        sys.exit()
        """,
    "a training runs in a thread": """
        import threading
        threading.Thread(target=tuned, args=[NAME], kwargs={"num_epochs": 500}, daemon=True).start()
        time.sleep(4)
        """,
    "a model is loaded in a thread": """
        import threading
        from caikit_pt.base_model.loading.libraries import import_libraries
        from caikit_pt.base_model.trials import answers
        import_libraries()
        check, begun = answers.check_answers, threading.Event()
        answers.check_answers = lambda serving: [begun.set(), *(check(serving) for _ in range(20))]
        threading.Thread(target=tuned, args=[NAME], daemon=True).start()
        begun.wait()
        """,
    "a last wish": """
        import atexit
        model = tuned(NAME)
        # It would be done before what caikit_pt does there, had it been registered first.
        import caikit_pt.ending
        caikit_pt.ending._ENDING.set()
        try:
            model.run("the lamp")
        except Exception as error:
            assert "This process is ending" in str(error)
        else:
            raise AssertionError("it was answered")
        """,
    "two models are at work": """
        models = [tuned("tiny-llama"), tuned("tiny-t5")]
        streams = [iter(model.run_stream_out("the lamp", **many)) for model in models]
        [next(stream) for stream in streams]
        """,
}


@pytest.mark.parametrize(
    ("end", "name"), [*((end, "tiny-llama") for end in ENDS), ("a stream is open", "tiny-t5")]
)
def test_a_script_that_ends_ends_well(end: str, name: str) -> None:
    code = PREAMBLE + f"NAME = {name!r}\n" + textwrap.dedent(ENDS[end])
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr[-2000:]
    assert "terminate" not in ended.stderr
    assert "AssertionError" not in ended.stderr


def test_an_exception_still_shows() -> None:
    stream = textwrap.dedent(ENDS["a stream is open"])
    code = f"{PREAMBLE}NAME = 'tiny-t5'\n{stream}\nraise KeyError('mine')"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.strip().endswith("KeyError: 'mine'")

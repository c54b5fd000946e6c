"""Tuned prompts, source prompts and base models with something evil in them, put where the server looks."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import grpc
import numpy as np
import torch

from attacks.attack import DAMAGED, REFUSED, UNKNOWN, Attack
from attacks.target import GOOD, LLAMA, T5, Target
from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.client import ServerError
from caikit_pt.errors import InvalidParameter
from caikit_pt.settings import Settings
from caikit_pt.soft_prompt.source import SourcePrompt, UnusableSource
from caikit_pt.soft_prompt.source_library import SourceLibrary, read_path

Change = Callable[[Path], object]


class _Runs:
    """Unpickled, it makes a directory that the attack finds."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self._place,)


def _tensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with any header, whose length may be a lie."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _prompt(rows: int, width: int, value: float = 0.5, dtype: str = "F32", name: str = "prompt") -> bytes:
    content = np.full((rows, width), value, np.float32).tobytes()
    told = {name: {"dtype": dtype, "shape": [rows, width], "data_offsets": [0, len(content)]}}
    return _tensors(told, content)


def _config(text: str) -> Change:
    return lambda folder: (folder / "config.yml").write_text(text, "utf-8")


def _replaced(old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        file = folder / "config.yml"
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")

    return change


def _decoder(content: bytes) -> Change:
    return lambda folder: (folder / "decoder.safetensors").write_bytes(content)


def _pickled(folder: Path) -> None:
    (folder / "decoder.pt").write_bytes(pickle.dumps({"prompt": _Runs(str(folder.parent.parent / "ran"))}))
    _replaced("decoder.safetensors", "decoder.pt")(folder)


def _linked(name: str, to: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(to)

    return change


def _fifo(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


def _bomb(head: str) -> str:
    """Of nine lines, each with nine times the last."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return head + "\n".join(lines) + "\n"


EVIL = pickle.dumps(_Runs("ran"))
HEAD = "module_id: 6655831b-960a-4dc5-8df4-867026e2cd41\n"
DATA = {"dtype": "F32", "shape": [4, 4]}
OF_PROMPTS: dict[str, Change] = {
    "a pickle that runs something": _pickled,
    "a header of 2**60 bytes": _decoder(_tensors(b"{}", length=2**60)),
    "a header that is longer than its file": _decoder(_tensors(b"{}", length=2**20)),
    "a header that is no JSON": _decoder(_tensors(b"\xff\xfe{")),
    "a header of nested lists": _decoder(_tensors(b"[" * 100_000)),
    "data beyond the end": _decoder(_tensors({"prompt": {**DATA, "data_offsets": [0, 2**40]}})),
    "data before the beginning": _decoder(_tensors({"prompt": {**DATA, "data_offsets": [-64, 0]}})),
    "a shape beyond all numbers": _decoder(
        _tensors({"prompt": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}, b"\0" * 16)
    ),
    "a shape of nothing": _decoder(_prompt(0, 160)),
    "tensors over one another": _decoder(
        _tensors({name: {**DATA, "data_offsets": [0, 64]} for name in ("prompt", "b")}, b"\0" * 64)
    ),
    "a type that there isn't": _decoder(_prompt(4, 160, dtype="F1024")),
    "no tensor of that name": _decoder(_tensors({"other": {**DATA, "data_offsets": [0, 64]}}, b"\0" * 64)),
    "NaN": _decoder(_prompt(4, 160, float("nan"))),
    "infinity": _decoder(_prompt(4, 160, float("inf"))),
    "another width": _decoder(_prompt(4, 33)),
    "a file that is cut off": lambda folder: os.truncate(folder / "decoder.safetensors", 100),
    "an empty file": _decoder(b""),
    "a FIFO": _fifo("decoder.safetensors"),
    "a FIFO for a config": _fifo("config.yml"),
    "a device": _linked("decoder.safetensors", "/dev/zero"),
    "a device for a config": _linked("config.yml", "/dev/zero"),
    "a process": _linked("config.yml", "/proc/self/environ"),
    "a link out": _linked("decoder.safetensors", "/etc/passwd"),
    "a path out": _replaced("decoder.safetensors", "../../outside/secret.jsonl"),
    "a path to anywhere": _replaced("decoder.safetensors", "/etc/passwd"),
    "another base model": _replaced(LLAMA, T5),
    "a base model out": _replaced(f"base_model_name: {LLAMA}", "base_model_name: ../../etc"),
    "a bomb of YAML": _config(_bomb(HEAD)),
    "YAML that makes an object": _config(HEAD + "a: !!python/object/apply:os.mkdir [ran]\n"),
    "YAML without an end": _config(HEAD + "a: " + "[" * 50_000),
    "an empty config": _config(""),
    "a config that is no mapping": _config("- a\n- b\n"),
    "a config of bytes": lambda folder: (folder / "config.yml").write_bytes(HEAD.encode() + b"\xff\xfe\0"),
    "a config of 64 MiB": _config(HEAD + "a: " + "x" * 2**26),
    "a module of another library": _config("module_id: 00110203-0405-0607-0809-0a0b02dd0e0f\n"),
    "a format of the future": _replaced("format_version: 2", "format_version: 1000000"),
}


def _of_prompt(what: str, change: Change) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        folder = target.models / ("evil-" + "".join(filter(str.isalnum, what)))
        shutil.copytree(target.models / GOOD, folder)
        change(folder)
        return target.raw.predict(folder.name, "hello", max_new_tokens=1)

    return act


def _linked_folder(to: Callable[[Target], Path]) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        place = target.models / f"link-{to(target).name}"
        place.symlink_to(to(target))
        return target.raw.predict(place.name, "hello")

    return act


def _zip_bomb(target: Target) -> object:
    with zipfile.ZipFile(target.models / "bomb", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.yml", HEAD + "a: " + "0" * 2**26)
    return target.raw.predict("bomb", "hello")


def _swapped(target: Target) -> object:
    """A link that points in, and then out, while it is asked again and again."""
    place, other = target.models / "swapped", target.models / ".other"
    for number in range(200):
        other.unlink(missing_ok=True)
        other.symlink_to(target.models / GOOD if number % 2 else target.outside / "model")
        os.replace(other, place)
        if number % 2 == 0:
            # Whichever of both it was.
            with suppress(grpc.RpcError):
                target.raw.predict("swapped", "hello", max_new_tokens=1)
    place.unlink()
    return target.raw.predict("swapped-away", "hello")


def _of_source(file: str, content: bytes) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        (target.sources / file).write_bytes(content)
        config = {
            "prompt_tuning_init_method": "AVERAGE_SOURCE",
            "prompt_tuning_init_source_model": file,
        }
        return target.submit(
            base_model=T5, tuning_type="MULTITASK_PROMPT_TUNING", tuning_config=config, num_epochs=1
        )

    return act


def _array(header: str, data: bytes = b"") -> bytes:
    """A file of numpy with any header."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _of_bundle(what: str, change: Change) -> Callable[[Target], object]:
    """A published source prompt that is changed, shown and then asked for by a training."""

    def act(target: Target) -> object:
        name = "evil-" + "".join(filter(str.isalnum, what))
        checkpoint = locate(T5, Settings(base_models_dir=str(target.base_models)))
        source = SourcePrompt("", torch.ones(4, checkpoint.hidden_size))
        SourceLibrary(target.sources).publish(name, source, checkpoint)
        change(target.sources / name / "1")
        # In a list it is one of many.
        assert any(source.name.startswith(name) for source in target.client.sources())
        with suppress(ServerError):
            target.client.source(name)
            raise AssertionError("it is shown")
        config = {
            "prompt_tuning_init_method": "AVERAGE_SOURCE",
            "prompt_tuning_init_source_model": name,
        }
        return target.submit(
            base_model=T5, tuning_type="MULTITASK_PROMPT_TUNING", tuning_config=config, num_epochs=1
        )

    return act


def _manifest(content: bytes) -> Change:
    return lambda folder: (folder / "manifest.json").write_bytes(content)


def _told(**fields: object) -> Change:
    def change(folder: Path) -> None:
        file = folder / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return change


def _lying(content: bytes) -> Change:
    """Another file of tensors, and a manifest that has its SHA-256."""

    def change(folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_bytes(content)
        _told(sha256=f"sha256:{hashlib.sha256(content).hexdigest()}")(folder)

    return change


OF_BUNDLES: dict[str, Change] = {
    "a manifest that is a device": _linked("manifest.json", "/dev/zero"),
    "a manifest that is a process": _linked("manifest.json", "/proc/self/environ"),
    "a manifest that is a FIFO": _fifo("manifest.json"),
    "a manifest without an end": _manifest(b"[" * 1_000_000),
    "a manifest of nested objects": _manifest(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "a manifest of 64 MiB": _manifest(b'{"format_version": 1, "x": "' + b"x" * 2**26 + b'"}'),
    "a number of 10**6 digits": _manifest(b'{"format_version": ' + b"9" * 10**6 + b"}"),
    "a name that leads out": _told(base_model=["../../etc"]),
    "a name that a terminal obeys": _told(base_model="\x1b]0;evil\x07"),
    "10**15 tokens": _told(num_virtual_tokens=10**15),
    "tasks that are numbers": _told(tasks=[1] * 100),
    "tensors that are a device": _linked("adapter_model.safetensors", "/dev/zero"),
    "tensors that are a FIFO": _fifo("adapter_model.safetensors"),
    "tensors that lead out": _linked("adapter_model.safetensors", "/etc/passwd"),
    "a pickle for tensors": _lying(EVIL),
    "a lying header": _lying(_tensors(b"{}", length=2**60)),
    "a shape beyond all numbers": _lying(
        _tensors({"prompt_embeddings": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}})
    ),
    "NaN": _lying(_prompt(4, 128, float("nan"), name="prompt_embeddings")),
    "a config of peft that is a device": _linked("adapter_config.json", "/dev/zero"),
}
OF_ARRAYS: dict[str, bytes] = {
    "objects": _array("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1), }", EVIL),
    "more than there is room for": _array(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
    ),
    "a header that calls": _array("__import__('os').mkdir('ran')"),
    "a header without an end": _array("(" * 60_000),
    "a pickle": EVIL,
}


def _of_array(content: bytes) -> Callable[[Target], object]:
    """Published at a command line, on the machine of the server."""

    def act(target: Target) -> object:
        (target.directory / "records" / "evil.npy").write_bytes(content)
        try:
            return read_path(target.directory / "records" / "evil.npy")
        except UnusableSource as error:
            raise InvalidParameter("source", "evil.npy", str(error)) from error

    return act


def _of_base_model(what: str, change: Change) -> Callable[[Target], object]:
    def act(target: Target) -> object:
        folder = target.base_models / ("evil-" + "".join(filter(str.isalnum, what)))
        shutil.copytree(target.base_models / LLAMA, folder)
        change(folder)
        return target.submit(base_model=folder.name)

    return act


def _remote_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(folder.parent.parent / 'ran')!r})\n")


def _pickled_weights(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        file.unlink()
    place = str(folder.parent.parent / "ran")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": _Runs(place)}))


def _huge(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "num_hidden_layers": 10**9, "hidden_size": 10**9})
    )


def _backtracking(target: Target) -> object:
    """A tokenizer whose expression tries every way to cut a text."""
    folder = target.base_models / "backtracking"
    shutil.copytree(target.base_models / LLAMA, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [split, *filter(None, [tokenizer.get("pre_tokenizer")])],
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    records = [{"input": "a" * 100 + "!", "output": "good"}] * 8
    return target.submit(base_model="backtracking", train_stream={"jsondata": {"data": records}})


ATTACKS = [
    *(Attack(f"prompt: {what}", _of_prompt(what, change), DAMAGED) for what, change in OF_PROMPTS.items()),
    Attack("prompt: a folder outside", _linked_folder(lambda target: target.outside / "model"), UNKNOWN),
    Attack("prompt: the root", _linked_folder(lambda _: Path("/etc")), UNKNOWN),
    Attack("prompt: a loop of links", _linked_folder(lambda target: target.models / "link-loop"), UNKNOWN),
    Attack("prompt: an archive that swells", _zip_bomb, UNKNOWN),
    Attack("prompt: a link that changes", _swapped, UNKNOWN, seconds=60),
    Attack("source: a pickle", _of_source("evil.bin", EVIL)),
    Attack("source: a lying header", _of_source("a.safetensors", _tensors(b"{}", length=2**60))),
    Attack("source: NaN", _of_source("b.safetensors", _prompt(100, 128, float("nan")))),
    Attack("source: another width", _of_source("c.safetensors", _prompt(100, 33))),
    *(Attack(f"bundle: {what}", _of_bundle(what, change)) for what, change in OF_BUNDLES.items()),
    *(Attack(f"array: {what}", _of_array(content)) for what, content in OF_ARRAYS.items()),
    Attack("base model: code of its own", _of_base_model("code", _remote_code)),
    Attack("base model: pickled weights", _of_base_model("pickle", _pickled_weights)),
    Attack("base model: 10**9 layers", _of_base_model("huge", _huge)),
    Attack("base model: a tokenizer that backtracks", _backtracking, REFUSED),
    *(
        Attack(f"base model: a FIFO for {name}", _of_base_model(f"fifo-{name}", _fifo(name)))
        for name in ("config.json", "generation_config.json", "tokenizer.json", "model.safetensors")
    ),
    Attack("base model: a device", _of_base_model("device", _linked("model.safetensors", "/dev/zero"))),
]

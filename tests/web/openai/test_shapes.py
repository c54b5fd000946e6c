"""Small things in OpenAI's shapes: tokens as text, templates, pages, names."""

from __future__ import annotations

from typing import Any

import pytest

from caikit_pt.paths import check_plain_name
from caikit_pt.web.openai.fields import Fields
from caikit_pt.web.openai.jobs import model_name
from caikit_pt.web.openai.pages import Page
from caikit_pt.web.openai.pieces import Spelling
from caikit_pt.web.openai.template import rendered
from caikit_pt.web.refusal import Refused

USER = [{"role": "user", "content": "Hello"}]


# ---- tokens ----


def test_a_spelling_is_seen_in_a_few_tokens() -> None:
    assert Spelling.of(["▁a", "▁b"]) is Spelling.SENTENCE_PIECE
    assert Spelling.of(["a", "Ġb"]) is Spelling.BYTES
    assert Spelling.of(["a", "b"]) is Spelling.PLAIN


@pytest.mark.parametrize(
    ("spelling", "piece", "text"),
    [
        (Spelling.SENTENCE_PIECE, "▁good", " good"),
        (Spelling.SENTENCE_PIECE, "<0x0A>", "\n"),
        (Spelling.SENTENCE_PIECE, "<0xC3>", "bytes:\\xc3"),
        (Spelling.SENTENCE_PIECE, "é", "é"),
        (Spelling.SENTENCE_PIECE, "</s>", "</s>"),
        (Spelling.BYTES, "Ġgood", " good"),
        (Spelling.BYTES, "Ċ", "\n"),
        (Spelling.BYTES, "Ã©", "é"),
        (Spelling.BYTES, "Ã", "bytes:\\xc3"),
        (Spelling.BYTES, "<\uff5cend>", "<\uff5cend>"),
        (Spelling.PLAIN, "good", "good"),
    ],
)
def test_a_token_is_the_text_that_it_stands_for(spelling: Spelling, piece: str, text: str) -> None:
    assert spelling.text(piece) == text


def test_gpt2s_bytes_are_those_of_transformers() -> None:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    for byte, character in bytes_to_unicode().items():  # type: ignore[no-untyped-call]
        assert Spelling.BYTES.bytes(character) == bytes([byte])


# ---- templates ----


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}",
        "{%- for m in messages -%}\n    {%- if loop.index0 > 5 -%}{%- break -%}{%- endif -%}\n"
        "    {% generation %}{{ m['content'] | trim | tojson }}{% endgeneration %}\n{%- endfor -%}",
        "{% set ns = namespace(found=false) %}{% for m in messages %}{% set ns.found = true %}{% endfor %}"
        "{{ bos_token }}{{ ns.found }}{{ messages | tojson(indent=2) }}",
    ],
)
def test_a_template_is_rendered_as_transformers_does(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "system", "content": " <b>Be & short</b> "}, *USER]
    special: Any = {"bos_token": "<s>", "eos_token": "</s>"}
    expected: Any = render_jinja_template(
        conversations=[messages], chat_template=template, add_generation_prompt=True, **special
    )
    assert rendered({"chat_template": template, **special}, messages) == expected[0][0]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(999999999) %}a{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}aaaaaaaaaaaaaaaa{% endfor %}{% endfor %}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ raise_exception('Not like this') }}",
        "{{ messages[0].content + 5 }}",
    ],
)
def test_a_template_does_nothing_but_write(template: str) -> None:
    with pytest.raises(Refused) as error:
        rendered({"chat_template": template}, USER)
    assert error.value.field == "messages"
    assert ("Not like this" in str(error.value)) == ("raise_exception" in template)


# ---- pages and names ----


def test_pages_follow_one_another() -> None:
    data = [{"id": str(number)} for number in range(5)]
    told: list[str] = []
    after = ""
    while True:
        page = Page.asked(Fields({"limit": "2", **({"after": after} if after else {})}), 20, 100).of(data)
        told += [one["id"] for one in page["data"]]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert told == ["0", "1", "2", "3", "4"]
    empty = Page.asked(Fields({}), 20, 100).of([])
    assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)
    for limit in ("0", "101", "-1", "many", "1.5", "٣"):
        with pytest.raises(Refused, match="limit"):
            Page.asked(Fields({"limit": limit}), 20, 100)
    with pytest.raises(Refused, match="There is no") as error:
        Page.asked(Fields({"after": "nobody"}), 20, 100).of(data)
    assert (error.value.status, error.value.field) == ("NOT_FOUND", "after")


@pytest.mark.parametrize(
    "base", ["tiny-llama", "meta-llama/Llama-3.2-1B", "a" * 300, "ü/ü", "..", "a b", "/"]
)
def test_a_jobs_prompt_has_a_plain_name_of_its_own(base: str) -> None:
    names = {
        model_name(base, suffix, f"ftjob-{number}") for suffix in (None, "s" * 64) for number in range(9)
    }
    assert len(names) == 18
    for name in names:
        assert check_plain_name(name) == name
    assert model_name(base, "s", "ftjob-1") == model_name(base, "s", "ftjob-1")


# ---- fields ----


@pytest.mark.parametrize(
    ("name", "take", "given"),
    [
        ("a", "text", 5),
        ("a", "whole", 1.5),
        ("a", "whole", True),
        ("a", "whole", "1"),
        ("a", "number", "1"),
        ("a", "number", False),
        ("a", "number", 10**400),
        ("a", "flag", 0),
        ("a", "object", []),
        ("a", "texts", {"b": 1}),
        ("a", "texts", ["b", None]),
    ],
)
def test_a_field_of_another_kind_is_refused(name: str, take: str, given: Any) -> None:
    with pytest.raises(Refused, match=r"^there\.a: .* is not allowed") as error:
        getattr(Fields({name: given}, "there"), take)(name)
    assert error.value.field == "there.a"

"""Reading files: YAML 1.2 core, JSON, lines, and one clear problem for everything that cannot be read."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.errors import Invalid, Problem
from kubemin.files.document import load_document, parse_document
from kubemin.files.plain import MAX_BYTES


def data(text: str) -> Any:
    return parse_document(text, "x.yaml").data


def problem(text: str, source: str = "x.yaml") -> Problem:
    with pytest.raises(Invalid) as caught:
        parse_document(text, source)
    (found,) = caught.value.problems
    assert "\n" not in found.message
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("yes", "yes"), ("No", "No"), ("2026-11-24", "2026-11-24"), ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("0o17", 15), ("0x1F", 31),
        ("010", 10),
        ("-5", -5), ("+5", 5), ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("1.", 1.0), ("-", None), ("'5'", "5"),
        ('""', ""),
        ("!!str 5", "5"), ("!!int 5", 5), ("!!float 5", 5), ("! 5", "5"), ("=", "="), ("<<", "<<"),
        ("0b1", "0b1"), (".", "."),
        ("tRue", "tRue"), ("nullish", "nullish"), ("0o8", "0o8"), ("|\n  a\n  b\n", "a\nb\n"), ("'😀'", "😀"),
    ],
)  # fmt: skip
def test_core_schema(text: str, value: Any) -> None:
    if text == "-":
        assert data("a:\n  -\n") == {"a": [None]}
        return
    read = data(f"a: {text}\n")["a"]
    assert read == value
    assert type(read) is type(value) or isinstance(value, int)


def test_keys_are_text_as_written() -> None:
    assert data("on: 1\n8080: 2\nnull: 3\n1.10: 4\n<<: {a: 1}\n") == {
        "on": 1, "8080": 2, "null": 3, "1.10": 4, "<<": {"a": 1}
    }  # fmt: skip


def test_aliases() -> None:
    document = parse_document("a: &x [1, {b: 2}]\nc: *x\nd: [*x, 3]\ne: &s text\nf: *s\n", "x.yaml")
    assert document.data == {"a": [1, {"b": 2}], "c": [1, {"b": 2}], "d": [[1, {"b": 2}], 3], "e": "text", "f": "text"}
    assert [document.line(at) for at in ("a", "c", "c[1].b", "d[0][1]", "d[1]", "e", "f")] == [1, 2, 2, 3, 3, 4, 5]


def test_crlf_and_bom() -> None:
    assert data("\ufeffa: 1\r\nb:\r\n  - c\r\n") == {"a": 1, "b": ["c"]}


def test_lines() -> None:
    document = parse_document("name: x\n\nsteps:\n  - name: a\n    run: [b,\n      c]\n  -\n    name: d\n", "x.yaml")
    assert {at: document.line(at) for at in ("name", "steps", "steps[0].run[1]", "steps[1]", "steps[1].name")} == {
        "name": 1, "steps": 3, "steps[0].run[1]": 6, "steps[1]": 8, "steps[1].name": 8
    }  # fmt: skip
    assert document.line("steps[1].retry.limit") == 8
    assert document.line("") == document.line("nothing") == 1


def test_spellings() -> None:
    document = parse_document("env: {A: 1.10, B: 010, C: 5, D: 0x1f, E: '1.10'}\nl: [1.0, 2.50]\n", "x.yaml")
    env, items = document.data["env"], document.data["l"]
    assert [document.spelling(env, key) for key in "ABCDE"] == ["1.10", "010", None, "0x1f", None]
    assert [document.spelling(items, index) for index in (0, 1)] == [None, "2.50"]


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("", "empty", None), ("  \n\n", "empty", None), ("# nothing\n", "empty", None),
        ("a: 1\na: 2\n", "duplicate_key", 2),
        ("a: 1\n---\nb: 2\n", "documents", 2), ("a: [1, 2\n", "syntax", 2), ("a: b: c\n", "syntax", 1),
        ("a:\n\t- b\n", "syntax", 2), ("x: 1\na: \x01\n", "syntax", 2), ("a: *x\n", "alias", 1),
        ("a: &x [*x]\n", "alias", 1), ("a: !!python/object:os.system x\n", "tag", 1), ("a: !!set {x}\n", "tag", 1),
        ("a: !!int x\n", "tag", 1), ("a: !mine 5\n", "tag", 1), ("? [a, b]\n: c\n", "key", 1),
        ("b: 1\n? {a: b}\n: c\n", "key", 2),
        ("a: &k 1\n*k : 2\n", "key", 2), ("a: .inf\n", "number", 1), ("\na: 1e999\n", "number", 2),
        ("a: .nan\n", "number", 1),
        ("a: 9223372036854775808\n", "number", 1), ("a: " + "9" * 5000 + "\n", "number", 1),
        ("a: " + "[" * 200 + "]" * 200, "too_deep", 1), ("a: " + "[" * 500_000, "too_deep", 1),
        ("- " * 500 + "a", "too_deep", 1),
        ("\n".join(f"a{i}: &a{i} [{f'*a{i - 1}' if i else 'x'}]" for i in range(150)), "too_deep", 100),
    ],
)  # fmt: skip
def test_yaml_problems(text: str, code: str, line: int | None) -> None:
    found = problem(text)
    assert (found.code, found.field) == (code, "")
    assert found.line == line or (code == "empty" and found.line in (None, 1))


def test_a_billion_laughs() -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert problem(text).code == "too_large"


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ('{"a": 1', "syntax", 1), ('{"a": 1,\n "b" 2}', "syntax", 2), ("", "empty", None),
        ('{"a": 1, "a": 2}', "duplicate_key", None),
        ('{"a": NaN}', "number", None), ('{"a": 1e999}', "number", None),
        ('{"a": 9223372036854775808}', "number", None),
        ('{"a": ' + "9" * 5000 + "}", "number", None), ("[" * 200 + "]" * 200, "too_deep", None),
        ("[" * 200_000 + "]" * 200_000, "too_deep", None), ('{"a": "\\ud800"}', "encoding", None),
        ('{"\\ud800": 1}', "encoding", None),
        ("name: x", "syntax", 1),
    ],
)  # fmt: skip
def test_json_problems(text: str, code: str, line: int | None) -> None:
    found = problem(text, "x.json")
    assert (found.code, found.line) == (code, line)


def test_json_by_its_first_character() -> None:
    assert parse_document('{"a": "\\ud83d\\ude00", "b": [1.5, true, null]}').data == {"a": "😀", "b": [1.5, True, None]}
    assert parse_document("{a: b, c: [d]}").data == {"a": "b", "c": ["d"]}
    assert problem('{"a": 1, "a": 2}').code == "duplicate_key"


def refused(path: Path | str) -> Problem:
    started = time.monotonic()
    with pytest.raises(Invalid) as caught:
        load_document(path)
    assert time.monotonic() - started < 10, "it waited for something: a FIFO's writer, an endless device"
    assert str(caught.value).startswith(str(path).replace("\0", "\\x00"))
    return caught.value.problems[0]


def test_files(tmp_path: Path) -> None:
    good = tmp_path / "good.yaml"
    good.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    assert load_document(good).data == {"a": 1}
    assert refused(tmp_path / "none.yaml").message == "there is no such file"
    assert "a directory" in refused(tmp_path).message
    os.mkfifo(tmp_path / "fifo.yaml")
    assert "a FIFO" in refused(tmp_path / "fifo.yaml").message
    assert "a device" in refused("/dev/null").message
    assert refused("a\0b").code == "unreadable"
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert refused(empty).code == "empty"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"a: 1\nb: \xe9\n")
    assert (refused(latin).code, refused(latin).line) == ("encoding", 2)
    wide = tmp_path / "wide.yaml"
    wide.write_bytes("a: 1".encode("utf-16"))
    assert refused(wide).code == "encoding"


def test_a_file_of_50_megabytes_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"a: b\n" * 10_000_000)
    took = []
    for _ in range(5):  # the machine may be busy; reading it takes as long each time
        started = time.monotonic()
        assert refused(large).code == "too_large"
        took.append(time.monotonic() - started)
    assert min(took) < 0.005
    assert problem("a" * (MAX_BYTES + 1)).code == "too_large"


@given(st.text(max_size=200) | st.text(alphabet="ab:-[]{}&*!|>'\"\n #?,0.~\t%", max_size=80))
def test_any_text(text: str) -> None:
    for source in ("x.yaml", "x.json", ""):
        try:
            document = parse_document(text, source)
        except Invalid as exc:
            assert len(exc.problems) == 1
            assert "\n" not in exc.problems[0].message
        else:
            assert set(document.lines.values()) <= set(range(1, len(text.splitlines()) + 2))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(plain)
def test_json_comes_back(value: Any) -> None:
    import json

    assert parse_document(json.dumps(value), "x.json").data == value


@given(plain)
def test_every_value_of_yaml_has_its_line(value: Any) -> None:
    import yaml

    document = parse_document(yaml.safe_dump({"root": value}, allow_unicode=True, default_flow_style=False), "x.yaml")
    paths = ["root"]
    pending = [("root", document.data["root"])]
    while pending:
        at, inner = pending.pop()
        items = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, list) else []
        for key, item in items:
            pending.append((f"{at}[{key}]" if isinstance(key, int) else f"{at}.{key}", item))
            paths.append(pending[-1][0])
    assert set(document.lines) == set(paths)

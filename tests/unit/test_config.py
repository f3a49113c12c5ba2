"""Settings: every source, their order, every kind of mistake, and what a change needs."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubemin.config import Settings, diff, load_settings, sources, values
from kubemin.config import defaults as machine_defaults
from kubemin.config.describe import flags_help, markdown, shown
from kubemin.config.load import config_path, examine
from kubemin.config.reload import Origin, ReloadResult, read_result, write_result
from kubemin.config.table import DEFAULTS, KEYS, TABLE, Applies, Change, until_restart
from kubemin.config.values import duration_text, from_text, show
from kubemin.errors import Invalid, Unreachable
from kubemin.model.durations import parse_duration

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "conf" / "kubemin.yaml"


def problems(config: str | None = None, flags: dict[str, str] | None = None, **environ: str) -> dict[str, str]:
    """field -> code"""
    with pytest.raises(Invalid) as caught:
        load_settings(config, flags or {}, environ)
    return {problem.field: problem.code for problem in caught.value.problems}


def messages(config: str | None = None, flags: dict[str, str] | None = None, **environ: str) -> str:
    with pytest.raises(Invalid) as caught:
        load_settings(config, flags or {}, environ)
    return str(caught.value)


# --- the table -------------------------------------------------------------------------------------------------------


def leaves(struct: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        inner = leaves(value, (*prefix, name)) if isinstance(value, msgspec.Struct) else [(*prefix, name)]
        found += inner
    return found


def test_the_table_and_the_settings_are_the_same_keys() -> None:
    assert [tuple(key.attributes) for key in TABLE] == leaves(Settings())


def test_names_elsewhere() -> None:
    key = KEYS["leaderElection.leaseDuration"]
    assert (key.variable, key.flag) == ("KUBEMIN_LEADER_ELECTION_LEASE_DURATION", "--leader-election-lease-duration")
    assert (KEYS["lock.ttl"].variable, KEYS["lock.ttl"].flag) == ("KUBEMIN_LOCK_TTL", "--lock-ttl")
    assert KEYS["nodeId"].variables == ("KUBEMIN_NODE_ID", "NODE_ID")
    assert len({name for key in TABLE for name in key.variables}) == len(TABLE) + 3
    assert len({key.flag for key in TABLE}) == len(TABLE)


@pytest.mark.parametrize("key", TABLE, ids=lambda key: key.name)
def test_every_default_is_a_valid_value_and_is_documented(key: Any) -> None:
    default = key.of(DEFAULTS)
    if not key.default:
        assert from_text(key, "" if default == "" else show(key, default), "/") == default
    assert key.flag in flags_help() and key.variable in flags_help()
    assert f"| `{key.name}` |" in markdown()


def test_contract_defaults() -> None:
    s = load_settings(environ={"HOME": "/home/u"})
    assert (s.max_workers, s.queues, s.graceful_timeout, s.task_timeout) == (10, ("default",), 30.0, 1200.0)
    assert (s.lock.ttl, s.lock.renew, s.retention.runs, s.retention.output_bytes) == (15.0, 5.0, 10_000, 256 << 20)
    assert (s.leader_election.namespace, s.leader_election.name) == ("min-cli-system", "apiserver-lock")
    assert s.node_id == os.uname().nodename


def test_the_example_file_shows_every_key_with_its_default(write: Any) -> None:
    text = EXAMPLE.read_text()
    assert load_settings(str(EXAMPLE), environ={}).max_workers == 10  # as it is installed
    shown = "\n".join(line[1:] for line in text.splitlines() if re.match(r"#(  )?[a-z]", line))
    settings = load_settings(write(shown.replace("NAME", os.uname().nodename)), environ={})
    named = ("node_id", "state_dir", "runtime_dir", "workflows_dir")
    plain = {name: getattr(settings, name) for name in Settings.__struct_fields__ if name not in named}
    assert plain == {name: getattr(DEFAULTS, name) for name in plain}
    missing = [key.name for key in TABLE if f"{key.name.split('.')[-1]}:" not in shown]
    assert not missing


# --- the order of the sources ----------------------------------------------------------------------------------------


def test_flag_beats_environment_beats_file_beats_default(write: Any) -> None:
    config = write("maxWorkers: 2\ngracefulTimeout: 2s\ntaskTimeout: 2s\n")
    environ = {"KUBEMIN_MAX_WORKERS": "3", "KUBEMIN_GRACEFUL_TIMEOUT": "3s"}
    s = load_settings(config, {"maxWorkers": "4"}, environ)
    assert (s.max_workers, s.graceful_timeout, s.task_timeout, s.lock.ttl) == (4, 3.0, 2.0, 15.0)


def test_variables_without_prefix_are_weaker_than_those_with_it() -> None:
    assert load_settings(environ={"MAX_WORKERS": "3", "NODE_ID": "b"}).max_workers == 3
    s = load_settings(environ={"MAX_WORKERS": "3", "KUBEMIN_MAX_WORKERS": "4", "NODE_ID": "b"})
    assert (s.max_workers, s.node_id) == (4, "b")


def test_an_empty_variable_is_not_set_and_an_empty_flag_is(write: Any) -> None:
    config = write("user: nobody\n")
    assert load_settings(config, environ={"KUBEMIN_USER": "", "KUBEMIN_MAX_WORKERS": ""}).user == "nobody"
    assert load_settings(config, {"user": ""}, {}).user is None


def test_kubemin_config_names_the_file(write: Any) -> None:
    config = write("maxWorkers: 7\n")
    assert load_settings(environ={"KUBEMIN_CONFIG": config}).max_workers == 7


def test_nested_keys_everywhere(write: Any) -> None:
    config = write("lock: {ttl: 20s}\npython:\n  path: [lib, /abs]\n  allow: ['reports.*:*']\n")
    s = load_settings(config, {"lock.renew": "4s"}, {"KUBEMIN_RECYCLE_MAX_MEMORY": "512Mi"})
    assert (s.lock.ttl, s.lock.renew, s.recycle.max_memory) == (20.0, 4.0, 512 << 20)
    assert s.python.path == (os.path.join(os.path.dirname(config), "lib"), "/abs")
    assert s.python.allow == ("reports.*:*",)


def test_json_is_yaml(write: Any) -> None:
    assert load_settings(write('{"maxWorkers": 3, "lock": {"ttl": "20s"}}', "k.json"), environ={}).lock.ttl == 20.0


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("queues", "etl,default", ("etl", "default")),
        ("queues", '["etl"]', ("etl",)),
        ("onFailure", "page --text 'it failed'", ("page", "--text", "it failed")),
        ("onFailure", "none", ()),
        ("python.path", "/a:/b", ("/a", "/b")),
        ("recycle.maxTasks", "none", None),
        ("retention.days", "0.5", 0.5),
        ("log.level", "debug", "debug"),
        ("leaderElection.exitOnLostLeader", "true", True),
    ],
)
def test_values_as_text(name: str, text: str, value: Any) -> None:
    assert KEYS[name].of(load_settings(flags={name: text}, environ={})) == value


def test_flags_may_be_named_as_flags() -> None:
    assert load_settings(flags={"--lock-ttl": "20s"}, environ={}).lock.ttl == 20.0


# --- where things are ------------------------------------------------------------------------------------------------


def test_systemd_directories_beat_the_defaults_and_not_the_file(write: Any, tmp_path: Path) -> None:
    (tmp_path / "redis-password").touch()
    environ = {
        "STATE_DIRECTORY": "/srv/state:/srv/more",
        "RUNTIME_DIRECTORY": "/srv/run",
        "CREDENTIALS_DIRECTORY": "/srv/credentials",
        "CONFIGURATION_DIRECTORY": "/srv/etc:/x",
    }
    s = load_settings(environ=environ)
    assert (s.state_dir, s.runtime_dir, s.secrets_dir) == ("/srv/state", "/srv/run", "/srv/credentials")
    assert s.workflows_dir == "/srv/etc/workflows.d"
    assert load_settings(write("stateDir: /mine\n"), environ=environ).state_dir == "/mine"


def test_workflows_are_beside_the_file_and_paths_relative_to_it(write: Any, tmp_path: Path) -> None:
    assert load_settings(write(" \n#\n"), environ={}).workflows_dir == str(tmp_path / "workflows.d")
    assert load_settings(write("stateDir: state/\n"), environ={}).state_dir == str(tmp_path / "state")


def test_xdg_directories_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    environ = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/4711", "XDG_STATE_HOME": "relative"}
    found = machine_defaults.machine(environ, "/home/u/kubemin.yaml")
    assert (found["stateDir"], found["runtimeDir"]) == ("/home/u/.local/state/kubemin", "/run/user/4711/kubemin")
    without = machine_defaults.machine({"HOME": "/home/u"}, "/home/u/kubemin.yaml")
    assert without["runtimeDir"] == "/home/u/.local/state/kubemin/run"


def test_the_users_own_file_before_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    own = tmp_path / "kubemin" / "kubemin.yaml"
    environ = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path)}
    assert config_path(None, environ) == "/etc/kubemin/kubemin.yaml"
    own.parent.mkdir()
    own.touch()
    assert config_path(None, environ) == str(own)


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_all_problems_are_told_with_path_and_line(write: Any) -> None:
    config = write(
        "maxWorkers: 0\nmaxWorker: 3\nlock:\n  ttl: 1h\n  renew: never\nlog: debug\nqueues: default\n"
        "retention:\n  days: many\n  dayz: 1\nenableDistributed: maybe\n"
    )
    with pytest.raises(Invalid) as caught:
        load_settings(config, {"output.linesPerSecond": "x"}, {"KUBEMIN_TASK_TIMEOUT": "soon"})
    found = {problem.field: problem for problem in caught.value.problems}
    assert {field: problem.line for field, problem in found.items()} == {
        "maxWorkers": 1,
        "maxWorker": 2,
        "lock.renew": 5,
        "log": 6,
        "queues": 7,
        "retention.days": 9,
        "retention.dayz": 10,
        "enableDistributed": 11,
        "taskTimeout": None,
        "output.linesPerSecond": None,
    }
    assert "did you mean maxWorkers?" in found["maxWorker"].message
    assert "1 to 1024" in found["maxWorkers"].message and config in found["maxWorkers"].message
    assert "KUBEMIN_TASK_TIMEOUT" in found["taskTimeout"].message
    assert "--output-lines-per-second" in found["output.linesPerSecond"].message
    assert caught.value.exit_code == 2


def test_problems_of_the_file_alone_name_it_once(write: Any) -> None:
    config = write("maxWorkers: ten\nnodeId: 5\n")
    assert messages(config).splitlines() == [
        f'{config}: line 1: maxWorkers: must be a whole number, not "ten"',
        f"{config}: line 2: nodeId: must be a text, not 5",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "maxWorkers: 1.5",
        "maxWorkers: true",
        "maxWorkers: 1025",
        "maxWorkers: [3]",
        "maxWorkers: 99999999999999999999999",
        "retention: {days: .nan}",
        "retention: {days: .inf}",
        "retention: {days: -1}",
        "gracefulTimeout: -1s",
        "gracefulTimeout: 30",
        "gracefulTimeout: 1.5",
        "taskTimeout: 0",
        "recycle: {maxMemory: 1Ki}",
        "recycle: {maxMemory: 512MB5}",
        "queues: []",
        "queues: [a, a]",
        "queues: [UPPER]",
        "queues: [a, {b: c}]",
        "nodeId: ''",
        "nodeId: 'a b'",
        "stateDir: ''",
        'stateDir: "a\\0b"',
        "log: {level: loud}",
        "log: [info]",
        "python: {allow: ['os system']}",
        "onFailure: page",
        "onFailure: ['']",
        "user: 'root; rm'",
        "httpAddr: nowhere",
        "redisAddr: host",
        "redisAddr: http://h:1",
        "durability: maybe",
        "leaderElection: {namespace: A_B}",
    ],
)
def test_refused(write: Any, text: str) -> None:
    assert len(problems(write(text + "\n"))) == 1


def test_names_with_a_slip_get_a_hint(write: Any) -> None:
    text = messages(write("log_level: debug\nttl: 3s\nmax_workers: 3\nlock: {leaseDuration: 1s}\nzzz: 1\n"))
    for hint in ("did you mean log.level?", "did you mean lock.ttl?", "did you mean maxWorkers?", "--help"):
        assert hint in text
    assert "did you mean leaderElection.leaseDuration?" in text


def test_variables_with_a_slip_are_told_and_foreign_ones_are_not() -> None:
    assert problems(KUBEMIN_MAX_WORKER="3", KUBEMIN_TOKEN="3", KUBEMIN_PORT="tcp://1", KUBEMIN_OUTPUT="/x") == {
        "KUBEMIN_MAX_WORKER": "unknown_key"
    }


def test_unknown_flag() -> None:
    assert "did you mean --max-workers?" in messages(None, {"--max-worker": "1"})
    assert problems(None, {"--max-worker": "1"}) == {"--max-worker": "unknown_key"}


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        ({"lock.ttl": "10s"}, "lock.ttl"),
        ({"lock.renew": "8s"}, "lock.ttl"),
        ({"leaderElection.leaseDuration": "10s"}, "leaderElection.leaseDuration"),
        ({"leaderElection.retryPeriod": "9s"}, "leaderElection.renewDeadline"),
    ],
)
def test_contradictions(flags: dict[str, str], field: str) -> None:
    assert problems(None, flags) == {field: "contradiction"}


def test_a_runtime_directory_too_long_for_a_socket() -> None:
    assert problems(None, {"runtimeDir": "/" + "x" * 95}) == {"runtimeDir": "too_long"}
    load_settings(None, {"runtimeDir": "/" + "x" * 93}, {})


def test_the_signing_key_is_a_credential_of_systemd_where_there_is_one(tmp_path: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load_settings(None, {}, environ).signing_key_file is None
    (tmp_path / "signing-key").write_text("k" * 64)
    assert load_settings(None, {}, environ).signing_key_file == str(tmp_path / "signing-key")
    assert load_settings(None, {"signingKeyFile": "/other"}, environ).signing_key_file == "/other"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"a: [1\n", None), (b"\xff\xfe", None), (b"- 1\n", "wrong_type"), (b"x", "wrong_type"), (b"", "empty")],
)
def test_files_that_are_no_settings(write: Any, content: bytes, code: str | None) -> None:
    config = write(content)
    found = problems(config)
    assert list(found) == [""] and found[""] == (code or found[""])
    assert len(messages(config).splitlines()) == 1 and messages(config).startswith(config)


def test_a_file_that_was_named_has_to_be_there(tmp_path: Path) -> None:
    assert "no such file" in messages(str(tmp_path / "none.yaml"))
    assert "no such file" in messages(KUBEMIN_CONFIG=str(tmp_path / "none.yaml"))
    load_settings(environ={"CONFIGURATION_DIRECTORY": str(tmp_path)})  # not named: defaults


def test_a_directory_and_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert list(problems(str(tmp_path))) == [""]
    assert list(problems(str(tmp_path / "fifo"))) == [""]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(write: Any) -> None:
    config = write("maxWorkers: 1\n")
    os.chmod(config, 0)
    assert "Permission denied" in messages(config)


def test_an_unreadable_file_does_not_hide_other_problems(tmp_path: Path) -> None:
    assert set(problems(str(tmp_path / "none"), {"maxWorkers": "0"})) == {"", "maxWorkers"}


def test_what_is_right_is_kept_beside_what_is_wrong(write: Any) -> None:
    settings, invalid = examine(write("maxWorkers: 0\nworkflowsDir: /w\n"), {}, {})
    assert invalid is not None and settings.workflows_dir == "/w"


keys = st.sampled_from([*KEYS, "lock", "log", "python", "x"])
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.text()))


@given(st.dictionaries(keys, scalars))
def test_values_raise_nothing_but_value_error(data: dict[str, Any]) -> None:
    for name, value in data.items():
        if name in KEYS:
            with suppress(ValueError):
                values.from_file(KEYS[name], value, "/")
            with suppress(ValueError):
                values.from_text(KEYS[name], str(value), "/")
    sources.from_flags({name: str(value) for name, value in data.items()})


# --- as data, and changes --------------------------------------------------------------------------------------------


def test_settings_travel_as_json() -> None:
    settings = load_settings(flags={"queues": "a,b", "recycle.maxTasks": "5"}, environ={})
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_diff_says_what_a_change_needs() -> None:
    old = load_settings(environ={})
    new = load_settings(flags={"maxWorkers": "3", "user": "nobody", "nodeId": "b", "lock.ttl": "20s"}, environ={})
    assert diff(old, new) == [
        Change("maxWorkers", 10, 3, "live"),
        Change("nodeId", old.node_id, "b", "restart"),
        Change("lock.ttl", 15.0, 20.0, "restart"),
        Change("user", None, "nobody", "rolling"),
    ]
    kept = until_restart(old, new)
    assert (kept.max_workers, kept.user, kept.node_id, kept.lock) == (3, "nobody", old.node_id, old.lock)
    assert all(key.applies is not Applies.RESTART for key in TABLE if key.of(kept) != key.of(old))


def test_a_change_is_told_as_users_write_it_and_without_passwords() -> None:
    old = load_settings(flags={"redisAddr": "redis://me:hunter2@db:6379/1", "lock.ttl": "1m"}, environ={})
    new = load_settings(flags={"redisAddr": "db:6379"}, environ={})
    assert [shown(change) for change in diff(old, new)] == [("redis://***@db:6379/1", "db:6379"), ("1m", "15s")]


def test_a_reloads_outcome_travels_through_the_file(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        read_result(str(tmp_path))
    old, new = load_settings(environ={}), load_settings(flags={"queues": "a"}, environ={})
    result = ReloadResult(True, new, (), tuple(diff(old, new)), "/x", origin=Origin("/c", {"queues": "a"}, {}))
    write_result(str(tmp_path), result)
    read = read_result(str(tmp_path))
    assert (read.settings, read.definitions, read.origin) == (new, "/x", result.origin)
    assert read.changes[0].key == "queues" and read.changes[0].applies == "live"
    assert (tmp_path / "settings.json").stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(Invalid):
        read_result(str(tmp_path))


@given(st.integers(0, 10**12))
def test_durations_as_text_are_read_back(milliseconds: int) -> None:
    assert round(parse_duration(duration_text(milliseconds / 1000)) * 1000) == milliseconds

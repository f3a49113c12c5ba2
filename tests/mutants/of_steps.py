"""Defects of the steps and of the files: containment, capture, outputs, environments, YAML, parameters."""

from __future__ import annotations

from mutants import Mutant

COMMAND = "tests/integration/test_command_step.py::"
CONTAINMENT = "tests/integration/test_containment.py::"
WORKER = "tests/integration/test_worker_process.py::"
CAPTURE = "tests/unit/test_capture.py::"
DOCUMENT = "tests/unit/test_files_document.py::"
PROBLEMS = "tests/unit/test_files_problems.py::"

STEPS = (
    Mutant(
        "a step outlives its worker",
        "kubemin/steps/spawn.py",
        "        kernel.die_with_parent(parent, code=NOT_STARTED)",
        "        pass",
        (f"{COMMAND}test_it_dies_with_its_worker",),
    ),
    Mutant(
        "what a step left is not killed",
        "kubemin/steps/watch.py",
        "        swept = self._cell.sweep()",
        "        from kubemin.steps.containment.processes import Swept; swept = Swept()",
        (f"{CONTAINMENT}test_a_daemon_that_forked_away_twice_dies_with_its_step",),
    ),
    Mutant(
        "start time of a pid is not compared before a kill",
        "kubemin/processes.py",
        "    if now is not None and now.start == process.start and not now.dead:",
        "    if now is not None and not now.dead:",
        (f"{CONTAINMENT}test_a_number_that_was_used_again_is_not_hit",),
    ),
    Mutant(
        "SIGTERM is never followed by SIGKILL",
        "kubemin/steps/watch.py",
        "        self._kill_at = clock.monotonic() + self._step.kill_grace",
        "        self._kill_at = clock.monotonic() + 3600",
        (f"{COMMAND}test_sigterm_is_ignored",),
    ),
    Mutant(
        "a step inherits the worker's descriptors",
        "kubemin/steps/spawn.py",
        "    os.closerange(4, max(_open_descriptors()) + 1)",
        "    [os.set_inheritable(fd, True) for fd in _open_descriptors()[:-1]]",
        (f"{COMMAND}test_nothing_is_inherited_but_0_1_2",),
    ),
    Mutant(
        "a limit that cannot be enforced is passed over",
        "kubemin/steps/limits.py",
        "    if unenforced and not limits.best_effort:",
        "    if False:",
        (f"{CONTAINMENT}test_limits_are_refused_where_nothing_enforces_them",),
    ),
    Mutant(
        "a step sees the daemon's environment",
        "kubemin/worker/execute.py",
        "                **self._base,",
        "                **os.environ, **self._base,",
        (f"{WORKER}test_a_command_with_its_environment_and_output",),
    ),
    Mutant(
        "secrets are not masked",
        "kubemin/steps/capture.py",
        "return data if self._pattern is None else self._pattern.sub(MASK, data)",
        "return data",
        (
            f"{CAPTURE}test_secrets_are_masked_across_reads_and_across_cuts",
            f"{WORKER}test_secrets_of_commands_are_masked",
        ),
    ),
    Mutant(
        "a secret at the cut of a tail is shown in part",
        "kubemin/steps/capture.py",
        "            data = data[self._masks.apart(data, cut) :]",
        "            data = data[cut:]",
        (f"{CAPTURE}test_a_secret_cut_by_the_ring_leaves_no_piece_in_the_tail",),
    ),
    Mutant(
        "a step forges log lines",
        "kubemin/steps/capture.py",
        "return line if line.isprintable() else _UNSAFE.sub(_visible, line)",
        "return line",
        (f"{CAPTURE}test_no_line_can_be_forged",),
    ),
    Mutant(
        "the output file's size is not checked",
        "kubemin/steps/output.py",
        "    if status.st_size > OUTPUT_BYTES:",
        "    if False:",
        (f"{WORKER}test_false_output_files",),
    ),
    Mutant(
        "a returned value's size is not checked",
        "kubemin/steps/output.py",
        '    if len(body) > OUTPUT_BYTES:\n        raise refused(f"the result',
        '    if False:\n        raise refused(f"the result',
        ("tests/integration/test_python_step.py::test_what_json_cannot_hold_is_refused",),
    ),
    Mutant(
        "the output file may be a link",
        "kubemin/steps/output.py",
        "os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK",
        "os.O_RDONLY | os.O_NONBLOCK",
        (f"{WORKER}test_false_output_files",),
    ),
)

FILES = (
    Mutant(
        "duplicate keys are accepted",
        "kubemin/files/yaml_events.py",
        "        if key in top.value:",
        "        if False:",
        (f"{DOCUMENT}test_yaml_problems",),
    ),
    Mutant(
        "aliases repeat without bound",
        "kubemin/files/yaml_events.py",
        "        self._count(nodes)\n",
        "",
        (f"{DOCUMENT}test_a_billion_laughs",),
    ),
    Mutant(
        "a file that is too large is read before it is refused",
        "kubemin/files/document.py",
        "        if status.st_size > MAX_BYTES:",
        "        if False:",
        (f"{DOCUMENT}test_a_file_of_50_megabytes_is_not_read",),
    ),
    Mutant(
        "a parameter's pattern need match the beginning only",
        "kubemin/files/params.py",
        "_compiled(pattern).fullmatch(text)",
        "_compiled(pattern).match(text)",
        ("tests/unit/test_files_loading.py::test_all_problems_of_parameters",),
    ),
)

HIDING = (
    Mutant(
        "a secret in a step's output is kept",
        "kubemin/worker/execute.py",
        "            ended, output = hide_secrets(self._secrets, ended, output)",
        "            pass",
        (
            "tests/integration/test_worker_process.py::test_secrets_of_commands_are_masked",
            "tests/integration/test_python_step.py::test_secrets_are_read_late_and_masked",
        ),
    ),
)

LOOKING_AFTER = (
    Mutant(
        "what a short step left is looked for when there is time",
        "kubemin/worker/loop.py",
        " or self._is_first(label):",
        ":",
        ("tests/integration/test_python_leftovers.py::test_the_next_step_does_not_find_what_a_short_one_left",),
    ),
    Mutant(
        "a step finds what a short one of another kind left, when that left nothing before",
        "kubemin/worker/loop.py",
        "elif label != before and",
        "elif not label and",
        ("tests/integration/test_python_leftovers.py::test_the_next_step_does_not_find_what_a_short_one_left",),
    ),
    Mutant(
        "a worker is replaced one task late",
        "kubemin/worker/loop.py",
        "self._done >= maximum",
        "self._done > maximum",
        ("tests/integration/test_python_leftovers.py::test_recycling",),
    ),
    Mutant(
        "another step's output may ask for a secret",
        "kubemin/model/references.py",
        "isinstance(given[key], Mapping)",
        "isinstance(item, Mapping)",
        ("tests/unit/test_references.py::test_work_becomes_text_where_the_kernel_wants_text",),
    ),
)

ALL = STEPS + FILES + HIDING + LOOKING_AFTER

"""The check that a machine runs on kernels before it uses them."""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx import check
from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.kernels import autotune, gpu_kernel, matvec, quantized
from qwen35_mlx.kernels.autotune import Operation, choose
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection
from qwen35_mlx.model import operations as model_operations
from qwen35_mlx.model.operations import operations
from tests.goldens import FOLDER

ONE = mx.ones((4,))


class Forms:
    """An operation on the field `experts_decode`, with forms that behave as told."""

    def __init__(self, **forms):
        self.selection, self.calls = KernelSelection(), []
        self.forms = {REFERENCE: lambda: ONE} | forms

    def run(self):
        self.calls.append(self.selection.experts_decode)
        return [self.forms[self.selection.experts_decode]()]

    @property
    def operation(self) -> Operation:
        names = [name for name in self.forms if name != REFERENCE]
        return Operation("experts_decode", "4", names, [self.run], [self.run] * 2, False, 1e-3)

    def choose(self, **options):
        lines = []
        tried = choose([self.operation], self.selection, lines.append, **options)
        return [line for line in lines if line != autotune.FIRST], tried


@pytest.fixture(autouse=True)
def file(monkeypatch, tmp_path):
    """Results go to a file of the test's own."""
    path = tmp_path / "deep" / "kernels.json"
    monkeypatch.setattr(autotune, "results_file", lambda: path)
    return path


@pytest.fixture
def clock(monkeypatch):
    """Seconds that each form takes, as if there were a GPU."""
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    times: dict[str, float] = {}

    def milliseconds(operation):
        operation.work[0]()
        return times[operation.work[0].__self__.selection.experts_decode]

    monkeypatch.setattr(autotune, "milliseconds", milliseconds)
    return times


@pytest.mark.parametrize("compiled", [False, True])
def test_the_clock_sees_all_calls_together(monkeypatch, compiled):
    traced = []

    def call(value):
        return lambda: traced.append(value) or [ONE * value]

    one, other = call(1.0), call(2.0)
    work = [one, other, one, one]
    operation = Operation("experts_decode", "4", [], [], work, compiled, 0)
    evaluated = []
    monkeypatch.setattr(autotune, "seconds", lambda run: evaluated.extend(run()) or 8.0)
    assert autotune.milliseconds(operation) == 2000
    assert [float(y[0]) for (y,) in evaluated] == [1, 2, 1, 1]
    assert traced == ([1, 2] if compiled else [1, 2, 1, 1])


def test_the_fastest_of_the_right_forms_wins(clock):
    clock |= {REFERENCE: 3.0, "slow": 4.0, "fast": 1.0, "wrong": 0.1}
    forms = Forms(slow=lambda: ONE, fast=lambda: ONE + 1e-4, wrong=lambda: ONE + 1e-2)
    lines, _ = forms.choose()
    assert forms.selection.experts_decode == "fast"
    assert forms.selection.compiled
    (line,) = lines
    assert "experts_decode 'wrong' is off" in line
    assert "\n" not in line


def test_the_reference_stays_where_nothing_is_faster(clock):
    clock |= {REFERENCE: 1.0, "slow": 4.0}
    forms = Forms(slow=lambda: ONE)
    assert forms.choose()[0] == []
    assert forms.selection.experts_decode == REFERENCE


def refuse():
    raise RuntimeError("threadgroup too large\nand more")


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (refuse, "does not run (RuntimeError: threadgroup too large)"),
        (lambda: ONE * float("nan"), "differs from its reference by inf"),
        (lambda: ONE * mx.array([1, 1, 1, float("nan")]), "differs from its reference by inf"),
    ],
)
def test_a_form_that_fails_is_left_out_with_one_line(clock, form, said):
    clock |= {REFERENCE: 1.0, "bad": 0.1}
    forms = Forms(bad=form)
    (line,) = forms.choose()[0]
    assert said in line
    assert forms.selection.experts_decode == REFERENCE


def test_winners_are_kept_for_the_next_start(clock, file):
    clock |= {REFERENCE: 3.0, "fast": 1.0}
    Forms(fast=lambda: ONE).choose()
    later = Forms(fast=refuse)
    assert later.choose() == ([], {})
    assert later.selection.experts_decode == "fast"
    assert later.calls == []
    assert list(file.parent.iterdir()) == [file]
    assert set(later.choose(again=True)[1]) == {"experts_decode"}


def test_the_user_is_told_before_the_first_time_only(clock):
    clock |= {REFERENCE: 3.0, "fast": 1.0}
    told = []
    for again in (False, False, True):
        forms = Forms(fast=lambda: ONE)
        choose([forms.operation], forms.selection, told.append, again=again)
    assert told == [autotune.FIRST]


@pytest.mark.parametrize("kept", ["", "{", "[]", '{"x": 1}', "\x00"])
def test_a_damaged_file_is_made_anew(clock, file, kept):
    clock |= {REFERENCE: 3.0, "fast": 1.0}
    file.parent.mkdir()
    file.write_text(kept)
    forms = Forms(fast=lambda: ONE)
    forms.choose()
    assert forms.selection.experts_decode == "fast"
    assert list(json.loads(file.read_text())) == [autotune.fingerprint()]


def test_a_winner_that_is_gone_is_not_used(clock):
    clock |= {REFERENCE: 3.0, "old": 1.0, "new": 2.0}
    Forms(old=lambda: ONE).choose()
    forms = Forms(new=lambda: ONE)
    forms.choose()
    assert forms.selection.experts_decode == "new"


def test_other_machines_and_shapes_keep_their_winners(clock, file):
    clock |= {REFERENCE: 3.0, "fast": 1.0}
    file.parent.mkdir()
    other = {"another machine": {"experts_decode: 4": "old"}}
    file.write_text(json.dumps(other))
    Forms(fast=lambda: ONE).choose()
    found = json.loads(file.read_text())
    assert found["another machine"] == other["another machine"]
    assert found[autotune.fingerprint()] == {"experts_decode: 4": "fast"}


def test_a_folder_that_cannot_be_written_is_no_error(clock, file):
    clock |= {REFERENCE: 3.0, "fast": 1.0}
    file.parent.write_text("a file where the folder should be")
    forms = Forms(fast=lambda: ONE)
    assert forms.choose()[0] == []
    assert forms.selection.experts_decode == "fast"


def test_nothing_is_tried_without_kernels(monkeypatch, file):
    monkeypatch.setattr(gpu_kernel, "backend", lambda: None)
    forms = Forms(fast=lambda: ONE)
    assert forms.choose() == ([], {})
    assert forms.selection == KernelSelection()
    assert not file.exists()


@pytest.fixture
def small_work(monkeypatch):
    monkeypatch.setattr(model_operations, "PROMPT_TOKENS", 12)
    monkeypatch.setattr(model_operations, "TIMED_CALLS", 1)
    monkeypatch.setattr(autotune, "seconds", lambda call: mx.eval(call()) or 1.0)


@pytest.mark.usefixtures("kernels", "small_work")
def test_every_form_of_a_network_is_right():
    net = load_network(Checkpoint.open(FOLDER / "moe"), dtype="float32")
    lines = []
    tried = choose(operations(net), net.selection, lines.append, again=True)
    assert lines == []
    assert {t.form for t in tried["delta_decode"]} > {REFERENCE}
    assert {t.form for t in tried["delta_prefill"]} > {REFERENCE}
    assert all(t.error is not None for found in tried.values() for t in found[1:])


@pytest.mark.usefixtures("kernels", "small_work")
@pytest.mark.parametrize("broken", [False, True])
def test_packed_matrices_are_tried_with_all_that_stands_around_them(monkeypatch, broken):
    net = load_network(Checkpoint.open(Path(qwen35_mlx.__file__).parent / "demo"))
    body = gpu_kernel.Kernel.body.fget
    wrong = ("precise::exp(-sum)", "precise::exp(sum)") if broken else ("", "")
    monkeypatch.setattr(gpu_kernel.Kernel, "body", property(lambda k: body(k).replace(*wrong)))
    todo = [op for op in operations(net) if op.name == "matmul_decode"]
    lines = []
    (found,) = choose(todo, net.selection, lines.append, again=True).values()
    assert [t.form for t in found] == [REFERENCE, matvec.KERNEL]
    assert ("differs" in found[1].failure) == broken
    assert len(lines) == broken


@pytest.mark.usefixtures("kernels", "small_work")
def test_a_wrong_kernel_is_found_out(monkeypatch):
    body = gpu_kernel.Kernel.body.fget
    monkeypatch.setattr(
        gpu_kernel.Kernel,
        "body",
        property(lambda self: body(self).replace("+ 1e-6f", "+ 1e-1f")),
    )
    lines = []
    net = load_network(Checkpoint.open(FOLDER / "moe"), dtype="float32", notice=lines.append)
    assert net.selection.delta_decode == REFERENCE
    assert net.selection.delta_prefill == REFERENCE
    assert any("delta_decode" in line and "differs" in line for line in lines)


def test_the_command_says_why_there_is_nothing_to_check(monkeypatch, capsys):
    monkeypatch.setattr(gpu_kernel, "backend", lambda: None)
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0
    assert "no GPU here" in capsys.readouterr().out


@pytest.mark.usefixtures("kernels", "small_work")
def test_the_command_prints_a_table_and_a_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 0
    *rows, last = capsys.readouterr().out.splitlines()
    assert any(row.startswith("delta_decode: ") for row in rows)
    assert sum(row.startswith("  *") for row in rows) == len(json.loads(last)["results"])


def test_an_operation_whose_reference_does_not_run_is_left_alone(clock, file):
    """Nothing to compare with: no other form may run, the others are tried all the same."""

    def broken():
        raise RuntimeError("no such file: mma.h")

    forms = Forms(fast=lambda: ONE)
    forms.forms[REFERENCE] = broken
    lines, tried = forms.choose()
    assert forms.selection.experts_decode == REFERENCE
    assert "mma.h" in tried["experts_decode"][0].failure
    assert len(lines) == 1
    # It may be right at the next start, so nothing is kept.
    assert "experts_decode" not in file.read_text()


def test_a_cpu_unpacks_for_long_prompts_unless_it_is_told_not_to(monkeypatch):
    monkeypatch.delenv(gpu_kernel.SWITCH, raising=False)
    if gpu_kernel.backend():
        pytest.skip("there is a GPU, which tries what is faster")
    demo = Checkpoint.open(Path(qwen35_mlx.__file__).parent / "demo")
    fast = load_network(demo)
    assert fast.selection.matmul_prefill == fast.selection.experts_prefill == quantized.UNPACKED
    # MLX's products of stacks are float32 only there.
    assert load_network(demo, "bfloat16").selection == KernelSelection()
    monkeypatch.setenv(gpu_kernel.SWITCH, "reference")
    plain = load_network(demo)
    assert plain.selection == KernelSelection()
    ids = mx.arange(quantized.UNPACK_FROM)[None]
    got, want = (net.logits(net(ids, net.make_cache())) for net in (fast, plain))
    np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-4)

"""How kernels are checked and timed on a machine before it uses them."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.kernels import autotune, decode_attention, gpu_kernel, matvec, quantized
from qwen35_mlx.kernels.autotune import Operation, tune
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS, REFERENCE, KernelSelection
from qwen35_mlx.model import operations as model_operations
from qwen35_mlx.model.linear import Linear
from qwen35_mlx.model.operations import operations
from tests.goldens import FOLDER

ONE = mx.ones((4,))


class FakeOperation:
    """The operation `delta_decode`, with a function in place of each variant."""

    def __init__(self, **variants):
        self.selection, self.calls = KernelSelection(), []
        self.variants = {REFERENCE: lambda: ONE} | variants

    def run(self):
        self.calls.append(self.selection.delta_decode)
        return [self.variants[self.selection.delta_decode]()]

    @property
    def operation(self) -> Operation:
        names = [name for name in self.variants if name != REFERENCE]
        return Operation("delta_decode", "4", names, [self.run], [self.run] * 2, False, 1e-3)

    def tune(self, **options):
        """Notices, but for the first, and trials."""
        notices = []
        tried = tune([self.operation], self.selection, notices.append, **options)
        return [line for line in notices if line != autotune.TUNING_NOTICE], tried


@pytest.fixture(autouse=True)
def _own_results_file(results_file):
    """No test reads or writes the user's results."""


@pytest.fixture
def milliseconds(monkeypatch):
    """Times of the variants, by name, as if there were a GPU."""
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    times: dict[str, float] = {}

    def milliseconds_per_call(operation):
        operation.timed_calls[0]()
        return times[operation.timed_calls[0].__self__.selection.delta_decode]

    monkeypatch.setattr(autotune, "milliseconds_per_call", milliseconds_per_call)
    return times


@pytest.mark.parametrize("compiled", [False, True])
def test_timed_calls_are_evaluated_together(monkeypatch, compiled):
    traced = []

    def call(value):
        return lambda: traced.append(value) or [ONE * value]

    one, other = call(1.0), call(2.0)
    calls = [one, other, one, one]
    operation = Operation("delta_decode", "4", [], [], calls, compiled, 0)
    evaluated = []
    monkeypatch.setattr(autotune, "median_seconds", lambda run: evaluated.extend(run()) or 8.0)
    assert autotune.milliseconds_per_call(operation) == 2000
    assert [float(y[0]) for (y,) in evaluated] == [1, 2, 1, 1]
    assert traced == ([1, 2] if compiled else [1, 2, 1, 1])


def test_the_fastest_correct_variant_is_selected(milliseconds):
    milliseconds |= {REFERENCE: 3.0, "slow": 4.0, "fast": 1.0, "wrong": 0.1}
    fake = FakeOperation(slow=lambda: ONE, fast=lambda: ONE + 1e-4, wrong=lambda: ONE + 1e-2)
    notices, _ = fake.tune()
    assert fake.selection.delta_decode == "fast"
    assert fake.selection.compiled
    (line,) = notices
    assert "delta_decode 'wrong' is off" in line
    assert "\n" not in line


def test_the_reference_stays_where_nothing_is_faster(milliseconds):
    milliseconds |= {REFERENCE: 1.0, "slow": 4.0}
    fake = FakeOperation(slow=lambda: ONE)
    assert fake.tune()[0] == []
    assert fake.selection.delta_decode == REFERENCE


def test_a_margin_is_what_a_variant_must_gain(milliseconds):
    for faster, selected in ((0.98, REFERENCE), (0.96, "fast")):
        milliseconds |= {REFERENCE: 1.0, "fast": faster}
        fake = FakeOperation(fast=lambda: ONE)
        operation = replace(fake.operation, margin=0.03)
        tune([operation], fake.selection, lambda _: None, retry=True)
        assert fake.selection.delta_decode == selected


def test_a_composed_operation_is_tried_last_with_the_fastest_variants_of_the_others(monkeypatch):
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    fake, seen = FakeOperation(fast=lambda: ONE), []

    def milliseconds_per_call(operation):
        seen.append((operation.name, fake.selection.prefill_chunk, fake.selection.delta_decode))
        return 2.0 if fake.selection.delta_decode == REFERENCE else 1.0

    monkeypatch.setattr(autotune, "milliseconds_per_call", milliseconds_per_call)
    chunk = Operation("prefill_chunk", "4", ["1024"], [], [], False, 0, composed=True)
    tune([chunk, fake.operation], fake.selection, lambda _: None)
    assert [trial[1:] for trial in seen if trial[0] == "prefill_chunk"] == [
        (REFERENCE, "fast"),
        ("1024", "fast"),
    ]


@pytest.mark.parametrize(
    ("seconds", "runs"), [([9.0, 1.0], 1), ([0.9, 0.6, 0.1], 2), ([0.9, *[0.01] * 5, 7], 6)]
)
def test_long_calls_are_timed_less_often(monkeypatch, seconds, runs):
    clock = iter(np.repeat(np.cumsum([0, *seconds]), 2)[1:])
    monkeypatch.setattr(autotune.time, "perf_counter", lambda: next(clock))
    calls = []
    assert autotune.median_seconds(lambda: calls.append(0)) == pytest.approx(seconds[runs > 1])
    assert len(calls) == runs


def refuse():
    raise RuntimeError("threadgroup too large\nand more")


@pytest.mark.parametrize(
    ("variant", "failure"),
    [
        (refuse, "does not run (RuntimeError: threadgroup too large)"),
        (lambda: ONE * float("nan"), "differs from its reference by inf"),
        (lambda: ONE * mx.array([1, 1, 1, float("nan")]), "differs from its reference by inf"),
    ],
)
def test_a_variant_that_fails_is_disabled_with_one_notice(milliseconds, variant, failure):
    milliseconds |= {REFERENCE: 1.0, "bad": 0.1}
    fake = FakeOperation(bad=variant)
    (line,) = fake.tune()[0]
    assert failure in line
    assert fake.selection.delta_decode == REFERENCE


def test_the_fastest_variant_is_stored_for_the_next_start(milliseconds, results_file):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    FakeOperation(fast=lambda: ONE).tune()
    later = FakeOperation(fast=refuse)
    assert later.tune() == ([], {})
    assert later.selection.delta_decode == "fast"
    assert later.calls == []
    assert list(results_file.parent.iterdir()) == [results_file]
    assert set(later.tune(retry=True)[1]) == {"delta_decode: 4"}


def test_a_notice_comes_before_the_first_tuning_only(milliseconds):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    notices = []
    for retry in (False, False, True):
        fake = FakeOperation(fast=lambda: ONE)
        tune([fake.operation], fake.selection, notices.append, retry=retry)
    assert notices == [autotune.TUNING_NOTICE]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "\x00"])
def test_a_damaged_results_file_is_replaced(milliseconds, results_file, content):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    results_file.parent.mkdir()
    results_file.write_text(content)
    fake = FakeOperation(fast=lambda: ONE)
    fake.tune()
    assert fake.selection.delta_decode == "fast"
    assert list(json.loads(results_file.read_text())) == [autotune.machine_key()]


def test_a_stored_variant_that_no_longer_exists_is_not_used(milliseconds):
    milliseconds |= {REFERENCE: 3.0, "old": 1.0, "new": 2.0}
    FakeOperation(old=lambda: ONE).tune()
    fake = FakeOperation(new=lambda: ONE)
    fake.tune()
    assert fake.selection.delta_decode == "new"


def test_results_of_other_machines_are_kept(milliseconds, results_file):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    results_file.parent.mkdir()
    other = {"another machine": {"delta_decode: 4": "old"}}
    results_file.write_text(json.dumps(other))
    FakeOperation(fast=lambda: ONE).tune()
    found = json.loads(results_file.read_text())
    assert found["another machine"] == other["another machine"]
    assert found[autotune.machine_key()] == {"delta_decode: 4": "fast"}


def test_a_folder_that_cannot_be_written_is_no_error(milliseconds, results_file):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    results_file.parent.write_text("a file where the folder should be")
    fake = FakeOperation(fast=lambda: ONE)
    assert fake.tune()[0] == []
    assert fake.selection.delta_decode == "fast"


def test_nothing_is_tried_without_a_gpu(monkeypatch, results_file):
    monkeypatch.setattr(gpu_kernel, "backend", lambda: None)
    fake = FakeOperation(fast=lambda: ONE)
    assert fake.tune() == ([], {})
    assert fake.selection == KernelSelection()
    assert not results_file.exists()


@pytest.mark.usefixtures("kernels", "small_tuning")
def test_every_variant_of_a_network_is_correct():
    net = load_network(open_checkpoint(FOLDER / "moe"), dtype="float32")
    notices = []
    tried = tune(operations(net), net.selection, notices.append, retry=True)
    assert notices == []
    for name in ("delta_decode: ", "delta_prefill: "):
        (trials,) = (trials for key, trials in tried.items() if key.startswith(name))
        assert {t.variant for t in trials} > {REFERENCE}
    assert all(t.error is not None for trials in tried.values() for t in trials[1:])


@pytest.mark.usefixtures("kernels", "small_tuning")
@pytest.mark.parametrize("broken", [False, True])
def test_matvec_is_checked_with_its_norm_residual_and_glu(monkeypatch, broken):
    net = load_network(open_checkpoint(Path(qwen35_mlx.__file__).parent / "demo"))
    body = gpu_kernel.Kernel.body.fget
    wrong = ("precise::exp(-sum)", "precise::exp(sum)") if broken else ("", "")
    monkeypatch.setattr(gpu_kernel.Kernel, "body", property(lambda k: body(k).replace(*wrong)))
    todo = [op for op in operations(net) if op.name == "matmul_decode"]
    of_format, *of_sizes = todo
    notices = []
    tried = tune(todo, net.selection, notices.append, retry=True)
    _, *trials = tried[of_format.key]
    assert [t.variant for t in trials] == list(matvec.VARIANTS)
    assert [("differs" in t.failure) for t in trials] == [broken, broken], notices
    assert len(notices) == 2 * broken
    # A size is only timed, so it tries what the check of its format has passed.
    passed = [] if broken else list(matvec.VARIANTS)
    assert len(of_sizes) > 1
    for operation in of_sizes:
        assert [t.variant for t in tried[operation.key]] == [REFERENCE, *passed]


def test_a_size_of_a_format_whose_reference_fails_has_no_kernel(milliseconds):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    fake = FakeOperation(fast=lambda: ONE)
    operation = replace(fake.operation, check_calls=[refuse])
    size = replace(fake.operation, shape="2", check_calls=[], checked_by=operation.key)
    tried = tune([operation, size], fake.selection, lambda _: None)
    assert [trial.variant for trial in tried[size.key]] == [REFERENCE]
    assert fake.selection.delta_decode == REFERENCE


def test_a_size_is_tried_again_with_the_check_of_its_format(milliseconds):
    milliseconds |= {REFERENCE: 3.0, "fast": 1.0}
    fake = FakeOperation(fast=lambda: ONE)
    fake.tune()
    calls = len(fake.calls)
    size = replace(
        fake.operation, shape="2", check_calls=[], checked_by=fake.operation.key, packing=""
    )
    tried = tune([size, fake.operation], fake.selection, lambda _: None)
    assert list(tried) == [fake.operation.key, size.key]
    assert len(fake.calls) > calls


@pytest.mark.usefixtures("kernels", "small_tuning")
@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("operation", ["decode_attention", "decode_attention_8bit"])
def test_attention_is_checked_with_several_tokens(monkeypatch, operation, broken):
    net = load_network(open_checkpoint(FOLDER / "dense"), dtype="float32")
    body = gpu_kernel.Kernel.body.fget
    wrong = ("keys - tokens + token + 1;", "keys;") if broken else ("", "")
    monkeypatch.setattr(gpu_kernel.Kernel, "body", property(lambda k: body(k).replace(*wrong)))
    todo = [op for op in operations(net, 8) if op.name == operation]
    (trials,) = tune(todo, net.selection, lambda _: None, retry=True).values()
    assert [t.variant for t in trials] == [REFERENCE, decode_attention.KERNEL]
    assert ("differs" in trials[1].failure) == broken


@pytest.mark.usefixtures("kernels", "small_tuning")
def test_attention_to_8_bits_is_not_compared_with_rounded_scores():
    """What layers compute without the kernel is off by more than the tolerance on a CPU."""
    net = load_network(open_checkpoint(FOLDER / "dense"), dtype="bfloat16")
    todo = [op for op in operations(net, 8) if op.name == "decode_attention_8bit"]
    (trials,) = tune(todo, net.selection, lambda _: None, retry=True).values()
    assert not trials[1].failure


@pytest.mark.usefixtures("kernels", "small_tuning")
def test_attention_to_8_bits_is_off_by_itself(monkeypatch):
    net = load_network(open_checkpoint(FOLDER / "dense"), dtype="float32")
    body = gpu_kernel.Kernel.body.fget
    wrong = ("v_bias[j] = ", "v_bias[j] = 0.1f + ")
    monkeypatch.setattr(gpu_kernel.Kernel, "body", property(lambda k: body(k).replace(*wrong)))
    todo = [op for op in operations(net, 8) if op.name.startswith("decode_attention")]
    notices = []
    tune(todo, net.selection, notices.append, retry=True)
    assert [line.split(" ")[0] for line in notices] == ["decode_attention_8bit"]


@pytest.mark.usefixtures("small_tuning")
@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_model_is_tuned_for_the_keys_that_it_is_loaded_for(monkeypatch, model_folder, kv_bits):
    found = []
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")
    monkeypatch.setattr(model_operations, "tune", lambda todo, *_: found.extend(todo))
    qwen35_mlx.load(model_folder, kv_bits=kv_bits)
    names = {op.name for op in found}
    assert "decode_attention" in names
    assert ("decode_attention_8bit" in names) == (kv_bits == 8)


@pytest.mark.usefixtures("small_tuning")
def test_results_of_packed_matrices_hold_for_one_format():
    net = load_network(open_checkpoint(Path(qwen35_mlx.__file__).parent / "demo"))
    keys = [op.key for op in operations(net) if "mat" in op.name or "experts" in op.name]
    assert len(keys) > 4
    assert all("8-bit affine in groups of 64" in key for key in keys)


@pytest.mark.usefixtures("small_tuning")
def test_a_result_holds_for_rows_of_the_same_lengths():
    """Others may take branches that were not checked."""
    net = load_network(open_checkpoint(Path(qwen35_mlx.__file__).parent / "demo"))

    def key() -> str:
        return next(op.key for op in operations(net) if op.name == "matmul_decode")

    before = key()
    weight = mx.random.normal((16, 3200), key=mx.random.key(0))
    q = quantized.Quantization(64, 8)
    packed = quantized.QuantizedWeight(*mx.quantize(weight, 64, 8), q)
    net.lm_head = Linear(packed, net.selection)
    assert packed.scales.dtype == mx.float32
    assert key() != before


@pytest.mark.usefixtures("kernels", "small_tuning")
def test_a_wrong_kernel_is_disabled(monkeypatch):
    body = gpu_kernel.Kernel.body.fget
    monkeypatch.setattr(
        gpu_kernel.Kernel,
        "body",
        property(lambda self: body(self).replace("+ 1e-6f", "+ 1e-1f")),
    )
    notices = []
    net = load_network(open_checkpoint(FOLDER / "moe"), dtype="float32", notice=notices.append)
    assert net.selection.delta_decode == REFERENCE
    assert net.selection.delta_prefill == REFERENCE
    assert any("delta_decode" in line and "differs" in line for line in notices)


def test_an_operation_whose_reference_fails_is_not_tuned(milliseconds, results_file):
    """No variant of it may run, since none can be checked; other operations are not affected."""

    def broken():
        raise RuntimeError("no such file: mma.h")

    fake = FakeOperation(fast=lambda: ONE)
    fake.variants[REFERENCE] = broken
    notices, tried = fake.tune()
    assert fake.selection.delta_decode == REFERENCE
    assert "mma.h" in tried["delta_decode: 4"][0].failure
    assert len(notices) == 1
    # It may run at the next start, so nothing is stored.
    assert "delta_decode" not in results_file.read_text()


def test_a_cpu_unpacks_for_long_prompts_unless_kernels_are_disabled(monkeypatch):
    monkeypatch.delenv(gpu_kernel.KERNELS_ENV, raising=False)
    if gpu_kernel.backend():
        pytest.skip("on a GPU the variant is tuned")
    demo = open_checkpoint(Path(qwen35_mlx.__file__).parent / "demo")
    fast = load_network(demo)
    assert fast.selection.matmul_prefill == fast.selection.experts_prefill == quantized.UNPACKED
    # On a CPU, MLX multiplies stacks in float32 only.
    assert load_network(demo, "bfloat16").selection == KernelSelection()
    monkeypatch.setenv(gpu_kernel.KERNELS_ENV, "reference")
    plain = load_network(demo)
    assert plain.selection == KernelSelection()
    for count in (quantized.CPU_MIN_UNPACKED_ROWS, quantized.MIN_UNPACKED_ROWS):
        ids = mx.arange(count)[None]
        got, want = (net.logits(net(ids, net.make_cache())) for net in (fast, plain))
        np.testing.assert_allclose(np.array(got), np.array(want), atol=1e-4)


def test_a_cpu_unpacks_for_no_decode_pass(monkeypatch):
    # Or a token might be rounded differently with drafts, or beside other conversations.
    if gpu_kernel.backend():
        pytest.skip("about MLX's CPU")
    ones = mx.ones((MAX_DECODE_TOKENS + 1, 64))
    w = quantized.QuantizedWeight.quantized(ones, quantized.Quantization(64, 8))
    rows = []
    monkeypatch.setitem(
        quantized.PREFILL_VARIANTS, quantized.UNPACKED, lambda x, w: rows.append(len(x))
    )
    for count in range(1, MAX_DECODE_TOKENS + 2):
        quantized.matmul(ones[:count], w, quantized.UNPACKED)
    assert rows == [MAX_DECODE_TOKENS + 1]

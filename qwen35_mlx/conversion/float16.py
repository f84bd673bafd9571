"""Whether a model fits float16: its weights, and its activations on a text.

float16 has 3 bits more than bfloat16, and a range that ends at 65504.
"""

import math
from collections.abc import Callable, Sequence

import mlx.core as mx

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress
from qwen35_mlx.checkpoint.tensor_readers import CHUNK_ELEMENTS
from qwen35_mlx.conversion.plan import ConversionPlan
from qwen35_mlx.conversion.planned_tensor import PlannedTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.layers import Passage, Trunk
from qwen35_mlx.evaluation.text import built_in_texts, make_documents
from qwen35_mlx.evaluation.watching import watched
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.moe import MLP
from qwen35_mlx.text.tokenizer import Tokenizer

LARGEST = 65504.0
# Other texts have larger activations than the one that is read here.
_MARGIN = 4
_TOKENS = 1024
# Where reading a weight twice would download it twice.
STREAMED_NOTE = (
    "this chip emulates bfloat16: float16 is faster, if it fits; --dtype float16 uses it"
)
# GPUs that emulate bfloat16: those of the families of the M1 and the M2.
_WITHOUT_BFLOAT16 = ("applegpu_g13", "applegpu_g14")


def lacks_bfloat16() -> bool:
    """Whether the machine's GPU emulates bfloat16, so that float16 is faster."""
    architecture = str(mx.device_info().get("architecture", ""))
    return architecture.startswith(_WITHOUT_BFLOAT16)


def plan_within_range(
    checkpoint: Checkpoint,
    make_plan: Callable[[mx.Dtype | None], ConversionPlan],
    dtype: mx.Dtype | None,
    progress: Progress | None,
    *,
    unread_note: str | None,
    choose: bool,
) -> tuple[ConversionPlan, list[str], Progress | None]:
    """The plan of a conversion, in float16 only if all weights fit.

    On a GPU that emulates bfloat16, a bfloat16 model becomes float16 unless a dtype is given, if
    its activations on a text fit as well.

    Args:
        make_plan: the plan with a dtype, None for that of each tensor.
        dtype: that the user has chosen.
        progress: called with (bytes read, bytes to read and to write, what is being done).
        unread_note: given where weights are not to be read: the line for the user where float16
            might have been chosen. Weights are then checked when they are written, with
            `check_written`.
        choose: whether float16 may be chosen.

    Returns:
        The plan, lines for the user, and the progress to report the bytes written to.

    Raises:
        Qwen35Error: a weight does not fit the given dtype, or is not finite.
    """
    open_choice = (
        choose
        and dtype is None
        and not checkpoint.is_quantized
        and checkpoint.dtype_of_most == mx.bfloat16
        and lacks_bfloat16()
    )
    if unread_note is not None:
        return make_plan(dtype), [unread_note] if open_choice else [], progress
    if not open_choice:
        plan = make_plan(dtype)
        problem, progress = _weight_problem(checkpoint, plan, progress)
        if problem:
            raise Qwen35Error(f"{problem}: choose --dtype bfloat16")
        return plan, [], progress
    problem = activation_problem(checkpoint)
    if problem is None:
        plan = make_plan(mx.float16)
        problem, progress = _weight_problem(checkpoint, plan, progress)
        if problem is None:
            note = (
                "dtype float16, as this chip emulates bfloat16: all weights fit, and the "
                "activations on a text; --dtype bfloat16 keeps the source's"
            )
            return plan, [note], progress
    plan = make_plan(None)
    note = f"dtype bfloat16, although this chip emulates it, because {problem}"
    return plan, [note], progress


def _weight_problem(
    checkpoint: Checkpoint, plan: ConversionPlan, progress: Progress | None
) -> tuple[str | None, Progress | None]:
    """Which weight does not fit float16, in words, and the progress for what follows.

    Raises:
        Qwen35Error: a weight is not finite.
    """
    limited = [
        (tensor, checkpoint.plain(name))
        for tensor in plan.tensors
        if not tensor.carried and any(spec.dtype == mx.float16 for spec in tensor.specs())
        for name in tensor.sources
    ]
    # What is float16 already fits.
    limited = [(tensor, rows) for tensor, rows in limited if rows.dtype != mx.float16]
    read = sum(math.prod(rows.shape) * rows.dtype.size for _, rows in limited)
    done, total = 0, read + plan.nbytes
    for tensor, rows in limited:
        count = max(1, CHUNK_ELEMENTS // max(1, math.prod(rows.shape[1:])))
        for start in range(0, rows.shape[0], count):
            chunk = rows.read(start, min(start + count, rows.shape[0]))
            if problem := _range_problem(tensor, chunk):
                return problem, progress
            done += chunk.nbytes
            if progress:
                progress(done, total, f"checking {tensor.name}")
    if progress is None or not read:
        return None, progress
    return None, lambda done, whole, what: (
        # What follows the writing has another total.
        progress(read + done, total, what) if whole == plan.nbytes else progress(done, whole, what)
    )


def _range_problem(tensor: PlannedTensor, values: mx.array) -> str | None:
    # With one bit, a scale is the whole range of a group.
    one_bit = tensor.quantization is not None and tensor.quantization.bits == 1
    limit = LARGEST / 2 if one_bit else LARGEST
    magnitude = mx.abs(values.astype(mx.float32))
    if mx.all(magnitude <= limit).item():  # false for NaN
        return None
    if not mx.all(mx.isfinite(magnitude)).item():
        raise Qwen35Error(
            f"'{tensor.name}' has values that are not finite: fetch the checkpoint again"
        )
    return (
        f"'{tensor.name}' has the value {magnitude.max().item():.6g}, and float16 ends at {limit:g}"
    )


def check_written(name: str, values: Sequence[mx.array]) -> None:
    """Check what is written of a tensor, where its weights could not be checked before.

    Raises:
        Qwen35Error: a value became infinite in float16.
    """
    for value in values:
        if value.dtype == mx.float16 and not mx.all(mx.isfinite(value)).item():
            raise Qwen35Error(
                f"'{name}' has values that do not fit float16: choose --dtype bfloat16"
            )


def activation_problem(checkpoint: Checkpoint) -> str | None:
    """Why the activations may not fit float16, in words that follow "because"; None if they fit.

    The text of the package is read layer by layer, in float32.

    Raises:
        Qwen35Error: a file cannot be read.
    """
    try:
        tokenizer = Tokenizer.from_files(checkpoint.text)
        documents = make_documents(tokenizer, built_in_texts(), _TOKENS)
    except Qwen35Error:
        return "its tokenizer reads no text to check the activations on"
    if max(map(max, documents)) >= checkpoint.model.vocab_size:
        return "its tokenizer is not that of the network"
    trunk = Trunk(checkpoint, [Passage(ids) for ids in documents], "the source")
    largest = mx.array(0.0)

    def watch(values: mx.array) -> None:
        nonlocal largest
        largest = mx.maximum(largest, mx.max(mx.abs(values)))
        mx.eval(largest)

    for index in range(trunk.layers):
        trunk.advance(index, lambda layer: _watch_products(layer, watch))
        for hidden in trunk.hidden:
            watch(hidden)
        if (largest > LARGEST / _MARGIN).item():
            return (
                f"layer {index} computes {largest.item():.3g} on a text, which leaves no margin "
                f"to the end of float16 at {LARGEST:g}"
            )
    return None


def _watch_products(layer: Layer, watch: Callable[[mx.array], None]) -> None:
    """Watch what goes into and comes out of the last matrix of each branch of a layer.

    Into that of a feed-forward goes the product of two activations, the largest of a layer.
    """

    def report(x: mx.array, _: mx.array | None, y: mx.array) -> None:
        watch(x)
        watch(y)

    if isinstance(layer.mixer, Attention):
        layer.mixer.o_proj = watched(layer.mixer.o_proj, report)
    else:
        layer.mixer.out_proj = watched(layer.mixer.out_proj, report)
    layer.mlp.down_proj = watched(layer.mlp.down_proj, report)
    if not isinstance(layer.mlp, MLP):
        shared = layer.mlp.shared_expert
        shared.down_proj = watched(shared.down_proj, report)

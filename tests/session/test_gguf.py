"""GGUF files from end to end: loaded, converted, exported, and continued after a restart."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import gguf
import mlx.core as mx
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from qwen35_chat.main import main as chat_main
from qwen35_chat.tokens import TokenCounter

import qwen35_mlx
from qwen35_mlx import demo
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import resolve_checkpoint, resolve_head
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.stored import local_checkpoint
from qwen35_mlx.checkpoint.tensor_readers import PackedMatrix, RowRange, plain
from qwen35_mlx.conversion.gguf_export import export_gguf
from qwen35_mlx.convert import main as convert_main
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.library.library import Library
from qwen35_mlx.model.network import Network
from qwen35_mlx.progress import ProgressBar
from qwen35_mlx.prompt_cache.fingerprint import of_weights
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.checkpoint.cases import golden
from tests.checkpoint.gguf import encode
from tests.checkpoint.gguf.cases import convert as gguf_tensors
from tests.checkpoint.gguf.cases import write_gguf
from tests.goldens import NAMES, assert_logits, expected
from tests.session.durable_child import done_of

QUESTION = "How do I change the model?"
Choice = Callable[[str, tuple[int, ...]], Type | None]
ENCODERS = {Type.Q4_K: encode.q4_k, Type.Q6_K: encode.q6_k}


def logits(network: Network, ids: mx.array) -> mx.array:
    return network.logits(network(ids[None], network.make_cache()))[0]


def with_plain_values(path: Path) -> Checkpoint:
    """A checkpoint with the values of its blocks, by their definition."""
    checkpoint = open_checkpoint(path)
    values = {name: plain(matrix) for name, matrix in checkpoint.matrices.items()}
    return checkpoint.with_matrices({n: RowRange(v, 0, v.shape[0]) for n, v in values.items()})


def rewritten(path: Path, out: Path, choose: Choice, more: str = "") -> Path:
    """A copy of a float32 file, with the matrices that `choose` names a type for in that type.

    Args:
        more: the name of a tensor to add.
    """
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        values = np.array(tensor.data)
        kind = choose(tensor.name, values.shape) if values.shape[-1] % 256 == 0 else None
        if kind is None:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, ENCODERS[kind](values), raw_dtype=kind)
    if more:
        writer.add_tensor(more, np.zeros((2, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def a_mixture(name: str, shape: tuple[int, ...]) -> Type | None:
    """As in a file of Q4_K_M: most matrices Q4_K, some Q6_K."""
    if len(shape) < 2 or not name.endswith(".weight") or "conv1d" in name or "inp" in name:
        return None
    return Type.Q6_K if "attn_v" in name or "token_embd" in name else Type.Q4_K


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as F32.gguf, F16.gguf, Q8_0.gguf, and Q4_K_M.gguf."""
    folder = tmp_path_factory.mktemp("gguf")
    export_gguf("demo", folder / "F32.gguf", gguf_type="F32")
    for kind in ("F16", "Q8_0"):
        export_gguf(folder / "F32.gguf", folder / f"{kind}.gguf", gguf_type=kind)
    rewritten(folder / "F32.gguf", folder / "Q4_K_M.gguf", a_mixture)
    return folder


@pytest.fixture(scope="module")
def reply() -> str:
    return greedy(load("demo"))


def greedy(model: Model) -> str:
    return model.generate(
        [{"role": "user", "content": QUESTION}], max_tokens=40, temperature=0.0, thinking=False
    ).text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tensors_per_part", [0, 20])
def test_a_file_has_the_logits_of_the_reference(tmp_path: Path, name: str, tensors_per_part: int):
    metadata, tensors = gguf_tensors(*golden(name))
    path = write_gguf(tmp_path / "f.gguf", metadata, tensors, tensors_per_part=tensors_per_part)
    checkpoint = open_checkpoint(path)
    assert (len(checkpoint.files) > 1) == bool(tensors_per_part)
    assert checkpoint.nbytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    wanted = expected(name)
    assert_logits(logits(load_network(checkpoint), wanted["prompt"]), wanted["prefill_logits"])


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_packed_matrices_compute_what_their_blocks_say(tmp_path: Path, dtype: str):
    metadata, arrays = gguf_tensors(*golden("moe"), fuse_experts=True, mtp=False)
    matrices = [name for name, v in arrays.items() if v.ndim > 1 and v.shape[-1] % 32 == 0]
    path = write_gguf(tmp_path / "f.gguf", metadata, arrays, dict.fromkeys(matrices, Type[dtype]))
    ids, lines = expected("moe")["prompt"][:20], list[str]()
    got = logits(load_network(open_checkpoint(path), notice=lines.append), ids)
    want = logits(load_network(with_plain_values(path)), ids)
    assert (lines, len(matrices) > 20) == ([], True)
    assert_logits(got, want)


def test_a_type_without_an_equal_computes_nearly_what_its_blocks_say(tmp_path: Path):
    metadata, arrays = gguf_tensors(*golden("dense"), mtp=False)
    rng = np.random.default_rng(3)
    matrices = [name for name, v in arrays.items() if v.ndim > 1 and v.shape[-1] % 32 == 0]
    for name in matrices:  # random blocks, as the package writes none of this type
        shape = (*arrays[name].shape[:-1], arrays[name].shape[-1] // 32, 18)
        blocks = rng.integers(0, 256, shape, np.uint8)
        scales = rng.uniform(2e-4, 6e-4, shape[:-1]).astype("<f2")
        blocks[..., :2] = scales[..., None].view("u1")
        arrays[name] = blocks.reshape(*shape[:-2], -1)
    path = write_gguf(tmp_path / "f.gguf", metadata, arrays, dict.fromkeys(matrices, Type.IQ4_NL))
    ids, lines = expected("dense")["prompt"][:20], list[str]()
    got = logits(load_network(open_checkpoint(path), notice=lines.append), ids)
    want = logits(load_network(with_plain_values(path)), ids)
    (line,) = lines
    assert line.startswith(f"{len(matrices)} matrices are requantised")
    assert "IQ4_NL to 6 bits" in line
    error = mx.sqrt(mx.square(got - want).mean()) / mx.std(want)
    assert 0 < error.item() < 0.2


def test_a_mixture_of_k_types_is_loaded_packed(files: Path, reply: str):
    lines: list[str] = []
    model = qwen35_mlx.load(files / "Q4_K_M.gguf", notice=lines.append)
    (line,) = lines
    assert line.startswith("4 matrices are requantised")
    assert "Q6_K to 8 bits" in line
    exact = load_network(with_plain_values(files / "Q4_K_M.gguf"), notice=lines.append)
    assert len(lines) == 1
    ids = model.render([{"role": "user", "content": QUESTION}])
    got, want = mx.array(model.logits(ids)), logits(exact, mx.array(ids))
    source = mx.array(load("demo").logits(ids))

    def divergence(a: mx.array, b: mx.array) -> float:
        p, q = (x - mx.logsumexp(x, axis=-1, keepdims=True) for x in (a, b))
        return (mx.exp(p) * (p - q)).sum(axis=-1).mean().item()  # type: ignore[return-value]

    assert 0 < divergence(want, got) < 0.02 * divergence(source, want)
    assert greedy(model) == reply


def test_k_types_that_mlx_has_are_equal_to_the_bit(files: Path, tmp_path: Path):
    path = rewritten(
        files / "F32.gguf",
        tmp_path / "f.gguf",
        lambda name, shape: a_mixture(name, shape) and Type.Q4_K,
    )
    checkpoint, lines = open_checkpoint(path), list[str]()
    packed = [m for m in checkpoint.matrices.values() if isinstance(m, PackedMatrix)]
    # Also the output projections, whose heads are halves of a block.
    assert any("out_proj" in name for name, m in checkpoint.matrices.items() if m in packed)
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    want = gguf.dequantize(stored["blk.1.ffn_up_exps.weight"].data, Type.Q4_K)
    got = checkpoint.plain("model.layers.1.mlp.switch_mlp.up_proj.weight")
    np.testing.assert_array_equal(np.array(got.read(2, 9)), want[2:9])
    ids = mx.array([5, 300, 41, 7])
    assert_logits(
        logits(load_network(checkpoint, notice=lines.append), ids),
        logits(load_network(with_plain_values(path)), ids),
    )
    assert lines == []


def test_rows_of_parts_may_be_read_in_any_order(files: Path):
    matrix = open_checkpoint(files / "Q4_K_M.gguf").matrices[
        "model.layers.0.mlp.shared_expert.up_proj.weight"
    ]
    assert isinstance(matrix, PackedMatrix)
    whole = {name: np.array(part.read(0, part.shape[0])) for name, part in matrix.parts.items()}
    for name in ("biases", "weight", "weight", "scales", "biases"):
        for start, stop in ((3, 9), (0, 4), (3, 9), (5, 5)):
            part = np.array(matrix.parts[name].read(start, stop))
            np.testing.assert_array_equal(part, whole[name][start:stop])


@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_the_demo_as_a_file_chats_as_the_demo(files: Path, reply: str, kind: str):
    lines: list[str] = []
    model = load(files / f"{kind}.gguf", notice=lines.append)
    assert lines == []
    assert greedy(model) == reply
    assert model.sampling == load("demo").sampling
    assert model.eos == load("demo").eos


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", mx.float32), ("F16", mx.float16), ("Q8_0", mx.float16)]
)
def test_the_dtype_of_a_file(files: Path, kind: str, dtype: mx.Dtype):
    assert open_checkpoint(files / f"{kind}.gguf").dtype_of_most == dtype


def test_the_dtype_of_a_file_of_k_types_is_not_float32(files: Path, tmp_path: Path):
    assert open_checkpoint(files / "Q4_K_M.gguf").dtype_of_most == mx.float16
    export_gguf(files / "F32.gguf", tmp_path / "b.gguf", gguf_type="BF16")
    assert open_checkpoint(tmp_path / "b.gguf").dtype_of_most == mx.bfloat16


def test_notes_are_shown_once_at_load_and_at_conversion(files: Path, tmp_path: Path):
    path = rewritten(files / "F32.gguf", tmp_path / "f.gguf", lambda *_: None, "v.patch.weight")
    note, lines = "not read, as only other programs use them: 'v.patch.weight'", list[str]()
    load(path, notice=lines.append)
    assert lines == [note]
    assert qwen35_mlx.convert(path, tmp_path / "out", verify=False).warnings == (note,)
    assert export_gguf(path, tmp_path / "o.gguf").warnings == (note,)


def test_a_conversion_of_a_file_has_its_tokenizer_and_template(
    files: Path, tmp_path: Path, reply: str
):
    words = "What is 17 + 25? It is 42. " * 2
    summary = qwen35_mlx.convert(files / "Q8_0.gguf", tmp_path / "out", verify_text=words)
    assert summary.warnings == ()
    comparison = summary.proof.comparison
    assert comparison
    assert comparison.divergence.mean < 1e-6
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    model = load(tmp_path / "out")
    assert greedy(model) == reply
    assert model.eos == load(files / "Q8_0.gguf").eos
    template = (tmp_path / "out" / "chat_template.jinja").read_text()
    assert template == (demo.folder() / "chat_template.jinja").read_text()
    converted, source = open_checkpoint(tmp_path / "out"), open_checkpoint(files / "Q8_0.gguf")
    name = "model.layers.2.linear_attn.out_proj.weight"
    for part in ("weight", "scales", "biases"):
        got, want = (c.read(name.replace("weight", part)) for c in (converted, source))
        assert mx.array_equal(got, want)


def test_a_conversion_of_k_types_is_in_16_bits(files: Path, tmp_path: Path, reply: str):
    summary = qwen35_mlx.convert(files / "Q4_K_M.gguf", tmp_path / "out", verify=False)
    (line,) = summary.warnings
    assert line.startswith("matrices of the types Q6_K are written with 16 bits")
    converted = open_checkpoint(tmp_path / "out")
    assert converted.dtype_of_most == mx.float16
    assert converted.quantization("model.layers.0.mlp.switch_mlp.up_proj") == Quantization(32, 4)
    assert converted.dtype("model.layers.0.mlp.switch_mlp.up_proj.scales") == mx.float16
    assert converted.dtype("model.embed_tokens.weight") == mx.float16
    assert converted.dtype("model.layers.0.mlp.gate.weight") == mx.float16
    assert greedy(load(tmp_path / "out")) == reply
    quantised = qwen35_mlx.convert(
        files / "Q4_K_M.gguf", tmp_path / "q", quantize=True, verify=False
    )
    assert quantised.warnings == ()
    assert open_checkpoint(tmp_path / "q").dtype("model.embed_tokens.scales") == mx.float16


@pytest.mark.parametrize("source", ["file", "split", "folder"])
def test_blocks_of_q8_0_come_back_as_they_were(files: Path, tmp_path: Path, source: str):
    path = files / "Q8_0.gguf"
    if source == "folder":
        qwen35_mlx.convert(path, tmp_path / "mlx", verify=False)
        path = tmp_path / "mlx"
    if source == "split":
        reader = gguf.GGUFReader(path)
        metadata = {
            name: field.contents()
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.")
        }
        path = write_gguf(
            tmp_path / "s.gguf",
            metadata,
            {t.name: np.array(t.data) for t in reader.tensors},
            {t.name: t.tensor_type for t in reader.tensors},
            tensors_per_part=60,
        )
    export_gguf(path, tmp_path / "again.gguf", gguf_type="Q8_0")
    first, again = (
        {t.name: t for t in gguf.GGUFReader(file).tensors}
        for file in (files / "Q8_0.gguf", tmp_path / "again.gguf")
    )
    assert first.keys() == again.keys()
    blocks = [name for name, t in first.items() if t.tensor_type == Type.Q8_0]
    assert len(blocks) > 60
    for name in blocks:
        np.testing.assert_array_equal(first[name].data, again[name].data)


def test_the_command_writes_a_file_in_place_of_a_folder(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    source = ["--hf-path", str(files / "F32.gguf")]
    assert convert_main([*source, "--gguf", "d.gguf", "--gguf-type", "BF16"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"d.gguf"}
    assert "d.gguf: BF16, 26.8 MB" in capsys.readouterr().out
    for options, says in (
        (["--gguf", "e.gguf", "-q"], "--quantize does not go with --gguf: --gguf-type says"),
        (["--gguf", "e.gguf", "--recipe", "4bit"], "--recipe does not go with --gguf"),
        (["--gguf", "e.gguf", "--dequantize"], "--dequantize does not go with --gguf"),
        (["--gguf", "e.gguf", "--stream"], "--stream does not go with --gguf: it is for a folder"),
        (["--gguf", "e.gguf", "--no-verify"], "--no-verify does not go with --gguf"),
        (["--gguf", "e.gguf", "--upload-repo", "a/b"], "--upload-repo does not go with --gguf"),
        (["--gguf", "e.gguf", "--adapter-path", "a"], "--adapter-path does not go with --gguf"),
        (["--gguf", "e.gguf", "--gguf-type", "Q4_K_M"], "llama.cpp's llama-quantize makes other"),
        (["--gguf", "d.gguf"], "d.gguf exists already"),
        (["--gguf-type", "F16"], "--gguf-type needs --gguf FILE"),
    ):
        assert _exit_code([*source, *options]) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert says in line
    assert {path.name for path in tmp_path.iterdir()} == {"d.gguf"}


def test_ctrl_c_while_a_file_is_written_is_one_line(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBar, "__call__", interrupt)
    options = ["--hf-path", str(files / "Q8_0.gguf"), "--gguf", str(tmp_path / "d.gguf")]
    assert convert_main(options) == 130
    assert capsys.readouterr().err.endswith("\ninterrupted: nothing was kept\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_any_name_is_opened_by_its_content(files: Path, tmp_path: Path):
    path = tmp_path / "weights"
    path.symlink_to(files / "Q8_0.gguf")
    assert resolve_checkpoint(str(path)) == path
    checkpoint = open_checkpoint(path)
    assert checkpoint.is_gguf
    assert checkpoint.text.tokenizer == open_checkpoint(files / "Q8_0.gguf").text.tokenizer
    assert of_weights([path])
    assert local_checkpoint(str(path)) == path
    assert resolve_head(str(path)) == path
    (tmp_path / "words").write_text("GGU")
    with pytest.raises(Qwen35Error, match="neither a checkpoint folder nor a GGUF file"):
        resolve_checkpoint(str(tmp_path / "words"))


def _exit_code(options: list[str]) -> object:
    try:
        return convert_main(options)
    except SystemExit as stop:
        return stop.code


def test_settings_that_transformers_does_not_read_are_named(tmp_path: Path):
    folder = tmp_path / "demo"
    shutil.copytree(demo.folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    text = config["text_config"]
    text["rope_parameters"] |= {
        "rope_type": "yarn",
        "factor": 2.0,
        "original_max_position_embeddings": text["max_position_embeddings"],
    }
    text["max_position_embeddings"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    *others, warning = export_gguf(folder, tmp_path / "o.gguf").warnings
    assert not any("YaRN" in line for line in others)
    assert warning.startswith("YaRN settings are written for llama.cpp")
    again = open_checkpoint(tmp_path / "o.gguf").model.rope.scaling
    assert again
    assert (again["factor"], again["original_max_position_embeddings"]) == (2, 8192)


def test_a_full_disk_is_named_before_anything_is_written(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = type("Usage", (), {"free": 70 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(Qwen35Error, match=r"not enough space .* takes 26\.8 MB"):
        export_gguf(files / "Q8_0.gguf", tmp_path / "o.gguf", gguf_type="F16")
    assert not list(tmp_path.iterdir())


def test_states_are_restored_after_a_restart(files: Path, tmp_path: Path):
    number, reused = None, list[int]()
    for _ in range(2):
        with (
            load(files / "Q4_K_M.gguf", notice=lambda _: None) as model,
            Library(tmp_path / "library") as library,
        ):
            chat = Chat(model, library=library, conversation=number, temperature=0.0)
            reused.append(done_of(chat.send(QUESTION, max_tokens=20)).usage.cached_tokens)
            number = chat.conversation.id
    assert reused[0] == 0 < reused[1]


def test_states_of_another_file_are_not_used(files: Path, tmp_path: Path):
    hashes = {name: of_weights([files / f"{name}.gguf"]) for name in ("F32", "Q8_0", "Q4_K_M")}
    assert len(set(hashes.values())) == 3
    content = bytearray((files / "Q8_0.gguf").read_bytes())
    copy = tmp_path / "Q8_0.gguf"
    copy.write_bytes(content)
    assert of_weights([copy]) == hashes["Q8_0"]
    content[-40] ^= 1
    copy.write_bytes(content)
    assert of_weights([copy]) != hashes["Q8_0"]


def test_the_chat_program_uses_a_file(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
    counter = TokenCounter()
    counter.use_model(str(files / "Q8_0.gguf"))
    other = TokenCounter()
    other.use_model("demo")
    assert counter.describe(QUESTION) == other.describe(QUESTION)
    assert not counter.describe(QUESTION).startswith("about")
    options = ["--model", str(files / "Q8_0.gguf"), "-p", QUESTION, "--no-thinking"]
    assert chat_main(options) == 0
    assert capsys.readouterr().out.strip()

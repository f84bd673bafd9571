"""The agreement of MTP heads with their network, and the choice between two readings."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.evaluation import mtp
from qwen35_mlx.evaluation.mtp import checkpoint_agreements, confirm_mtp, mtp_agreements
from qwen35_mlx.evaluation.text import built_in_texts, make_documents
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.mtp import MTPHead
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from tests.goldens import FOLDER, expected, network


class ShiftedNorms:
    """A checkpoint whose head's norms are read as 1 more, or less, than they are."""

    def __init__(self, checkpoint: Checkpoint, shift: float):
        self._checkpoint, self._shift = checkpoint, shift
        self.names, self.quantization = checkpoint.names, checkpoint.quantization
        self.rotation = checkpoint.rotation

    def read(self, name: str) -> mx.array:
        value = self._checkpoint.read(name)
        is_norm = name.startswith("mtp.") and "norm" in name
        return value + self._shift if is_norm else value


def head(network: Network, checkpoint: Checkpoint, shift: float) -> MTPHead:
    weights = Weights(network.config, ShiftedNorms(checkpoint, shift), mx.float32)
    weights.selection = network.selection
    return MTPHead(network.config, weights.scope("mtp"), make_rope(network.config))


@pytest.mark.parametrize("name", ["dense", "moe"])
@pytest.mark.parametrize("positions", [7, 64])
def test_agreement_is_that_of_the_reference_logits(name, positions, monkeypatch):
    monkeypatch.setattr(mtp, "_POSITIONS", positions)
    want, net = expected(name), network(name, mtp=True)
    assert net.mtp is not None
    prompt = np.array(want["prompt"]).tolist()
    own = np.array(want["prefill_logits"]).argmax(-1)
    guesses = np.array(want["mtp_logits"]).argmax(-1)
    share = (guesses[:-1] == own[1:-1]).mean()
    assert mtp_agreements(net, {"head": net.mtp}, [prompt, [1, 2]]) == {"head": share}


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_layer_by_layer_the_agreement_is_the_same(name, monkeypatch):
    monkeypatch.setattr("qwen35_mlx.evaluation.logits.BLOCK_ELEMENTS", 1 << 12)
    net, checkpoint = network(name, mtp=True), Checkpoint.open(FOLDER / name)
    assert net.mtp is not None
    heads = {"right": net.mtp, "wrong": head(net, checkpoint, -1)}
    prompt = np.array(expected(name)["prompt"]).tolist()
    documents = [prompt, [1, 2], prompt[:20]]
    want = mtp_agreements(net, heads, documents)
    assert want["right"] != want["wrong"]
    assert checkpoint_agreements(checkpoint, heads, documents) == pytest.approx(want)
    assert confirm_mtp(checkpoint, heads, documents) == confirm_mtp(net, heads, documents)


def test_without_documents_nothing_agrees():
    net = network("dense", mtp=True)
    assert net.mtp is not None
    assert mtp_agreements(net, {"head": net.mtp}, [[1, 2]]) == {"head": 0}
    checkpoint = Checkpoint.open(FOLDER / "dense")
    assert checkpoint_agreements(checkpoint, {"head": net.mtp}, [[1, 2]]) == {"head": 0}


def test_the_right_reading_of_a_trained_head_wins():
    checkpoint = Checkpoint.open(demo.folder())
    tokenizer = Tokenizer.from_files(TextFiles.from_folder(demo.folder()))
    documents = make_documents(tokenizer, built_in_texts()[3:], 256)
    net = load_network(checkpoint, dtype="float32")
    heads = {f"shifted by {shift}": head(net, checkpoint, shift) for shift in (-1, 0)}
    chosen, shares = confirm_mtp(net, heads, documents)
    assert chosen == "shifted by 0"
    assert shares["shifted by 0"] > 4 * shares["shifted by -1"]


def test_of_equal_readings_the_first_wins():
    net = network("dense", mtp=True)
    assert net.mtp is not None
    chosen, shares = confirm_mtp(net, {"one": net.mtp, "two": net.mtp}, [list(range(40))])
    assert chosen == "one"
    assert shares["one"] == shares["two"]

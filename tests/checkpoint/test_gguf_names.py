"""Names of models and of GGUF files."""

import pytest

from qwen35_mlx.checkpoint.gguf_names import GgufModel, matching, models_among, parts_of
from qwen35_mlx.checkpoint.hub_name import HubName


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/repo", HubName("org/repo")),
        ("org/repo-GGUF:q4_k_m", HubName("org/repo-GGUF", "Q4_K_M")),
        ("org/repo:UD-Q4_K_XL", HubName("org/repo", "UD-Q4_K_XL")),
        ("org/repo/a file (1).gguf", HubName("org/repo", file="a file (1).gguf")),
        ("org/repo/BF16/m.GGUF", HubName("org/repo", file="BF16/m.GGUF")),
        # A file that is the repository of the name, and no file in it.
        ("org/m.gguf", HubName("org/m.gguf")),
        ("org/repo/m.bin", None),
        ("org/repo/../m.gguf", None),
        ("org/repo/.hidden/m.gguf", None),
        ("org/repo/a\\b.gguf", None),
        ("org/repo/a\nb.gguf", None),
        ("org/repo/.gguf", None),
        ("org/repo:", None),
        ("org/repo:a/b", None),
        ("/org/repo", None),
        ("repo:Q4_K_M", None),
        ("", None),
    ],
)
def test_names_on_the_hub(name: str, expected: HubName | None):
    assert HubName.parse(name) == expected


def test_only_the_first_part_stands_for_a_split_model():
    parts = tuple(f"BF16/m-BF16-0000{number}-of-00003.gguf" for number in (1, 2, 3))
    assert models_among([*parts, "m-Q4_K_M.gguf"]) == [
        GgufModel(parts),
        GgufModel(("m-Q4_K_M.gguf",)),
    ]
    # A part that is missing, be it the first, does not make two models of one.
    assert models_among(parts[1:]) == [GgufModel(parts, missing=parts[:1])]
    assert all(parts_of(part) == parts for part in parts)


@pytest.mark.parametrize("name", ["m-00000-of-00002", "m-00003-of-00002", "m-00001-of-99999"])
def test_a_number_that_is_no_part_is_a_name(name: str):
    assert parts_of(f"{name}.gguf") == (f"{name}.gguf",)


def test_files_beside_a_model_are_left_out():
    files = [
        "mmproj-F16.gguf", "Qwen3.5-4B-mmproj-BF16.gguf", "imatrix_unsloth.gguf", "mtp-m-Q8_0.gguf",
        "x/dflash-m.gguf", "README.md", "m.gguf.part", "config.json",
    ]  # fmt: skip
    assert models_among(files) == []
    assert [model.file for model in models_among([*files, "M-MTP-Q8_0.GGUF"])] == [
        "M-MTP-Q8_0.GGUF"
    ]


@pytest.mark.parametrize(
    ("file", "quantization"),
    [
        ("Qwen3.5-4B-Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3.8-27B-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Qwen3.5-27B.i1-IQ4_XS.gguf", "IQ4_XS"),
        ("sub/qwen3.5-4b-q8_0-00001-of-00002.gguf", "Q8_0"),
        ("Qwen3.5-4B.f16.gguf", "F16"),
        ("Qwen3.6-35B-A3B-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("org_repo_model-Q5_0.gguf", "Q5_0"),
        ("Q6_K.gguf", "Q6_K"),
        # The size of the model and the name of the family are no quantisations.
        ("Qwen3.5-4B.gguf", ""),
        ("qwen.gguf", ""),
    ],
)
def test_the_quantisation_is_the_last_word(file: str, quantization: str):
    assert models_among([file])[0].quantization == quantization


def files_matching(quantization: str, *files: str) -> list[str]:
    return [model.file for model in matching(models_among(files), quantization)]


def test_which_file_a_quantisation_means():
    assert files_matching("q4_k_m", "m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf") == ["m-Q4_K_M.gguf"]
    assert files_matching("Q4_K_M", "m-UD-Q4_K_M.gguf", "m-Q8_0.gguf") == ["m-UD-Q4_K_M.gguf"]
    assert files_matching("Q4_K", "m-Q4_K_M.gguf") == []
    assert len(files_matching("Q8_0", "a-Q8_0.gguf", "b-Q8_0.gguf")) == 2


def test_which_file_is_meant_without_a_quantisation():
    assert files_matching("", "m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf") == ["m-Q4_K_M.gguf"]
    assert files_matching("", "m-Q2_K.gguf", "m-Q8_0.gguf") == ["m-Q8_0.gguf"]
    assert files_matching("", "m-Q2_K.gguf") == ["m-Q2_K.gguf"]
    assert files_matching("", "m-Q2_K.gguf", "m-Q3_K_S.gguf") == []

"""The settings of a PEFT adapter: adapter_config.json."""

import math
import re
from dataclasses import dataclass

from qwen35_mlx.checkpoint.adapters.adapter import MAX_RANK
from qwen35_mlx.checkpoint.tensor_readers import StoredTensor
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.untrusted_json import Fields

# Options of LoraConfig with which the matrix is another one.
_VARIANTS = (
    *("use_qalora", "layer_replication", "trainable_token_indices", "alora_invocation_tokens"),
    *("use_bdlora", "kasa_config", "velora_config", "monteclora_config", "arrow_config"),
    "lora_bias",
)
# Ways to begin the training that leave W as it is, besides the default.
_NEUTRAL = ("gaussian", "eva", "orthogonal")
_FIRST_UNTRANSPOSED = (0, 19, 1)


@dataclass(frozen=True, slots=True)
class PeftSettings:
    """adapter_config.json."""

    config: Fields

    def check(self) -> None:
        """Refuse adapters whose matrix is not W + scale * B @ A.

        Raises:
            Qwen35Error: a setting makes it another one.
        """
        kind = self.config.text("peft_type", "LORA")
        if kind.upper() != "LORA":
            raise self._unsupported(f"the adapter is of the kind {shown(kind)}")
        for option in _VARIANTS:
            if self.config.values.get(option):
                raise self._unsupported(f"{option} is set")
        initial = self.config.values.get("init_lora_weights")
        if not (initial is None or isinstance(initial, bool) or initial in _NEUTRAL):
            raise self._unsupported(f"init_lora_weights {shown(initial)} changes the model as well")

    def _unsupported(self, problem: str) -> Qwen35Error:
        return Qwen35Error(
            f"{self.config.source}: {problem}, which is not supported: merge the adapter with "
            "PEFT's merge_and_unload, and load the result"
        )

    @property
    def is_dora(self) -> bool:
        return self.config.flag("use_dora")

    def scaling(self, module: str, rank: int, file: StoredTensor) -> float:
        """What B @ A of a module is multiplied by.

        Args:
            module: as the file names it; of a parameter, with its name.
            rank: of its tensors.
            file: one of them.

        Raises:
            Qwen35Error: the settings give another rank, or cannot be read.
        """
        if not self.config.values.get("rank_pattern"):
            stated = self.config.whole("r", 8, high=MAX_RANK)
            if stated != rank:
                raise Qwen35Error(
                    f"{file.path}: '{file.name}' has the rank {rank}, where {self.config.source} "
                    f"says {stated}: fetch both files of one adapter"
                )
        alpha = self.config.number("lora_alpha", 8)
        patterns = self.config.section("alpha_pattern")
        module = module.removeprefix("base_model.model.").replace(".base_layer", "")
        for pattern in patterns.values:
            if self._matches(pattern, module):
                alpha = patterns.number(pattern)
                break
        return alpha / (math.sqrt(rank) if self.config.flag("use_rslora") else rank)

    def takes_rows_for_inputs(self, file: StoredTensor) -> bool:
        """Whether the version of PEFT took the axes of square experts for (in, out).

        Raises:
            Qwen35Error: the settings do not name the version.
        """
        version = re.match(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})", self.config.text("peft_version", ""))
        if version is None:
            raise Qwen35Error(
                f"{file.path}: '{file.name}' is of square experts, and {self.config.source} has no "
                "peft_version, which tells rows and columns apart: save the adapter again with PEFT"
            )
        return tuple(map(int, version.groups())) < _FIRST_UNTRANSPOSED

    def _matches(self, pattern: str, module: str) -> bool:
        """Whether a key of alpha_pattern names a module: its whole name, or the end of it.

        Keys are regular expressions to PEFT. Only those that spell a name are read here: others
        could take any time to match.
        """
        spelled = pattern.replace("\\.", ".").removesuffix("$")
        whole = spelled.startswith("^")
        name = spelled.removeprefix("^")
        if not re.fullmatch(r"[\w.-]+", name):
            raise self._unsupported(f"the key {shown(pattern)} of alpha_pattern is a pattern")
        return module == name or (not whole and module.endswith(f".{name}"))

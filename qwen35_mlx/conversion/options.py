"""What a conversion is asked to write, whatever its source."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.recipe_file import find_recipe
from qwen35_mlx.checkpoint.recipes import Recipe
from qwen35_mlx.conversion.calibration import CalibrationText
from qwen35_mlx.conversion.hf_layout import plan_dequantization
from qwen35_mlx.conversion.plan import ConversionPlan, plan_conversion
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.weights import DTYPES


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `convert` that the plan follows from.

    Attributes:
        recipe: None leaves every matrix as it is.
        dtype: None keeps that of each tensor.
    """

    recipe: Recipe | None
    dequantize: bool
    dtype: mx.Dtype | None

    @classmethod
    def of(
        cls,
        *,
        quantize: bool,
        recipe: str | None,
        q_bits: int | None,
        q_group_size: int | None,
        q_mode: str,
        dequantize: bool,
        dtype: str | None,
    ) -> "Options":
        """The options that arguments of `convert` mean.

        Raises:
            Qwen35Error: one is unknown, or they contradict each other.
        """
        if dtype is not None and dtype not in DTYPES:
            raise Qwen35Error(f"--dtype {dtype!r} is not known: choose one of {', '.join(DTYPES)}")
        chosen = _chosen_recipe(quantize, recipe, q_bits, q_group_size, q_mode)
        if chosen and dequantize:
            raise Qwen35Error("--quantize and --dequantize exclude each other: choose one")
        return cls(chosen, dequantize, DTYPES[dtype] if dtype else None)

    def planner(self, checkpoint: Checkpoint) -> Callable[[mx.Dtype | None], ConversionPlan]:
        """The function that makes a plan with a dtype."""
        if self.dequantize:
            return lambda dtype: plan_dequantization(checkpoint, dtype)
        return lambda dtype: plan_conversion(checkpoint, self.recipe, dtype)

    def check_calibration(self, stream: bool, is_verify_text: bool) -> None:
        """Check that the search for scales can be weighted by the inputs that a text leads to.

        Args:
            is_verify_text: whether the result is to be measured on the same text.

        Raises:
            Qwen35Error: it cannot.
        """
        if self.recipe is None or not self.recipe.search:
            raise Qwen35Error(
                "calibrate needs a recipe that searches scales: add --recipe 4bit, or another of "
                "3bit to 8bit"
            )
        if stream:
            raise Qwen35Error("calibrate reads the model twice, which stream does not: choose one")
        if is_verify_text:
            raise Qwen35Error(
                "a text that the model is fitted to measures nothing: verify on another"
            )

    def values(self, checkpoint: Checkpoint, text: CalibrationText | None) -> dict[str, Any]:
        """As JSON has them, for the record."""
        names = {known: name for name, known in DTYPES.items()}
        default = self.recipe.default if self.recipe else None
        return {
            "dtype": None if self.dtype is None else names[self.dtype],
            "recipe": self.recipe.name if self.recipe else None,
            "quantization": asdict(default) if default else None,
            "calibration": None if text is None else text.values(),
            "dequantize": self.dequantize,
            "adapter": checkpoint.adapter.parent.name if checkpoint.adapter else None,
        }


def _chosen_recipe(
    quantize: bool, recipe: str | None, q_bits: int | None, q_group_size: int | None, q_mode: str
) -> Recipe | None:
    """The recipe that the options mean; None leaves every matrix as it is."""
    in_one_way = (q_bits, q_group_size, q_mode) != (None, None, "affine")
    if recipe is not None:
        if in_one_way:
            raise Qwen35Error("a recipe has its own bits, groups and modes: leave out --q-*")
        return find_recipe(recipe)
    if not quantize:
        if in_one_way:
            raise Qwen35Error("--q-bits, --q-group-size and --q-mode need quantisation: add -q")
        return None
    if in_one_way:
        return recipes.plain(recipes.quantization(q_mode, q_bits, q_group_size))
    return recipes.RECIPES[recipes.DEFAULT]

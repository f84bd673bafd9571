"""The same random weights in mlx-lm's own modules, to compare with."""

from typing import Any

import mlx.core as mx

from qwen35_mlx.errors import Qwen35Error
from scripts.support.random_weights import SHAPES, RandomSource, random_source


def mlx_lm_model(shape: str, source: RandomSource) -> Any:
    """mlx-lm's network with the weights of `source`, quantised alike."""
    import mlx.nn as nn
    from mlx_lm.models import qwen3_5, qwen3_5_moe

    config = SHAPES[shape]
    code: Any = qwen3_5_moe if source.config.num_experts else qwen3_5
    model = code.Model(code.ModelArgs.from_dict(config))

    def quantization(path: str, module: Any) -> bool | dict[str, Any]:
        found = source.quantization(path.removeprefix("language_model."))
        if found is None or not hasattr(module, "to_quantized"):
            return False
        return {"group_size": found.group_size, "bits": found.bits}

    nn.quantize(model, class_predicate=quantization)
    for name in sorted(source.names()):
        array = source.read(name)
        mx.eval(array)
        model.load_weights([(f"language_model.{name}", array)], strict=False)
    model.eval()
    return model


def mlx_lm_package() -> Any:
    """The module.

    Raises:
        Qwen35Error: it is not installed.
    """
    try:
        import mlx_lm
    except ModuleNotFoundError as error:
        raise Qwen35Error(
            f"the peer mlx-lm needs the package {error.name!r}: pip install mlx-lm"
        ) from None
    return mlx_lm


def mlx_lm_layer(shape: str, layer: int) -> tuple[Any, RandomSource]:
    """mlx-lm's decoder layer number `layer`, and the source of its weights."""
    import mlx.nn as nn
    from mlx_lm.models import qwen3_5

    source = random_source(shape)
    args = qwen3_5.TextModelArgs.from_dict(SHAPES[shape]["text_config"])
    module = qwen3_5.DecoderLayer(args, layer)
    prefix = f"model.layers.{layer}."

    def quantization(path: str, part: Any) -> bool | dict[str, Any]:
        found = source.quantization(prefix + path)
        if found is None or not hasattr(part, "to_quantized"):
            return False
        return {"group_size": found.group_size, "bits": found.bits}

    nn.quantize(module, class_predicate=quantization)
    names = [n for n in source.names() if n.startswith(prefix)]
    module.load_weights([(n.removeprefix(prefix), source.read(n)) for n in names])
    mx.eval(module.parameters())
    return module, source

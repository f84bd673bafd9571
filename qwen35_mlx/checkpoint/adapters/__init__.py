"""LoRA adapters: their files, and their changes to the matrices of a model."""

"""What the tensors of one module mean in each quantised format of Hugging Face."""

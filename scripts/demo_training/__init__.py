"""Training of the demo model that ships with the package: data, tokenizer, network, evaluation."""

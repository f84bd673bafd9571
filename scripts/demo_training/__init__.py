"""How the demo model that ships with the package is made: data, tokenizer, network, training."""

"""What a model predicts on a text, and how far two models differ, in the memory of one layer."""

"""The keys of vim for a text. Imports no Textual."""

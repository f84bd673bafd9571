"""An HTTP server with the interfaces of OpenAI and Anthropic, for the models of this package."""

"""The model in use."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView


class ModelHandler:
    """Commands about the model."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    def choose(self, name: str = "") -> None:
        """Use this model, or list the models."""
        if name:
            self._controller.use_model(name)
        else:
            self._view.list_models(self._controller.use_model)

    def unload(self) -> None:
        self._controller.unload()

"""The system prompt of a conversation, from a file of the user's."""

from qwen35_chat.controller import Controller
from qwen35_chat.handlers.view import ChatView
from qwen35_chat.personas import NEW, NO_PERSONA, Persona, new_persona, read_personas
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible_line
from qwen35_mlx.user_paths import short_path


class PersonaHandler:
    """Commands about personas."""

    def __init__(self, controller: Controller, view: ChatView):
        self._controller = controller
        self._view = view

    async def prompt(self, name: str = "") -> None:
        """Use a persona in this conversation, none of them, begin one, or list them all."""
        controller = self._controller
        if name.casefold() == NO_PERSONA:
            self._view.show(controller.use_persona(None))
            self._view.show_message("The system prompt of the settings is used here again")
            return
        folder = controller.settings_file.persona_folder
        if folder is None:
            raise Qwen35Error("settings are kept nowhere here, and so there are no prompts")
        first, _, new = name.partition(" ")
        if first.casefold() == NEW and (new := new.strip()):
            file = await controller.calls.run("files", new_persona, folder, new)
            line = f"Write the prompt into {short_path(file)}; then /prompt {new} uses it"
            self._view.show_message(line)
            return
        personas = await controller.calls.run("files", read_personas, folder)
        if name:
            await self._use(personas.named(name))
        else:
            self._view.list_personas(folder, personas, self.prompt)

    async def _use(self, persona: Persona) -> None:
        from qwen35_chat.models import installed

        controller, model = self._controller, persona.model
        other = bool(model) and model != controller.model
        folders = controller.settings.folders
        here = not other or await controller.calls.run("models", installed, model, folders)
        self._view.show(controller.use_persona(persona))
        if other and here:
            controller.use_model(model, keep=False)
        given = [f"{name} {value}" for name, value in persona.settings.items()]
        given += [visible_line(model)] if other and here else []
        line = f"This conversation uses {persona.name}" + "".join(f", {g}" for g in given)
        if not here:
            missing = f"its model {visible_line(model)} is not on this machine"
            line += f"; {missing}: /model {visible_line(model)} downloads it"
        self._view.show_message(line)

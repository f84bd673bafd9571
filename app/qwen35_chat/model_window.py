"""The model of a window and its settings: loaded, kept, changed."""

from qwen35_chat.download import Download
from qwen35_chat.personas import Persona
from qwen35_chat.tool_window import ToolWindow
from qwen35_chat.transitions import Problem, SettingsChanged
from qwen35_chat.window import ModelStatus
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.session import events, requests


class ModelWindow(ToolWindow):
    """A window whose model and settings the user changes."""

    def use_model(self, model: str, *, keep: bool = True) -> None:
        """Load a model in place of the present one, which stays if that fails.

        Args:
            keep: whether the next start begins with it, too.
        """
        self.require_idle()
        self._model_before = self.model if self.loaded else self._model_before
        self._model_to_keep = model if keep else ""
        self.model, self.model_status, self.load_progress = model, "loading", None
        self.engine.submit(requests.UseModel(model))

    def unload(self) -> None:
        """Free the model's memory."""
        self.require_idle()
        self._request(requests.Unload(), events.Unloaded)

    def take_ended_download(self) -> Download | None:
        """The download, once it has ended; only the first call returns it."""
        ended = self.download
        if ended is None or ended.running:
            return None
        self.download = None
        return ended

    async def configure(self, name: str, value: object) -> SettingsChanged:
        """Change a setting and store it. Errors: `SettingsFile.set`."""
        await self.calls.run("files", self.settings_file.set, name, value)
        self._configure()
        return SettingsChanged()

    async def reload(self) -> SettingsChanged | None:
        """Read the settings again if their file has changed.

        Raises:
            Qwen35Error: the file has a mistake; the settings stay as they were.
        """
        if await self.calls.run("files", self.settings_file.reload) is None:
            return None
        self._configure()
        return SettingsChanged()

    def _configure(self) -> None:
        """Let the present settings hold for the engine's conversation and for new ones."""
        self._configured = self.settings.chat_settings(self._seed)
        self.engine.submit(requests.Configure(self._configured))

    def use_persona(self, persona: Persona | None) -> SettingsChanged:
        """Let a persona hold in this conversation; None for the settings alone.

        Its model is for the caller to load.
        """
        self.require_idle()
        self.require_writable()
        self.settings_file.hold({} if persona is None else persona.held)
        self.persona = "" if persona is None else persona.name
        self._configure()
        return SettingsChanged()

    def _hold_own_prompt(self, stored: Conversation | None, persona: Persona | None) -> None:
        """Let the system prompt that a conversation is stored with hold in it.

        Args:
            persona: that has this system prompt; None for none.
        """
        settings = self.settings_file.hold({})
        self.persona = "" if persona is None else persona.name
        own = "" if stored is None else stored.settings.system or ""
        if stored is not None and own != settings.system:
            self.settings_file.hold({"system": own} if persona is None else persona.held)

    def _end_load(self, status: ModelStatus) -> bool:
        """End a load that has failed or was stopped; False if none was running.

        The model before it stays, if there was one.
        """
        if not self.loading:
            return False
        self.model_status = status
        if self._model_before:
            self.model, self.model_status = self._model_before, "loaded"
        self._model_before = self._model_to_keep = ""
        return True

    async def _keep_model(self) -> Problem | None:
        """Name the model in the settings, if it was chosen here."""
        chosen, self._model_to_keep = self._model_to_keep, ""
        if chosen == self.model:
            try:
                await self.calls.run("files", self.settings_file.set, "model", chosen)
            except Qwen35Error as error:
                return Problem(str(error))
        return None

"""The model of a window and its settings: loaded, kept, changed."""

from qwen35_chat.download import Download
from qwen35_chat.tool_window import ToolWindow
from qwen35_chat.transitions import Problem, SettingsChanged
from qwen35_chat.window import ModelStatus
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session import events, requests


class ModelWindow(ToolWindow):
    """A window whose model and settings the user changes."""

    def use_model(self, model: str) -> None:
        """Load a model in place of the present one, which stays if that fails."""
        self.require_idle()
        self._model_before = self.model if self.loaded else self._model_before
        self._model_to_keep = model
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
        settings = await self.calls.run("files", self.settings_file.set, name, value)
        self.engine.submit(requests.Configure(settings.chat_settings(self._seed)))
        return SettingsChanged()

    async def reload(self) -> SettingsChanged | None:
        """Read the settings again if their file has changed.

        Raises:
            Qwen35Error: the file has a mistake; the settings stay as they were.
        """
        settings = await self.calls.run("files", self.settings_file.reload)
        if settings is None:
            return None
        self.engine.submit(requests.Configure(settings.chat_settings(self._seed)))
        return SettingsChanged()

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

"""Tools for the model: servers of the Model Context Protocol (MCP), and files of one folder."""

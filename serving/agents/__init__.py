"""The service as tools for agents, over MCP."""

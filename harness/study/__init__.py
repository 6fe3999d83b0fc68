"""The study file: its schema, its reading with errors that name file and line, the tasks and the protocol. No torch, no Ray."""

"""`expo prep-prompts`: reading sources and dropping what is not wanted."""

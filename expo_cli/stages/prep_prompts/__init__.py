"""`expo prep-prompts`: reads prompts of any source and drops what is not wanted."""

"""`expo prep-prompts`: reads prompts from files, filters and samples them."""

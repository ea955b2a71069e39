"""The method: pure functions of tensors and records, nothing that reads a file or loads a model."""

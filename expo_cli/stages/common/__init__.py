"""What the work of several commands stands on."""

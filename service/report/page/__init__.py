"""What the report says, section by section, and the files it becomes."""

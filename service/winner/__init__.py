"""What a study has found, and how it leaves: its configuration, a longer training, titles, files for other programs."""

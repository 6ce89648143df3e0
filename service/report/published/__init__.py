"""What a document says about its own runs, and whether the study's runs agree."""

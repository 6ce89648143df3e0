"""Where a study is kept: tables, slots, workers, artifacts and corpus."""

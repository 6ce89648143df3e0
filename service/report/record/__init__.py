"""A study as its report needs it: runs, arms and figures, with the definition of every metric."""

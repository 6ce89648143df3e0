"""hptune from Python: make and open studies, run them, read what they have found, use the best model.

    import hptune

    study = hptune.create("quickstart", trials=6)
    study.run()
    study.frame()                    # every trial, hyperparameter and figure, as a pandas data frame
    study.best_config()
    study.generate("The")
    study.plot("history")

Storage, artifacts and cache are where the environment says (`HPTUNE_STORAGE_URL`, ...), as for the command `hptune`;
`runs/` in the current folder unless told otherwise. What a caller can mend is a `UserError`, a ValueError of one line.
"""

from hptune.study import Study, create, open_study, studies
from model.errors import UserError
from service.settings import Settings

__all__ = ["Settings", "Study", "UserError", "create", "open_study", "studies"]

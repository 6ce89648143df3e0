"""One worker and the trial it runs: leased, trained, resumed, recorded."""

.PHONY: test integration check lock

python := .venv/bin/python

test:  ## what needs no server, with the set-up it takes
	./hptune.sh --prepare --with-tests
	$(python) -m pytest -m 'not integration'

integration:  ## with PostgreSQL, a Docker engine and a browser, one after the other: they share one engine
	./hptune.sh --prepare --with-tests
	$(python) -m pytest -m integration -n 0

check:  ## lint, types, import contracts, shell scripts
	./hptune.sh --prepare --with-tests
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/lint-imports
	shellcheck hptune.sh docker/run.sh .ci/run .ci/engine

lock:  ## both lock files anew from the ranges in pyproject.toml
	rm -rf /tmp/hptune-lock && python3 -m venv /tmp/hptune-lock
	/tmp/hptune-lock/bin/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  open("/tmp/hptune-lock/run", "w").write("\n".join(p["dependencies"])); \
	  open("/tmp/hptune-lock/dev", "w").write("\n".join(p["optional-dependencies"]["dev"]))'
	/tmp/hptune-lock/bin/pip install -q torch==2.13.0
	/tmp/hptune-lock/bin/pip install -q -r /tmp/hptune-lock/run
	{ head -1 requirements.lock; /tmp/hptune-lock/bin/pip freeze | sed 's/+cpu//'; } >/tmp/hptune-lock/requirements.lock
	/tmp/hptune-lock/bin/pip install -q -r /tmp/hptune-lock/dev
	{ head -1 requirements-dev.lock; /tmp/hptune-lock/bin/pip freeze | sed 's/+cpu//' | \
	  grep -vxFf /tmp/hptune-lock/requirements.lock; } >/tmp/hptune-lock/requirements-dev.lock
	mv /tmp/hptune-lock/requirements.lock /tmp/hptune-lock/requirements-dev.lock .

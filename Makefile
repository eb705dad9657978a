# The front door. Every target is a line or two that a person could type.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# The checks on a GPU take the machine's python3, however old, unless PYTHON was given.
GPU_PYTHON = $(if $(filter file,$(origin PYTHON)),python3,$(PYTHON))
BIN := .venv/bin
# With one thread each, the tests' processes do not fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=10
# Two processes; one that has finished takes tests from the other. Old releases of xdist know `load` only.
PARALLEL := -n 2 --dist worksteal
# What `make check` runs: all that needs neither a quantized model nor a process for each test.
FAST := tests/test_*.py tests/controller/test_*.py tests/agent/samplers tests/agent/doctor \
	$(addprefix tests/controller/,analysis fleet server store cli/results) \
	$(patsubst %,tests/agent/%.py,backends/test_ort backends/test_trt_releases backends/test_trt_running test_config test_protocol test_command_line test_address) \
	$(addprefix tests/efficientquant/,files images test_primitives.py test_primitives_log2.py test_recipe.py test_recipe_options.py \
	artifact/test_validation.py artifact/test_onnx_file.py verdicts/test_build_rules.py)
# Suites that take minutes have targets of their own; CI runs them too.
MODELS := $(patsubst %,tests/%.py,efficientquant/artifact/test_ten_models efficientquant/verdicts/test_rtx_engines \
	agent/backends/test_trt_rtx_models)
LIBRARY := $(patsubst %,tests/efficientquant/%.py,test_evaluation paper/test_table1 plots/test_plots sites/test_accumulators \
	$(addprefix artifact/test_,determinism export ort_1_10 parity) $(addprefix graph/test_,blocks logits) \
	$(addprefix lowering/test_,emulation four_bits passes placement refused_forms targets) \
	$(addprefix methods/test_,adding_a_recipe easyquant ptq4vit repq_vit q_hyvit hyq on_trained_models) \
	$(addprefix workbench/test_,recording workbench workbench_activations))
E2E_SLOW := $(patsubst %,tests/e2e/test_%.py,loss telemetry trust engines methods) \
	$(patsubst %,tests/e2e/installs/test_%.py,install documented_commands)
SLOW := $(MODELS) $(LIBRARY) tests/efficientquant/artifact/test_zoo.py tests/chaos/test_processes.py

.PHONY: help demo announce-demo check test lint protos-check unit agent-py36 agent-py38 models zoo e2e e2e-slow library chaos soak bench compare fuzz gpu-check protos format clean

help:            ## what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

demo: announce-demo .venv/.ready-demo  ## set everything up in .venv, then benchmark two models on two local agents
	$(BIN)/efficientquant demo

announce-demo:
	@test -e .venv/.ready-demo || echo "First this installs into .venv (about two minutes), then it benchmarks two models on two local agents (about two minutes)."

check: lint      ## before each commit: format, lint, types, architecture and the fast unit tests
	$(PYTEST) $(PARALLEL) $(FAST)

test: .venv/.ready-test .venvs/py3.6/.ready .venvs/py3.8/.ready  ## set up what is missing, then every check and test, all failures reported
	$(MAKE) --keep-going --no-print-directory lint protos-check unit agent-py36 agent-py38 e2e

lint: .venv/.ready-test  ## ruff, mypy --strict, and vermin for what runs on Python 3.6
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	$(BIN)/vermin -q -t=3.6- --violations --no-parse-comments agent/efficientquant_agent protos/efficientquant_protos tests/agent tests/protos tests/gpu deploy

protos-check:    ## the committed generated code is what fleet.proto generates
	@tests/with_python.sh "3.7 to 3.10" protos/generate.sh --check

unit: .venv/.ready-test  ## unit tests on the current Python
	$(PYTEST) $(PARALLEL) --ignore=tests/e2e $(SLOW:%=--ignore=%) tests

agent-py36 agent-py38: agent-py3%: .venvs/py3.%/.ready  ## the agent's and the protos' tests on a real Python 3.6 and 3.8
	@if [ -e .venvs/py3.$*/bin/python ]; then .venvs/py3.$*/bin/python -m pytest -q -rs --durations=10 -n 2 --dist load tests/agent tests/protos; \
	else cat .venvs/py3.$*/.ready; fi

e2e: .venv/.ready-test .venvs/py3.6/.ready .venvs/py3.8/.ready  ## real controllers and agents as processes
	$(PYTEST) $(PARALLEL) $(E2E_SLOW:%=--ignore=%) tests/e2e

e2e-slow: .venv/.ready-test .venvs/py3.6/.ready .venvs/py3.8/.ready  ## lost devices, offline installs, boards with sensors, engines and clocks
	$(PYTEST) $(E2E_SLOW)

library: .venv/.ready-test .venvs/py3.6/.ready  ## the library's slow suites: every target, equal bytes, ONNX Runtime 1.10, accuracy, plots, the workbench
	$(PYTEST) -n 2 --dist loadfile $(LIBRARY)

models: .venv/.ready-test .venvs/py3.6/.ready  ## all ten MobileViT models: quantize, export, check, ONNX Runtime 1.10 and current, RTX engines
	$(PYTEST) -n 2 $(MODELS)

zoo: .venv/.ready-test  ## twenty-five other timm models, quantized by two recipes, exported and checked: slow
	$(PYTEST) tests/efficientquant/artifact/test_zoo.py

chaos: .venv/.ready-test  ## a thousand faults of connections and messages; killed, frozen and full controllers, databases and agents
	FAULTS=1000 $(PYTEST) $(PARALLEL) tests/chaos

soak: .venv/.ready-test  ## half an hour: 200 simulated agents, 50,000 runs and a fault a second
	$(BIN)/python tests/chaos/soak.py

bench: .venv/.ready-test .venvs/py3.6/.ready .venvs/py3.8/.ready  ## the performance goals, as ratios in one run
	$(BIN)/python tests/bench/run.py

compare: .venv/.ready-test  ## all methods at 8, 6 and 4 bits on trained models: a table and a picture, in efficientquant-comparison/
	$(BIN)/python tests/bench/comparison.py efficientquant-comparison

fuzz: .venv/.ready-test  ## a million mutated lines for the parser of tegrastats
	$(BIN)/python tests/fuzz/tegrastats.py

gpu-check:       ## on a machine with an NVIDIA GPU: what runs there, with its own python3 (or PYTHON=…), and a report
	@$(GPU_PYTHON) -c '' 2>/dev/null || { echo "gpu-check needs Python 3.6 or newer, and $(GPU_PYTHON) does not start; pass PYTHON=/path/to/python" >&2; exit 2; }
	@$(GPU_PYTHON) tests/gpu/check.py

protos:          ## write the Python code of fleet.proto
	protos/generate.sh

format: .venv/.ready-test  ## format everything
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean:           ## remove what the targets above made
	rm -rf .venv .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "EfficientQuant needs Python 3.11 or newer on PATH; install one, or pass PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/.ready-demo: .venv/bin/python pyproject.toml agent/setup.cfg protos/setup.cfg
	@deploy/installing.sh "Installing into .venv (several GB; about two minutes on a fast line)" \
		$(BIN)/pip install --quiet --disable-pip-version-check -e protos -e 'agent[ort]' -e '.[controller]'
	@touch $@

.venv/.ready-test: .venv/.ready-demo
	@deploy/installing.sh "Installing what the tests need" \
		$(BIN)/pip install --quiet --disable-pip-version-check -e '.[controller,dev,postgresql,rtx,openvino]'
	@touch $@

.venvs/py3.%/.ready: agent/setup.cfg protos/setup.cfg tests/constraints-py3.%.txt
	@tests/setup_old_python.sh 3.$*

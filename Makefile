# `make demo` and `make test` set up all they need in .venv first.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo $$p && break; done)
NO_PYTHON := Python 3.11 or 3.12 is needed; set PYTHON=...
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The models here are small: more threads than cores only get in each other's way.
export OMP_NUM_THREADS ?= 1
# And where there are more, those that wait for others sleep.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help demo test whole check serve web protos docs interop harness models attack rolling shapes soak survive share cluster vllm perturbed versions versions-oldest versions-newest bench-training bench-quality bench-starts bench-serving bench-replicas bench-jobs bench-scale bench-guard bench-parallel gpu install clean

help:  ## What can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: $(INSTALLED)  ## Tune four soft prompts over gRPC, serve them, and compare them with their bases
	$(BIN)/python -m examples.demo

test: $(INSTALLED) check  ## Static checks and tests
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

whole: $(INSTALLED) check  ## The same with all that these leave out for time
	WHOLE=1 FUZZ=10000 KILLS=3 QUEUED=200 ROLLING_REQUESTS=200 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## Ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

serve: $(INSTALLED)  ## Run the server on port 8085 with runtime_config.yaml
	CONFIG_FILES=runtime_config.yaml $(BIN)/caikit-pt serve

web: $(INSTALLED)  ## Run OpenAI's API and the studio page on port 8087, for the server of make serve
	$(BIN)/caikit-pt web

protos: $(INSTALLED)  ## Render protos/ again
	$(BIN)/python -m tests.render_protos protos

docs: $(INSTALLED)  ## Render docs/parameters.md, docs/settings.md, docs/errors.md and the table of docs/observability.md again
	$(BIN)/python -m tests.render_parameters docs/parameters.md
	$(BIN)/python -m tests.render_errors docs/errors.md
	$(BIN)/python -m tests.render_metrics docs/observability.md
	$(BIN)/python -m tests.render_settings docs/settings.md

interop: $(INSTALLED)  ## Compare with the real caikit-nlp, and run its own client against this server
	tests/interop/run.sh $(BIN)/python

harness: $(INSTALLED)  ## Have lm-evaluation-harness, in an environment of its own, measure a tuned prompt over the web door
	tests/harness/run.sh $(BIN)/python

vllm: $(INSTALLED)  ## Compare answers of a real vLLM server, in an environment of its own, with those of the engine here
	tests/vllm/run.sh $(BIN)/python

# Under each kernel, three seeds, one thread and two.
perturbed: $(INSTALLED)  ## The suite with other last digits (hours; TESTS=... names some of the tests)
	set -e; for way in "torch 73 1" "onednn 1 2" "torch 2 2" "onednn 73 1"; do set -- $$way; \
		echo "kernel $$1, seed $$2, threads $$3"; \
		LINEAR_KERNEL=$$1 TRAINING_SEED=$$2 OMP_NUM_THREADS=$$3 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(TESTS); done

versions: versions-oldest versions-newest  ## All tests with the oldest and with the newest release of each dependency (PYTHON=python3.12 and so on)

# In environments of their own. What can't be had is capped by a file that PIP_CONSTRAINT names; TESTS names some of the tests.
versions-oldest versions-newest: versions-%:
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	$(PYTHON) -m venv --clear .venv-$*
	.venv-$*/bin/python -m pip install -q -U pip setuptools packaging
	.venv-$*/bin/python -m tests.releases $* > .venv-$*/releases.txt
	.venv-$*/bin/python -m pip install -q -c .venv-$*/releases.txt --no-build-isolation -e . --group dev
	.venv-$*/bin/python -m pip freeze --exclude-editable
	.venv-$*/bin/python -m pytest $(TESTS)

models: $(INSTALLED)  ## Pretrain the embedded base models and their source prompts again (about half an hour)
	$(BIN)/python -m examples.pretraining.pretrain
	$(BIN)/python -m examples.pretraining.make_demo_data
	$(BIN)/python -m examples.pretraining.source_prompts

shapes: $(INSTALLED)  ## Train and serve a tiny model of every type that transformers knows, and print what became of each (some minutes)
	SHAPES=all $(BIN)/python -m pytest tests/shapes -s

soak: $(INSTALLED)  ## 2,000 requests from 64 clients over 32 prompts, each compared with its serial run
	SOAK_REQUESTS=2000 $(BIN)/python -m pytest tests/test_serving.py -s

# Each client asks ROLLING_REQUESTS times. Behind nginx where that is installed.
attack: $(INSTALLED)  ## Attack a server of its own with everything in attacks/, and then with 100,000 requests that nobody wrote (FUZZ=...)
	$(BIN)/python -m attacks
	FUZZ=$${FUZZ:-100000} $(BIN)/python -m pytest tests/test_fuzz.py -s

rolling: $(INSTALLED)  ## Restart two servers in turns while 64 clients ask them, and compare every answer
	ROLLING_CLIENTS=64 ROLLING_REQUESTS=$${ROLLING_REQUESTS:-2000} $(BIN)/python -m pytest tests/runtime/test_rolling.py -s

cluster: $(INSTALLED)  ## Run trainings on a Ray cluster of this machine whose nodes, head and server are killed and frozen (some minutes)
	WHOLE=1 $(BIN)/python -m pytest tests/runtime/executors/test_ray.py tests/runtime/executors/test_ray_exchange.py tests/runtime/executors/test_jobs_on_ray.py -s

share: $(INSTALLED)  ## Kill, freeze and cut off servers that share a PostgreSQL database, and compare every prompt with its run without (some minutes)
	WHOLE=1 $(BIN)/python -m pytest tests/runtime/test_sharing.py -s

survive: $(INSTALLED)  ## Kill worker and server twenty times while they train, and compare each prompt with its run without kills
	KILLS=20 QUEUED=200 $(BIN)/python -m pytest tests/runtime/test_jobs.py -s

bench-training: $(INSTALLED)  ## Measure how fast prompts are tuned, beside caikit-nlp's loop, and print the table (about ten minutes)
	$(BIN)/python -m bench.training

bench-serving: $(INSTALLED)  ## Measure how fast tuned prompts are served, beside generate(), transformers and vLLM, and print the tables (about twenty minutes)
	$(BIN)/python -m bench.serving

bench-guard: $(INSTALLED)  ## Measure what the guard in front of every RPC costs, beside caikit's own server (some minutes)
	$(BIN)/python -m bench.guard

bench-scale: $(INSTALLED)  ## Measure what requests cost beside a million trainings and a hundred thousand prompts (some minutes)
	$(BIN)/python -m bench.scale

bench-replicas: $(INSTALLED)  ## Measure three servers asked by prompt and at random, and even and skewed traffic over 10,000 prompts (about ten minutes)
	$(BIN)/python -m bench.replicas

bench-jobs: $(INSTALLED)  ## Measure what jobs cost beside their training, on a real server (about five minutes)
	$(BIN)/python -m bench.jobs

bench-parallel: $(INSTALLED)  ## Measure two workers of a training beside one, and print what 64 would do (some minutes)
	$(BIN)/python -m bench.parallel

# With .venv where there is one; on a bare machine with a Python that has torch, transformers and peft.
gpu: GPU_PYTHON := $(if $(wildcard $(BIN)/python),$(BIN)/python,$(if $(filter command line environment,$(origin PYTHON)),$(PYTHON),python3))
gpu:  ## Measure all there is to measure on a GPU, print the table and write docs/gpu.md (ten minutes at most; OPTIONS="--quick" and so on)
	$(GPU_PYTHON) -m bench.gpu --write docs/gpu.md $(OPTIONS)

bench-quality: $(INSTALLED)  ## Compare the defaults and `search: auto` with a grid of twelve, peft and outsiders, and print docs/quality.md (hours, and it goes on where it was cut off; DATA=... names a folder of data sets)
	@$(BIN)/python -m bench.quality $(if $(DATA),--data $(DATA))

bench-starts: $(INSTALLED)  ## Compare what prompts start from with few records, sources among them, and print docs/starts.md (hours, and it goes on where it was cut off; DATA=... names a folder of data sets)
	@$(BIN)/python -m bench.starts $(if $(DATA),--data $(DATA))

install: $(INSTALLED)  ## Only the set-up

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "$(NO_PYTHON)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -U -c constraints.txt pip setuptools
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e . --group dev
	touch $@

clean:  ## Remove what was made
	rm -rf $(VENV) .venv-interop .venv-harness .venv-vllm .venv-oldest .venv-newest .mypy_cache .pytest_cache .ruff_cache build *.egg-info

# The commands of the project. `make` alone lists them.

# What users type is text. make would expand a $ in it, here and for the environment of recipes: `as-text` keeps it whole,
# in all that stands on make's command line (TYPED), and in what this file reads of the environment. Recipes read it as
# "$$NAME", so that no shell reads it either; tools check it. First, as make 4.4 expands all variables for $(shell ...).
override as-text = $(eval $(if $(filter command override,$(origin $1)),override )$1 := $$(value $1))
override TYPED := $(strip $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
$(foreach name,$(TYPED) PYTHON RUNTIME VENV VLLM_VENV,$(if $(filter command environment,$(origin $(name))),$(call as-text,$(name))))
$(foreach name,$(TYPED),$(eval export $(name)))

# The variables of this file, which go into recipes as they are.
override OWN := as-text OWN given plain switch on-or-off lower quote SHELL unfit BIN SERVING CHOSEN known-runtime \
	WITH_ARGS PYTEST COMPILE LINKS UV_PIP UV_INSTALL
$(if $(filter $(OWN),$(TYPED)),$(error $(filter $(OWN),$(TYPED)): a variable of the Makefile itself; `make help` lists those to set))

# What recipes hand on of the names in $1, if it is TYPED, as some machines have a NAME of their own, and not empty:
given = $(foreach name,$(filter $(TYPED),$1),$${$(name):+--$(call lower,$(name))="$$$(name)"})
plain = $(foreach name,$(filter $(TYPED),$1),$${$(name):+"$$$(name)"})
switch = $(foreach name,$(filter $(TYPED),$1),$(call on-or-off,$(name)))
on-or-off = $(if $(filter-out 0 1,$($1)),$(error $1=$($1): must be 1, or 0 for the default))$(if $(filter 1,$($1)),--$(call lower,$1))
lower = $(shell echo $1 | tr A-Z a-z)
quote = '$(subst ','\'',$1)'

SHELL := /bin/bash

# Rules cannot name a path with blanks, and recipes hand it to the shell: a path that either would misread is refused.
unfit = $(filter-out 0,$(shell printf %s $1 | LC_ALL=C tr -d 'A-Za-z0-9_./+,@=~^!\043\200-\377-' | wc -c))
ifneq ($(call unfit,"$$(pwd -P)"),)
$(error the path of this checkout ("$(CURDIR)") has blanks or characters that make or the shell would misread; move it to a path of letters, digits and . _ - + , @ = ~ ^ !)
endif
export PYTHON ?= python3
VENV ?= .venv
ifneq ($(words $(VENV))$(call unfit,$(call quote,$(VENV))),1)
$(error VENV ("$(VENV)") has blanks or characters that make or the shell would misread; name a path of letters, digits and . _ - + , @ = ~ ^ !)
endif
override export VENV := $(abspath $(VENV))
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install plan doctor repro try stop tensorboard gate gates review comment pull push serve status logs smoke lineage card report-page trace show-tokens images runtime verify test test-fast bench bench-families bench-gpu bench-serve lint docs new update docs-site data import recipe convert audit lock

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

install: $(VENV)/.pipeline ## make .venv with the locked environment

plan: $(VENV)/.pipeline ## print what `repro` would run, and its time, memory, disk and download; what does not fit (JSON=1: as JSON)
	@RUNTIME=local docker/run --no-log python -m tools.plan $(call switch,JSON)

# Where the environment is broken, Python alone will do.
doctor: ## check this machine and checkout, with the command that mends each fault (JSON=1: as JSON)
	@if test -x $(BIN)/python; then exec $(BIN)/python -m tools.doctor $(call switch,JSON); fi; \
		exec python3 -m tools.doctor.plain $(call switch,JSON)

repro: $(VENV)/.pipeline ## build the model: run every stage whose inputs changed
	@begin=$$(date +%s); PATH="$(BIN):$$PATH" dvc repro; $(BIN)/python -m tools.summary --since "$$begin" --code "$$?"

try: $(VENV)/.pipeline ## run every stage on 32 rows and 2 steps, in a copy: a minute that shows mistakes before hours are spent
	@PATH="$(BIN):$$PATH" python -m tools.try_run

stop: $(VENV)/.pipeline ## stop what runs here; train saves a checkpoint, from which it resumes (WHAT=serve, stages or train, WAIT=seconds)
	@$(BIN)/python -m tools.stop $(call given,WHAT WAIT)

tensorboard: $(VENV)/.pipeline ## watch trainings at http://127.0.0.1:6006 (PORT=6006)
	@$(BIN)/tensorboard --logdir logs --host 127.0.0.1 --port=6006 $(call given,PORT)

gate: $(VENV)/.pipeline ## print the verdict of every gate; exit 1 and say what to check when one failed
	@$(BIN)/python -m tools.gate

gates: $(VENV)/.pipeline ## propose limits for the gates from the figures of this run, with reasons (APPLY=1: write them into params.yaml)
	@$(BIN)/python -m tools.propose $(call switch,APPLY)
review: $(VENV)/.pipeline ## write Markdown for a pull request: a run against a revision (REV=main, OUT=review.md)
	@$(BIN)/python -m tools.review $(call given,REV OUT)

comment: $(VENV)/.pipeline ## in CI: put the review on the pull request, in place of the one before (FILE=review.md)
	@$(BIN)/python -m tools.comment $(call given,FILE)

pull: $(VENV)/.pipeline ## fetch rows, models and answers of this commit's run from the DVC remote, as far as it has them
	@PATH="$(BIN):$$PATH" dvc pull --allow-missing

push: $(VENV)/.pipeline ## store rows, models and answers of the run in the DVC remote
	@PATH="$(BIN):$$PATH" dvc push

# What `make serve` runs without containers; VLLM_VENV names an environment with another build of vLLM, such as a GPU's.
SERVING = $(if $(filter docker,$(CHOSEN)),,$(if $(VLLM_VENV),,.serve/vllm/.made) .serve/webui/.made)
CHOSEN = $(if $(filter serve,$(MAKECMDGOALS)),$(or $(known-runtime),$(shell python3 docker/runtime.py)))
known-runtime = $(if $(filter-out local docker,$(RUNTIME)),$(error RUNTIME=$(RUNTIME): must be local or docker))$(RUNTIME)

serve: $(VENV)/.pipeline $(SERVING) ## serve a proven model: a page and an API (MODEL=awq, MODELS=awq,merged, REV=git-revision, RUNTIME=docker, FORCE=1)
	@$(BIN)/python -m tools.serve $(call given,MODEL MODELS REV RUNTIME) $(call switch,FORCE)

status: $(VENV)/.pipeline ## print what is served, and whether it is healthy (SECRETS=1: with key and account)
	@$(BIN)/python -m tools.status $(call switch,SECRETS)

logs: $(VENV)/.pipeline ## show the logs of what is served
	@$(BIN)/python -m tools.logs

smoke: $(VENV)/.dev ## ask what is served, and compare it with training and transformers (NAME=of one of several models)
	@docker/run --no-log python -m tools.smoke $(call given,NAME)

lineage: $(VENV)/.pipeline ## print where a model comes from (REV=git-revision, MODEL=awq or path, NAME=as served, FILE=any, FORMAT=json or cyclonedx)
	@$(BIN)/python -m tools.lineage $(call given,REV MODEL NAME FILE FORMAT)

card: $(VENV)/.pipeline ## print the model card of a committed run (REV=git-revision)
	@$(BIN)/python -m tools.card $(call given,REV)

report-page: $(VENV)/.pipeline ## write HTML pages that need no network: of a run, with curves and answers, and of all runs (REV=git-revision)
	@$(BIN)/python -m tools.report_page $(call given,REV)

trace: $(VENV)/.pipeline ## print what became of a row, and which models were trained on it (ROW=id, hash or words, REV=git-revision)
	@$(BIN)/python -m tools.trace $(call given,REV) -- $(call plain,ROW)

show-tokens: $(VENV)/.pipeline ## print prepared rows token by token (N=rows, ROW=id, SPLIT=train, val or calibration, IDS=1)
	@$(BIN)/python -m tools.show_tokens $(call given,N ROW SPLIT) $(call switch,IDS)

images: ## build the images that stages run in with RUNTIME=docker, where they are missing, and print their names
	@python3 docker/image.py trainer awq

runtime: $(VENV)/.pipeline ## print paths, versions, device and threads, with reasons (JSON=1: as JSON)
	@docker/run --no-log python -m tools.runtime $(call switch,JSON)

verify: $(VENV)/.pipeline ## rebuild HEAD in an empty clone and compare every byte
	@PATH="$(BIN):$$PATH" python -m tools.verify

# WORKERS: processes that share the tests; 0 for none, such as with ARGS=--pdb. with_args adds the words of ARGS.
export WORKERS ?= 2
WITH_ARGS = $(BIN)/python -m tools.with_args
PYTEST = RUNTIME=local $(WITH_ARGS) docker/run --no-log python $1 -m pytest --numprocesses="$$WORKERS"

test: $(VENV)/.dev ## run the test suite (ARGS="-k train" for a part, WORKERS=4 on more cores, COVERAGE=1: also list the lines that no test reaches)
	@$(if $(call switch,COVERAGE),rm -rf .scratch/coverage && mkdir -p .scratch/coverage)
	@$(call PYTEST,$(if $(call switch,COVERAGE),-m coverage run))
	@$(if $(call switch,COVERAGE),$(BIN)/coverage combine --quiet && $(BIN)/coverage report)

test-fast: $(VENV)/.dev ## run the tests that start no process and take less than a second each
	@$(call PYTEST) -m "not slow"

bench: $(VENV)/.pipeline ## time the stages against the least that their work can cost (half an hour)
	@docker/run --no-log python -m tools.bench.preprocess
	@docker/run --no-log python -m tools.bench.train
	@docker/run --no-log python -m tools.bench.memory
	@docker/run --no-log python -m tools.bench.merge
	@docker/run --no-log python -m tools.bench.awq
	@docker/run --no-log python -m tools.bench.eval
	@docker/run --no-log python -m tools.bench.imports
	@docker/run --no-log python -m tools.bench.plan

bench-families: $(VENV)/.pipeline ## compare real tokenizers and chat templates with transformers (LOCKSTEP_ROWS=folder)
	@docker/run --no-log python -m tools.bench.families

bench-gpu: $(VENV)/.pipeline ## measure training on models of real shapes, where there is an NVIDIA GPU
	@$(WITH_ARGS) docker/run --no-log python -m tools.bench.gpu

bench-serve: $(VENV)/.pipeline ## measure what is served, by vLLM's own client (after `make serve MODELS=merged,awq`)
	@$(WITH_ARGS) $(BIN)/python -m tools.bench.serve

lint: $(VENV)/.dev ## check style, types, that docs and dvc.yaml match the code, and locks against known vulnerabilities
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/hadolint docker/Dockerfile
	@$(BIN)/python -m tools.docs --check
	@$(BIN)/python -m tools.audit

docs: $(VENV)/.dev ## write the generated parts of README.md, docs/ and dvc.yaml
	@$(BIN)/python -m tools.docs

new: $(VENV)/.pipeline ## start a project of your own (DIR=../mine, DATA=rows.csv, MODEL=recipe, COLUMNS= and LICENCE= as for import)
	@$(BIN)/python -m tools.new $(call given,DATA MODEL COLUMNS LICENCE) -- $(call plain,DIR)

update: $(VENV)/.pipeline ## bring later versions of Lockstep into your project (REV=tag or commit, ADD=1: settings that params.yaml lacks)
	@$(BIN)/python -m tools.update $(call given,REV) $(call switch,ADD)
docs-site: $(VENV)/.pipeline .serve/site/.made ## build the pages as a site with search in .scratch/site, which needs no network
	@$(BIN)/python -m tools.docs_site

data: $(VENV)/.pipeline ## write the default rows in data/raw
	@$(BIN)/python -m tools.generate

import: $(VENV)/.pipeline ## import rows into data/raw (SOURCE=file, address or owner/name, COLUMNS=prompt=frage,completion=antwort; more in docs/import.md)
	@$(BIN)/python -m tools.import $(call given,REVISION FILE SHA256 NAME LICENCE LIMIT SEED COLUMNS) $(call switch,FORCE) -- $(call plain,SOURCE)

recipe: $(VENV)/.pipeline ## write the settings for a model into params.yaml (NAME=qwen2.5-0.5b, REVISION=commit); alone: list
	@$(BIN)/python -m tools.recipe $(call given,REVISION) -- $(call plain,NAME)

convert: $(VENV)/.pipeline ## print the settings of axolotl, LLaMA-Factory or unsloth as a recipe (FILE=theirs, WRITE=name, GPUS=number, DATASETS=dataset_info.json)
	@$(BIN)/python -m tools.convert $(call given,WRITE GPUS DATASETS) -- $(call plain,FILE)

audit: $(VENV)/.dev ## look up the locked packages in the database of known vulnerabilities (needs the network)
	@$(BIN)/python -m tools.audit --refresh

lock: $(VENV)/.uv ## resolve the environments again into requirements/
	@$(COMPILE) --group pipeline --group gpu -o requirements/pipeline.txt
	@$(COMPILE) --group dev -c requirements/pipeline.txt -o requirements/dev.txt
	@$(COMPILE) --group serve --override requirements/serve-overrides.txt -o requirements/serve.txt
	@$(COMPILE) --group webui --override requirements/webui-overrides.txt -o requirements/webui.txt
	@$(COMPILE) --group site -o requirements/site.txt

# Resolved without any local wheel folder, so that torch is 2.13.0 and never 2.13.0+cpu.
COMPILE := env -u UV_FIND_LINKS -u PIP_FIND_LINKS $(BIN)/uv pip compile --quiet --upgrade --universal \
	--python-version 3.11 --no-header --no-annotate --no-emit-index-url

# uv does not read pip's settings; a find-links folder with a CPU build of torch saves gigabytes of CUDA.
LINKS = $${UV_FIND_LINKS-$$($(BIN)/pip config list | sed -n "s/.*find-links='\(.*\)'/\1/p" | head -1)}
UV_PIP = UV_FIND_LINKS="$(LINKS)" $(BIN)/uv pip install --quiet --compile-bytecode --python
UV_INSTALL = $(UV_PIP) $(BIN)/python

$(VENV)/.uv:
	@"$$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "$$("$$PYTHON" --version) will not do: Python 3.11 to 3.13 is needed, such as PYTHON=python3.12" >&2; exit 1; }
	@echo "making $(VENV)"
	@"$$PYTHON" -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check uv
	@touch $@

$(VENV)/.pipeline: $(VENV)/.uv pyproject.toml requirements/pipeline.txt
	@echo "installing requirements/pipeline.txt"
	@$(UV_INSTALL) -c requirements/pipeline.txt --group pipeline $(if $(filter yes,$(shell python3 docker/runtime.py gpu)),--group gpu)
	@touch $@

$(VENV)/.dev: $(VENV)/.pipeline requirements/dev.txt
	@echo "installing requirements/dev.txt"
	@$(UV_INSTALL) -c requirements/pipeline.txt -c requirements/dev.txt --group dev
	@touch $@

.serve/vllm/.made: requirements/serve.txt requirements/serve-overrides.txt $(wildcard requirements/vllm/*) | $(VENV)/.uv
	@echo "installing requirements/serve.txt into .serve/vllm: 2.4 GB"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .serve/vllm
	@test -n "$(LINKS)" || export UV_TORCH_BACKEND=cpu; \
		$(UV_PIP) .serve/vllm/bin/python -c requirements/serve.txt --override requirements/serve-overrides.txt \
		--group serve ./requirements/vllm
	@touch $@

.serve/webui/.made: requirements/webui.txt requirements/webui-overrides.txt | $(VENV)/.uv
	@echo "installing requirements/webui.txt into .serve/webui: 1.2 GB"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .serve/webui
	@$(UV_PIP) .serve/webui/bin/python -c requirements/webui.txt --override requirements/webui-overrides.txt --group webui
	@touch $@

.serve/site/.made: requirements/site.txt | $(VENV)/.uv
	@echo "installing requirements/site.txt into .serve/site: 110 MB"
	@$(BIN)/uv venv --quiet --clear --python $(BIN)/python .serve/site
	@$(UV_PIP) .serve/site/bin/python -c requirements/site.txt --group site
	@touch $@

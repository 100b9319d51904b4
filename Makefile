PYTHON ?= python3
BIN := .venv/bin
# What the page is tested in: the system's Chromium, else Playwright's own, else Debian's package
BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome
DEBIAN_BROWSER := { apt-get update && apt-get install --yes --no-install-recommends chromium; }

# One process of one thread per core: threads that share a core wait for each other
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist worksteal

.PHONY: help bench test docs stress slurm-test format clean

# Sizes of `make stress`
KILLS ?= 200
FUZZ_SHARE ?= 1
EPOCHS ?= 1000

help: ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

bench: .venv/installed ## set up, run the main job on the 8 x 8 digits, print its table, name its figure
	$(BIN)/rankbench bench tensor_rank

test: .venv/tested ## set up, then linters, type checker and tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pip check
	git ls-files ':!results' | xargs $(BIN)/detect-secrets-hook --exclude-lines '[0-9a-f]{64}'
	$(PYTEST) -m "not gpu and not network and not stress"

docs: .venv/documented ## build the documentation site: build/docs/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs . build/docs

stress: .venv/tested ## kills, faults, several processes at once, bad input in number: half an hour
	$(BIN)/python tests/stress/kills.py --kills $(KILLS)
	$(BIN)/python tests/stress/kills.py --kills $(KILLS) --at-once 4
	$(BIN)/python tests/stress/overhead.py --max-epochs $(EPOCHS)
	OMP_NUM_THREADS=1 FUZZ_SHARE=$(FUZZ_SHARE) $(BIN)/pytest -m stress tests

slurm-test: .venv/tested ## a benchmark on a real SLURM on this machine; as root, it installs Debian's packages
	folder=$$(mktemp -d) && SLURM_CONF=$$(tests/slurm/start.sh $$folder) && export SLURM_CONF && \
	{ $(BIN)/pytest tests/slurm; code=$$?; tests/slurm/stop.sh $$folder; exit $$code; }

format: .venv/tested ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what these targets made, except runs and data
	rm -rf .venv dist build .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/tested: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[test,slurm]'
	$(BROWSER) || $(BIN)/playwright install chromium || $(DEBIAN_BROWSER)
	touch $@ .venv/installed

.venv/documented: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@ .venv/installed

# make book: execute every chapter and render _build/html.   make test: all checks.   Both need python3 >= 3.10 and PyPI only.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MEASURE := $(BIN)/python .ci/measure.py
BUILD_BOOK := $(BIN)/jupyter-book build . -W --all
CHECKED_BOOK := $(CURDIR)/_build/smoke

export PYTHONPATH := $(CURDIR)
export TOKENIZERS_PARALLELISM := false

.PHONY: book measured test lint lock clean help
.DEFAULT_GOAL := help

help:
	@echo "make book   execute every chapter (MEDVLP_PROFILE=$${MEDVLP_PROFILE:-read}) and render _build/html/index.html"
	@echo "make test   lint, strict build that executes every chapter in profile smoke, unit tests, checks on every page"
	@echo "make measured   make book, then keep the time and memory of this profile in book/measured.json"
	@echo "make lint   ruff only        make lock   renew requirements.lock (needs uv)        make clean   remove what was built"

book: export MEDVLP_PROFILE ?= read
book: $(VENV)/.ready
	@$(MEASURE) "make book" $(BUILD_BOOK)
	@echo "Open _build/html/index.html"

measured: book
	@$(BIN)/python .ci/measure.py --keep _build/html/measured.json book/measured.json

# All three parts run even when one fails, so that one run shows everything; pytest comes last.
test: export MEDVLP_PROFILE := smoke
test: export MEDVLP_CACHE := $(CURDIR)/.cache/medvlp
test: export MEDVLP_BOOK := $(CHECKED_BOOK)/_build/html
test: export MEDVLP_STARTED := $(shell date +%s)
test: $(VENV)/.ready
	@failed=0; \
	$(BIN)/ruff check . && $(BIN)/ruff format --check . || failed=1; \
	rm -rf "$(CHECKED_BOOK)"; \
	$(MEASURE) "strict build of the book" $(BUILD_BOOK) --path-output "$(CHECKED_BOOK)" \
		|| { failed=1; rm -rf "$(CHECKED_BOOK)/_build/html"; echo "The book does not build; the page checks below fail for that reason."; }; \
	PYTHONPATH="$(CURDIR):$(CURDIR)/.ci" $(BIN)/python -m pytest -v -rs -p measure || failed=1; \
	exit $$failed

lint: $(VENV)/.ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

lock:
	uv pip compile --universal --python-version 3.10 --extra dicom --extra book --extra test pyproject.toml -o requirements.lock

clean:
	rm -rf _build .cache

# The environment is made again when the lock changes, and marked as ready only when all of it is in place.
$(VENV)/.installed: requirements.lock
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "MedVLP-Lite needs Python 3.10 or newer, but '$(PYTHON)' was not found; name one: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit("MedVLP-Lite needs Python 3.10 or newer, but $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@$(PYTHON) -m venv --clear $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Installing the packages of requirements.lock into $(VENV); the first time this takes some minutes."
	@$(BIN)/python -m pip install --quiet --requirement requirements.lock
	@touch $@

$(VENV)/.ready: $(VENV)/.installed pyproject.toml
	@$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

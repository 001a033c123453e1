# Needs make (GNU 3.81 or later, which macOS has) and a Python; the rest is installed into .venv.

# The Pythons that the pinned torch has wheels for. `make PYTHON=…` names one; else the first that fits
# of python3 and these is taken.
VERSIONS := 3.14 3.13 3.12 3.11
PYTHON   :=
ARGS     :=

BIN   := .venv/bin
# Written last, so a set-up that was broken off has no stamp and is begun again from nothing.
READY := .venv/.ready

KERNELS    := $(wildcard src/gatewise/scan/csrc/*)
SANITIZERS := address undefined thread

.DEFAULT_GOAL := help
.PHONY: help train test sanitize docs lint clean gone

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' Makefile

train: $(READY)  ## train a small GRU on text, two minutes
	$(BIN)/gatewise train text --minutes 2

# Two processes of one thread each: of more threads, small nets wait for one another.
test: $(READY)  ## run the tests; ARGS="-k gru" goes to pytest
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal $(ARGS)

sanitize: $(READY)  ## run the C++ kernels under sanitizers
	@$(BIN)/python tests/sanitize/programs.py .venv/sanitize-programs
	@$(MAKE) --no-print-directory -j2 $(SANITIZERS:%=sanitize-%)

$(SANITIZERS:%=sanitize-%): sanitize-%: .venv/sanitize-%
	@TSAN_OPTIONS=halt_on_error=1 $< .venv/sanitize-programs && echo "$*: clean"

# The checks of undefined behaviour that are left out would show as crashes, and take longest to compile.
$(SANITIZERS:%=.venv/sanitize-%): .venv/sanitize-%: tests/sanitize/driver.cpp $(KERNELS)
	@echo "building $@"
	@$(CXX) -std=c++17 -O1 -g1 -fno-math-errno -w -pthread -DSANITIZE_$* \
	  -fsanitize=$* -fno-sanitize=null,object-size,alignment -fno-sanitize-recover=all \
	  -Isrc/gatewise/scan/csrc $(filter-out %/module.cpp %/memory.cpp,$(filter %.cpp,$^)) -o $@

docs: $(READY)  ## run the code of the pages that show results, minutes of training among it
	$(BIN)/python docs/build.py docs/gru-from-the-inside.md

lint: $(READY)  ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## remove .venv and the caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis src/gatewise.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp alone is no proof: the Python under .venv vanishes when the system's is upgraded.
$(READY): pyproject.toml setup.py constraints.txt $(KERNELS) $(shell test -x $(BIN)/python || echo gone)
	@set -e; \
	if [ -f $(READY) ] && [ -x $(BIN)/python ]; then \
	  echo "bringing .venv up to date"; \
	  rm -f $(READY); \
	else \
	  $(find_python); \
	  echo "setting up .venv with $$python (a few minutes, once)"; \
	  rm -rf .venv; \
	  "$$python" -m venv .venv; \
	fi; \
	{ $(PIP) setuptools && $(PIP) --no-build-isolation -e '.[dev]'; } || { \
	  echo "setting up .venv failed, for the reason above; the next make starts it again" >&2; exit 1; }; \
	touch $(READY); \
	echo "ready: the command is $(BIN)/gatewise"

# The backend is installed first and used from .venv: pip before 25.3 pins the packages of an isolated
# build by one option, later ones by another. PIP_USER, where a user has set it, cannot work in a .venv.
PIP = PIP_USER=0 $(BIN)/python -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt

# Sets $python, or stops with one line. A candidate may be absent, or a stand-in that runs nothing (as
# pyenv's are), too old or too new, or without venv, which Debian packages apart.
define find_python
python=; other=; bare=; \
for p in $(if $(PYTHON),"$(PYTHON)",python3 $(addprefix python,$(VERSIONS))); do \
  v=$$("$$p" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
  case " $(VERSIONS) " in *" $$v "*) ;; *) other="$${other:-$$p is $$v}"; continue;; esac; \
  if "$$p" -c 'import ensurepip, venv' 2>/dev/null; then python=$$p; break; fi; \
  bare="$${bare:-$$v}"; \
done; \
if [ -z "$$python" ]; then \
  if [ -n "$$bare" ]; then \
    echo "Python $$bare lacks its venv module: apt install python$$bare-venv (Debian, Ubuntu), else dnf install python3 or brew install python" >&2; \
  else \
    if [ -n "$$other" ]; then deb=python$(lastword $(VERSIONS))-venv; else deb=python3-venv; fi; \
    echo "gatewise needs Python $(lastword $(VERSIONS)) to $(firstword $(VERSIONS)) ($${other:-$(or $(PYTHON),python3) was not found}): apt install $$deb, dnf install python3.12 or brew install python, or name one: make PYTHON=/path/to/python" >&2; \
  fi; \
  exit 1; \
fi
endef

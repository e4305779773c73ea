# Two commands for a newcomer: `make forecast` and `make test`. Each sets itself up first, in .venv, and again only when
# pyproject.toml, constraints.txt or the kernels changed.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help forecast test test-cluster waves docs audit
.DELETE_ON_ERROR:

VENV := .venv
PY := $(VENV)/bin/python
OUT := outputs/forecast
MADE := analysis.zarr forecast.zarr short.zarr verification
WAVES := outputs/waves
NEEDS := pyproject.toml constraints.txt hatch_build.py $(wildcard gpu/cpu/* gpu/cuda/*.cuh)

# The split of the sample: fitted on the training span, chosen on January 21 to 26, reported on what follows.
TRAIN := [2025-12-01T00,2026-01-20T18]
START := 2026-01-27T00
END := 2026-02-08T18

help:
	@cat <<'EOF'
	make forecast   sample of real ERA5 -> analysis store -> 10-day cascade forecasts -> scores, scorecard, maps
	make test       style, types, import rules and the test suite

	Both work from a bare machine with Python 3.11 or newer (python3-venv) and a C++ compiler.
	Settings: PYTHON=python3.12 chooses the interpreter, OUT=folder where `make forecast` writes.
	EOF

forecast: $(VENV)/.ready-to-forecast
	@mkdir -p "$(OUT)"
	for made in $(MADE); do rm -rf "$(OUT)/$$made" "$(OUT)/$$made".*; done  # of an earlier run; what else is there stays
	run() { echo "+ python $$*"; "$(PY)" "$$@"; }
	run -m data_pipelines.build_store source=sample out="$(OUT)/analysis.zarr"
	run -m forecast.run analysis="$(OUT)/analysis.zarr" start=$(START) end=$(END) every=6h lead=10d \
	    out="$(OUT)/forecast.zarr" "branches={$(OUT)/short.zarr:[6h:first,10d:short]}"
	run -m forecast.verify forecast="$(OUT)/forecast.zarr" truth="$(OUT)/analysis.zarr" out="$(OUT)/verification" \
	    train="$(OUT)/analysis.zarr" train_span="$(TRAIN)" name=cascade short="$(OUT)/short.zarr"

# All checks run, whichever fails; the test suite comes last, so that its closing line closes the log.
test: $(VENV)/.ready-to-test
	@failed=""
	check() { echo "+ $$*"; "$(VENV)/bin/$$@" || failed="$$failed $$1"; }
	check ruff check .
	check ruff format --check .
	check mypy
	check lint-imports --no-logo
	check pytest
	[ -z "$$failed" ] || { echo "make test: failed:$$failed" >&2; exit 1; }

# Finite-element waves, three simulators that learn from them, their forecasts and scores: docs/waves.md tells of it.
waves: $(VENV)/.ready-to-test
	@rm -rf "$(WAVES)"
	mkdir -p "$(WAVES)"
	run() { echo "+ python $$*"; "$(PY)" "$$@"; }
	run -m data_pipelines.build_store source=finite_element_waves out="$(WAVES)/waves.zarr" waves.samples=384 dask.workers=2 \
	    waves.columns=24 waves.rows=24 waves.frames=13 waves.frame_seconds=0.1 waves.cells=96 'waves.outer=[neumann]' \
	    'waves.pulses=[0,0]' 'waves.holes=[0,1]' 'waves.inclusions=[0,1]' 'waves.inclusion_speed=[0.6,1.5]' \
	    'waves.radius=[0.08,0.15]' 'waves.bump_width=[0.08,0.12]'
	for form in classical compressed lka; do
	    experiment="waves_$$form"
	    [ "$$form" = classical ] && experiment=waves
	    run -m forecast.train experiment="$$experiment" out="$(WAVES)/$$form" sources.waves.store="$(WAVES)/waves.zarr"
	    run -m forecast.run analysis="$(WAVES)/waves.zarr" start=352 end=383 lead=1.2s out="$(WAVES)/$$form.zarr" \
	        cascade="[$(WAVES)/$$form/checkpoint]" batch_size=16
	done
	run -m forecast.verify forecast="$(WAVES)/classical.zarr" truth="$(WAVES)/waves.zarr" out="$(WAVES)/verification" \
	    name=classical compare.compressed="$(WAVES)/compressed.zarr" compare.lka="$(WAVES)/lka.zarr"

# What CI has no time for: 100 kills, forecasts and training on a Slurm of two virtual nodes (as root, with slurm-wlm and munge).
test-cluster: $(VENV)/.ready-to-test
	@"$(PY)" -m tests.cluster.kills 100
	"$(PY)" -m tests.cluster.slurm
	"$(PY)" -m tests.cluster.slurm_training

# The documentation site, warnings as errors; notebooks are executed.
docs: $(VENV)/.ready-to-test
	@"$(PY)" -m sphinx -W --keep-going -q -j auto docs docs/_build/html
	echo "docs/_build/html/index.html"

# Published weaknesses of everything in .venv, by PyPI's advisories or, with AUDIT="--vulnerability-service osv", by OSV's.
audit: $(VENV)/.ready-to-test
	@"$(PY)" -m pip install --quiet pip-audit
	"$(PY)" -m pip_audit --local --skip-editable $(AUDIT)

$(VENV)/.ready-to-forecast: EXTRAS :=
$(VENV)/.ready-to-forecast: GROUPS :=
$(VENV)/.ready-to-test: EXTRAS := [cloud,cluster,grib,waves]
$(VENV)/.ready-to-test: GROUPS := --group test

$(VENV)/.ready-to-forecast $(VENV)/.ready-to-test: $(NEEDS)
	@stop() { echo "make: $$*" >&2; exit 1; }
	python=""
	for candidate in $${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi
	done
	[ -n "$$python" ] || stop "Python 3.11 or newer is missing. Install it (sudo apt-get install python3 python3-venv) or set PYTHON=."
	command -v "$${CXX:-c++}" >/dev/null || command -v g++ >/dev/null \
	    || stop "a C++ compiler is missing. Install it: sudo apt-get install g++"
	if ! "$(PY)" -c '' 2>/dev/null; then
	    "$$python" -c 'import ensurepip, venv' 2>/dev/null \
	        || stop "Python's module venv is missing. Install it: sudo apt-get install python3-venv"
	    "$$python" -m venv --clear "$(VENV)" || stop "no virtual environment could be made in $(VENV); see above."
	fi
	"$(PY)" -m pip --version >/dev/null 2>&1 || "$(PY)" -m ensurepip --upgrade >/dev/null
	uv="$$(command -v uv || true)"
	if [ -z "$$uv" ] && "$(PY)" -m pip install --quiet uv; then uv="$(VENV)/bin/uv"; fi
	wanted=(--constraint constraints.txt --editable ".$(EXTRAS)" $(GROUPS))
	# uv reads none of pip's settings; where wheels lie beside the index, they are on PIP_FIND_LINKS.
	if [ -z "$$uv" ] || ! UV_FIND_LINKS="$${PIP_FIND_LINKS:-}" "$$uv" pip install --compile-bytecode --python "$(PY)" "$${wanted[@]}"; then
	    echo "make: uv is not there or did not succeed; trying pip, which takes minutes."
	    "$(PY)" -m pip install --quiet --upgrade pip && "$(PY)" -m pip install --quiet "$${wanted[@]}" \
	        || stop "installing failed, see above. With a network connection, run the same command again."
	fi
	touch "$@"

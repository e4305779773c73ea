"""The whole of a verification: what `evaluation` finds, written to a folder with figures and a report."""

from __future__ import annotations

import tempfile
from pathlib import Path

from forecast.verification.config import VerifyConfig
from forecast.verification.evaluation import Verification, evaluate
from forecast.verification.inputs import VerificationError
from forecast.verification.report import write_report


def verify(config: VerifyConfig) -> Verification:
    """Score a forecast and write scores, figures and report to the folder `config.out`.

    Returns
    -------
    Verification
        What was written, for notebooks.

    Raises
    ------
    VerificationError
        If out exists, or forecast, truth, training span and settings do not fit together.
    StoreError
        If a chunk cannot be read.
    """
    out = Path(config.out)
    if out.exists():
        raise VerificationError(f"out {out} exists; nothing is overwritten. Remove it, or choose another folder.")
    found = evaluate(config)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        unfinished = Path(folder) / out.name
        unfinished.mkdir()
        for name in ("scores", "significance", "spectra", "by_initial_time", "rank_histogram"):
            dataset = getattr(found, name)
            if not dataset.data_vars:
                continue
            dataset.to_netcdf(unfinished / f"{name}.nc", encoding={key: {"zlib": True} for key in dataset.data_vars})
        write_report(found, config, unfinished)
        unfinished.rename(out)  # whole or not at all
    return found

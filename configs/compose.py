"""The glue of every entry point: Hydra composes the values, a dataclass checks them, errors become one line.

An entry point is then::

    @entry(RunConfig, "forecast/run")
    def main(config: RunConfig) -> str:
        ...
        return "Wrote 52 forecasts to forecast.zarr"

    if __name__ == "__main__":
        main()

and `configs/forecast/run.yaml` holds a value for every field of `RunConfig` (`???` where the user must give one),
under this head, which keeps Hydra from writing folders and log files of its own::

    defaults:
      - _self_
      - override hydra/job_logging: stdout
      - override hydra/hydra_logging: none
    hydra: {output_subdir: null, run: {dir: .}, sweep: {dir: outputs, subdir: ""}, job: {chdir: false}}

Config groups live beside the YAML: `- experiment: tiny` in `configs/forecast/train.yaml` names
`configs/forecast/experiment/tiny.yaml`, and `experiment=NAME` on the command line chooses another.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar, get_origin, get_type_hints

import hydra
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from data_pipelines.locations import redacted
from gpu.host_memory import keep_freed_memory

Config = TypeVar("Config")

VERSION_BASE = "1.3"
TRACEBACK = "SKYSOLVE_TRACEBACK"  # environment variable: "1" shows where an error was raised
REFUSED = 2  # exit code of a run that was refused or failed with an error of ours
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class ConfigError(ValueError):
    """A value on the command line or in a YAML does not fit the entry point."""


# Config class of every entry point that was imported, by the name of its YAML.
ENTRIES: dict[str, type[Any]] = {}


def entry(config_class: type[Config], name: str, *, lists: Sequence[str] = ()) -> Callable[..., Callable[[], None]]:
    """Make a function of one config an entry point.

    Parameters
    ----------
    config_class
        Dataclass (not frozen) that names, types and checks the settings.
    name
        Where the values are: "forecast/run" is `configs/forecast/run.yaml`.
    lists
        Keys whose value may be given as `key=a,b` (Hydra alone reads that as two runs).

    Returns
    -------
    A decorator. The decorated function takes no argument, reads `sys.argv`, prints the line that the function returns,
    and exits with 2 and one line on standard error when the settings or the input are refused.
    """
    folder, _, leaf = name.rpartition("/")
    path = f"pkg://configs.{folder.replace('/', '.')}"
    ENTRIES[name] = config_class

    def decorate(run: Callable[[Config], str]) -> Callable[[], None]:
        @hydra.main(config_path=path, config_name=leaf, version_base=VERSION_BASE)
        @functools.wraps(run)
        def composed(values: DictConfig) -> None:
            with _errors_in_one_line(config_class, name):  # here, else Hydra prints lines of its own first
                message = run(to_config(config_class, values, name))
                if message:  # of processes that work together, one speaks
                    sys.stdout.write(message + "\n")

        @functools.wraps(run)
        def main() -> None:
            keep_freed_memory()
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra hands its errors on, so that they too become one line
            sys.argv[1:] = [_as_override(argument, config_class, lists) for argument in sys.argv[1:]]
            with _errors_in_one_line(config_class, name):
                composed()

        return main

    return decorate


def compose(config_class: type[Config], name: str, overrides: Sequence[str] = (), *, lists: Sequence[str] = ()) -> Config:
    """Compose the settings of an entry point without running it (notebooks, tests).

    Parameters
    ----------
    config_class, name, lists
        As for `entry`.
    overrides
        What would stand on the command line, as in `["lead=3d", "out=forecast.zarr"]`.

    Raises
    ------
    ConfigError
        For an unknown key, a value of the wrong type, or a value that is required and not given.
    """
    folder, _, leaf = name.rpartition("/")
    try:
        with hydra.initialize_config_module(f"configs.{folder.replace('/', '.')}", version_base=VERSION_BASE):
            values = hydra.compose(leaf, overrides=[_as_override(text, config_class, lists) for text in overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, config_class, name)) from error
    return to_config(config_class, values, name)


def to_config(config_class: type[Config], values: DictConfig, name: str) -> Config:
    """Check composed values against their dataclass, once, and build it.

    Raises
    ------
    ConfigError
        As for `compose`.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(config_class), values))
    except OmegaConfBaseException as error:
        raise ConfigError(explain(error, config_class, name)) from error
    if not isinstance(config, config_class):
        raise ConfigError(f"{name}: expected the settings of {config_class.__name__}; got {type(config).__name__}.")
    return config


def explain(error: Exception, config_class: type[Any], name: str) -> str:
    """Say in one line what Hydra or OmegaConf say in several: which key, what was wanted, what to do."""
    where = f"configs/{name}.yaml"
    text = str(error)
    cause = error.__cause__ or error
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override} as KEY=VALUE; quote a value of special characters: \"KEY='VALUE'\"."
    if isinstance(error, MissingMandatoryValue) or "Missing mandatory value" in text:
        key = getattr(error, "full_key", None) or text.rsplit(" ", 1)[-1]
        return f"{key} must be given, as in {key}=VALUE. Every key is listed in {where}."
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)'", text)
    if unknown and (isinstance(cause, ConfigKeyError | ConfigAttributeError) or "No match" in text):
        key = getattr(cause, "full_key", None) or unknown.group(1)
        return f"no setting is called {key}: {_nearest(key, config_class)} Every key is listed in {where}."
    if full_key := getattr(cause, "full_key", None):
        first = str(getattr(cause, "msg", None) or cause).splitlines()[0]
        return f"{full_key}: {first.rstrip('.')}. Every key is listed in {where}."
    return f"{' '.join(text.split())} (settings: {where})"


def known_keys(config_class: type[Any]) -> list[str]:
    """List the dotted names of every field, nested ones too."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            full = f"{prefix}{key}"
            yield full
            if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
                yield from walk(node[key], f"{full}.")

    return list(walk(OmegaConf.structured(config_class), ""))


def _nearest(key: str, config_class: type[Any]) -> str:
    known = known_keys(config_class)
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    near += [other for other in known if other not in near and other.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    if near:
        return f"did you mean {' or '.join(near[:3])}?"
    return f"known are {', '.join(other for other in known if '.' not in other)}."


def _as_override(argument: str, config_class: type[Any], lists: Sequence[str]) -> str:
    """Spell an argument as Hydra wants it: `a,b` as a list, and new entries of a field that is a dict."""
    key, equals, value = argument.partition("=")
    if equals and key in _dict_fields(config_class):
        return f"++{argument}"
    field, dot, item = key.partition(".")
    if equals and dot and field in _dict_fields(config_class):
        return f"++{argument}" if "." in item else f"++{field}={{{item}:{_quoted(value)}}}"
    if not equals or key not in lists or value[:1] in ("[", "'", '"', "") or value == "null":
        return argument
    return f"{key}=[{','.join(_quoted(part) for part in value.split(','))}]"


def _quoted(value: str) -> str:
    if value[:1] in ("'", '"'):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _dict_fields(config_class: type[Any]) -> set[str]:
    return {name for name, kind in get_type_hints(config_class).items() if get_origin(kind) is dict}


@contextmanager
def _errors_in_one_line(config_class: type[Any], name: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _stop("interrupted; what was complete is kept", INTERRUPTED)
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error, config_class, name))
    except (ValueError, OSError, ImportError) as error:
        # Errors may carry the exit code that a scheduler shall see.
        _stop(_message(error), getattr(error, "exit_code", REFUSED))


def _stop(message: str, code: int = REFUSED) -> NoReturn:
    """End with one line; called while an exception is handled, which is shown in full where that was asked for."""
    if os.environ.get(TRACEBACK) == "1":
        raise  # noqa: PLE0704
    sys.stderr.write(f"error: {redacted(message)}\n")
    raise SystemExit(code)


def _message(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__

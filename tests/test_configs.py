"""Every YAML composes into the dataclass of its entry point; what does not fit is told in one line."""

import importlib
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

import configs
from configs.compose import ENTRIES, ConfigError, compose, entry, known_keys

CONFIGS = Path(__file__).parents[1] / "configs"
SETTINGS = sorted(path for path in CONFIGS.glob("*/*.yaml"))
GROUPS = sorted(path for path in CONFIGS.glob("*/*/**/*.yaml"))
A_VALUE = "2021-01-01"  # for whatever must be given: it reads as a path and as a date


def entry_of(path):
    """The config class that a YAML belongs to, by importing the entry point of its name."""
    name = str(path.relative_to(CONFIGS).with_suffix(""))
    importlib.import_module(name.replace("/", "."))
    return ENTRIES[name], name


def required(path):
    """Overrides for whatever must be given: a value for a key, the first choice for a group."""
    values = OmegaConf.load(path)
    groups = [item for item in values.defaults if OmegaConf.is_dict(item)]
    choices = [next(iter(item)) for item in groups if OmegaConf.is_missing(item, next(iter(item)))]
    first = {group: min((path.parent / group).glob("*.yaml")).stem for group in choices}
    given = [f"{group}={choice}" for group, choice in first.items()]
    return given + [f"{key}={A_VALUE}" for key in values if OmegaConf.is_missing(values, key)]


def list_fields(config_class):
    return [item.name for item in fields(config_class) if "list" in str(item.type)]


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_yaml_composes_into_its_dataclass(path):
    config_class, name = entry_of(path)
    assert isinstance(compose(config_class, name, required(path), lists=list_fields(config_class)), config_class)


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_choice_of_a_group_composes(path):
    """configs/forecast/experiment/tiny.yaml is the choice experiment=tiny of the entry point whose YAML names the group."""
    package, *group = path.relative_to(CONFIGS).with_suffix("").parts
    choice = f"{'/'.join(group[:-1])}={group[-1]}"
    owners = [
        settings
        for settings in SETTINGS
        if settings.parent.name == package and f"{'/'.join(group[:-1])}:" in settings.read_text().partition("hydra:")[0]
    ]
    assert owners, f"no YAML of configs/{package} has the group {group[:-1]} in its defaults"
    for settings in owners:
        config_class, name = entry_of(settings)
        others = [text for text in required(settings) if text.partition("=")[0] != choice.partition("=")[0]]
        composed = compose(config_class, name, [choice, *others], lists=list_fields(config_class))
        assert isinstance(composed, config_class)


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_yaml_lists_every_key_of_its_dataclass(path):
    """A key that is in the dataclass only could not be overridden on the command line."""
    config_class, name = entry_of(path)
    with hydra.initialize_config_module(f"configs.{path.parent.name}", version_base="1.3"):
        values = hydra.compose(path.stem, overrides=[text for text in required(path) if A_VALUE not in text])
    assert {str(key) for key in values} == {item.name for item in fields(config_class)}, name


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_an_entry_point_stays_in_its_folder_and_writes_nothing_there(path):
    with hydra.initialize_config_module(f"configs.{path.parent.name}", version_base="1.3"):
        overrides = [text for text in required(path) if A_VALUE not in text]
        settings = hydra.compose(path.stem, overrides=overrides, return_hydra_config=True).hydra
    assert settings.job.chdir is False
    assert settings.output_subdir is None
    assert settings.run.dir == "."
    assert "file" not in OmegaConf.to_container(settings.job_logging, resolve=False)["handlers"]


@dataclass
class Inner:
    threads: int = 2


@dataclass
class Example:
    out: str
    steps: int = 3
    source: list[str] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    parts: dict[str, Inner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0; got {self.steps}.")


HEAD = """
defaults: [_self_, override hydra/job_logging: stdout, override hydra/hydra_logging: none]
hydra: {output_subdir: null, run: {dir: .}, job: {chdir: false}}
"""


def example(config):
    """An entry point that fails as it is told."""
    failures = {
        "disk": OSError(28, "No space left on device", "x.zarr"),
        "stop": KeyboardInterrupt(),
        "bug": KeyError("bug"),
        "bare": ValueError(),
    }
    if config.out in failures:
        raise failures[config.out]
    return repr(config)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the example in an empty folder; `configs` has one more folder for it."""
    folder = tmp_path / "more" / "examples"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    values = "out: ???\nsteps: 3\nsource: []\nunits: {}\ninner: {threads: 2}\nparts: {}\n"
    (folder / "example.yaml").write_text(HEAD + values)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(configs, "__path__", [*configs.__path__, str(tmp_path / "more")])
    monkeypatch.setitem(ENTRIES, "examples/example", Example)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # entry points set it; put back what was there

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["example", *arguments])
        code = 0
        try:
            entry(Example, "examples/example", lists=("source",))(example)()
        except SystemExit as stopped:
            code = stopped.code
        finally:
            for name in [name for name in sys.modules if name.startswith("configs.examples")]:
                del sys.modules[name]
        said = capsys.readouterr()
        return said.out, said.err, code

    return run


def test_success_prints_one_line_and_leaves_no_file(run):
    expected = Example("a?b", 3, ["a/*.nc", "gs://b/c?x=1"], {"2m_temperature": "degC"}, Inner(4))
    said = run("out=a?b", "source=a/*.nc,gs://b/c?x=1", "units.2m_temperature=degC", "inner.threads=4")
    assert said == (f"{expected!r}\n", "", 0)
    assert list(Path.cwd().iterdir()) == []


def test_a_setting_of_an_entry_that_is_a_dict_of_settings(run):
    assert run("out=a", "parts.a.threads=5") == (f"{Example('a', parts={'a': Inner(5)})!r}\n", "", 0)


@pytest.mark.parametrize(
    ("given", "source"), [("a", ["a"]), ("null", None), ("[a,b]", ["a", "b"]), ("'a,b'", None), ("it's,b", ["it's", "b"])]
)
def test_a_list_may_be_given_with_commas(run, given, source):
    out, err, code = run("out=x", f"source={given}")
    assert (code, f"source={source}" in out) == ((0, True) if source else (2, False)), err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["out=a", "step=3"],
            "no setting is called step: did you mean steps? Every key is listed in configs/examples/example.yaml.",
        ),
        (["out=a", "+stepps=3"], "no setting is called stepps: did you mean steps? Every key"),
        (["out=a", "inner.thread=3"], "no setting is called inner.thread: did you mean inner.threads"),
        (["out=a", "threads=3"], "no setting is called threads: did you mean inner.threads?"),
        (["out=a", "qqq=3"], "no setting is called qqq: known are out, steps, source, units, inner, parts."),
        ([], "out must be given, as in out=VALUE."),
        (["out=a", "steps=few"], "steps: Value 'few' of type 'str' could not be converted to Integer. Every key"),
        (["out=a", "steps=-1"], "steps must be at least 0; got -1."),
        (["out=a=b"], "cannot read out=a=b as KEY=VALUE; quote a value of special characters"),
        (["out=disk"], "No space left on device: x.zarr"),
        (["out=bare"], "ValueError"),
    ],
)
def test_what_is_refused_is_one_line_that_says_what_to_do(run, arguments, said):
    out, err, code = run(*arguments)
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1
    assert (code, out) == (2, "")


def test_an_interrupted_run_says_what_is_kept(run):
    assert run("out=stop") == ("", "error: interrupted; what was complete is kept\n", 130)


def test_a_bug_keeps_its_traceback(run):
    with pytest.raises(KeyError, match="bug"):
        run("out=bug")


def test_a_traceback_is_there_for_those_who_ask(run, monkeypatch):
    monkeypatch.setenv("SKYSOLVE_TRACEBACK", "1")
    with pytest.raises(OSError, match="No space left"):
        run("out=disk")


def test_an_unknown_choice_of_a_group_is_told(run):
    assert run("out=a", "experiment=none")[1].startswith("error: no setting is called experiment: known are out")


def test_composing_refuses_as_the_command_line_does():
    config_class, name = entry_of(CONFIGS / "forecast" / "run.yaml")
    with pytest.raises(ConfigError, match="no setting is called leed: did you mean lead"):
        compose(config_class, name, ["leed=3d"])


def test_values_for_another_dataclass_are_refused():
    with pytest.raises(ConfigError, match="no setting is called analysis"):
        compose(Example, "forecast/run", required(CONFIGS / "forecast" / "run.yaml"))


def test_known_keys_are_dotted():
    assert known_keys(Example) == ["out", "steps", "source", "units", "inner", "inner.threads", "parts"]

"""Write an app for `flwr run`."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

from fedsim.config.resolve import find_config, recorded_config, resolve
from fedsim.data.datasets import load_dataset
from fedsim.data.federation import federate
from fedsim.deploy.samples import Samples
from fedsim.deploy.settings import CONFIG, ONE_BY_ONE, SAMPLES, require_deployable
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.runs.frozen import inherited_data
from fedsim.runs.settle import require_fitting, settled
from fedsim.version import VERSION

_PACKAGE = "federation"


def write_app(source: str, out: Path) -> Path:
    """Write the app of a run folder, a preset or a YAML file to the new folder `out`, and return it.

    Raises
    ------
    FedsimError
        If `out` exists already, or only a simulation supports the configuration.
    """
    if out.exists():
        raise FedsimError(f"{out}: exists already; give a folder that is to be made")
    is_run = (Path(source) / CONFIG).is_file()
    config = resolve(recorded_config(Path(source)) if is_run else find_config(source), ONE_BY_ONE)
    if is_run and inherited_data(config, Path(source)) is not None:
        raise FedsimError(
            f"{source}: samples were deleted from this run, but nodes may still have them; delete them there, "
            f"and give its configuration as a file"
        )
    require_deployable(config)
    dataset = load_dataset(config.data, config.seed)
    config, _ = settled(config, dataset)
    require_fitting(config, load_strategy(config.strategy.name), dataset)
    if dataset.is_text:
        raise FedsimError(f"data.name: nodes read images and tables, and {dataset.name} is a text; simulate it")
    federate(config.data, config.clients, config.seed, dataset)  # refuse what a simulation would refuse
    name = config.name or f"{config.strategy.name}-{config.data.name.partition(':')[0]}"
    samples = Samples.of(dataset)
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        package = temporary / _PACKAGE
        package.mkdir(parents=True)
        (package / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        (package / SAMPLES).write_text(json.dumps(samples.model_dump(mode="json"), indent=1), encoding="utf-8")
        templates = files("fedsim.deploy").joinpath("app")
        for file in ("client.py", "data.py", "server.py"):
            (package / file).write_text(templates.joinpath(f"{file}.txt").read_text(encoding="utf-8"), encoding="utf-8")
        (package / "__init__.py").write_text('"""A federation, made by fedsim."""\n', encoding="utf-8")
        filled = {"NAME": name, "OUT": str(out.resolve() / "runs"), "VERSION": VERSION, "CLIENTS": str(config.clients)}
        for file in ("pyproject.toml", "README.md"):
            text = templates.joinpath(f"{file}.txt").read_text(encoding="utf-8")
            for key, value in filled.items():
                text = text.replace(f"@{key}@", value)
            (temporary / file).write_text(text, encoding="utf-8")
        temporary.rename(out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise FedsimError(f"{out}: cannot be written ({error.strerror}); give another place") from None
    return out

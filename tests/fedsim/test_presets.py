import pytest
import yaml

from fedsim.config.resolve import find_config, preset_names, presets_folder, resolve

PRESETS = sorted(preset_names())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_loads_and_comes_back_from_its_own_dump(name):
    config = resolve(find_config(name))
    assert resolve(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_what_it_shows_how_long_it_takes_and_how_to_run_it(name):
    lines = (presets_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert lines[: len(head)] == head
    assert head[0].endswith(".")
    assert any(line.startswith("# Shows: ") for line in head)
    assert any(line.startswith("# Takes: ") for line in head)
    assert any(line.startswith("# Run: ") and f"fedsim run --config {name}" in line for line in head)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_names_no_folder_of_this_machine(name):
    config = resolve(find_config(name))
    assert config.data.root is None
    assert config.name is None

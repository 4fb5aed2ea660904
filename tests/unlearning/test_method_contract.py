"""The contract of all unlearning methods; a new method is tested automatically."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.data.text_config import TextConfig
from fedsim.errors import FedsimError
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model
from unlearning.api.registry import describe_unlearning, load_unlearning
from unlearning.api.view import View

# Those that work on the federation are tested in tests/unlearning/api/test_federation.py.
METHODS = sorted(name for name in describe_unlearning() if not load_unlearning(name).needs.federation)
MODELS = [("logistic", None), ("mlp", "batch"), ("cnn", "group"), ("resnet8", "batch"), ("vit", None)]
REFUSED = {
    *(("ct", "logistic"), ("ct", "mlp"), ("msg", "logistic"), ("modhifi_u", "logistic")),
    *(("laf", "logistic"), ("laf_r", "logistic")),
}
TRANSFORMERS_ONLY = ("gs_lora", "gs_lora_pp")
REFUSED |= {(method, name) for method in TRANSFORMERS_ONLY for name, _ in MODELS if name != "vit"}
every_method = pytest.mark.parametrize("method", METHODS)


def model_for(method, **options):
    """Return a new model that the method can serve; one with batch norm, if it serves such models."""
    if method in TRANSFORMERS_ONLY:
        return new_model("vit", width=8, **options)
    return new_model(norm="batch", **options)


def short(method):
    fields = load_unlearning(method).config.model_fields
    wanted = {"epochs": 1, "min_steps": 0, "vae_epochs": 1, "noise_steps": 3, "batch_size": 37, "ceiling": 2.0}
    return {name: value for name, value in wanted.items() if name in fields}


@every_method
def test_what_a_method_does_not_need_it_does_not_read(method):
    needs, model, (forget, retain) = load_unlearning(method).needs, model_for(method), few()
    without = (
        forget if needs.forget_labels else replace(forget, y=None),
        (retain if needs.retain_labels else replace(retain, y=None)) if needs.retain else None,
    )
    poison = (
        forget if needs.forget_labels else replace(forget, y=torch.full_like(forget.y, 10**9)),
        retain if needs.retain and needs.retain_labels else replace(retain, y=torch.full_like(retain.y, 10**9)),
    )
    if not needs.retain:
        poison = (poison[0], replace(poison[1], x=255 - poison[1].x))
    for guide in ("attribution", "oracle"):
        field = {"attribution": "shift", "oracle": "oracle"}[guide]
        if not getattr(needs, guide):
            without = tuple(given and replace(given, **{field: None}) for given in without)
            poison = tuple(replace(given, **{field: getattr(given, field) + 1e9}) for given in poison)
    if not needs.unseen:
        without, poison = ((replace(given[0], unseen=None), given[1]) for given in (without, poison))
    granted = apply(method, model, *without, **short(method))
    assert_same_bits(granted, apply(method, model, *poison, **short(method)))
    assert_same_bits(granted, apply(method, model, forget, retain, **short(method)))


@every_method
def test_a_method_is_a_function_of_its_generator_alone(method):
    model, views = model_for(method), few()
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  # that nobody draws from it
    first = apply(method, model, *views, **short(method))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002
    torch.manual_seed(2)
    assert_same_bits(first, apply(method, model, *views, **short(method)))
    if method not in ("ssd", "modhifi_u"):  # sums over all samples, whatever their order
        assert differs(first, apply(method, model, *views, seed=1, **short(method)))


@every_method
def test_it_leaves_the_views_alone_and_the_model_as_it_found_its_form(method):
    model, views = model_for(method, dtype=torch.float64), few(dtype=torch.float64)
    copies = [(view.x.clone(), view.y.clone()) for view in views]
    result = apply(method, model, *views, **short(method))
    for view, (x, y) in zip(views, copies, strict=True):
        assert torch.equal(view.x, x)
        assert torch.equal(view.y, y)
    for name, value in model.state_dict().items():
        assert result.state_dict()[name].dtype == value.dtype
        assert result.state_dict()[name].isfinite().all()
    assert differs(result, model)
    assert all(parameter.requires_grad and not parameter._backward_hooks for parameter in result.parameters())
    assert not any(module._forward_pre_hooks for module in result.modules())


@every_method
@pytest.mark.parametrize(("name", "norm"), MODELS)
def test_any_model_of_the_zoo_is_served_or_refused_in_one_line(method, name, norm):
    model, views = new_model(name, norm, **({"width": 8} if name in ("resnet8", "vit") else {})), few(9, 38)
    if (method, name) in REFUSED:
        with pytest.raises(FedsimError, match=f"^--method {method.removesuffix('_r')}: .*; use "):
            apply(method, model, *views, **short(method))
    else:
        result = apply(method, model, *views, **short(method))
        assert differs(result, model)
        assert all(value.isfinite().all() for value in result.state_dict().values())


NOTHING = {
    "bad_teacher": {"epochs": 0},
    "cf_k": {"epochs": 0},
    "datamodel_matching": {"epochs": 0},
    "finetune": {"epochs": 0},
    "gs_lora": {"epochs": 0},
    "gs_lora_pp": {"epochs": 0},
    "l1_sparse": {"epochs": 0},
    "laf": {"epochs": 0},
    "laf_r": {"epochs": 0, "repair_epochs": 0},
    "modhifi_u": {"share": 0},
    "msg": {"epochs": 0, "share": 0},
    "neggrad": {"epochs": 0},
    "neggrad_plus": {"epochs": 0},
    "not": {"epochs": 0, "layers": 0},
    "oracle_matching": {"epochs": 0},
    "random_labels": {"epochs": 0},
    "salun": {"epochs": 0},
    "scrub": {"epochs": 0},
    "scrub_r": {"epochs": 0},
    "ssd": {"alpha": 1e30},
    "unsir": {"impair_epochs": 0, "repair_epochs": 0},
}
"""What switches a method off. CT and EU-k always perturb."""


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"ct", "eu_k"}))
def test_a_method_that_is_switched_off_returns_the_model_bit_for_bit(method):
    model, views = model_for(method), few()
    assert_same_bits(apply(method, model, *views, **NOTHING[method]), model)


USES_FORGET = [
    *("bad_teacher", "laf", "laf_r", "modhifi_u", "neggrad", "neggrad_plus", "random_labels", "salun", "ssd"),
    *("datamodel_matching", "oracle_matching"),
]


@pytest.mark.parametrize("method", USES_FORGET)
def test_with_nothing_to_forget_the_model_stays_bit_for_bit(method):
    model, (forget, retain) = new_model(norm="batch"), few()
    nothing = replace(forget, x=forget.x[:0], y=forget.y[:0], shift=forget.shift[:0], oracle=forget.oracle[:0])
    assert_same_bits(apply(method, model, nothing, retain, **short(method)), model)


TEXT_REFUSED = {
    *((method, name) for method in ("ct", "unsir") for name in ("lstm", "transformer")),
    *((method, "lstm") for method in (*TRANSFORMERS_ONLY, "modhifi_u", "msg")),
}


@every_method
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_it_serves_texts_or_refuses_them_in_one_line(method, name):
    data = load_dataset(DataConfig(name="play", text=TextConfig(length=8, stride=50)), 0)
    draws = torch.Generator().manual_seed(0)

    def samples(first, last, part="train"):
        x, y = (torch.from_numpy(getattr(data, f"{array}_{part}")[first:last]) for array in "xy")
        shift, oracle = (torch.randn(len(x), data.num_classes, generator=draws) for _ in range(2))
        return View(x, y, data.mean, data.std, shift=shift, oracle=oracle)

    model = build_model(ModelConfig(name=name, width=8), data.input_shape, data.num_classes, 0)
    views = replace(samples(0, 40), unseen=samples(0, 60, "test")), samples(40, 115)
    if (method, name) in TEXT_REFUSED:
        with pytest.raises(FedsimError, match=r"(--method|the model) .*; use "):
            apply(method, model, *views, **short(method))
    else:
        result = apply(method, model, *views, **short(method))
        assert all(value.isfinite().all() for value in result.state_dict().values())

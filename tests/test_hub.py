"""Weights by the name of a hub: a commit pins them, config.json tells their inputs, and every refusal is two lines.

The client is one of these tests' own, with the calls and the errors of huggingface_hub.
"""

import json
import sys
from types import ModuleType

import numpy as np
import pytest
from oracles import torch_trunks as oracle
from safetensors.numpy import save_file

from jaxtl.errors import InputError
from jaxtl.models.pretrained import load_trunk

COMMIT = "491b427b45c94c7fb0e78b5474cc919aff584bbf"
NAME = f"hub:timm/resnet18.a1_in1k@{COMMIT}"


class NoEntry(Exception):
    pass


class NotKept(FileNotFoundError, NoEntry):
    pass


class Refused(OSError):
    def __init__(self, code):
        super().__init__(f"{code} for url")
        self.response = type("Response", (), {"status_code": code})


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """{file: content or error}; what was asked is in `asked`."""
    client, errors, held, asked = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors"), {}, []
    errors.EntryNotFoundError, errors.LocalEntryNotFoundError, errors.HfHubHTTPError = NoEntry, NotKept, Refused

    def hf_hub_download(repository, file, *, revision, local_files_only):
        asked.append((repository, file, revision, local_files_only))
        content = held.get(file, NoEntry(file))
        if isinstance(content, Exception):
            raise content
        path = tmp_path / file
        if isinstance(content, dict):
            save_file({name: np.ascontiguousarray(array) for name, array in content.items()}, path)
        else:
            path.write_text(content)
        return str(path)

    client.errors, client.hf_hub_download, client.held, client.asked = errors, hf_hub_download, held, asked
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    monkeypatch.delenv("JAXTL_OFFLINE", raising=False)
    return client


@pytest.fixture(scope="module")
def weights():
    with np.load(oracle.STORED) as file:
        return oracle.state_dict(dict(file), "resnet18")


def told(**said):
    return json.dumps({"architecture": "resnet18", "pretrained_cfg": said})


def test_weights_inputs_and_licence_are_those_of_the_commit(hub, weights):
    said = {"input_size": [3, 160, 160], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "license": "apache-2.0"}
    hub.held |= {"model.safetensors": weights, "config.json": told(**said)}
    trunk = load_trunk(NAME)
    assert (trunk.name, trunk.size, trunk.licence) == ("resnet18", 160, "apache-2.0")
    np.testing.assert_allclose([*trunk.mean, *trunk.std], [127.5, 102.0, 76.5, 51.0, 51.0, 25.5])
    assert trunk.origin == f"ResNet-18 from timm/resnet18.a1_in1k@{COMMIT}"
    np.testing.assert_array_equal(trunk.params["stem"]["kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0))
    assert {revision for _, _, revision, _ in hub.asked} == {COMMIT}


@pytest.mark.parametrize("config", [None, "{}", "no json", '{"pretrained_cfg": 3}', '{"architectures": ["x"]}'])
def test_without_what_timm_tells_inputs_are_those_of_the_usual_weights(hub, weights, config):
    hub.held |= {"model.safetensors": weights} | ({"config.json": config} if config is not None else {})
    trunk = load_trunk(NAME)
    assert (trunk.size, round(trunk.mean[0], 3), trunk.licence[:9]) == (224, 123.675, "not known")


@pytest.mark.parametrize(
    ("name", "held", "said"),
    [
        ("hub:timm/resnet18.a1_in1k", {}, "does not say which commit"),
        ("hub:timm/resnet18.a1_in1k@main", {}, "is no commit"),
        ("hub:resnet18@" + COMMIT, {}, "is no repository"),
        ("hub:../../etc@" + COMMIT, {}, "is no repository"),
        (NAME, {}, "holds no model.safetensors"),
        (NAME, {"model.safetensors": NotKept()}, "could not be fetched"),
        (NAME, {"model.safetensors": Refused(404)}, r"refuses it \(404\)"),
        (NAME, {"model.safetensors": ConnectionError()}, r"could not be fetched \(ConnectionError\)"),
        (NAME, {"model.safetensors": "rubbish"}, "model.safetensors"),
        (NAME, {"config.json": told(mean=[0.5], std=[1, 1, 1])}, "mean of its inputs is not three"),
        (NAME, {"config.json": told(mean=[0, 0, float("inf")])}, "mean of its inputs is not three"),
        (NAME, {"config.json": told(std=[0.2, 0.0, 0.2])}, "std of its inputs is not three"),
        (NAME, {"config.json": told(input_size=[3, 10**9, 10**9])}, "cannot be 1000000000 pixels"),
    ],
)
def test_what_cannot_be_had_gets_two_lines(hub, weights, name, held, said):
    hub.held |= ({"model.safetensors": weights} if "config.json" in held else {}) | held
    with pytest.raises(InputError, match=said) as caught:
        load_trunk(name)
    assert len(str(caught.value).splitlines()) == 2


def test_offline_and_without_a_client(hub, monkeypatch):
    monkeypatch.setenv("JAXTL_OFFLINE", "1")
    hub.held["model.safetensors"] = NotKept()
    with pytest.raises(InputError, match="JAXTL_OFFLINE is set"):
        load_trunk(NAME)
    assert hub.asked == [("timm/resnet18.a1_in1k", "model.safetensors", COMMIT, True)]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match="needs huggingface_hub") as caught:
        load_trunk(NAME)
    assert "jaxtl[hub]" in str(caught.value)

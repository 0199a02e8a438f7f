"""Models of Ollama by name: a manifest leads to a GGUF file, or the reason is given."""

import hashlib
import json

import pytest

from crispr_lm import InputError
from crispr_lm.model.load import open_model
from crispr_lm.model.locate import locate, shared_name

from ..robustness.documents import gguf_model


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Ollama's folder with one model, ``tiny``."""
    folder = tmp_path / "models"
    monkeypatch.setenv("OLLAMA_MODELS", str(folder))
    content = gguf_model()
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"sha256-{digest}").write_bytes(content)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)}
    template = {"mediaType": "application/vnd.ollama.image.template", "digest": f"sha256:{'0' * 64}", "size": 3}
    write_manifest(folder, [layer, template])
    return folder


def write_manifest(folder, layers, path="registry.ollama.ai/library/tiny/latest"):
    manifest = folder / "manifests" / path
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}), encoding="utf-8")
    return manifest


def layers_of(folder):
    return json.loads((folder / "manifests/registry.ollama.ai/library/tiny/latest").read_text(encoding="utf-8"))[
        "layers"
    ]


@pytest.mark.parametrize("name", ["ollama:tiny", "ollama:tiny:latest", "ollama:library/tiny"])
def test_a_name_leads_to_the_file_that_is_read(models, name):
    source = open_model(name)
    assert source.name == name
    assert source.gguf_file.startswith("sha256-")
    assert source.config.model_type == "llama"
    assert shared_name(name) == name


def test_namespaces_tags_and_hosts_are_folders_of_the_manifest(models):
    for name, path in (
        ("ollama:tiny:8b-q4_0", "registry.ollama.ai/library/tiny/8b-q4_0"),
        ("ollama:jane/tiny", "registry.ollama.ai/jane/tiny/latest"),
        ("ollama:example.org:5000/jane/tiny:2", "example.org:5000/jane/tiny/2"),
    ):
        write_manifest(models, layers_of(models), path)
        assert locate(name) == locate("ollama:tiny")


@pytest.mark.parametrize(
    "name", ["ollama:", "ollama:../tiny", "ollama:a/../../tiny", "ollama:tiny:..", "ollama:a/b/c/d"]
)
def test_no_name_leads_out_of_the_folder(models, name):
    with pytest.raises(InputError, match="no name of Ollama's"):
        locate(name)


def test_a_model_that_is_not_there_names_those_that_are(models):
    with pytest.raises(InputError, match=r"no 'tinny' here.*tiny.*ollama pull tinny"):
        locate("ollama:tinny")


def test_without_ollama_its_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with pytest.raises(InputError, match="Ollama has no models in"):
        locate("ollama:tiny")


def test_what_cannot_be_read_says_why(models):
    (weights, template) = layers_of(models)
    for layers, message in (
        ([template], "in no form that is known"),
        ([{**weights, "mediaType": "application/vnd.ollama.image.tensor"}], "as single tensors"),
        ([weights, {**template, "mediaType": "application/vnd.ollama.image.adapter"}], "with an adapter beside"),
        ([{**weights, "digest": "sha256:../../secret"}], "names no file"),
        ([{**weights, "size": weights["size"] + 1}], "missing or incomplete"),
        ([{**weights, "digest": f"sha256:{'1' * 64}"}], "missing or incomplete"),
        ({"a": 1}, "can't be read"),
    ):
        write_manifest(models, layers)
        with pytest.raises(InputError, match=message):
            locate("ollama:tiny")

"""What a model's folder or a run's may not do by itself: run code, lead elsewhere, claim more than there is."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch

from crispr_lm import CrisprError, Edit, InputError, load_model
from crispr_lm.cli.commands import main
from crispr_lm.edits.edit import neurons_by_site
from crispr_lm.jobs.lm_eval_tasks import export_lm_eval
from crispr_lm.jobs.reproduce import reproduce
from crispr_lm.jobs.sharing import results_beside
from crispr_lm.model.gguf_header import check_gguf
from crispr_lm.model.load import open_model
from crispr_lm.storage.run_folder import RunFolder
from crispr_lm.tasks import load_task

from ..helpers import EXAMPLES, build_model
from .documents import EDIT, RESULTS, RUN_FILES, gguf


@pytest.fixture
def folder(saved_model, tmp_path):
    """A model's folder, the test's own to spoil."""
    return Path(shutil.copytree(saved_model("llama"), tmp_path / "model"))


@pytest.fixture
def trap(tmp_path):
    """Python code that leaves a file behind, and that file."""
    left = tmp_path / "left-behind"
    return f"open({str(left)!r}, 'w').close()\n", left


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def loads(folder, **options):
    return load_model(folder, device="cpu", **options)


CODE = "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_code_that_comes_with_a_model_runs_only_where_the_user_says_so(folder, trap, model_type):
    code, left = trap
    (folder / "own.py").write_text(
        CODE + code + f"class Own(LlamaConfig):\n    model_type = {model_type!r}\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = Own\n",
        encoding="utf-8",
    )
    own = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"}
    change(folder / "config.json", auto_map=own, model_type=model_type, architectures=["OwnModel"])
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "own.PreTrainedTokenizerFast"]})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code + "def generate(*a, **k): pass\n", encoding="utf-8")
    if model_type == "llama":  # transformers' own code does for it
        loads(folder)
    else:
        with pytest.raises(InputError, match="Python code of its own; give --trust-remote-code"):
            loads(folder)
    assert not left.exists()
    change(folder / "tokenizer_config.json", auto_map={})
    shutil.rmtree(folder / "custom_generate")
    loads(folder, trust_remote_code=True)
    assert left.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_kernels_from_the_hub_are_code_too(folder, key):
    change(folder / "config.json", **{key: "stranger/kernel"})
    with pytest.raises(InputError, match=r"code fetched from stranger/kernel; give --trust-remote-code"):
        loads(folder)
    change(folder / "config.json", **{key: {"text_config": "stranger/kernel"}})
    with pytest.raises(InputError, match="code fetched from"):
        loads(folder)


class Payload:
    """What runs code when it is unpickled."""

    def __init__(self, code):
        self.code = code

    def __reduce__(self):
        return exec, (self.code,)


def test_pickled_weights_need_the_users_word_and_never_run_code(folder, trap):
    code, left = trap
    weights = build_model("llama").model.state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        loads(folder)
    assert loads(folder, allow_pickle=True).dtype == torch.float32
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(code)))
    for options in ({}, {"allow_pickle": True}):  # even then only tensors are unpickled
        with pytest.raises(InputError, match="weights can't be loaded"):
            loads(folder, **options)
    assert not left.exists()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "sub/weights.pt", "weights"])
def test_an_index_of_safetensors_names_no_pickle(folder, trap, file):
    code, left = trap
    (folder / "model.safetensors").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(pickle.dumps(Payload(code)))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InputError, match="no safetensors file"):
        loads(folder)
    assert not left.exists()


@pytest.mark.parametrize("where", ["../outside.safetensors", "{}/outside.safetensors", "a/../../outside.safetensors"])
def test_an_index_that_leads_out_of_the_folder_is_refused(folder, where):
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    names = build_model("llama").model.state_dict()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, where.format(folder.parent))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(InputError, match="is not in the folder"):
        loads(folder)


@pytest.fixture
def on_the_hub(folder, tmp_path, monkeypatch):
    """The model as it lies in the hub's cache, and the name that it has there; nothing is asked of the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository, commit = tmp_path / "cache" / "models--stranger--name", "a" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (repository / "snapshots").mkdir()
    return folder.rename(repository / "snapshots" / commit), "stranger/name"


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "own.safetensors.index.json"])
def test_nor_does_one_on_the_hub(on_the_hub, index):
    files, name = on_the_hub
    assert loads(name).dtype == torch.float32
    weights = build_model("llama").model.state_dict()
    (files / "model.safetensors").unlink()
    torch.save(weights, files / "weights.bin")
    content = {"metadata": {}, "weight_map": dict.fromkeys(weights, "weights.bin")}
    (files / index).write_text(json.dumps(content), encoding="utf-8")
    if index.startswith("own"):
        change(files / "config.json", transformers_weights=index)
    with pytest.raises(InputError, match=r"names 'weights\.bin', which is no safetensors file"):
        loads(name)


@pytest.mark.parametrize(
    "weights", ["adapter_model.bin", "sub/own.safetensors.index.json", "../own.safetensors", "/own.safetensors", 1, ""]
)
def test_a_configuration_names_no_other_file_of_weights(folder, weights):
    (folder / "sub").mkdir()
    torch.save(build_model("llama").model.state_dict(), folder / "adapter_model.bin")
    change(folder / "config.json", transformers_weights=weights)
    with pytest.raises(InputError, match="no safetensors file of the folder"):
        loads(folder)
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    change(folder / "config.json", transformers_weights="own.safetensors")
    assert loads(folder).dtype == torch.float32


def test_a_tokenizer_takes_no_words_from_elsewhere(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a private key", encoding="utf-8")
    for key in ("vocab", "vocab_file", "tokenizer_file", "merges"):
        change(folder / "tokenizer_config.json", **{key: str(secret)})
        with pytest.raises(InputError, match=f"its tokenizer takes {key} = .*secret', which is not in the folder"):
            open_model(folder)
        change(folder / "tokenizer_config.json", **{key: "/of/its/author/tokenizer.json"})  # often left in there
        assert open_model(folder)


def test_links_of_anything_but_weights_stay_inside(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a private key", encoding="utf-8")
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.jinja").symlink_to(secret)
    with pytest.raises(InputError, match=r"chat_template\.jinja is a link that leads out"):
        loads(folder)
    (folder / "chat_template.jinja").unlink()
    (folder / "model.safetensors").rename(tmp_path / "weights.safetensors")  # on a larger disk, say
    (folder / "model.safetensors").symlink_to(tmp_path / "weights.safetensors")
    link = tmp_path / "link"
    link.symlink_to(folder, target_is_directory=True)
    assert loads(link).dtype == torch.float32


def test_the_hubs_own_cache_is_made_of_links(folder, tmp_path):
    blobs, snapshot = tmp_path / "cache" / "blobs", tmp_path / "cache" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        (blobs / str(number)).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", str(number)))
    assert loads(snapshot).dtype == torch.float32


def test_an_adapter_does_not_bring_another_model(folder):
    adapter = {"base_model_name_or_path": "/somewhere/else", "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    with pytest.raises(InputError, match=r"an adapter \(LoRA\) lies there"):
        loads(folder)


@pytest.mark.parametrize("count", [10**9, 10**400, 2**63, 1e30])
@pytest.mark.parametrize("key", ["num_hidden_layers", "num_experts", "n_routed_experts", "encoder_layers"])
def test_no_configuration_makes_a_billion_modules(folder, key, count):
    change(folder / "config.json", **{key: count})
    with pytest.raises(InputError, match="more than can be"):
        open_model(folder)


@pytest.mark.parametrize("size", [2**63 - 1, 2**64 - 1, 10**9])
def test_a_header_of_safetensors_that_claims_too_much_is_refused(folder, size):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", size) + content[8:])
    with pytest.raises(InputError, match="weights can't be loaded"):
        loads(folder)


def text(value):
    return struct.pack("<Q", len(value)) + value


GGUF = b"GGUF" + struct.pack("<I", 3)
SPOILED = {
    "tensors": GGUF + struct.pack("<QQ", 2**63, 0),
    "values": GGUF + struct.pack("<QQ", 0, 2**63),
    "text": GGUF + struct.pack("<QQQ", 0, 1, 2**63),
    "array": GGUF + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 0, 2**60) + bytes(64),
    "array of texts": GGUF + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<IIQ", 9, 8, 2**60) + bytes(64),
    "arrays": GGUF + struct.pack("<QQ", 0, 1) + text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,
    "dimensions": GGUF + struct.pack("<QQ", 1, 0) + text(b"w") + struct.pack("<I", 2**31) + bytes(64),
    "elements": GGUF + struct.pack("<QQ", 1, 0) + text(b"w") + struct.pack("<IQQIQ", 2, 2**62, 8, 0, 0) + bytes(64),
    "offset": GGUF + struct.pack("<QQ", 1, 0) + text(b"w") + struct.pack("<IQIQ", 1, 1, 0, 2**63) + bytes(64),
    "version": b"GGUF" + struct.pack("<I", 1) + bytes(64),
    "nothing": b"",
    "something else": b"PK\x03\x04" + bytes(64),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_gguf_header_that_claims_too_much_is_refused(tmp_path, what):
    file = tmp_path / "m.gguf"
    file.write_bytes(SPOILED[what])
    with pytest.raises(InputError, match="no GGUF file that can be read"):
        open_model(file)


def test_a_gguf_header_in_either_byte_order_is_read(tmp_path):
    file = tmp_path / "m.gguf"
    file.write_bytes(gguf())
    assert check_gguf(file) == {"llama.block_count": 2}
    turned = b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + struct.pack(">Q", 1) + b"a" + struct.pack(">II", 4, 7)
    file.write_bytes(turned)
    assert check_gguf(file) == {"a": 7}
    file.write_bytes(gguf().replace(struct.pack("<II", 4, 2), struct.pack("<II", 4, 2**32 - 1)))
    with pytest.raises(InputError, match=r"block_count = .*more than can be"):
        open_model(file)


TEMPLATES = {
    "out of the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "division": "{{ 1 / 0 }}",
    "types": "{{ messages + 1 }}",
    "a fault": "{% if %}",
    "a refusal": "{{ raise_exception('no') }}",
    "files": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("what", TEMPLATES)
def test_a_chat_template_that_fails_is_reported(folder, what):
    from crispr_lm import option_scores

    (folder / "chat_template.jinja").write_text(TEMPLATES[what], encoding="utf-8")
    with pytest.raises(CrisprError, match="chat template fails"):
        option_scores(loads(folder), EXAMPLES, "Answer.")


MODULES = ["../x", "__class__", "a.b.__dict__", "", "model.layers.0.mlp", "/etc/passwd", "model.layers.0.mlp.__init__"]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_none_is_only_a_name(tmp_path, llama, module):
    hashes = EDIT["fingerprint"]["layers.0.down_proj"]
    content = EDIT | {"neurons": [["linear", module, 0]], "fingerprint": {module: hashes}}
    (tmp_path / "edit.json").write_text(json.dumps(content), encoding="utf-8")
    edit = Edit.load(tmp_path / "edit.json")
    with pytest.raises(InputError, match="holds no 'linear' neurons"):
        neurons_by_site(llama.model, edit.neurons)
    with pytest.raises(InputError, match="made for another model"), edit.applied(llama):
        pass


def test_a_record_of_a_stranger_switches_nothing_on(tmp_path, folder, trap):
    code, left = trap
    (folder / "own.py").write_text(code, encoding="utf-8")
    for name, content in RUN_FILES.items():
        (tmp_path / name).write_bytes(content)
    for option in ("trust_remote_code", "allow_pickle"):
        record = json.loads(RUN_FILES["run.json"])
        record["identity"]["model"] = str(folder)
        record["identity"]["settings"][option] = True
        (tmp_path / "run.json").write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(InputError, match=f"give --{option.replace('_', '-')} too"):
            reproduce(tmp_path, tmp_path / "again")
    assert not left.exists()
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("name", ["search.jsonl", "model", ".lock", "results.json"])
def test_a_run_does_not_write_through_a_link(tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}", encoding="utf-8")
    (run / name).symlink_to(elsewhere if name == "model" else elsewhere / "kept")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=f"{name} is a link"):
            RunFolder(run).check(resume=False, overwrite=overwrite)
    link = tmp_path / "link"  # the folder itself may be one: that is where the user says results shall go
    link.symlink_to(elsewhere)
    RunFolder(tmp_path / "link" / "new").check(resume=False, overwrite=False)
    assert (elsewhere / "kept").exists()


@pytest.mark.parametrize("name", ["../x", "a/b", "", "x\n", "a b", "\x00", "y" * 300])
def test_a_task_for_lm_eval_is_no_path(tmp_path, llama, name):
    with pytest.raises(InputError, match="can't be the name of a task"):
        export_lm_eval(llama, EXAMPLES, "Answer.", tmp_path, name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "{}/pipe"])
def test_what_has_no_end_is_not_read(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    for kind in ("choices", "bbq", "crows_pairs", "mmlu"):
        with pytest.raises(InputError, match="not a file"):
            load_task(f"{kind}:{path.format(tmp_path)}")


@pytest.mark.parametrize("examples", [[], None, {"a": 1}])
def test_results_that_no_card_can_tell_are_refused_before_anything_is_saved(tmp_path, examples):
    content = json.loads(json.dumps(RESULTS))
    content["tasks"]["t"]["statistics"] = examples
    (tmp_path / "results.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match="no results of this version"):
        results_beside(tmp_path / "edit.json", None)


def test_the_command_ends_with_one_sentence(folder, capsys):
    change(folder / "config.json", num_hidden_layers=10**9)
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(folder)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("option", ["trust-remote-code", "allow_pickle"])
@pytest.mark.parametrize("where", ["settings file", "environment variable"])
def test_trust_is_given_on_the_command_line_alone(tmp_path, monkeypatch, capsys, option, where):
    (tmp_path / "s.toml").write_text(f"{option} = true\n", encoding="utf-8")
    command = ["run", "./nowhere", "--task", "builtin:everyday", "--output", str(tmp_path / "out")]
    named = "--" + option.replace("_", "-")
    if where == "settings file":
        command += ["--config", str(tmp_path / "s.toml")]
    else:
        monkeypatch.setenv("CRISPR_LM_" + option.replace("-", "_").upper(), "true")
    with pytest.raises(SystemExit) as ended:
        main(command)
    message = capsys.readouterr().err
    assert ended.value.code == 2
    assert message.startswith(f"crispr-lm: {where} ")
    assert f"gives {named}, which is taken from the command line alone" in message
    assert message.count("\n") == 1
    with pytest.raises(SystemExit):  # given there, it is what counts
        main([*command, named])
    assert "no such folder; check the path" in capsys.readouterr().err

import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks import checkpoint


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    shared = torch.arange(6.0)
    whole = {
        "tensors": [torch.randn(2, 3), torch.tensor(7), torch.zeros(0, 4), torch.tensor([True, False])],
        "views": (shared[:3], shared[3:], shared.view(2, 3).T),
        "halves": torch.randn(5).bfloat16(),
        "random": torch.get_rng_state(),
        "numbers": [1, -(2**60), 0.1, 1e-320, float("inf"), float("nan"), True, None],
        "betas": (0.9, 0.999),
        "nested": {0: {"step": torch.tensor(3.0)}, 1: {}, "1": torch.ones(1)},
        "collide": {1: torch.zeros(1), "1": torch.ones(1)},
        "awkward": {"$tensor": "no", "$tuple": []},
        "empty": {"list": [], "tuple": (), "dict": {}},
        "text": "ünïcode \n \0",
    }
    checkpoint.save(whole, tmp_path / "file")
    assert same(checkpoint.load(tmp_path / "file"), whole)


def test_an_optimizers_state_survives(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save({"optimizer": optimizer.state_dict()}, tmp_path / "file")
    assert same(checkpoint.load(tmp_path / "file")["optimizer"], optimizer.state_dict())


@pytest.mark.parametrize("value", [{1, 2}, object(), torch.float32, b"bytes", range(3), torch.Size([1]) and 1j])
def test_what_json_and_safetensors_lack_is_refused_by_name(tmp_path, value):
    with pytest.raises(TypeError, match=r"checkpoint\.a\.0 is a "):
        checkpoint.save({"a": [value]}, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", [0.0, 0.001, 0.3, 0.9, 1.0])
def test_a_changed_byte_anywhere_is_noticed(tmp_path, where):
    file = tmp_path / "file"
    checkpoint.save({"weights": torch.randn(50), "step": 3}, file)
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="is damaged or no checkpoint of gatewise"):
        checkpoint.load(file)


@pytest.mark.parametrize("keep", [0, 5, 8, 100, 400, -1])
def test_a_truncated_file_is_noticed(tmp_path, keep):
    file = tmp_path / "file"
    checkpoint.save({"weights": torch.randn(50)}, file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match="is damaged"):
        checkpoint.load(file)


def test_another_safetensors_file_and_none_at_all_are_told(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(InputError, match="no checkpoint of gatewise"):
        checkpoint.load(tmp_path / "other")
    with pytest.raises(InputError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "absent")

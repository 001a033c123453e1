import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks.batches import InOrder, Shuffled


def epoch(batches, number=0):
    batches.set_epoch(number)
    return [batch.tolist() for batch in batches]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    batches = Shuffled(10, 4, lambda indices: indices, seed=3)
    first = epoch(batches)
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert len(batches) == 3
    assert sorted(number for batch in first for number in batch) == list(range(10))
    assert epoch(batches, 1) != first
    assert epoch(Shuffled(10, 4, lambda indices: indices, seed=3)) == first
    assert epoch(Shuffled(10, 4, lambda indices: indices, seed=4)) != first


def test_an_epoch_goes_on_where_it_was_left():
    whole = epoch(Shuffled(10, 3, lambda indices: indices), 5)
    begun = Shuffled(10, 3, lambda indices: indices)
    begun.set_epoch(5)
    some = iter(begun)
    assert [next(some).tolist(), next(some).tolist()] == whole[:2]
    later = Shuffled(10, 3, lambda indices: indices)
    later.load_state_dict(begun.state_dict())
    assert [batch.tolist() for batch in later] == whole[2:]
    assert epoch(later, 6) == epoch(begun, 6)


def test_devices_share_each_batch():
    one = epoch(Shuffled(11, 4, lambda indices: indices, seed=1))
    two = [epoch(Shuffled(11, 4, lambda indices: indices, seed=1, rank=rank, world=2)) for rank in (0, 1)]
    assert len(two[0]) == len(two[1]) == 2  # all must take equally many steps: the rest of 3 is left out
    for whole, *parts in zip(one[:2], *two, strict=True):
        assert sorted(whole) == sorted(parts[0] + parts[1])
    with pytest.raises(InputError, match="must be a multiple of 2; got 3"):
        Shuffled(11, 3, lambda indices: indices, world=2)


def test_in_order_is_in_order():
    assert [batch.tolist() for batch in InOrder(5, 2, lambda indices: indices)] == [[0, 1], [2, 3], [4]]
    assert len(InOrder(5, 2, torch.Tensor)) == 3


def test_nothing_to_learn_is_refused():
    with pytest.raises(InputError, match="nothing to learn from"):
        Shuffled(0, 4, lambda indices: indices)

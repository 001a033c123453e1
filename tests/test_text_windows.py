import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks.text.windows import InOrder, Windows


def book_sequential(corpus, batch, steps, offset):
    """The d2l book's own steps (release 0.17, d2l.torch.seq_data_iter_sequential), with the offset given."""
    num_tokens = ((len(corpus) - offset - 1) // batch) * batch
    xs = corpus[offset : offset + num_tokens].reshape(batch, -1)
    ys = corpus[offset + 1 : offset + 1 + num_tokens].reshape(batch, -1)
    num_batches = xs.shape[1] // steps
    return [(xs[:, i : i + steps], ys[:, i : i + steps]) for i in range(0, steps * num_batches, steps)]


# The book's sizes, where the number of batches is the book's at every offset; and others, where it is the smallest.
@pytest.mark.parametrize(("length", "steps", "batch"), [(10_000, 35, 32), (1000, 7, 4), (500, 50, 3)])
def test_sequential_batches_are_the_books_for_some_offset_of_0_to_T(length, steps, batch):
    ids = torch.arange(length)
    fewest = min(len(book_sequential(ids, batch, steps, offset)) for offset in range(steps + 1))
    offsets = set()
    for epoch in range(300):
        windows = Windows(ids, steps, batch, seed=3)
        windows.set_epoch(epoch)
        walk = list(windows)
        offset = int(walk[0].x[0, 0])
        book = book_sequential(ids, batch, steps, offset)
        assert len(walk) == len(windows) == fewest
        for window, (x, y) in zip(walk, book, strict=False):
            assert torch.equal(window.x.T, x)
            assert torch.equal(window.y.T, y)
        assert [window.fresh for window in walk] == [True] + [False] * (fewest - 1)
        offsets.add(offset)
    assert offsets == set(range(steps + 1))
    assert length != 10_000 or {len(book_sequential(ids, batch, steps, o)) for o in offsets} == {8}


def test_random_batches_are_all_whole_windows_of_one_grid_each_once_and_shuffled():
    ids = torch.arange(1000)
    orders = []
    for epoch in range(5):
        windows = Windows(ids, 7, 4, "random", seed=1)
        windows.set_epoch(epoch)
        starts = [int(start) for w in windows for start in w.x[0]]
        offset = min(starts) % 7
        assert {start % 7 for start in starts} == {offset}
        assert len(set(starts)) == len(starts) == 4 * len(windows) == 4 * ((1000 - 7) // 7 // 4)
        assert starts != sorted(starts)
        orders.append(tuple(starts))
        for w in windows:
            assert w.fresh
            assert w.x.shape == w.y.shape == (7, 4)
            assert torch.equal(w.x + 1, w.y)
    assert len(set(orders)) == 5


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_an_epoch_that_is_broken_off_goes_on_where_it_was(sampling):
    ids = torch.randint(9, (777,))
    whole = Windows(ids, 5, 6, sampling, seed=8)
    whole.set_epoch(3)
    batches = list(whole)
    first = Windows(ids, 5, 6, sampling, seed=8)
    first.set_epoch(3)
    walk = iter(first)
    head = [next(walk) for _ in range(4)]
    second = Windows(ids, 5, 6, sampling, seed=8)
    second.load_state_dict(first.state_dict())
    for got, expected in zip(head + list(second), batches, strict=True):
        assert torch.equal(got.x, expected.x)
        assert torch.equal(got.y, expected.y)
        assert got.fresh == expected.fresh
    assert len(list(second)) == len(batches)  # the epoch after it starts at the front


def test_the_seed_changes_the_order():
    ids = torch.arange(1000)
    a, b = (next(iter(Windows(ids, 7, 4, "random", seed=seed))) for seed in (0, 1))
    assert not torch.equal(a.x, b.x)


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_the_ranks_share_each_batch_out(sampling):
    ids = torch.arange(900)
    whole = list(Windows(ids, 5, 6, sampling, seed=2))
    parts = [list(Windows(ids, 5, 6, sampling, seed=2, rank=rank, world=3)) for rank in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([share.x for share in shares], 1), batch.x)
        assert torch.equal(torch.cat([share.y for share in shares], 1), batch.y)
    with pytest.raises(InputError, match="multiple of 4; got 6"):
        Windows(ids, 5, 6, sampling, world=4)


@pytest.mark.parametrize("sampling", ["sequential", "random"])
def test_the_shortest_text_that_gives_a_batch_gives_one_at_every_offset(sampling):
    needed = 4 * 6 + 6 + 1 if sampling == "sequential" else 5 * 6
    for epoch in range(30):
        windows = Windows(torch.arange(needed), 6, 4, sampling)
        windows.set_epoch(epoch)
        (only,) = windows
        assert only.x.shape == only.y.shape == (6, 4)
    with pytest.raises(InputError, match=f"takes {needed}: give a longer text"):
        Windows(torch.arange(needed - 1), 6, 4, sampling)


@pytest.mark.parametrize(("length", "steps", "batch"), [(1000, 64, 32), (100, 64, 32), (2, 5, 3), (997, 10, 7)])
def test_held_out_windows_cover_the_text_in_order(length, steps, batch):
    windows = InOrder(torch.arange(length), steps, batch)
    walk = list(windows)
    assert len(walk) == len(windows)
    x, y = torch.cat([w.x for w in walk]), torch.cat([w.y for w in walk])
    assert torch.equal(x + 1, y)
    assert torch.equal(x.T.flatten(), torch.arange(x.numel()))  # row by row, without a gap
    assert length - 1 - x.numel() < x.shape[1]  # only what does not fill the rows is left out
    assert [w.fresh for w in walk] == [True] + [False] * (len(walk) - 1)

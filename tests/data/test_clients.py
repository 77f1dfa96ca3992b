"""Examples dealt out to clients, and the batches in which each goes through its own."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtl.data import Split, class_parts, dirichlet_parts, iid_parts, local_epochs, on_clients
from jaxtl.errors import InputError

LABELS = np.random.default_rng(0).integers(0, 5, 400)
WAYS = {
    "iid": lambda labels, clients, seed: iid_parts(labels, clients, seed),
    "dirichlet": lambda labels, clients, seed: dirichlet_parts(labels, clients, 0.5, seed),
    "classes": lambda labels, clients, seed: class_parts(labels, clients, 2, seed),
}


@pytest.mark.parametrize("way", WAYS)
@given(clients=st.integers(3, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_every_example_is_with_one_client(way, clients, seed):
    parts = WAYS[way](LABELS, clients, seed)
    assert len(parts) == clients
    assert min(map(len, parts)) >= 1
    assert sorted(np.concatenate(parts)) == list(range(len(LABELS)))
    assert all(np.all(np.diff(part) > 0) for part in parts)
    again = WAYS[way](LABELS, clients, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_another_seed_is_another_partition(way):
    assert not np.array_equal(WAYS[way](LABELS, 4, 0)[0], WAYS[way](LABELS, 4, 1)[0])


def test_parts_of_one_size_differ_by_an_example():
    assert {len(part) for part in iid_parts(LABELS, 7, 0)} == {57, 58}


def test_shares_of_a_class_have_the_variance_of_a_dirichlet():
    """Var p = (1/K)(1 − 1/K) / (Kα + 1), over many draws; an equal cut has none."""
    labels, clients, alpha = np.zeros(2000, int), 5, 0.5
    shares = np.array(
        [[len(p) / 2000 for p in dirichlet_parts(labels, clients, alpha, seed, least=0)] for seed in range(200)]
    )
    expected = (1 / clients) * (1 - 1 / clients) / (clients * alpha + 1)
    assert shares.var(axis=0, ddof=1) == pytest.approx(expected, rel=0.3)
    assert shares.mean(axis=0) == pytest.approx(0.2, abs=0.04)
    many = dirichlet_parts(LABELS, 4, 1e6, 0)
    assert {len(part) for part in many} <= set(range(96, 105))


@pytest.mark.parametrize(("clients", "classes"), [(3, 2), (10, 2), (7, 3), (20, 1), (4, 5)])
def test_every_client_has_so_many_classes_and_classes_are_shared_equally(clients, classes):
    parts = class_parts(LABELS, clients, classes, 0)
    assert all(len(np.unique(LABELS[part])) == classes for part in parts)
    for label in range(5):
        own = [np.sum(LABELS[part] == label) for part in parts if np.any(LABELS[part] == label)]
        assert len(own) in (clients * classes // 5, -(-clients * classes // 5))
        assert max(own) - min(own) <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: iid_parts(np.zeros(2), 3, 0), "2 examples for 3 clients"),
        (lambda: iid_parts(np.zeros(2), 0, 0), "less than 1"),
        (lambda: dirichlet_parts(LABELS, 3, 0.0, 0), "alpha: 0.0"),
        (lambda: dirichlet_parts(LABELS, 300, 0.01, 0), "always had less than 1"),
        (lambda: class_parts(LABELS, 3, 6, 0), "6 classes each, of 5"),
        (lambda: class_parts(LABELS, 2, 2, 0), "cannot have all of 5"),
        (lambda: class_parts(np.array([0, 0, 0, 1]), 4, 2, 0), "class 1 has fewer examples"),
        (lambda: on_clients(split(3), [np.array([3])], jax.random.key(0)), "into 3 examples"),
        (lambda: on_clients(split(3), [], jax.random.key(0)), "no client"),
        (lambda: on_clients(split(3), [np.array([0])], jax.random.key(0), [1.0, 2.0]), "one number >= 0"),
        (lambda: on_clients(split(3), [np.array([0])], jax.random.key(0), [-1.0]), "one number >= 0"),
        (lambda: local_epochs(0), "batch_size"),
        (lambda: local_epochs(4, 0), "epochs"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def split(n):
    return Split(number=np.arange(n, dtype=np.float32))


@pytest.mark.parametrize(
    ("counts", "size", "epochs", "round"),
    [((7, 3, 0, 4), 3, 2, 0), ((5,), 12, 3, 4), ((1, 9), 1, 1, 2), ((4, 8), 4, 2, 1)],
)
def test_a_client_sees_each_of_its_own_examples_once_an_epoch_and_no_other(counts, size, epochs, round):
    ends = np.cumsum(counts)
    parts = [np.arange(end - n, end) for n, end in zip(counts, ends, strict=True)]
    data = on_clients(split(sum(counts)), parts, jax.random.key(3))
    visit = jax.jit(local_epochs(size, epochs))
    for k, part in enumerate(parts):
        rows, mask = map(np.asarray, visit(data, k, round))
        assert not len(part) or {*rows.flat} <= {*part}, "what fills up is its own"
        steps = -(-len(part) // min(size, max(counts)))
        assert rows.shape == mask.shape == (epochs * -(-max(counts) // min(size, max(counts))), min(size, max(counts)))
        for epoch in range(epochs):
            own = slice(epoch * steps, (epoch + 1) * steps)
            assert sorted(rows[own][mask[own]]) == sorted(part)
            assert np.all(mask[own].any(axis=1))
        assert not mask[epochs * steps :].any()


def test_orders_differ_by_client_epoch_and_round_and_not_by_place():
    parts = [np.arange(20), np.arange(20, 40)]
    data, visit = on_clients(split(40), parts, jax.random.key(0)), jax.jit(local_epochs(20, 2))
    first, second = np.asarray(visit(data, 0, 0)[0])
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.asarray(visit(data, 0, 1)[0])[0])
    assert not np.array_equal(first + 20, np.asarray(visit(data, 1, 0)[0])[0])
    turned = {**data, **{name: data[name][::-1] for name in ("index", "count", "weight", "client")}}
    np.testing.assert_array_equal(visit(turned, 1, 0)[0], visit(data, 0, 0)[0])
    wider = {**data, "index": np.pad(data["index"], ((0, 0), (0, 20)))}
    rows, mask = visit(wider, 0, 0)
    assert (len(rows), int(mask.sum())) == (4, 40)

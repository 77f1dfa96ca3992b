"""Equations of domain adaptation against fixed numbers, NumPy's and PyTorch's arithmetic, and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.spatial.distance import cdist
from scipy.special import softmax

from jaxtl.data.augment import distorted
from jaxtl.errors import InputError
from jaxtl.methods import domain
from jaxtl.methods.domain import both_players, class_weights, domain_loss, ramp

K = np.arange(24.0)
S, T = np.sin(K * K).reshape(8, 3), np.cos(K * K).reshape(8, 3) + 0.5
Q = np.arange(32.0)
Z, Z2 = 2 * np.sin(0.7 * Q * Q).reshape(8, 4), 2 * np.cos(1.3 * Q * Q).reshape(8, 4)

# compiled as one, which is how a step runs them: operation by operation they take a minute
mmd = jax.jit(domain.mmd, static_argnums=2)
mmd_linear, coral, jmmd = jax.jit(domain.mmd_linear), jax.jit(domain.coral), jax.jit(domain.jmmd)
bsp = jax.jit(domain.bsp)
entropy, certainty, conditioned = jax.jit(domain.entropy), jax.jit(domain.certainty), jax.jit(domain.conditioned)
mcc = jax.jit(domain.mcc)
afn, mdd = jax.jit(domain.afn), jax.jit(domain.mdd)

WIDTHS = [2.0**k for k in range(-3, 2)]
FEATURE_GAPS = {"mmd": mmd, "mmd_linear": mmd_linear, "coral": coral}


def single(array):
    return jnp.asarray(array, jnp.float32)


def kernels(source, target):
    """Σ_α k [N, N] by SciPy's distances."""
    both = np.concatenate([source, target])
    squares = cdist(both, both, "sqeuclidean")
    return sum(np.exp(-squares / (2 * alpha * squares.mean())) for alpha in WIDTHS)


def unbiased(kernel, n):
    ss, tt, m = kernel[:n, :n], kernel[n:, n:], len(kernel) - n
    within = [np.sum(k * (1 - np.eye(len(k)))) / (len(k) * (len(k) - 1)) for k in (ss, tt)]
    return sum(within) - 2 * kernel[:n, n:].sum() / (n * m)


# ---------------------------------------------------------------- how far apart


def test_fixed_numbers():
    assert float(mmd(single(S), single(T))) == pytest.approx(1.062735217, rel=1e-5)
    assert float(mmd(single(S), single(T), (1.0,))) == pytest.approx(0.229309114, rel=1e-5)
    assert float(coral(single(S), single(T))) == pytest.approx(0.009956452, rel=1e-5)
    assert float(bsp(single(S), single(T))) == pytest.approx(25.574660421, rel=1e-6)
    assert float(mcc(single(Z))) == pytest.approx(0.713616530, rel=1e-6)


def test_mmd_of_any_numbers_of_examples_is_that_of_all_pairs():
    for n, m in ((8, 5), (2, 7)):
        expected = unbiased(kernels(S[:n], T[:m]), n)
        assert float(mmd(single(S[:n]), single(T[:m]))) == pytest.approx(expected, rel=1e-5)


def test_the_linear_form_is_a_mean_over_pairs_that_share_no_example():
    kernel = kernels(S, T)
    pairs = [kernel[i, i + 1] + kernel[8 + i, 9 + i] - kernel[i, 9 + i] - kernel[i + 1, 8 + i] for i in range(0, 8, 2)]
    assert float(mmd_linear(single(S), single(T))) == pytest.approx(np.mean(pairs), rel=1e-5)
    odd = kernels(S[:7], T[:7])
    pairs = [odd[i, i + 1] + odd[7 + i, 8 + i] - odd[i, 8 + i] - odd[i + 1, 7 + i] for i in range(0, 6, 2)]
    assert float(mmd_linear(single(S[:7]), single(T[:7]))) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_both_forms_are_near_0_in_the_mean_for_one_distribution_and_quadratic_varies_less():
    rng = np.random.default_rng(0)
    draws = single(rng.normal(size=(2000, 2, 6, 3)))
    values = [jax.vmap(fn)(draws[:, 0], draws[:, 1]) for fn in (mmd, mmd_linear)]
    for found in values:
        assert abs(float(found.mean())) < 4 * float(found.std()) / np.sqrt(len(draws))
    assert float(values[0].std()) < float(values[1].std())


def test_jmmd_is_the_product_of_two_kernels():
    p, q = softmax(Z, axis=1), softmax(Z2, axis=1)
    both = np.concatenate([p, q])
    expected = unbiased(kernels(S, T) * np.exp(-cdist(both, both, "sqeuclidean") / (2 * 0.92**2)), 8)
    found = jmmd((single(S), single(Z)), (single(T), single(Z2)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_equal_domains_are_at_no_distance_where_the_estimate_can_be_0():
    assert float(mmd_linear(single(S), single(S))) == 0.0
    assert float(coral(single(S), single(S))) < 1e-15  # compiled, both covariances may be summed in other orders
    np.testing.assert_allclose(jax.grad(coral)(single(S), single(S)), 0, atol=1e-8)
    slope = jax.grad(mmd_linear)(single(S), single(S))
    np.testing.assert_allclose(slope, jax.grad(mmd_linear, 1)(single(S), single(S)), atol=1e-6)
    one = jnp.ones((4, 3))
    for fn in FEATURE_GAPS.values():
        value, slope = jax.value_and_grad(fn)(one, one)
        assert float(value) == 0.0
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", FEATURE_GAPS)
def test_a_gap_does_not_depend_on_place_rotation_or_which_side_comes_first(name):
    fn, turn = FEATURE_GAPS[name], np.linalg.qr(np.cos(np.arange(9.0)).reshape(3, 3))[0]
    whole = float(fn(single(S), single(T)))
    assert float(fn(single(T), single(S))) == pytest.approx(whole, rel=1e-5)
    assert float(fn(single(S @ turn + 3.0), single(T @ turn + 3.0))) == pytest.approx(whole, rel=1e-4)
    if name != "coral":  # kernels are as wide as the batch is
        assert float(fn(single(7 * S), single(7 * T))) == pytest.approx(whole, rel=1e-5)


def test_gradients_are_those_of_finite_differences_with_the_width_of_kernels_held():
    with jax.enable_x64(True):
        s, t = jnp.asarray(S), jnp.asarray(T)
        for fn in (coral, bsp):
            check_grads(fn, (s, t), order=1, modes=["rev"])
        moved, at = jax.grad(mmd)(s, t), 1e-6
        both = np.concatenate([S, T])
        scale = cdist(both, both, "sqeuclidean").mean()

        def held(source):
            both = np.concatenate([source, T])
            squares = cdist(both, both, "sqeuclidean")
            return unbiased(sum(np.exp(-squares / (2 * alpha * scale)) for alpha in WIDTHS), 8)

        for i, j in ((0, 0), (3, 2), (7, 1)):
            nudge = np.zeros_like(S)
            nudge[i, j] = at
            assert float(moved[i, j]) == pytest.approx((held(S + nudge) - held(S - nudge)) / (2 * at), rel=1e-5)


def test_features_that_are_no_two_batches_of_one_network_are_refused():
    for fn in FEATURE_GAPS.values():
        with pytest.raises(InputError, match="two of each or more"):
            fn(jnp.ones((1, 3)), jnp.ones((4, 3)))
        with pytest.raises(InputError, match="of one network"):
            fn(jnp.ones((4, 3)), jnp.ones((4, 2)))
    with pytest.raises(InputError, match="4 source and 3 target"):
        mmd_linear(jnp.ones((4, 3)), jnp.ones((3, 3)))
    with pytest.raises(InputError, match="both of the same examples"):
        jmmd((jnp.ones((4, 3)), jnp.ones((3, 2))), (jnp.ones((4, 3)), jnp.ones((5, 2))))


# ---------------------------------------------------------------- answers and norms


def test_entropy_is_that_of_probabilities_with_finite_slopes_at_the_ends():
    p = softmax(Z, axis=1)
    np.testing.assert_allclose(entropy(single(Z)), -(p * np.log(p)).sum(axis=1), rtol=1e-5)
    sure = single([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]])
    value, slope = jax.value_and_grad(lambda z: entropy(z).sum())(sure)
    assert float(value) == pytest.approx(np.log(3))
    assert np.isfinite(slope).all()


def test_certain_examples_count_more_and_no_gradient_passes_through_it():
    p = softmax(Z, axis=1)
    weights = 1 + np.exp((p * np.log(p)).sum(axis=1))
    np.testing.assert_allclose(certainty(single(Z)), weights / weights.mean(), rtol=1e-5)
    assert not np.any(jax.grad(lambda z: jnp.sum(certainty(z) ** 2))(single(Z)))


def test_class_confusion_is_numpys_with_the_slope_of_held_weights():
    def confused(z, weights):
        p = softmax(z / 2.5, axis=1)
        a = p.T @ np.diag(weights) @ p
        return 1 - np.trace(a / a.sum(axis=1, keepdims=True)) / 4

    p = softmax(Z / 2.5, axis=1)
    weights = 1 + np.exp((p * np.log(p)).sum(axis=1))
    with jax.enable_x64(True):
        assert float(mcc(jnp.asarray(Z))) == pytest.approx(confused(Z, weights), rel=1e-12)
        slope = jax.grad(mcc)(jnp.asarray(Z))
    nudge = np.zeros_like(Z)
    nudge[2, 1] = 1e-6
    expected = (confused(Z + nudge, weights) - confused(Z - nudge, weights)) / 2e-6
    assert float(slope[2, 1]) == pytest.approx(expected, rel=1e-6)
    order = [2, 0, 3, 1]  # of the classes
    assert float(mcc(single(Z[:, order]))) == pytest.approx(0.713616530, rel=1e-5)
    assert np.isfinite(jax.grad(mcc)(single([[1e4, 0.0, 0.0]] * 3))).all()


def test_norms_grow_by_a_gradient_of_one_length_whose_value_says_nothing():
    f = single(S)
    np.testing.assert_allclose(afn(f, 0.5), 0.25)
    slope = jax.jit(jax.grad(lambda f: afn(f, 0.5).sum()))(f)
    np.testing.assert_allclose(slope, -f / np.linalg.norm(S, axis=1, keepdims=True), rtol=1e-5)
    assert not np.any(jax.grad(lambda f: afn(f).sum())(jnp.zeros((2, 3))))


def test_the_spectral_norm_of_equal_directions_has_a_finite_slope():
    even = jnp.eye(3)
    value, slope = jax.value_and_grad(bsp)(even, 2 * even)
    assert float(value) == pytest.approx(5.0)
    assert np.isfinite(slope).all()
    wide, tall = S[:2], S
    for part in (wide, tall):
        expected = np.linalg.svd(part, compute_uv=False)[0] ** 2 + np.linalg.svd(T, compute_uv=False)[0] ** 2
        assert float(bsp(single(part), single(T))) == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- games


def test_the_schedule_is_the_published_one_of_progress_and_popular_codes_where_it_is_asked():
    p = np.linspace(0, 1, 11)
    np.testing.assert_allclose(ramp(p), 2 / (1 + np.exp(-10 * p)) - 1, atol=1e-6)
    steps = np.array([100, 1000, 5000, 10000])
    popular = [0.049958375, 0.462117157, 0.986614298, 0.999909204]
    np.testing.assert_allclose(ramp(steps / 1000, 1.0), popular, rtol=1e-5)


def play(params, x):
    return jnp.tanh(x @ params["in"]) @ params["out"]


PLAYER = {"in": single(np.sin(np.arange(12.0)).reshape(3, 4)), "out": single(np.cos(np.arange(4.0)).reshape(4, 1))}


def test_two_players_are_pytorchs_reversed_gradient():
    torch = pytest.importorskip("torch")
    strength = 0.37

    class Reversed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, gradient):
            return -strength * gradient

    def objective(params, s, t):
        learns, fooled = zip(both_players(play, params, s), both_players(play, params, t), strict=True)
        return domain_loss(*learns) - strength * domain_loss(*fooled)

    ours = jax.jit(jax.grad(objective, argnums=(0, 1, 2)))(PLAYER, single(S), single(T))
    net = {name: torch.tensor(np.array(w), requires_grad=True) for name, w in PLAYER.items()}
    s, t = (torch.tensor(side, dtype=torch.float32, requires_grad=True) for side in (S, T))
    logits = [torch.tanh(Reversed.apply(side) @ net["in"]) @ net["out"] for side in (s, t)]
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    (0.5 * loss(logits[0], torch.ones(8, 1)) + 0.5 * loss(logits[1], torch.zeros(8, 1))).backward()
    for name in PLAYER:
        np.testing.assert_allclose(ours[0][name], net[name].grad, rtol=1e-4, atol=1e-7)
    for mine, theirs in zip(ours[1:], (s, t), strict=True):
        np.testing.assert_allclose(mine, theirs.grad, rtol=1e-4, atol=1e-7)


def test_the_trunk_is_given_minus_the_strength_times_what_the_adversary_would_give_it_bit_for_bit():
    def plain(x):
        return domain_loss(play(PLAYER, x), play(PLAYER, single(T)))

    def fooling(x):
        return -0.5 * domain_loss(both_players(play, PLAYER, x)[1], both_players(play, PLAYER, single(T))[1])

    ours, theirs = (jax.jit(jax.grad(fn))(single(S)) for fn in (fooling, plain))
    np.testing.assert_array_equal(ours, -0.5 * theirs)


def test_a_reversal_of_gradients_gives_both_players_what_two_terms_give_them():
    def by_reversal(params, x, strength):
        return domain_loss(play(params, domain.gradient_reversal(x, strength)), play(params, single(T)))

    def by_terms(params, x):
        learns, fooled = both_players(play, params, x)
        other = play(params, single(T))
        return domain_loss(learns, other) - 0.3 * domain_loss(fooled, jax.lax.stop_gradient(other))

    ours = jax.grad(by_reversal, argnums=(0, 1, 2))(PLAYER, single(S), 0.3)
    theirs = jax.grad(by_terms, argnums=(0, 1))(PLAYER, single(S))
    for mine, other in zip(jax.tree.leaves(ours[:2]), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-8)
    assert ours[2] == 0
    np.testing.assert_array_equal(domain.gradient_reversal(single(S), 0.3), single(S))


def test_the_discrepancy_of_classifiers_is_numpys_and_0_where_they_agree():
    p, q = softmax(Z, axis=1), softmax(Z2, axis=1)
    assert float(domain.mcd(single(p), single(q))) == pytest.approx(np.abs(p - q).mean(), rel=1e-6)
    assert float(domain.mcd(single(p), single(p))) == 0


def test_each_domain_counts_one_half_and_weights_of_one_change_nothing():
    a, b = single([0.3, -2.0, 5.0]), single([1.0, -4.0])
    expected = 0.5 * np.log1p(np.exp(-np.asarray(a))).mean() + 0.5 * np.log1p(np.exp(np.asarray(b))).mean()
    assert float(domain_loss(a, b)) == pytest.approx(expected, rel=1e-6)
    assert float(domain_loss(a[:, None], b[:, None], (jnp.ones(3), jnp.ones(2)))) == pytest.approx(expected, rel=1e-6)
    one = domain_loss(a, b, (single([0, 1, 0]), single([0, 1])))
    assert float(one) == pytest.approx(0.5 * np.log1p(np.exp(2.0)) + 0.5 * np.log1p(np.exp(-4.0)), rel=1e-6)


def test_what_the_adversary_of_cdan_sees_is_an_outer_product_through_which_answers_have_no_gradient():
    expected = np.einsum("bc,bd->bcd", softmax(Z, axis=1), S).reshape(8, -1)
    np.testing.assert_allclose(conditioned(single(S), single(Z)), expected, rtol=1e-5, atol=1e-7)
    slopes = jax.grad(lambda f, z: jnp.sum(conditioned(f, z) ** 2), argnums=(0, 1))(single(S), single(Z))
    assert np.any(slopes[0])
    assert not np.any(slopes[1])
    with pytest.raises(InputError, match="7 features, 8 logits"):
        conditioned(single(S[:7]), single(Z))


def test_margin_disparity_is_its_probabilities_and_exact_where_the_second_head_is_sure():
    said_s, said_t = Z.argmax(axis=1), Z2.argmax(axis=1)
    second_s, second_t = softmax(Z2, axis=1), softmax(Z, axis=1)
    agree = -np.log(second_s[np.arange(8), said_s]).mean()
    disagree = -np.log(1 - second_t[np.arange(8), said_t]).mean()
    found = mdd((single(Z), single(Z2)), (single(Z2), single(Z)), 3.0)
    assert float(found) == pytest.approx(3 * agree + disagree, rel=1e-5)
    sure = single([[60.0, 0.0, 0.0]])
    value, slope = jax.value_and_grad(lambda z: mdd((sure, sure), (sure, z)))(sure)
    assert float(value) == pytest.approx(60 - np.log(2), rel=1e-5)
    np.testing.assert_allclose(slope, [[1.0, -0.5, -0.5]], atol=1e-6)
    first = jax.grad(lambda z: mdd((z, single(Z2)), (z, single(Z))))(single(Z))
    assert not np.any(first), "the first head learns from labels alone"


@pytest.mark.parametrize("name", [*FEATURE_GAPS, "bsp"])
def test_jit_and_vmap_agree_and_half_precision_is_widened(name):
    fn = {**FEATURE_GAPS, "bsp": bsp}[name]
    s, t = single(np.stack([S, 2 * S])), single(np.stack([T, T + 1]))
    one_by_one = [float(fn(a, b)) for a, b in zip(s, t, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(fn))(s, t), one_by_one, rtol=1e-5)
    assert fn(s[0].astype(jnp.bfloat16), t[0].astype(jnp.bfloat16)).dtype == jnp.float32


# ---------------------------------------------------------------- views, and answers that are believed


def test_only_sure_answers_are_taught_and_only_to_the_distorted_view():
    weak, strong = single(3 * Z), single(Z2)
    p = softmax(3 * Z, axis=1)
    believed = p.max(axis=1) > 0.95
    assert 0 < believed.sum() < len(Z)
    losses = -np.log(softmax(Z2, axis=1)[np.arange(8), p.argmax(axis=1)])
    assert float(domain.pseudo_label(weak, strong)) == pytest.approx(np.sum(losses[believed]) / 8, rel=1e-5)
    of_weak, of_strong = jax.grad(domain.pseudo_label, argnums=(0, 1))(weak, strong)
    assert not np.any(of_weak)
    np.testing.assert_array_equal(np.any(of_strong != 0, axis=1), believed)
    check_grads(lambda q: domain.pseudo_label(weak, q), (strong,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)
    with pytest.raises(InputError, match="two views of the same examples"):
        domain.pseudo_label(weak, strong[:3])


def test_a_distorted_view_is_moved_has_another_contrast_and_a_hole_of_a_quarter_at_most():
    rng = np.random.default_rng(0)
    images = single(rng.normal(size=(200, 8, 8, 2)) + np.array([5.0, -3.0]))
    seen = np.asarray(jax.jit(distorted)(images, jax.random.key(0)))
    assert seen.shape == images.shape
    sizes = np.array([np.unique(one[..., 0], return_counts=True)[1].max() for one in seen])
    assert sizes.max() == 16
    assert sizes.min() >= 4, "a square of 4 pixels a side, at most half of it outside each way"
    spread = (seen.std(axis=(1, 2)) / np.asarray(images).std(axis=(1, 2)))[:, 0]
    assert spread.min() < 0.8
    assert spread.max() > 1.2
    with pytest.raises(InputError, match="distorted"):
        distorted(single(Z), jax.random.key(0))


def test_products_of_many_numbers_are_projected_so_that_their_scalar_products_stay_near():
    rng = np.random.default_rng(0)
    features, logits = single(rng.normal(size=(6, 600))), single(rng.normal(size=(6, 10)))
    seen = np.asarray(conditioned(features, logits), np.float64)
    assert seen.shape == (6, domain.conditioned_size(600, 10)) == (6, 1024)
    p, f = softmax(np.asarray(logits, np.float64), axis=1), np.asarray(features, np.float64)
    exact = (p @ p.T) * (f @ f.T)
    scale = np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    assert np.abs(seen @ seen.T - exact).max() < 0.3 * scale.max()
    np.testing.assert_allclose(np.diag(seen @ seen.T), np.diag(exact), rtol=0.3)
    np.testing.assert_array_equal(seen, conditioned(features, logits))


def test_classes_weigh_what_target_answers_say_and_no_gradient_passes():
    p = softmax(Z, axis=1).mean(axis=0)
    np.testing.assert_allclose(class_weights(single(Z)), p / p.max(), rtol=1e-5)
    assert not np.any(jax.grad(lambda z: class_weights(z).sum())(single(Z)))

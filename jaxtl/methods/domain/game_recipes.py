"""Programs with an adversary: a net of its own on features or answers, or a second head.

In one step, each player seeing the other as fixed (`both_players`): DANN, CDAN, MDD. In phases of a step, one moving
while the others are held (`alternate`): MCD, and ADDA in `after_recipes`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxtl.labels import NEW, SHARED
from jaxtl.losses import softmax_cross_entropy
from jaxtl.methods.domain.adversary import both_players, conditioned, conditioned_size, domain_loss, mdd, ramp
from jaxtl.methods.domain.confidence import certainty, class_weights, mcd
from jaxtl.methods.domain.term_recipes import ADVERSARY, Sides, adapted, beside, classify
from jaxtl.models import Classifier, Mlp, initialise
from jaxtl.penalties import Term
from jaxtl.problems.adaptation import Adaptation
from jaxtl.program import Program, Weights, alternate
from jaxtl.protocol import Draw
from jaxtl.trees import Tree

SAYS = "says"  # the output of an adversary
MEETINGS = 4  # phases of a step in which the trunk brings the two heads of MCD together

Play = Callable[[jax.Array], tuple[jax.Array, jax.Array]]  # inputs -> logits for the adversary, and for who fools it


def _features(play: Play, sides: Sides, batch: Any, partial: bool = False) -> list[jax.Array]:
    source, target = (play(sides[side]["features"]) for side in ("source", "target"))
    weights = None
    if partial:
        shared = class_weights(sides["target"]["head"])[batch["source"]["label"]]
        weights = shared, jnp.ones(len(sides["target"]["head"]))
    return [domain_loss(*logits, weights) for logits in zip(source, target, strict=True)]


def _conditioned(play: Play, sides: Sides, batch: Any, weighted: bool = False) -> list[jax.Array]:
    both = [sides[side] for side in ("source", "target")]
    source, target = (play(conditioned(outputs["features"], outputs["head"])) for outputs in both)
    weights = (certainty(both[0]["head"]), certainty(both[1]["head"])) if weighted else None
    return [domain_loss(*logits, weights) for logits in zip(source, target, strict=True)]


def _disparity(play: Play, sides: Sides, batch: Any) -> list[jax.Array]:
    source, target = (play(sides[side]["features"]) for side in ("source", "target"))
    said = [sides[side]["head"] for side in ("source", "target")]
    return [mdd((said[0], s), (said[1], t)) for s, t in zip(source, target, strict=True)]


class Game(NamedTuple):
    """What an adversary is given of D features and C classes, what it answers, and what both players are paid by.

    Without hidden units it is a head like the model's own.
    """

    inputs: Callable[[int, int], int]
    outputs: Callable[[int, int], int]
    objective: Callable[[Play, Sides, Any], list[jax.Array]] | None
    hidden: bool = True


GAMES = {
    "dann": Game(lambda d, c: d, lambda d, c: 1, _features),
    "cdan": Game(conditioned_size, lambda d, c: 1, _conditioned),
    "cdan_e": Game(conditioned_size, lambda d, c: 1, functools.partial(_conditioned, weighted=True)),
    "pada": Game(lambda d, c: d, lambda d, c: 1, functools.partial(_features, partial=True)),
    "mdd": Game(lambda d, c: d, lambda d, c: c, _disparity),
    "mcd": Game(lambda d, c: d, lambda d, c: c, None, hidden=False),
}


def adversary_of(problem: Adaptation, name: str) -> tuple[Classifier, int]:
    """The net that plays one of `GAMES`, and how many numbers it is given."""
    game, sizes = GAMES[name], problem.start(Draw(0)).params["head"]["kernel"].shape
    widths = (problem.config.adversary,) if game.hidden else ()
    return Classifier(Mlp(widths), ((SAYS, game.outputs(*sizes)),)), game.inputs(*sizes)


def with_adversary(
    name: str, begin: Callable[[Adaptation, Draw], Weights] = Adaptation.start
) -> Callable[[Adaptation, Draw], Weights]:
    """A fresh adversary beside a network, which is fresh as well when not told where it begins."""

    def start(problem: Adaptation, draw: Draw) -> Weights:
        weights, (net, inputs) = begin(problem, draw), adversary_of(problem, name)
        own = initialise(net, jax.random.fold_in(problem.key(draw, "start"), 1), (inputs,))
        return weights._replace(params={**weights.params, ADVERSARY: own})

    return start


def spoken(net: Classifier, params: Tree, x: jax.Array) -> jax.Array:
    """What an adversary answers."""
    said: Any = net.apply({"params": params}, x, True)
    return said[SAYS]


def split(params: Any) -> tuple[Tree, Tree]:
    """(parameters of the model, of its adversary)."""
    return {part: tree for part, tree in params.items() if part != ADVERSARY}, params[ADVERSARY]


def played(name: str, further: Mapping[str, Term] | None = None, **how: Any) -> Callable[[Adaptation], Program]:
    """The program of a game of one step: the adversary learns at rate 1, and the trunk is given −λ(progress) times it.

    Args:
        name: of one of `GAMES`, and of the term that moves the trunk.
        further: terms beside it.
        how: `anchored`, and how many `steps` of a problem it has, as a function of it.
    """
    steps_of, objective = how.pop("steps", lambda problem: problem.config.steps), GAMES[name].objective
    assert objective is not None

    def make(problem: Adaptation) -> Program:
        net, steps = adversary_of(problem, name)[0], steps_of(problem)
        forward = beside(problem)

        def game(params, model_state, batch, ctx):
            own, adversary = split(params)
            sides, model_state = forward(own, model_state, batch, ctx)
            play = functools.partial(both_players, functools.partial(spoken, net), adversary)
            learns, fooled = objective(play, sides, batch)
            return {**sides, "learns": learns, "fooled": fooled}, model_state

        terms = {
            ADVERSARY: Term(1.0, lambda outputs, batch, ctx: outputs["learns"]),
            name: Term(lambda step: ramp(step / steps), lambda outputs, batch, ctx: -outputs["fooled"]),
        }
        return adapted(
            problem, {**terms, **(further or {})}, forward=game, own=own_of(problem, name), steps=steps, **how
        )

    return make


def own_of(problem: Adaptation, name: str) -> dict[str, Tree]:
    """Parameters like those of an adversary, under their name."""
    return {ADVERSARY: with_adversary(name)(problem, Draw(0)).params[ADVERSARY]}


def disagreeing(problem: Adaptation) -> Program:
    """MCD: both heads learn the source; then they part on the target, the trunk held; then it brings them together.

    The paper's three steps, the last one `MEETINGS` times, on one batch. What answers is the first head.
    """
    (net, _), forward = adversary_of(problem, "mcd"), beside(problem)

    def two_heads(params, model_state, batch, ctx):
        own, second = split(params)
        sides, model_state = forward(own, model_state, batch, ctx)
        return {
            side: {**said, SAYS: spoken(net, second, said["features"])} for side, said in sides.items()
        }, model_state

    def both(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
        second = softmax_cross_entropy(outputs["source"][SAYS], batch["source"]["label"])
        return classify(outputs, batch, ctx) + second.mean()

    def apart(outputs: Sides, batch: Any, ctx: Any) -> jax.Array:
        return mcd(*(jax.nn.softmax(outputs["target"][head]) for head in ("head", SAYS)))

    phase = functools.partial(adapted, problem, forward=two_heads, own=own_of(problem, "mcd"))
    parts = phase({"mcd": Term(0.0, lambda *seen: -apart(*seen))}, task=both, frozen=(SHARED,))
    meets = phase({"mcd": Term(0.0, apart)}, task=None, frozen=(NEW, ADVERSARY))
    together = {f"meet_{k}": meets for k in range(MEETINGS)}
    return alternate(learn=phase({}, task=both), part=parts, **together)


def rejecting(problem: Adaptation) -> Program:
    """OSBP: the head's last class is for what the source has no class for; the head is its own adversary.

    −½ log p − ½ log(1 − p) over target examples, p that of the last class: the head goes down on it, to p = ½ for all,
    and the trunk up, so that each example is made either a known one or an unknown one.

    Source: Saito, Yamamoto, Ushiku and Harada, "Open Set Domain Adaptation by Backpropagation", 2018.
    """
    forward, steps = beside(problem), problem.config.steps

    def said(head: Any, features: jax.Array) -> jax.Array:
        logits = features @ head["kernel"] + head["bias"][None]
        unknown, known = logits[:, -1], jax.nn.logsumexp(logits[:, :-1], axis=-1)
        return jnp.mean(0.5 * jax.nn.softplus(known - unknown) + 0.5 * jax.nn.softplus(unknown - known))

    def game(params, model_state, batch, ctx):
        sides, model_state = forward(params, model_state, batch, ctx)
        learns, fooled = both_players(said, params["head"], sides["target"]["features"])
        return {**sides, "learns": learns, "fooled": fooled}, model_state

    terms = {
        "boundary": Term(1.0, lambda outputs, batch, ctx: outputs["learns"]),
        "osbp": Term(lambda step: ramp(step / steps), lambda outputs, batch, ctx: -outputs["fooled"]),
    }
    return adapted(problem, terms, forward=game)
